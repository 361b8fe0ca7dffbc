"""Shard files of an uncompressed Zarr array, written and read directly, with their checksums.

A shard holds one array a chunk, each followed by its CRC32C, and ends with an index of (offset, length)
pairs and the index's own CRC32C (Zarr v3 ``sharding_indexed``). Doing it here costs one system call a
chunk, where the general machinery costs several times the time of the disk.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import google_crc32c
import numpy as np

from emvfm.errors import CorruptError

__all__ = ["ShardReader", "ShardWriter", "crc32c_of_file"]

_EMPTY = 2**64 - 1
_REMEDY = "mend it with `emvfm store verify --repair`"


def _crc(data: bytes | np.ndarray) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def crc32c_of_file(path: Path) -> str:
    """Return the CRC32C of a file's bytes as 8 hex digits."""
    crc = 0
    with path.open("rb") as stream:
        while block := stream.read(2**22):
            crc = google_crc32c.extend(crc, block)
    return f"{crc:08x}"


class ShardWriter:
    """Writes one shard file of `n_chunks` places, chunk after chunk; it gets its name when it is whole.

    The file is flushed to disk before it is renamed, so a name never stands for half a file.
    """

    def __init__(self, path: Path, n_chunks: int) -> None:
        self.path = path
        self._index = np.full((n_chunks, 2), _EMPTY, "<u8")
        self._temporary = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._temporary.open("wb", buffering=0)
        self._crc = self._size = 0

    def _append(self, data: bytes | np.ndarray) -> None:
        view = memoryview(data)  # type: ignore[arg-type]
        while view:
            view = view[self._stream.write(view) :]
        self._crc = google_crc32c.extend(self._crc, data)
        self._size += len(data)

    def write(self, position: int, chunk: np.ndarray) -> None:
        """Append `chunk` as chunk number `position`."""
        data = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
        self._index[position] = self._size, len(data) + 4
        self._append(data)
        self._append(_crc(data))

    def close(self) -> dict[str, int | str]:
        """Write the index, give the file its name, and return its size and CRC32C."""
        index = self._index.tobytes()
        self._append(index + _crc(index))
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._temporary.replace(self.path)
        return {"bytes": self._size, "crc32c": f"{self._crc:08x}"}

    def abort(self) -> None:
        """Leave nothing behind; after `close` this does nothing."""
        self._stream.close()
        with suppress(OSError):
            self._temporary.unlink()


@lru_cache(maxsize=256)
def _index(path: str, n_chunks: int, size: int, modified: int) -> list[tuple[int, int]]:
    """Return the offset and length of each chunk; cached as long as the file stays as it is."""
    length = n_chunks * 16
    if size < length + 4:
        raise CorruptError("damaged shard: too short", where=path, got=f"{size} bytes", todo=_REMEDY)
    with Path(path).open("rb") as stream:
        stream.seek(size - length - 4)
        tail = stream.read(length + 4)
    if _crc(tail[:length]) != tail[length:]:
        raise CorruptError("damaged shard: checksum of the index differs", where=path, todo=_REMEDY)
    return [
        (int(offset), int(n)) for offset, n in np.frombuffer(tail, "<u8", count=2 * n_chunks).reshape(-1, 2)
    ]


class ShardReader:
    """Reads chunks of one shard file of `n_chunks` places.

    Raises
    ------
    CorruptError
        The shard is missing, cut off, or a checksum differs; the message names the file.
    """

    def __init__(self, path: str, n_chunks: int) -> None:
        self.path = path
        try:
            self._stream = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed by close(); hot path
        except FileNotFoundError:
            raise CorruptError("damaged store: a shard is missing", where=path, todo=_REMEDY) from None
        try:
            status = os.fstat(self._stream.fileno())
            self._size = status.st_size
            self._index = _index(path, n_chunks, status.st_size, status.st_mtime_ns)
        except BaseException:
            self._stream.close()
            raise

    def read(self, position: int, out: np.ndarray) -> None:
        """Fill the contiguous array `out` with chunk number `position`, once its checksum agrees."""
        offset, length = self._index[position]
        if offset == _EMPTY or length != out.nbytes + 4 or offset + length > self._size:
            raise CorruptError(f"damaged shard: chunk {position} is not there", where=self.path, todo=_REMEDY)
        self._stream.seek(offset)
        data, done = out.reshape(-1).view(np.uint8), 0
        while done < len(data):
            n = self._stream.readinto(data[done:])  # type: ignore[arg-type]
            if not n:
                raise CorruptError("damaged shard: cut off", where=self.path, todo=_REMEDY)
            done += n
        if self._stream.read(4) != _crc(data):
            raise CorruptError(
                f"damaged shard: checksum of chunk {position} differs", where=self.path, todo=_REMEDY
            )

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
