"""Files written into a local folder that a person has named: tables, figures, reports.

The folder may have come with a stranger's run, links and all. So no symbolic link in it is
followed, and no file in it is written through: each new file takes the place of what was there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from wna_ray.errors import StoreError


def write_files(folder: Path, files: Mapping[str, bytes], option: str, chosen: bool = True) -> None:
    """Write files into a local folder, each whole or not at all.

    Parameters
    ----------
    folder
        The folder; made where there is none.
    files
        Contents by name; a name may have folders in front, ``figures/maps.png``.
    option
        The command's option for another folder, for the error message.
    chosen
        Whether a person named the folder. One that nobody named may be no symbolic link.

    Raises
    ------
    StoreError
        The disk refuses, or a symbolic link stands where a folder should be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        follow = 0 if chosen else os.O_NOFOLLOW
        with _opened(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | follow)) as root:
            for name, data in files.items():
                *parents, last = name.split("/")
                with contextlib.ExitStack() as stack:
                    within = root
                    for part in parents:
                        within = stack.enter_context(_opened(_subfolder(within, part)))
                    _write(within, last, data)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise StoreError(
                f"cannot write to '{folder}': a symbolic link, or something else that is no folder"
                f" of a report, is in the way ({error.strerror}); remove it, or give another"
                f" {option}"
            ) from None
        raise StoreError(
            f"cannot write to '{folder}' ({error.strerror}); give another {option}"
        ) from None


@contextlib.contextmanager
def _opened(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _subfolder(within: int, name: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=within)
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=within)


def _write(within: int, name: str, data: bytes) -> None:
    """A new file in the place of what was there: a link is replaced, not followed."""
    temporary = f".tmp-{uuid.uuid4().hex}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o666, dir_fd=within), "wb") as file:
            file.write(data)
        os.rename(temporary, name, src_dir_fd=within, dst_dir_fd=within)
    except BaseException:  # Ctrl-C, too
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=within)
        raise
