"""A local Zarr folder whose bytes are checked before a codec sees them.

numcodecs believes the length a Blosc frame declares and reads on past the end of a shorter one: what
follows in memory becomes pixels. So frames are held against their length here, in chunks and in shards.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emvfm.errors import CorruptError

__all__ = ["Encoding", "encoding", "guarded_store"]

_METADATA = (".json", ".zarray", ".zattrs", ".zgroup")
_BLOSC_HEADER = 16
_NOTHING = 2**64 - 1  # offset and size of a chunk that a shard does not hold


@dataclass(frozen=True)
class Encoding:
    """How the bytes of a chunk end: in a Blosc frame or not, a checksum of `trailer` bytes, a shard around.

    `parts` is the number of chunks of a shard, 0 without shards; `index_first` where its index stands.
    """

    blosc: bool = False
    trailer: int = 0
    parts: int = 0
    index_first: bool = False


def _name(codec: object) -> str:
    given = codec.get("name", codec.get("id")) if isinstance(codec, Mapping) else codec
    return str(given).removeprefix("numcodecs.")


def _ending(codecs: list[Any], where: object) -> tuple[bool, int]:
    """Tell whether encoding ends in a Blosc frame, and the bytes of the checksum behind it."""
    names = [_name(codec) for codec in codecs if codec is not None]
    trailer = 4 if names[-1:] == ["crc32c"] else 0
    last = names[:-1] if trailer else names
    if "blosc" in last[:-1]:
        raise CorruptError("codecs after Blosc", where=where, got=", ".join(names), expected="Blosc last")
    return last[-1:] == ["blosc"], trailer


def encoding(array: Mapping[str, Any], parts: int, where: object) -> Encoding:
    """Return how the chunks of an array end, from its metadata with `parts` chunks a shard.

    Raises
    ------
    CorruptError
        There are Blosc frames where they can't be checked.
    """
    if array.get("zarr_format") == 2:
        blosc, _ = _ending([*(array.get("filters") or []), array.get("compressor")], where)
        return Encoding(blosc)
    codecs = array.get("codecs")
    codecs = codecs if isinstance(codecs, list) else []
    sharding = next((c for c in codecs if _name(c) == "sharding_indexed"), None)
    if sharding is None:
        return Encoding(*_ending(codecs, where))
    settings = sharding.get("configuration", {}) if isinstance(sharding, Mapping) else {}
    inner = settings.get("codecs")
    inner = inner if isinstance(inner, list) else []
    blosc, trailer = _ending(inner, where)
    plain = [_name(c) for c in settings.get("index_codecs") or []] == ["bytes", "crc32c"]
    if "blosc" in str(codecs) and (len(codecs) != 1 or not plain or "sharding_indexed" in str(inner)):
        raise CorruptError("Blosc in shards of an unusual kind", where=where)
    return Encoding(blosc, trailer, parts, settings.get("index_location") == "start")


def _check_frame(data: Any, kind: Encoding, largest: int, where: object) -> None:
    """Refuse a Blosc frame that is not as long as it declares, or that decodes to more than `largest`."""
    length = len(data) - kind.trailer
    if length >= _BLOSC_HEADER:
        decoded, _, declared = struct.unpack_from("<III", data, 4)
        if declared == length and decoded <= largest:
            return
    raise CorruptError("a damaged chunk", where=where, got=f"{length} bytes that are no Blosc frame")


def _check_shard(data: Any, kind: Encoding, largest: int, where: object) -> None:
    size = 16 * kind.parts + 4
    if len(data) < size:
        raise CorruptError("a shard that is cut off", where=where, got=f"{len(data)} bytes")
    index = data[: size - 4] if kind.index_first else data[len(data) - size : len(data) - 4]
    for offset, length in struct.iter_unpack("<QQ", index):
        if (offset, length) != (_NOTHING, _NOTHING):
            if offset + length > len(data):
                raise CorruptError("a shard that is cut off", where=where, got=f"{len(data)} bytes")
            _check_frame(data[offset : offset + length], kind, largest, where)


def guarded_store(folder: Path, kind: Encoding, largest: int) -> Any:
    """Return a read-only Zarr store of a folder that refuses what is cut off.

    Parameters
    ----------
    folder
        Of the array.
    kind
        What the chunks end in.
    largest
        Most bytes a chunk may decode to.
    """
    from zarr.abc.store import RangeByteRequest
    from zarr.storage import LocalStore

    class Guarded(LocalStore):
        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            buffer = await super().get(key, prototype, byte_range)
            if buffer is None or key.endswith(_METADATA):
                return buffer
            where, data = folder / key, memoryview(buffer.as_numpy_array()).cast("B")
            ranged = isinstance(byte_range, RangeByteRequest)
            if ranged and len(data) < byte_range.end - byte_range.start:
                raise CorruptError("a shard that is cut off", where=where, expected=f"{byte_range.end} bytes")
            if not kind.blosc:
                return buffer
            if not kind.parts:
                _check_frame(data, kind, largest, where)
            elif byte_range is None:
                _check_shard(data, kind, largest, where)
            elif ranged and not (kind.index_first and byte_range.start == 0):
                _check_frame(data, kind, largest, where)
            return buffer

    return Guarded(folder, read_only=True)
