"""Reading patch tokens of one shard: whole images, or a window of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from emvfm.store.layout import Chunking
from emvfm.store.shard_file import ShardReader

__all__ = ["PatchReader", "Window"]

#: Rows and columns of patches.
Window = tuple[slice, slice]


def _overlap(start: int, stop: int, chunk: int, n: int) -> tuple[slice, slice]:
    """Return which part of chunk number `n` lies in ``[start, stop)``, and where it goes in the result."""
    low, high = max(start, n * chunk), min(stop, (n + 1) * chunk)
    return slice(low - n * chunk, high - n * chunk), slice(low - start, high - start)


class PatchReader:
    """Reads the patch tokens of shard `shard`, whose files lie under `folder` (of the array)."""

    def __init__(self, folder: str, cut: Chunking, shard: int, dtype: str, width: int) -> None:
        self._folder, self._cut, self._shard = folder, cut, shard
        self._dtype, self._width = np.dtype(dtype), width
        self._opened = ExitStack()
        self._readers: dict[int, ShardReader] = {}

    def read(self, image: int, layers: Sequence[int], window: Window | None = None) -> np.ndarray:
        """Return ``(len(layers), rows, columns, D)`` of the image at place `image` of the shard, read-only.

        Raises
        ------
        CorruptError
            A file is missing or damaged.
        """
        (h, w), cut = self._cut.grid, self._cut
        top, bottom, _ = (slice(None) if window is None else window[0]).indices(h)
        left, right, _ = (slice(None) if window is None else window[1]).indices(w)
        shape = (max(0, bottom - top), max(0, right - left))
        out = np.empty((len(layers), *shape, self._width), self._dtype)
        if shape == cut.grid == (cut.rows, cut.columns):
            for layer, place in zip(layers, out, strict=True):
                self._whole(layer).read(image, place)
        elif out.size:
            chunk = np.empty((cut.rows, cut.columns, self._width), self._dtype)
            for layer, place in zip(layers, out, strict=True):
                for band in range(top // cut.rows, -(-bottom // cut.rows)):
                    from_rows, to_rows = _overlap(top, bottom, cut.rows, band)
                    with self._band(layer, band) as reader:
                        for x in range(left // cut.columns, -(-right // cut.columns)):
                            from_columns, to_columns = _overlap(left, right, cut.columns, x)
                            reader.read(image * cut.across + x, chunk)
                            place[to_rows, to_columns] = chunk[from_rows, from_columns]
        out.flags.writeable = False
        return out

    def _open(self, layer: int, band: int) -> ShardReader:
        return ShardReader(f"{self._folder}/{self._cut.file(self._shard, layer, band)}", self._cut.places)

    def _whole(self, layer: int) -> ShardReader:
        """Return the only file of a layer; it stays open for the next image."""
        if layer not in self._readers:
            self._readers[layer] = self._opened.enter_context(self._open(layer, 0))
        return self._readers[layer]

    @contextmanager
    def _band(self, layer: int, band: int) -> Iterator[ShardReader]:
        """Open one of many files, and no more than one."""
        if self._cut.bands == 1:
            yield self._whole(layer)
        else:
            with self._open(layer, band) as reader:
                yield reader

    def close(self) -> None:
        """Close the files."""
        self._opened.close()
