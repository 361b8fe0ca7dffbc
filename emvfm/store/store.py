"""One embedding store: rows are allocated under a lock, written a whole shard at a time, then published.

The order is what makes it safe. (1) Under a short lock, images get rows in new shards. (2) Whoever holds
a shard's lease writes its files, whole. (3) Data is flushed to disk. (4) The shard's manifest is written
and renamed into place. Only rows of a manifest exist for a reader, so a process that dies at any moment
leaves nothing wrong behind, and its lease, a lock of the operating system, ends with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout

from emvfm.errors import CorruptError, EmvfmError, MissingError
from emvfm.provenance import sha256_file
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import ARRAYS, Grid, create_grid, create_group, grid_name, parse_grid
from emvfm.store.shard_file import read_chunk
from emvfm.workspace import atomic_folder, read_json, write_json

__all__ = ["EmbeddingStore", "Row", "Shard", "ShardData"]

_FLOAT16_MOST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Row:
    """Where an image's embedding is: its patch grid and the row there."""

    grid: Grid
    row: int


@dataclass(frozen=True)
class Shard:
    """A run of rows of one grid that is written as a whole; `images` are SHA-256 digests."""

    grid: Grid
    number: int
    images: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{grid_name(self.grid)}/{self.number:06d}"


@dataclass(frozen=True)
class ShardData:
    """The embeddings of a shard's images, in their order.

    Attributes
    ----------
    patches
        ``(n, L, h, w, D)`` float.
    cls
        ``(n, L, D)`` float32.
    valid
        ``(n, h, w)`` float32 in [0, 1].
    """

    patches: np.ndarray
    cls: np.ndarray
    valid: np.ndarray


