"""Writing one shard of a store: images come one after another, a large one even row by row.

What is in memory is one image, or a band of a large one. Nothing exists for a reader before `publish`
has written the shard's manifest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from emvfm.errors import EmvfmError
from emvfm.store.layout import Chunking, Grid, grid_name
from emvfm.store.records import checksums, write_record
from emvfm.store.shard_file import ShardWriter

__all__ = ["ImageWriter", "Shard"]

#: The bits of the exponent; a value that has them all is infinite or NaN.
_EXPONENT: dict[str, Any] = {"float16": np.uint16(0x7C00), "float32": np.uint32(0x7F800000)}


@dataclass(frozen=True)
class Shard:
    """A run of rows of one grid that is written as a whole; `images` name them, by their SHA-256."""

    grid: Grid
    number: int
    images: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{grid_name(self.grid)}/{self.number:06d}"


def _finite(values: np.ndarray) -> bool:
    """Return whether no value is infinite or NaN; for float16, numpy's own test takes ten times as long."""
    exponent = _EXPONENT[values.dtype.name]
    return not ((values.view(exponent.dtype) & exponent) == exponent).any()


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


class ImageWriter:
    """Writes the images of a shard in their order, under a lease that it gives up at the end.

    Parameters
    ----------
    folder, group
        Of the store.
    shard
        What is written.
    cut
        How the grid is cut into files.
    layers, dtype
        What is stored.
    release
        Gives the lease up.
    """

    def __init__(
        self,
        folder: Path,
        group: zarr.Group,
        shard: Shard,
        cut: Chunking,
        layers: Sequence[int],
        dtype: str,
        release: Callable[[], None],
    ) -> None:
        self.folder, self.shard, self.cut = folder, shard, cut
        self._group, self._layers, self._dtype, self._release = group, tuple(layers), np.dtype(dtype), release
        self._base = folder / "grids" / grid_name(shard.grid)
        self._open: dict[int, ShardWriter] = {}  # by layer; one band at a time
        self._files: dict[str, dict[str, Any]] = {}
        self._waiting: list[np.ndarray] = []  # rows of the image in hand that do not fill a band yet
        self._band = 0
        self._columns: dict[str, list[np.ndarray]] = {"cls": [], "mean": [], "valid": []}
        for name in ("patches", *self._columns, "image"):  # left by a writer that died, or withdrawn
            old = self._base / name / "c" / str(shard.number)
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)

    def add(self, patches: np.ndarray, cls: np.ndarray, mean: np.ndarray, valid: np.ndarray) -> None:
        """Write a whole image; see `add_rows` and `end_image`."""
        self.add_rows(patches)
        self.end_image(cls, mean, valid)

    def add_rows(self, patches: np.ndarray) -> None:
        """Write the next rows ``(L, r, w, D)`` of the image in hand.

        Raises
        ------
        EmvfmError
            A value does not fit the stored type.
        """
        with np.errstate(over="ignore"):  # what overflows is infinite, and found
            stored = np.asarray(patches).astype(self._dtype, copy=False)
        if not _finite(stored):
            self._refuse(patches, stored)
        self._waiting.append(stored)
        while sum(rows.shape[1] for rows in self._waiting) >= self.cut.rows:
            rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
            self._write_band(rows[:, : self.cut.rows])
            rest = rows[:, self.cut.rows :]
            self._waiting = [rest] if rest.shape[1] else []

    def end_image(self, cls: np.ndarray, mean: np.ndarray, valid: np.ndarray) -> None:
        """Close the image in hand with its ``cls (L, D)``, ``mean (L, D)`` and ``valid (h, w)``."""
        if self._waiting:
            self._write_band(np.concatenate(self._waiting, axis=1))
            self._waiting = []
        assert self._band == self.cut.bands, "an image has all its rows"
        self._band = 0
        for name, values in (("cls", cls), ("mean", mean), ("valid", valid)):
            self._columns[name].append(np.asarray(values, np.float32))

    def publish(self) -> None:
        """Finish the files and, last, write the manifest by which the images exist."""
        count, length = len(self.shard.images), self.cut.images
        assert len(self._columns["cls"]) == count, "a shard has all its images"
        self._close_files()
        start = self.shard.number * length
        for name, values in self._columns.items():
            self._write_column(name, np.stack(values), np.nan)
        self._write_column("image", np.array(self.shard.images, dtype=object), "")
        manifest = {"images": list(self.shard.images), "start": start, "files": self._files}
        write_record(self.folder / "manifest" / f"{self.shard.name}.json", manifest)
        self._release()

    def abort(self) -> None:
        """Give the shard up; after `publish` this does nothing."""
        for writer in self._open.values():
            writer.abort()
        self._open = {}
        self._release()

    # ------------------------------------------------------------------ files

    def _write_band(self, rows: np.ndarray) -> None:
        """Write ``(L, r, w, D)``, a band of chunks of the image in hand; the last may be cut off below."""
        cut, image = self.cut, len(self._columns["cls"])
        for position, layer in enumerate(rows):
            if position not in self._open:
                path = self._base / "patches" / cut.file(self.shard.number, position, self._band)
                self._open[position] = ShardWriter(path, cut.places)
            for x in range(cut.across):
                chunk = layer[:, x * cut.columns : (x + 1) * cut.columns]
                missing = [(0, cut.rows - chunk.shape[0]), (0, cut.columns - chunk.shape[1]), (0, 0)]
                if missing[0][1] or missing[1][1]:
                    chunk = np.pad(chunk, missing, constant_values=np.nan)
                self._open[position].write(image * cut.across + x, chunk)
        self._band += 1
        if cut.bands > 1:
            self._close_files()

    def _close_files(self) -> None:
        for writer in self._open.values():
            self._files[writer.path.relative_to(self.folder).as_posix()] = writer.close()
        self._open = {}

    def _write_column(self, name: str, values: np.ndarray, fill: Any) -> None:
        """Write a small array of the shard through Zarr, unused rows filled."""
        length, array = self.cut.images, self._group[f"grids/{grid_name(self.shard.grid)}/{name}"]
        whole = np.full((length, *values.shape[1:]), fill, dtype=values.dtype)
        whole[: len(values)] = values
        start = self.shard.number * length
        array[start : start + length] = whole  # type: ignore[index]
        written = self._base / name / "c" / str(self.shard.number)
        files = [written] if written.is_file() else [path for path in written.rglob("*") if path.is_file()]
        for path in files:
            _sync(path)
        self._files |= checksums(self.folder, files)

    def _refuse(self, given: np.ndarray, stored: np.ndarray) -> None:
        layer = next(n for n, values in enumerate(stored) if not _finite(np.ascontiguousarray(values)))
        worst = np.abs(np.asarray(given[layer], np.float32)).max()
        raise EmvfmError(
            f"embeddings of layer {self._layers[layer]} do not fit {self._dtype}",
            where=f"image {self.shard.images[len(self._columns['cls'])][:12]}",
            got=f"a value of {worst:.3g}",
            todo="store them with --dtype float32, or compute with --precision float32",
        )
