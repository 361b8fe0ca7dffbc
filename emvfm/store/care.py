"""Looking after stores: what each holds and how large it is, and whether every byte is what was written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from emvfm.errors import CorruptError, MissingError
from emvfm.store.layout import ARRAYS, Chunking, Grid, create_grid, parse_grid
from emvfm.store.records import difference, read_record, write_record
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import table_record
from emvfm.workspace import read_json, write_bytes

__all__ = ["StoreSummary", "find_stores", "images_of", "summarise", "verify"]


@dataclass(frozen=True)
class StoreSummary:
    """One store: what made it, how many images it holds, and its size on disk in bytes."""

    key: str
    label: str
    layers: tuple[int, ...]
    dtype: str
    view: str
    images: int
    bytes: int


def find_stores(root: Path, keys: list[str] | None = None) -> list[EmbeddingStore]:
    """Open the stores under `root` whose keys begin with one of `keys`, or all.

    Raises
    ------
    MissingError
        No store begins with one of `keys`.
    """
    stores = [EmbeddingStore(path.parent) for path in sorted(root.glob("[0-9a-f]*/zarr.json"))]
    if keys is None:
        return stores
    chosen = {}
    for key in keys:
        found = [store for store in stores if store.folder.name.startswith(key)]
        if not found:
            raise MissingError("no such store", where=key, expected=f"the beginning of a key under {root}")
        chosen.update({store.folder.name: store for store in found})
    return list(chosen.values())


def summarise(store: EmbeddingStore) -> StoreSummary:
    """Count what a store holds."""
    identity = store.identity
    shown = identity.preprocess.get("view")
    size = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    return StoreSummary(
        key=identity.key,
        label=store.label,
        layers=identity.layers,
        dtype=identity.dtype,
        view="plain" if shown is None else "moved or turned",
        images=len(store.rows()),
        bytes=size,
    )


def _shard_problems(store: EmbeddingStore) -> dict[str, str]:
    problems = {}
    for name in store.published():
        try:
            record = read_record(store.folder / "manifest" / f"{name}.json")
            found = difference(store.folder, record["files"])
        except CorruptError:
            found = "its manifest has changed"
        if found is not None:
            problems[name] = found
    return problems


def _grids(store: EmbeddingStore) -> dict[Grid, Path]:
    folders = [path for path in sorted((store.folder / "grids").iterdir()) if path.is_dir()]
    own = (path for path in folders if not path.name.startswith(".") and not path.is_symlink())
    return {parse_grid(path.name): path for path in own}


def _record_problems(store: EmbeddingStore) -> dict[str, str]:
    problems = {}
    for grid in _grids(store):
        try:
            store.allocated(grid)
        except CorruptError:
            problems[f"manifest/{store.allocation_path(grid).name}"] = "the record of shards has changed"
    return problems


def _rows(store: EmbeddingStore, grid: Grid, length: int) -> int:
    """Return how many rows the arrays of a grid must have, by the shards there are."""
    numbers = [int(path.stem) + 1 for path in store.allocation_path(grid).with_suffix("").glob("*.json")]
    with suppress(CorruptError):  # a problem of its own
        numbers.append(len(store.allocated(grid)))
    return max(numbers, default=0) * length


@contextmanager
def _as_made(store: EmbeddingStore, grid: Grid) -> Iterator[Path]:
    """Make a grid like that of the store, without values, in a folder that is gone afterwards."""
    identity = store.identity
    rows = _rows(store, grid, Chunking.choose(grid, store.width, identity.dtype).images)
    with tempfile.TemporaryDirectory() as name:
        create_grid(Path(name) / "grid", grid, len(identity.layers), store.width, identity.dtype, rows)
        yield Path(name) / "grid"


def _description(path: Path) -> Any:
    """Return what the metadata of a group or array say, or None if they can't be read."""
    try:
        node: Any = zarr.open(path, mode="r")
        if isinstance(node, zarr.Group):
            written = read_json(path / "zarr.json")
            return dict(node.attrs), {"attributes", "node_type", "zarr_format"} <= written.keys()
        facts = (node.shape, node.dtype, node.chunks, node.shards, node.metadata.dimension_names)
        return *facts, repr(node.fill_value), [codec.to_dict() for codec in node.metadata.codecs]
    except (KeyError, TypeError, ValueError, AttributeError, OSError, CorruptError):
        return None


def _metadata_problems(store: EmbeddingStore) -> dict[str, str]:
    lost = [name for name in ("grids", "datasets") if _description(store.folder / name) != ({}, True)]
    problems = {f"{name}/zarr.json": "the metadata are gone or have changed" for name in lost}
    for grid, folder in _grids(store).items():
        with _as_made(store, grid) as made:
            for name in (".", *ARRAYS):
                if _description(folder / name) != _description(made / name):
                    path = (folder / name / "zarr.json").relative_to(store.folder)
                    problems[path.as_posix()] = "the metadata are gone or have changed"
    return problems


def _table_problems(store: EmbeddingStore) -> dict[str, str]:
    problems = {}
    for folder in sorted(path for path in (store.folder / "datasets").iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            continue
        try:
            found = difference(folder, read_record(table_record(store, folder.name))["files"])
        except (CorruptError, MissingError):
            found = "its checksums are gone or have changed"
        if found is not None:
            problems[f"datasets/{folder.name}"] = found
    return problems


def _mend_record(store: EmbeddingStore, grid: Grid) -> None:
    """Write the allocation anew from the finished shards; images of others are given out again."""
    finished = {
        int(path.stem): list(read_record(path)["images"])
        for path in store.allocation_path(grid).with_suffix("").glob("*.json")
    }
    shards = [finished.get(number, []) for number in range(max(finished, default=-1) + 1)]
    write_record(store.allocation_path(grid), {"shards": shards})


def _mend(store: EmbeddingStore, name: str) -> None:
    kind, _, rest = name.partition("/")
    if rest == "zarr.json":
        with tempfile.TemporaryDirectory() as made:
            zarr.create_group(Path(made) / kind)
            write_bytes(store.folder / name, (Path(made) / name).read_bytes())
    elif kind == "manifest":
        _mend_record(store, parse_grid(rest.removesuffix(".json")))
    elif kind == "grids":
        grid, _, below = rest.partition("/")
        with _as_made(store, parse_grid(grid)) as made:
            write_bytes(store.folder / name, (made / below).read_bytes())
    elif kind == "datasets":
        shutil.rmtree(store.folder / name)
        table_record(store, rest).unlink(missing_ok=True)
    else:
        store.forget(name)


def images_of(store: EmbeddingStore, shard: str) -> list[str]:
    """Return the images of a finished shard by their keys, as far as any record tells."""
    grid, _, number = shard.partition("/")
    try:
        return list(read_record(store.folder / "manifest" / f"{shard}.json")["images"])
    except CorruptError:
        try:
            return store.allocated(parse_grid(grid))[int(number)]
        except (CorruptError, IndexError):
            return []


def verify(store: EmbeddingStore, *, repair: bool = False) -> dict[str, str]:
    """Read every byte of a store; return what is wrong, by shard or by path within the store.

    Parameters
    ----------
    repair
        Withdraw damaged shards and sample tables, so that the next extraction computes them and nothing else;
        write records and metadata anew.
    """
    with store.lock:
        problems = _shard_problems(store)
        if repair:  # first, because the record of shards is written anew from sound manifests
            for name in problems:
                _mend(store, name)
        for find in (_record_problems, _metadata_problems, _table_problems):
            found = find(store)
            problems |= found
            if repair:
                for name in found:
                    _mend(store, name)
    return problems
