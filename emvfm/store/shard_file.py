"""Reading one shard file of an uncompressed Zarr array directly, with its checksums.

A shard holds one array a chunk, each followed by its CRC32C, and ends with an index of (offset, length)
pairs and the index's own CRC32C (Zarr v3 ``sharding_indexed``). Reading it here costs one ``pread`` a
chunk, where the general machinery costs several times the time of the disk.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np

from emvfm.errors import CorruptError

__all__ = ["read_chunk"]

_EMPTY = 2**64 - 1


def _check(data: memoryview | bytes, expected: bytes, path: Path, part: str) -> None:
    found = google_crc32c.value(bytes(data)) if isinstance(data, memoryview) else google_crc32c.value(data)
    if found.to_bytes(4, "little") != expected:
        raise CorruptError(f"damaged shard: checksum of {part} differs", where=path, todo=_TODO)


_TODO = "recompute it with `emvfm store verify --repair` and `emvfm embed`"


@lru_cache(maxsize=256)
def _index(path: Path, n_chunks: int, size: int, modified: int) -> np.ndarray:
    """Return ``(n_chunks, 2)`` offsets and lengths; cached as long as the file stays as it is."""
    length = n_chunks * 16
    if size < length + 4:
        raise CorruptError("damaged shard: too short", where=path, got=f"{size} bytes", todo=_TODO)
    with path.open("rb") as stream:
        tail = os.pread(stream.fileno(), length + 4, size - length - 4)
    _check(tail[:length], tail[length:], path, "the index")
    return np.frombuffer(tail, "<u8", count=n_chunks * 2).reshape(n_chunks, 2)


def read_chunk(
    path: Path, position: int, n_chunks: int, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Return chunk number `position` of a shard of `n_chunks` as a read-only array of `shape`.

    Raises
    ------
    CorruptError
        The shard is missing, cut off, or a checksum differs; the message names the file.
    """
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            offset, length = (
                int(v) for v in _index(path, n_chunks, status.st_size, status.st_mtime_ns)[position]
            )
            size = int(np.prod(shape)) * dtype.itemsize
            if offset == _EMPTY or length != size + 4 or offset + length > status.st_size:
                raise CorruptError(f"damaged shard: chunk {position} is not there", where=path, todo=_TODO)
            data = os.pread(stream.fileno(), length, offset)
    except FileNotFoundError:
        raise CorruptError("damaged store: a shard is missing", where=path, todo=_TODO) from None
    if len(data) != length:
        raise CorruptError("damaged shard: cut off", where=path, todo=_TODO)
    _check(memoryview(data)[:size], data[size:], path, f"chunk {position}")
    return np.frombuffer(data, dtype, count=size // dtype.itemsize).reshape(shape)
