"""How S3 servers are reached: the endpoint, and what s3fs is told of it."""

from __future__ import annotations

import os
from typing import Any, Literal

S3 = ("s3", "s3a")
"""Protocols of S3."""
CONNECT_SECONDS, READ_SECONDS = 10, 60


def s3_endpoint(endpoint: str | None) -> str | None:
    """URL of the server: the one that is given, or the environment's; None means AWS."""
    return (
        endpoint
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
        or None
    )


def s3_options(endpoint: str | None) -> dict[str, Any]:
    """Options of s3fs.

    Other servers than AWS want their name in no host name, and know no checksums in trailers.
    """
    config: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
        "retries": {"total_max_attempts": 1},
    }
    if endpoint is None:
        return {"config_kwargs": config}
    checksums: Literal["when_required"] = "when_required"
    config |= {
        "s3": {"addressing_style": "path"},
        "request_checksum_calculation": checksums,
        "response_checksum_validation": checksums,
    }
    return {"endpoint_url": endpoint, "config_kwargs": config}
