"""What went wrong with a request to a storage: whether it may pass, and one sentence of a way out.

Every storage library raises errors of its own, often with the server's answer in the cause of the
cause. The functions of this module look through all causes of an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from wna_ray.errors import StoreError

PASSING_CODES = {
    "SlowDown",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    "OperationAborted",
    "ConditionalRequestConflict",
}
PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
SENTENCES = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct the credentials",
    "InvalidAccessKeyId": "the server does not know this access key; correct the credentials",
    "ExpiredToken": "the credentials have expired; renew them, then run the same command again",
    "InvalidToken": "the session token is not valid; renew the credentials",
    "AccessDenied": (
        "no permission; ask for the right to read, list and write there (s3:GetObject,"
        " s3:ListBucket, s3:PutObject)"
    ),
    "403": "no permission, or wrong credentials",
    "RequestTimeTooSkewed": "this machine's clock is wrong by minutes; set it",
    "PermanentRedirect": "the bucket is in another region; set AWS_DEFAULT_REGION",
}
WITHOUT_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")
"""Classes of botocore, by name: only a reader of S3 imports it."""


def status(error: BaseException) -> int | None:
    """The HTTP status that a server of S3 answered with, or None where no answer is known."""
    code = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return int(code) if code is not None else None


def is_absent(error: OSError) -> bool:
    """Whether what was not found is not there, rather than its bucket, or a server that answers.

    fsspec's HTTP says of everything that goes wrong that there is no file.
    """
    causes = list(_causes(error))[1:]
    if not causes or _response(error):
        return _code(error) != "NoSuchBucket"
    from aiohttp import ClientError, ClientResponseError

    statuses = [cause.status for cause in causes if isinstance(cause, ClientResponseError)]
    if statuses:
        return statuses[0] in (404, 410)
    return not any(
        isinstance(cause, ClientError | ConnectionError | TimeoutError) for cause in causes
    )


def may_pass(error: Exception) -> bool:
    """Whether the same request may go well a little later."""
    if _response(error):
        return _code(error) in PASSING_CODES or status(error) in PASSING_STATUS
    from aiohttp import ClientError, ClientResponseError
    from botocore.exceptions import HTTPClientError
    from botocore.parsers import ResponseParserError

    statuses = [cause.status for cause in _causes(error) if isinstance(cause, ClientResponseError)]
    if statuses:
        return statuses[0] in PASSING_STATUS
    passing = (ConnectionError, TimeoutError, ClientError, HTTPClientError, ResponseParserError)
    return any(isinstance(e, passing) for e in _causes(error))


def way_out(error: Exception, verb: str, local: bool) -> str:
    """What to do about a fault that will not pass.

    Parameters
    ----------
    error
        The fault.
    verb
        What was tried: ``"read"``, ``"write"``, ``"list"`` or ``"delete"``.
    local
        Whether the place is on a local file system.
    """
    number = error.errno if isinstance(error, OSError) else None
    if sentence := _sentence(error):
        return sentence
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, then run the same command again"
    if number in (errno.EIO, errno.ESTALE):
        return "the disk or the network file system failed; run the same command again"
    if number in (errno.EPERM, errno.ENOTSUP) and local and verb == "write":
        return (
            "the file system must allow hard links (they make a commit atomic), and you must"
            " have the right to write"
        )
    return "check that the place exists and that you may use it"


def reason(error: Exception) -> str:
    """What the storage said, as one line."""
    code = _code(error)
    number = error.errno if isinstance(error, OSError) else None
    text = (
        os.strerror(number)
        if number and not error.__cause__
        else str(getattr(error, "strerror", None) or error)
    )
    first = " ".join(text.split())[:300] or type(error).__name__
    return f"{code}: {first}" if code and code not in first else first


def too_large(name: str, size: int, most: int) -> StoreError:
    """The refusal of an object that has more bytes than it can have."""
    return StoreError(
        f"'{name}' has {size:,} bytes, but at most {most:,} were expected; it is not of this run,"
        " or damaged"
    )


def no_memory(what: str) -> StoreError:
    """What to say of something that does not fit into memory: nothing is wrong with it."""
    advice = "end what else runs here, or take a larger machine"
    refusal = StoreError(f"{what} does not fit into the memory that is free; {advice}")
    refusal.passing = True
    return refusal


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> dict[str, Any]:
    """What the server answered, as botocore reads it; s3fs keeps it in the cause of its own
    errors.
    """
    return next(
        (r for e in _causes(error) if isinstance(r := getattr(e, "response", None), dict)), {}
    )


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _sentence(error: Exception) -> str | None:
    if any(type(cause).__name__ in WITHOUT_CREDENTIALS for cause in _causes(error)):
        return (
            "give credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the"
            " machine's role (on every worker, too)"
        )
    return SENTENCES.get(_code(error))