def _weighted_mean(patches: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return ``(n, L, D)`` float32: the mean patch of each image, padding counted for nothing."""
    weights = valid / valid.sum(axis=(1, 2), keepdims=True)
    return np.einsum("nlyxd,nyx->nld", patches.astype(np.float32), weights.astype(np.float32))


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


class EmbeddingStore:
    """The embeddings of one identity under ``<folder>``; see the module and `layout` for the format."""

    def __init__(self, folder: Path) -> None:
        try:
            self._group = zarr.open_group(folder, mode="r+")
        except FileNotFoundError:
            raise MissingError(
                "no embedding store here", where=folder, todo="make one with `emvfm embed`"
            ) from None
        attributes: dict[str, Any] = dict(self._group.attrs)
        try:
            facts = attributes["identity"]
            self.identity = EmbeddingIdentity(**{**facts, "layers": tuple(facts["layers"])})
            self.label, self.width = str(attributes["label"]), int(attributes["width"])
        except (KeyError, TypeError) as error:
            raise CorruptError("not an embedding store", where=folder, got=error) from None
        if self.identity.key != folder.name:
            raise CorruptError("the store is not what its name says", where=folder, got=self.identity.key)
        self.folder = folder
        self._finished: dict[str, dict[str, Any]] = {}
        self._lengths: dict[Grid, int] = {}

    @classmethod
    def ensure(cls, root: Path, identity: EmbeddingIdentity, *, label: str, width: int) -> EmbeddingStore:
        """Open the store of `identity` under `root`, made if it is not there."""
        folder = root / identity.key
        if not (folder / "zarr.json").is_file():
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f".{identity.key}.lock"):
                if not (folder / "zarr.json").is_file():
                    with atomic_folder(folder, replace=folder.exists()) as temporary:
                        create_group(temporary, identity, {"label": label, "width": width})
                        (temporary / "manifest").mkdir()
        return cls(folder)

    # ------------------------------------------------------------------ what is there

    def finished(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of finished shards by shard name; new ones are picked up at each call."""
        names = {f"{p.parent.name}/{p.stem}" for p in (self.folder / "manifest").glob("*/*.json")}
        for name in names - self._finished.keys():
            self._finished[name] = read_json(self.folder / "manifest" / f"{name}.json")
        for name in self._finished.keys() - names:
            del self._finished[name]
        return self._finished

    def rows(self) -> dict[str, Row]:
        """Return the row of every finished image by its SHA-256."""
        found = {}
        for name, manifest in self.finished().items():
            grid = parse_grid(name.split("/", 1)[0])
            for i, image in enumerate(manifest["images"]):
                found[image] = Row(grid, manifest["start"] + i)
        return found

    # ------------------------------------------------------------------ writing

    @property
    def _lock(self) -> FileLock:
        return FileLock(self.folder / "manifest" / ".allocation.lock")

    def _allocation_path(self, grid: Grid) -> Path:
        return self.folder / "manifest" / f"{grid_name(grid)}.json"

    def _allocated(self, grid: Grid) -> list[list[str]]:
        path = self._allocation_path(grid)
        return read_json(path)["shards"] if path.is_file() else []

    def _length(self, grid: Grid) -> int:
        """Return how many rows a shard of `grid` has; fixed when the grid's arrays are made."""
        if grid not in self._lengths:
            inner = self._group[f"grids/{grid_name(grid)}"]
            self._lengths[grid] = int(inner.attrs["shard_length"])  # type: ignore[arg-type]
        return self._lengths[grid]

    def allocate(self, grid: Grid, images: Sequence[str]) -> list[Shard]:
        """Give every image of `images` a shard and return the shards that are still to be written.

        An unfinished shard of a process that died may also hold images that are not in `images`; they
        are taken out of it, because this process can't read them.
        """
        wanted = set(images)
        with self._lock:
            if f"grids/{grid_name(grid)}" not in self._group:
                create_grid(self._group, grid, len(self.identity.layers), self.width, self.identity.dtype)
            shards, finished = self._allocated(grid), self.finished()
            for number, held in enumerate(shards):
                shard = Shard(grid, number, tuple(held))
                if shard.name not in finished and wanted & set(held) and not wanted.issuperset(held):
                    with self.lease(shard) as mine:
                        if mine:
                            shards[number] = [image for image in held if image in wanted]
            known = {image for held in shards for image in held}
            fresh, length = (
                [image for image in dict.fromkeys(images) if image not in known],
                self._length(grid),
            )
            shards += [fresh[i : i + length] for i in range(0, len(fresh), length)]
            write_json(self._allocation_path(grid), {"shards": shards})
            for name in ARRAYS:
                array = self._group[f"grids/{grid_name(grid)}/{name}"]
                if array.shape[0] < len(shards) * length:  # type: ignore[union-attr]
                    array.resize((len(shards) * length, *array.shape[1:]))  # type: ignore[union-attr]
        all_shards = [Shard(grid, number, tuple(held)) for number, held in enumerate(shards)]
        return [s for s in all_shards if s.name not in finished and wanted & set(s.images)]

    @contextmanager
    def lease(self, shard: Shard) -> Iterator[bool]:
        """Hold the right to write `shard`; yields whether this process has it."""
        path = self.folder / "manifest" / ".leases" / f"{shard.name.replace('/', '-')}.lock"
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def claim(self, shards: Sequence[Shard], poll: float = 0.2) -> Iterator[Shard]:
        """Yield each unfinished shard once this process holds its lease; wait for those others write.

        The lease is held until the next shard is asked for, so `write` must be called before that. A
        shard may hold fewer images than asked for, and, if its writer died, images of another job;
        `allocate` again gives the rest a place.
        """
        waiting = list(shards)
        while waiting:
            progress = False
            for shard in tuple(waiting):
                if shard.name in self.finished():
                    waiting.remove(shard)
                    continue
                with self.lease(shard) as mine:
                    if mine and shard.name not in self.finished():
                        # Another job may have taken images it can't read out of it since.
                        held = self._allocated(shard.grid)[shard.number]
                        yield replace(shard, images=tuple(held))
                        waiting.remove(shard)
                        progress = True
            if waiting and not progress:
                time.sleep(poll)

    def _checked(self, shard: Shard, patches: np.ndarray) -> np.ndarray:
        """Return `patches` in the stored type, or raise if a value does not fit it."""
        most = _FLOAT16_MOST if self.identity.dtype == "float16" else float(np.finfo(np.float32).max)
        for i, image in enumerate(shard.images):
            highest = np.abs(patches[i]).max(axis=(1, 2, 3))
            if not (highest <= most).all():  # also false for NaN
                layer = self.identity.layers[int(np.argmin(highest <= most))]
                raise EmvfmError(
                    f"embeddings of layer {layer} do not fit {self.identity.dtype}",
                    where=f"image {image[:12]}",
                    got=f"a value of {highest.max():.3g}",
                    todo="store them with --dtype float32, or compute with --precision float32",
                )
        return patches.astype(self.identity.dtype)

    def write(self, shard: Shard, data: ShardData) -> None:
        """Write and publish a shard whose lease this process holds."""
        n, start = len(shard.images), shard.number * self._length(shard.grid)
        length = self._length(shard.grid)
        patches = self._checked(shard, data.patches)
        columns = {
            "patches": patches,
            "cls": data.cls.astype(np.float32),
            "mean": _weighted_mean(data.patches, data.valid),
            "valid": data.valid.astype(np.float32),
            "image": np.array(shard.images, dtype=object),
        }
        base = self.folder / "grids" / grid_name(shard.grid)
        group = self._group[f"grids/{grid_name(shard.grid)}"]
        files: dict[str, dict[str, Any]] = {}
        for name, values in columns.items():
            fill = "" if name == "image" else np.nan
            chunks = base / name / "c"
            pattern = f"{shard.number}" if name == "image" else f"{shard.number}/**/*"
            for path in chunks.glob(
                pattern
            ):  # a shard that is there is read before it is replaced, damaged or not
                if path.is_file():
                    path.unlink()
            whole = np.full((length, *values.shape[1:]), fill, dtype=values.dtype)
            whole[:n] = values
            group[name][start : start + length] = whole  # type: ignore[index]
            for path in sorted(chunks.glob(pattern)):
                if path.is_file():
                    _sync(path)
                    files[path.relative_to(self.folder).as_posix()] = {
                        "bytes": path.stat().st_size,
                        "sha256": sha256_file(path),
                    }
        manifest = {"images": list(shard.images), "start": start, "files": files}
        write_json(self.folder / "manifest" / f"{shard.name}.json", manifest)

    # ------------------------------------------------------------------ reading

    def read_patches(self, row: Row, layers: Sequence[int]) -> np.ndarray:
        """Return ``(len(layers), h, w, D)`` of one row in the stored type; `layers` are positions."""
        length, (h, w) = self._length(row.grid), row.grid
        shard, position = divmod(row.row, length)
        base = self.folder / "grids" / grid_name(row.grid) / "patches" / "c" / str(shard)
        dtype, shape = np.dtype(self.identity.dtype), (h, w, self.width)
        chunks = [
            read_chunk(base / str(layer) / "0" / "0" / "0", position, length, shape, dtype)
            for layer in layers
        ]
        return chunks[0][None] if len(chunks) == 1 else np.stack(chunks)

    def read_column(self, name: str, grid: Grid) -> np.ndarray:
        """Return all rows of ``cls``, ``mean`` or ``valid`` of one grid; rows of no manifest are NaN."""
        try:
            return np.asarray(self._group[f"grids/{grid_name(grid)}/{name}"][:])  # type: ignore[index]
        except (ValueError, OSError) as error:
            raise CorruptError(
                "damaged store", where=self.folder / "grids" / grid_name(grid) / name, got=error
            ) from None

    # ------------------------------------------------------------------ care

    def damaged(self, names: Collection[str] | None = None) -> dict[str, str]:
        """Return the damaged shards among `names` (default: all) with what is wrong with each."""
        problems = {}
        for name, manifest in sorted(self.finished().items()):
            if names is not None and name not in names:
                continue
            for relative, facts in manifest["files"].items():
                path = self.folder / relative
                if not path.is_file():
                    problems[name] = f"{relative} is missing"
                elif path.stat().st_size != facts["bytes"]:
                    problems[name] = f"{relative} has {path.stat().st_size} bytes instead of {facts['bytes']}"
                elif sha256_file(path) != facts["sha256"]:
                    problems[name] = f"{relative} has changed"
        return problems

    def forget(self, name: str) -> None:
        """Withdraw a shard, so that the next extraction computes it anew."""
        (self.folder / "manifest" / f"{name}.json").unlink(missing_ok=True)
