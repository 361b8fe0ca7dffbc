"""Volumes in HDF5, Zarr, OME-Zarr and N5, read one slice at a time and never beyond the file.

A path names a file or folder, and with a colon an array inside: ``stack.h5:/volumes/raw``. Files are not
trusted: nothing outside is followed, no type but numbers is read, and what is declared is checked against
bounds before anything is decoded. By the rules of Zarr and N5 a chunk that is not stored is background.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from emvfm.datasets.chunked import n5_volume, zarr_volume
from emvfm.datasets.hdf5 import hdf5_volume
from emvfm.datasets.volume_layout import Volume, need
from emvfm.errors import CorruptError, EmvfmError, UsageError

__all__ = ["Volume", "open_volume", "split_inner", "volume_format"]

_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)  # a user block may stand before the file proper

T = TypeVar("T")


def split_inner(path: Path) -> tuple[Path, str | None]:
    """Return the file or folder a path starts with, and the name after the colon, None without one.

    The first colon that ends the name of something that exists is the one that counts; where nothing
    exists, the path is returned as it is.

    Raises
    ------
    UsageError
        The name inside leads out of the file.
    """
    path = Path(path)
    text = str(path)
    if path.exists():
        return path, None
    for n, letter in enumerate(text):
        if letter == ":" and n and (outer := Path(text[:n])).exists():
            parts = [part for part in text[n + 1 :].replace("\\", "/").split("/") if part not in ("", ".")]
            if ".." in parts or any("\0" in part or ":" in part for part in parts):
                raise UsageError("not the name of an array", where=outer, got=text[n + 1 :])
            return outer, "/" + "/".join(parts)
    return path, None


def volume_format(path: Path) -> str | None:
    """Return ``HDF5``, ``Zarr`` or ``N5`` by the content of what `path` starts with; None for no volume."""
    path, _ = split_inner(path)
    if path.is_dir():
        if any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup")):
            return "Zarr"
        if (path / "attributes.json").is_file():
            return "N5"
        return {".zarr": "Zarr", ".n5": "N5"}.get(path.suffix.lower())  # a root may have no metadata
    if path.is_file():
        with path.open("rb") as stream:
            for offset in _HDF5_OFFSETS:
                stream.seek(offset)
                if stream.read(8) == _HDF5_MAGIC:
                    return "HDF5"
        return "HDF5" if path.suffix.lower() in (".h5", ".hdf5", ".hdf") else None
    return None


def open_volume(path: Path, use: Callable[[Volume], T]) -> T:
    """Open a volume and return ``use(volume)``; whatever fails on a damaged file becomes a `CorruptError`.

    Without a name inside, the only array of two or three axes is taken.

    Raises
    ------
    CorruptError
        The volume is damaged, leads to other files, or is no image.
    MissingError
        There is no such array, or the package that reads the format is not installed.
    UsageError
        There are several arrays and none is named.
    """
    import lzma
    import struct
    import zlib

    kind = volume_format(path)
    outer, inner = split_inner(path)
    try:
        if kind == "HDF5":
            with need("h5py", outer).File(outer, "r") as file:
                return use(hdf5_volume(file, outer, inner))
        if kind is None:
            raise UsageError("not a volume", where=path, expected="HDF5, Zarr or N5")
        return use((zarr_volume if kind == "Zarr" else n5_volume)(outer, inner))
    except EmvfmError:
        raise
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        lzma.LZMAError,
        struct.error,
        zlib.error,
    ) as error:  # all of these come from the libraries and their codecs on damaged files
        problem = (str(error) or type(error).__name__).splitlines()[0]
        raise CorruptError(f"damaged {kind} volume", where=path, got=problem[:300]) from None
