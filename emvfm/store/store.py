"""One embedding store: rows are allocated under a lock, written a whole shard at a time, then published.

The order is what makes it safe. (1) Under a short lock, images get rows in new shards. (2) Whoever holds
a shard's lease writes its files, whole. (3) Data is flushed to disk. (4) The shard's manifest is written
and renamed into place. Only rows of a manifest exist for a reader, so a process that dies at any moment
leaves nothing wrong behind, and its lease, a lock of the operating system, ends with it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from filelock import FileLock, Timeout

from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import ARRAYS, Chunking, Grid, create_grid, create_group, grid_name, parse_grid
from emvfm.store.reading import PatchReader, Window
from emvfm.store.records import REMEDY, read_record, write_record
from emvfm.store.writing import ImageWriter, Shard
from emvfm.workspace import atomic_folder, write_bytes

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
            attributes: dict[str, Any] = dict(self._group.attrs)
            facts = attributes["identity"]
            self.identity = EmbeddingIdentity(**{**facts, "layers": tuple(facts["layers"])})
            self.label, self.width = str(attributes["label"]), int(attributes["width"])
        except FileNotFoundError:
            raise MissingError(
                "no embedding store here", where=folder, todo="make one with `emvfm embed`"
            ) from None
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise CorruptError(
                "not the metadata of an embedding store",
                where=folder / "zarr.json",
                got=error,
                todo="the `emvfm embed` that made the store writes it anew",
            ) from None
        if self.identity.key != folder.name:
            raise CorruptError("the store is not what its name says", where=folder, got=self.identity.key)
        self.folder = folder
        self._finished: dict[str, dict[str, Any]] = {}
        self._cuts: dict[Grid, Chunking] = {}

    @classmethod
    def ensure(cls, root: Path, identity: EmbeddingIdentity, *, label: str, width: int) -> EmbeddingStore:
        """Open the store of `identity` under `root`, made if it is not there.

        A store that lost its metadata, or whose metadata were changed, gets them back: they follow from
        the arguments, and its shards stay.
        """
        folder = root / identity.key
        try:
            return cls(folder)
        except (MissingError, CorruptError):
            root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{identity.key}.lock"):
            try:
                return cls(folder)  # another process made it meanwhile
            except (MissingError, CorruptError):
                pass
            facts = {"label": label, "width": width}
            if (folder / "manifest").is_dir():
                with tempfile.TemporaryDirectory() as name:
                    create_group(Path(name) / "store", identity, facts)
                    for path in Path(name, "store").rglob("zarr.json"):
                        write_bytes(folder / path.relative_to(Path(name, "store")), path.read_bytes())
            else:
                with atomic_folder(folder, replace=folder.exists()) as temporary:
                    create_group(temporary, identity, facts)
                    (temporary / "manifest").mkdir()
        return cls(folder)

    # ------------------------------------------------------------------ what is there

    def published(self) -> list[str]:
        """Return the names of the shards that have a manifest, sound or not, in their order."""
        paths = (self.folder / "manifest").glob("[0-9]*x[0-9]*/*.json")
        return sorted(f"{path.parent.name}/{path.stem}" for path in paths)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of finished shards by shard name; new ones are picked up at each call.

        Raises
        ------
        CorruptError
            A manifest is not what was written.
        """
        names = set(self.published())
        for name in names - self._finished.keys():
            self._finished[name] = read_record(self.folder / "manifest" / f"{name}.json")
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
    def lock(self) -> FileLock:
        """Held while shards are given out."""
        return FileLock(self.folder / "manifest" / ".allocation.lock")

    @property
    def scratch(self) -> Path:
        """Where folders are made before they get their place; Zarr does not look there for groups."""
        return self.folder / "manifest" / ".scratch"

    def allocation_path(self, grid: Grid) -> Path:
        """Return the record of which images each shard of a grid is for."""
        return self.folder / "manifest" / f"{grid_name(grid)}.json"

    def allocated(self, grid: Grid) -> list[list[str]]:
        """Return the images that each shard of a grid is for, finished or not.

        Raises
        ------
        CorruptError
            The record is not what was written, or gone while there are shards.
        """
        path = self.allocation_path(grid)
        if path.is_file():
            return read_record(path)["shards"]
        if any(path.with_suffix("").glob("*.json")):
            raise CorruptError("the record of shards is gone", where=path, todo=REMEDY)
        return []

    def chunking(self, grid: Grid) -> Chunking:
        """Return how the patches of `grid` are cut; fixed when the grid's arrays are made."""
        if grid not in self._cuts:
            try:
                facts: Any = self._group[f"grids/{grid_name(grid)}"].attrs
                self._cuts[grid] = Chunking(grid, int(facts["shard_length"]), *map(int, facts["chunk"]))
            except (KeyError, TypeError, ValueError) as error:
                path = self.folder / "grids" / grid_name(grid) / "zarr.json"
                raise CorruptError("damaged store", where=path, got=error, todo=REMEDY) from None
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
        with self.lock:
            if not (self.folder / "zarr.json").is_file():  # Zarr would make a group without identity
                raise MissingError("the store was removed meanwhile", where=self.folder, todo="run it again")
            self._ensure_grid(grid)
            shards = self.allocated(grid)
            leases = ExitStack()  # held until the new allocation is written
            with leases:
                for number, held in enumerate(shards):
                    shard = Shard(grid, number, tuple(held))
                    if not wanted & set(held) or wanted.issuperset(held):
                        continue
                    mine = leases.enter_context(self.lease(shard))
                    if mine and shard.name not in self.finished():
                        shards[number] = [image for image in held if image in wanted]
                self._extend(grid, shards, images)
        finished = self.finished()
        all_shards = [Shard(grid, number, tuple(held)) for number, held in enumerate(shards)]
        return [s for s in all_shards if s.name not in finished and wanted & set(s.images)]

    def _ensure_grid(self, grid: Grid) -> None:
        """Make the arrays of a grid, all of them or none."""
        path = self.folder / "grids" / grid_name(grid)
        if path.is_dir():
            return
        with atomic_folder(path, scratch=self.scratch) as temporary:
            create_grid(temporary, grid, len(self.identity.layers), self.width, self.identity.dtype)

    def _extend(self, grid: Grid, shards: list[list[str]], images: Sequence[str]) -> None:
        """Give those of `images` that have no shard new ones, and make room for them."""
        known, length = {image for held in shards for image in held}, self.chunking(grid).images
        fresh = [image for image in dict.fromkeys(images) if image not in known]
        shards += [fresh[i : i + length] for i in range(0, len(fresh), length)]
        write_record(self.allocation_path(grid), {"shards": shards})
        for name in ARRAYS:
            try:
                array: Any = self._group[f"grids/{grid_name(grid)}/{name}"]
                if array.shape[0] < len(shards) * length:
                    array.resize((len(shards) * length, *array.shape[1:]))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                path = self.folder / "grids" / grid_name(grid) / name / "zarr.json"
                raise CorruptError("damaged store", where=path, got=error, todo=REMEDY) from None

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
                held = tuple(self.allocated(shard.grid)[shard.number])
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
        except (KeyError, TypeError, ValueError, OSError) as error:
            path = self.folder / "grids" / grid_name(grid) / name
            raise CorruptError("damaged store", where=path, got=error, todo=REMEDY) from None

    def forget(self, name: str) -> None:
        """Withdraw a shard, so that the next extraction computes it anew."""
        (self.folder / "manifest" / f"{name}.json").unlink(missing_ok=True)
