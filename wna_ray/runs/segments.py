"""Segments: names of objects, and the packed form of exact sums."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from wna_ray.errors import RunError
from wna_ray.moments.counts import sums_of
from wna_ray.moments.moments import Partial
from wna_ray.runs.formats import Extent
from wna_ray.runs.names import RESPONSES, SEGMENTS
from wna_ray.storage.arrays import pack, unpack
from wna_ray.storage.faults import no_memory

FORMAT = "wna-run/1"  # of packed sums of every kind, and of manifests
SEGMENT_NAME = re.compile(r"segments/(\d{15})-(\d{15})\.npz")


def segment_name(start: int, stop: int) -> str:
    """Name of the segment of images ``start ... stop - 1``; names sort as the ranges do."""
    return f"{SEGMENTS}/{start:015d}-{stop:015d}.npz"


def responses_name(start: int, stop: int) -> str:
    """Name of the responses of the images ``start ... stop - 1``."""
    return f"{RESPONSES}/{start:015d}-{stop:015d}.parquet"


def pack_moments(
    partial: Partial, fingerprint: str, responses: Mapping[str, Any] | None = None
) -> bytes:
    """A partial as an object: segments and ``result/moments.npz`` are both this. `responses`:
    size and digest of its responses.
    """
    moments = partial.moments
    header = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "start": partial.start,
        "stop": partial.stop,
        "images": moments.images,
        "nonfinite": moments.nonfinite,
        "out_of_range": moments.out_of_range,
    }
    return pack(
        header if responses is None else header | {"responses": responses}, moments.arrays()
    )


def unpack_moments(
    data: bytes, fingerprint: str, where: str, extent: Extent | None = None
) -> Partial:
    """Read a partial back, checked against digest, fingerprint, and (where it is given) what
    the run's spec allows.
    """
    return unpack_segment(data, fingerprint, where, extent)[0]


def unpack_segment(
    data: bytes, fingerprint: str, where: str, extent: Extent | None
) -> tuple[Partial, dict[str, Any]]:
    header, arrays = unpack(data, where)
    if header.get("format") != FORMAT or header.get("fingerprint") != fingerprint:
        raise RunError(
            f"{where} belongs to another run (its fingerprint is"
            f" {str(header.get('fingerprint'))[:12]}...); move it away"
        )
    try:
        start, stop = header["start"], header["stop"]
        if type(start) is not int or type(stop) is not int or not 0 <= start < stop:
            raise ValueError("no range of images")
        partial = Partial(start, stop, sums_of(arrays))
        if extent is not None:
            extent.check(partial.moments)
        return partial, header
    except MemoryError:
        raise no_memory(where) from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{where} does not hold moments ({error}); delete it and run the same command again"
        ) from None
