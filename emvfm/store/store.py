"""One embedding store: rows are allocated under a lock, written a whole shard at a time, then published.

The order is what makes it safe. (1) Under a short lock, images get rows in new shards. (2) Whoever holds
a shard's lease writes its files, whole. (3) Data is flushed to disk. (4) The shard's manifest is written
and renamed into place. Only rows of a manifest exist for a reader, so a process that dies at any moment
leaves nothing wrong behind, and its lease, a lock of the operating system, ends with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout

from emvfm.errors import CorruptError, MissingError
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import ARRAYS, Chunking, Grid, create_grid, create_group, grid_name, parse_grid
from emvfm.store.reading import PatchReader, Window
from emvfm.store.shard_file import crc32c_of_file
from emvfm.store.writing import ImageWriter, Shard
from emvfm.workspace import atomic_folder, read_json, write_json

__all__ = ["EmbeddingStore", "Row"]


@dataclass(frozen=True)
class Row:
    """Where an image's embedding is: its patch grid and the row there."""

    grid: Grid
    row: int


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
        self._cuts: dict[Grid, Chunking] = {}

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

    def chunking(self, grid: Grid) -> Chunking:
        """Return how the patches of `grid` are cut; fixed when the grid's arrays are made."""
        if grid not in self._cuts:
            facts = self._group[f"grids/{grid_name(grid)}"].attrs
            self._cuts[grid] = Chunking(grid, int(facts["shard_length"]), *map(int, facts["chunk"]))  # type: ignore[arg-type]
        return self._cuts[grid]

    def allocate(self, grid: Grid, images: Sequence[str]) -> list[Shard]:
        """Give every image of `images` a shard and return the shards that are still to be written.

        An unfinished shard of a process that died may also hold images that are not in `images`; they
        are taken out of it, because this process can't read them.

        Raises
        ------
        MissingError
            The store was removed.
        """
        wanted = set(images)
        with self._lock:
            if not (self.folder / "zarr.json").is_file():  # Zarr would make a group without identity
                raise MissingError("the store was removed meanwhile", where=self.folder, todo="run it again")
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
                self.chunking(grid).images,
            )
            shards += [fresh[i : i + length] for i in range(0, len(fresh), length)]
            write_json(self._allocation_path(grid), {"shards": shards})
            for name in ARRAYS:
                array = self._group[f"grids/{grid_name(grid)}/{name}"]
                if array.shape[0] < len(shards) * length:  # type: ignore[union-attr]
                    array.resize((len(shards) * length, *array.shape[1:]))  # type: ignore[union-attr]
        all_shards = [Shard(grid, number, tuple(held)) for number, held in enumerate(shards)]
        return [s for s in all_shards if s.name not in finished and wanted & set(s.images)]

    def _acquire(self, shard: Shard) -> FileLock | None:
        path = self.folder / "manifest" / ".leases" / f"{shard.name.replace('/', '-')}.lock"
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path, thread_local=False)  # given up by the thread that writes
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return None
        return lock

    @contextmanager
    def lease(self, shard: Shard) -> Iterator[bool]:
        """Hold the right to write `shard`; yields whether this process has it."""
        lock = self._acquire(shard)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def writer(self, shard: Shard, release: Callable[[], None]) -> ImageWriter:
        """Return what writes `shard`, whose lease this process holds and `release` gives up."""
        return ImageWriter(
            self.folder, self._group, shard, self.chunking(shard.grid),
            self.identity.layers, self.identity.dtype, release,
        )  # fmt: skip

    def claim(self, shards: Sequence[Shard], poll: float = 0.2) -> Iterator[ImageWriter | None]:
        """Yield a writer for each unfinished shard whose lease this process gets.

        None means that other processes write all the rest: whoever holds a writer must finish it before
        asking again, or two processes would wait for each other. A shard may hold fewer images than
        asked for, and, if its writer died, images of another job; `allocate` again gives the rest a place.
        """
        waiting = list(shards)
        while waiting:
            progress = False
            for shard in tuple(waiting):
                if shard.name in self.finished():
                    waiting.remove(shard)
                    continue
                lock = self._acquire(shard)
                if lock is None:
                    continue
                waiting.remove(shard)
                if shard.name in self.finished():
                    lock.release()
                    continue
                # Another job may have taken images it can't read out of it since.
                held = tuple(self._allocated(shard.grid)[shard.number])
                progress = True
                yield self.writer(replace(shard, images=held), lock.release)
            if waiting and not progress:
                yield None
                time.sleep(poll)

    # ------------------------------------------------------------------ reading

    def read_patches(self, row: Row, layers: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return ``(len(layers), h, w, D)`` of one row in the stored type; `layers` are positions.

        Parameters
        ----------
        window
            Rows and columns of patches to read; all without it. Of a large image, only what is asked
            for is read.
        """
        with closing(self.iter_patches([row], layers, window)) as found:  # type: ignore[type-var]
            return next(found)

    def iter_patches(
        self, rows: Iterable[Row], layers: Sequence[int], window: Window | None = None
    ) -> Iterator[np.ndarray]:
        """Yield `read_patches` of each row; the files of a shard are opened once for rows that follow."""
        reader, current = None, None
        try:
            for row in rows:
                cut = self.chunking(row.grid)
                shard, image = divmod(row.row, cut.images)
                if reader is None or current != (row.grid, shard):
                    if reader is not None:
                        reader.close()
                    folder = f"{self.folder}/grids/{grid_name(row.grid)}/patches"
                    reader = PatchReader(folder, cut, shard, self.identity.dtype, self.width)
                    current = row.grid, shard
                yield reader.read(image, layers, window)
        finally:
            if reader is not None:
                reader.close()

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
                elif crc32c_of_file(path) != facts["crc32c"]:
                    problems[name] = f"{relative} has changed"
        return problems

    def forget(self, name: str) -> None:
        """Withdraw a shard, so that the next extraction computes it anew."""
        (self.folder / "manifest" / f"{name}.json").unlink(missing_ok=True)
