"""What writers that died, and datasets that changed, left within a store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emvfm.datasets.manifest import Dataset
from emvfm.errors import EmvfmError
from emvfm.store.removal import PARTIAL, InUseError, files_below, folders_in
from emvfm.store.store import EmbeddingStore
from emvfm.store.writing import Shard

__all__ = [
    "chunks_of",
    "require_known_layout",
    "rows_needed",
    "rows_of_table",
    "temporaries_in",
    "unnamed_files",
]

_CHUNK = re.compile(r"(\d+)(\.[0-9a-f]{32}\.partial)?")  # what begins the path of a shard's file: its number


def require_known_layout(store: EmbeddingStore) -> None:
    """Refuse a store whose manifests cannot be read or name files elsewhere: then nothing is certain."""
    try:
        manifests = store.finished()
    except EmvfmError as error:
        raise InUseError(f"a manifest cannot be read: {error}") from None
    for name, manifest in manifests.items():
        grid, number = name.split("/")
        for file in manifest["files"]:
            parts = file.split("/")
            if parts[:2] != ["grids", grid] or parts[3:5] != ["c", str(int(number))]:
                raise InUseError(f"the manifest of {name} names {file}")


def chunks_of(base: Path) -> Iterator[tuple[int, Path]]:
    """Yield what lies in the arrays of a grid, each with the number of its shard."""
    for array in folders_in(base):
        if (array / "c").is_dir() and not (array / "c").is_symlink():
            for path in sorted((array / "c").iterdir()):
                if match := _CHUNK.fullmatch(path.name):
                    yield int(match[1]), path


def unnamed_files(store: EmbeddingStore, shard: Shard, chunks: Sequence[Path]) -> list[Path]:
    """Return the files in `chunks` that the shard's manifest does not name."""
    named = store.finished().get(shard.name, {}).get("files", {})
    files = (file for chunk in chunks for file in files_below(chunk))
    return [file for file in files if file.relative_to(store.folder).as_posix() not in named]


def temporaries_in(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Yield what has a temporary name in a folder; with `deep` at any depth, shard files apart."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if PARTIAL.fullmatch(path.name):
            yield path
        elif deep and path.name != "c" and path.is_dir():
            yield from temporaries_in(path, deep=True)


def rows_of_table(path: Path) -> set[tuple[Any, ...]]:
    try:
        group = zarr.open_group(path, mode="r")
        names = ("id", "split", "domain", "volume", "image", "z")
        columns = [np.asarray(group[name][:]).tolist() for name in names]  # type: ignore[index]
    except (KeyError, ValueError, OSError) as error:
        raise InUseError(f"cannot be read: {error}") from None
    return set(zip(*columns, strict=True))


def rows_needed(rows: set[tuple[Any, ...]], datasets: Sequence[Dataset]) -> bool:
    """Return whether the rows of a sample table are all in one of the datasets."""
    return any(
        rows
        <= {
            (s.id, s.split, s.domain, s.volume, s.image_sha256, -1 if s.z is None else s.z)
            for s in dataset.samples
        }
        for dataset in datasets
    )
