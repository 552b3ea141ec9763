"""What a file that should hold weights is, by its first bytes; and bounds on what it unpacks to."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from io import BytesIO

from wna_ray.errors import ModelError
from wna_ray.text import plain

MOST_HEADER = 100 << 20  # bytes of a safetensors header, as the library bounds it, too
MOST_PARTS = 10_000  # files of an index
LFS = b"version https://git-lfs.github.com/spec"

BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (LFS, "a Git LFS pointer, not the file itself; run git lfs pull where it came from"),
    (b"<!", "a web page, such as a failed download leaves; download the file itself"),
    (b"<html", "a web page, such as a failed download leaves; download the file itself"),
    (b"\x1f\x8b", "packed by gzip; unpack it (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it (zstd -d)"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it; save the weights as safetensors"),
)


class TooLarge(Exception):
    """An archive that would take more memory than the network has use for."""


def is_safetensors(data: bytes) -> bool:
    """Whether a file begins as safetensors do, whatever its name."""
    return len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < MOST_HEADER


def what_it_is(data: bytes, path: str) -> str | None:
    """What a file is that is no file of weights, and the way out; None where nothing is known."""
    for beginning, what in BEGINNINGS:
        if data.startswith(beginning):
            return what
    if path.endswith(".onnx") or (data[:1] == b"\x08" and b"pytorch" in data[:64]):
        return "an ONNX file, a program and no state dict; save the weights of the PyTorch network"
    if data.startswith(b"PK"):
        return _what_archive(data)
    if data[:1] in (b"{", b"[") and data.rstrip()[-1:] in (b"}", b"]"):
        return "JSON; expected weights, or an index of safetensors (with a weight_map)"
    return None


def _what_archive(data: bytes) -> str | None:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, struct.error, NotImplementedError):
        return None  # torch says what it is
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "a TorchScript program, not a state dict; give its weights:"
            " torch.save(torch.jit.load(PATH).state_dict(), 'weights.pth')"
        )
    if names and all(name.endswith(".npy") for name in names):
        return "NumPy arrays (.npz); save them as safetensors (safetensors.numpy.save_file)"
    return None


def parts_of_index(data: bytes, path: str) -> dict[str, set[str]] | None:
    """Files that an index of safetensors names, each with its tensors; None where it is none.

    Raises
    ------
    ModelError
        It is one, but names files elsewhere, or too many.
    """
    if data[:1] != b"{" or b'"weight_map"' not in data:
        return None
    try:
        listed = json.loads(data).get("weight_map")
    except (ValueError, RecursionError) as error:
        reason = type(error).__name__
        raise ModelError(f"model: weights '{path}' are a damaged index ({reason})") from None
    if not isinstance(listed, dict) or not listed:
        raise ModelError(f"model: weights '{path}' are an index without a weight_map of names")
    parts: dict[str, set[str]] = {}
    for key, name in listed.items():
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or {"/", "\\", ":"} & set(name)
            or name.startswith(".")
        ):
            raise ModelError(
                f"model: weights '{path}' name '{plain(json.dumps(name), 80)}', which is no"
                " safetensors file beside it"
            )
        parts.setdefault(name, set()).add(key)
    if len(parts) > MOST_PARTS:
        raise ModelError(f"model: weights '{path}' name {len(parts):,} files, more than is sane")
    return parts


def require_unpacked(data: bytes, most: int) -> None:
    """Refuse an archive whose members are more than the network needs once they are unpacked.

    torch reads sizes from the archive's last directory, and so does zipfile, as long as nothing
    stands behind it.
    """
    if not data.startswith(b"PK"):
        return  # the older form, which is not packed
    if data[-22:-18] != b"PK\5\6" or data[-2:] != b"\0\0":
        raise TooLarge("something stands behind its archive; save it again by torch.save")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            total = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, struct.error, NotImplementedError):
        return  # torch says what it is
    if total > most:
        raise TooLarge(
            f"unpacked it has {total:,} bytes, more than the {most:,} that such a network can have"
            " use for"
        )


def kind_of(error: Exception) -> str:
    """What went wrong, without torch's own advice (which is to switch its safety off)."""
    return (
        "it is a pickle of more than tensors"
        if isinstance(error, pickle.UnpicklingError)
        else type(error).__name__
    )


def recipe(error: Exception, path: str) -> str:
    """How to make a file of tensors of a pickle that holds more; "" for other errors."""
    if not isinstance(error, pickle.UnpicklingError):
        return ""
    return (
        ", which may run code when it is read. If you trust it, make a file of tensors of it, once:"
        f" c = torch.load({path!r}, weights_only=False); torch.save(c.state_dict() if hasattr(c,"
        " 'state_dict') else c['state_dict'], 'weights.pth')"
    )
