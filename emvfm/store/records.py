"""Small JSON files that tell when they were changed: manifests of shards, allocations, tables' checksums."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emvfm.errors import CorruptError
from emvfm.provenance import digest
from emvfm.store.shard_file import crc32c_of_file
from emvfm.workspace import read_json, write_json

__all__ = ["REMEDY", "checksums", "difference", "read_record", "write_record"]

REMEDY = "mend it with `emvfm store verify --repair`"

Facts = dict[str, dict[str, Any]]


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write `value` with its digest, in one step."""
    write_json(path, {**value, "digest": digest(value)})


def read_record(path: Path) -> dict[str, Any]:
    """Return what `write_record` wrote.

    Raises
    ------
    CorruptError
        The file is not what was written.
    MissingError
        There is none.
    """
    try:
        value = read_json(path)
    except CorruptError as error:
        raise CorruptError(str(error), todo=REMEDY) from None
    if not isinstance(value, dict) or value.pop("digest", None) != digest(value):
        raise CorruptError("damaged record of a store", where=path, todo=REMEDY)
    return value


def checksums(folder: Path, files: Iterable[Path]) -> Facts:
    """Return the size and CRC32C of files by their path below `folder`."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "crc32c": crc32c_of_file(path)}
        for path in sorted(files)
    }


def difference(folder: Path, files: Facts) -> str | None:
    """Say how the files below `folder` differ from their checksums, None if they do not."""
    for relative, facts in files.items():
        path = folder / relative
        if not path.is_file():
            return f"{relative} is missing"
        if path.stat().st_size != facts["bytes"]:
            return f"{relative} has {path.stat().st_size} bytes instead of {facts['bytes']}"
        if crc32c_of_file(path) != facts["crc32c"]:
            return f"{relative} has changed"
    return None
