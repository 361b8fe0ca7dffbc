"""What an unfinished prediction keeps beside its output: finished rows, and a journal to go on from.

::

    .<output>.predict/
      lock          held by the process that predicts
      journal.json  key of the prediction, and how far it is
      values.raw    finished rows, plane after plane, at the size of the model's input
      carry-N.raw   sums of rows that further windows will add to

Rows are written and flushed before the journal says so, so a killed process loses at most the row of windows
it was at, and what is computed after it is what would have been.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, UsageError
from emvfm.workspace import read_json, write_bytes, write_json

__all__ = ["Journal", "PlaneFile", "Scratch", "open_scratch", "resample_rows"]


@dataclass(frozen=True)
class Journal:
    """How far a prediction is.

    Attributes
    ----------
    key
        Digest of all that decides the values.
    plane
        Planes that are done, of all images in turn.
    row
        Rows of windows of the next plane that are done.
    rows
        Finished rows of pixels of that plane.
    carry
        Number of the file with the sums below those rows, None for no such.
    scores
        Outlier scores of the windows so far, a list for each plane.
    """

    key: str
    plane: int = 0
    row: int = 0
    rows: int = 0
    carry: int | None = None
    scores: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class PlaneFile:
    """Where a plane of `size` (h, w) begins in the file of values."""

    offset: int
    size: tuple[int, int]


class Scratch:
    """The folder of an unfinished prediction; see `open_scratch`.

    Parameters
    ----------
    sizes
        ``(h, w)`` of each plane in the model's input.
    dtype
        Of the values: float32 probabilities, or uint8 masks.
    """

    def __init__(self, folder: Path, key: str, sizes: Sequence[tuple[int, int]], dtype: np.dtype) -> None:
        self.folder, self.dtype = folder, dtype
        areas = [height * width * dtype.itemsize for height, width in sizes]
        offsets = [0, *np.cumsum(areas, dtype=np.int64).tolist()]
        self.planes = [PlaneFile(offset, size) for offset, size in zip(offsets, sizes, strict=False)]
        self._total = offsets[-1]
        self.journal = self._resumed(key)

    @property
    def missing(self) -> int:
        """Bytes of values that are still to be written."""
        return max(0, self._total - self._values.stat().st_size)

    @property
    def _values(self) -> Path:
        return self.folder / "values.raw"

    def _resumed(self, key: str) -> Journal:
        path = self.folder / "journal.json"
        try:
            journal = Journal(**read_json(path))
        except (CorruptError, FileNotFoundError, TypeError):
            journal = None
        if journal is None or journal.key != key or not self._values.is_file():
            for old in self.folder.iterdir():
                if old.name != "lock":
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
            self._values.touch()
            return Journal(key)
        return journal

    def carry(self) -> NDArray[np.float32] | None:
        """Return ``(n, w)`` float32 sums to go on from, None at the beginning of a plane."""
        if self.journal.carry is None:
            return None
        values = np.fromfile(self.folder / f"carry-{self.journal.carry}.raw", np.float32)
        return values.reshape(-1, self.planes[self.journal.plane].size[1])

    def add(self, values: np.ndarray, carry: NDArray[np.float32], scores: Sequence[float]) -> None:
        """Keep the rows that a row of windows finished, then say so in the journal."""
        old = self.journal
        plane = self.planes[old.plane]
        with self._values.open("r+b") as stream:
            stream.seek(plane.offset + old.rows * plane.size[1] * self.dtype.itemsize)
            stream.write(np.ascontiguousarray(values, self.dtype).data)
            stream.flush()
            os.fsync(stream.fileno())
        listed = [*old.scores, *([[]] if len(old.scores) == old.plane else [])]
        listed[-1] = [*listed[-1], *scores]
        if old.rows + len(values) == plane.size[0]:
            new = replace(old, plane=old.plane + 1, row=0, rows=0, carry=None, scores=listed)
        else:
            number = 1 - old.carry if old.carry is not None else 0
            write_bytes(self.folder / f"carry-{number}.raw", carry.tobytes())
            new = replace(old, row=old.row + 1, rows=old.rows + len(values), carry=number, scores=listed)
        write_json(self.folder / "journal.json", vars(new))
        self.journal = new

    def read(self, plane: int, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` of a finished plane at the size of the model's input.

        Raises
        ------
        CorruptError
            The file is shorter than what was written.
        """
        where = self.planes[plane]
        width = where.size[1]
        with self._values.open("rb") as stream:
            stream.seek(where.offset + start * width * self.dtype.itemsize)
            values = np.fromfile(stream, self.dtype, (stop - start) * width)
        if values.size != (stop - start) * width:
            raise CorruptError(
                "finished rows are gone", where=self._values, todo="remove its folder and predict again"
            )
        return values.reshape(stop - start, width)

    def native(self, plane: int, start: int, stop: int, size: tuple[int, int]) -> np.ndarray:
        """Return rows `start` to `stop` of a finished plane at the native `size` of its image."""
        own = self.planes[plane].size
        if own == size:
            return self.read(plane, start, stop)
        return resample_rows(lambda a, b: self.read(plane, a, b), own, size, start, stop)


def _taps(source: int, target: int, start: int, stop: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each position, the sample before it and the share of the one after."""
    place = np.clip((np.arange(start, stop) + 0.5) * source / target - 0.5, 0, source - 1)
    before = np.minimum(place.astype(np.intp), max(source - 2, 0))
    return before, (place - before).astype(np.float32)


def resample_rows(
    read: Any, source: tuple[int, int], target: tuple[int, int], start: int, stop: int
) -> NDArray[np.float32]:
    """Return rows `start` to `stop` of an image after bilinear resampling, pixel centres aligned as areas.

    Parameters
    ----------
    read
        Gives ``(b - a, w)`` rows a to b of the image.
    source, target
        ``(h, w)`` of the image, before and after.
    """
    down, lower = _taps(source[0], target[0], start, stop)
    across, right = _taps(source[1], target[1], 0, target[1])
    first, last = int(down[0]), min(int(down[-1]) + 2, source[0])
    values = read(first, last)
    below = np.minimum(down + 1, source[0] - 1) - first
    beside = np.minimum(across + 1, source[1] - 1)
    rows = values[down - first] * (1 - lower)[:, None] + values[below] * lower[:, None]
    return rows[:, across] * (1 - right) + rows[:, beside] * right


@contextmanager
def open_scratch(out: Path) -> Iterator[Path]:
    """Hold the folder of an unfinished prediction, which stays when an error or a kill ends it.

    Raises
    ------
    UsageError
        Another process holds it.
    """
    from filelock import FileLock, Timeout

    folder = out.with_name(f".{out.name}.predict")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            "another process is predicting to this output", where=out, todo="wait for it"
        ) from None
    try:
        yield folder
        shutil.rmtree(folder)
    finally:
        lock.release()
