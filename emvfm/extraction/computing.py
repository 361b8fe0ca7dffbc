"""Datasets to store by a backbone that computes: reading, the forward pass and writing overlap.

Images are read in threads of their own ahead of the forward pass, and written in another one behind it.
What is in memory is a few images, or a row of tiles of one that is too large for a pass.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emvfm.backbones.canvas import Canvas
from emvfm.backbones.preprocess import Prepared, Preprocess, intensity_window, valid_fraction
from emvfm.backbones.views import PLAIN
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.rows import ArrayRows, open_rows
from emvfm.errors import EmvfmError
from emvfm.extraction.forward import Forward, Outputs
from emvfm.extraction.reading import named, pixels_of, read_prepared, require_manifests
from emvfm.extraction.tiling import stitch
from emvfm.store.writing import ImageWriter

__all__ = ["Computing"]

_READ_AHEAD = 3  # images decoded before they are needed, on top of a batch
_WRITE_BEHIND = 2  # batches, or bands of a large image, that wait to be written


@dataclass(frozen=True)
class _Reading:
    """An image on its way: who will write it, and its pixels to come; None for a large one."""

    writer: ImageWriter
    sample: Sample
    prepared: Future[Prepared] | None


@dataclass
class _Batch:
    """Images of one shard that go through the model together."""

    pixels: list[np.ndarray] = field(default_factory=list)
    valid: list[np.ndarray] = field(default_factory=list)


class Computing:
    """Reads, computes and writes the images of claimed shards, in the order in which they come."""

    def __init__(
        self, dataset: Dataset, preprocess: Preprocess, forward: Forward, advance: Callable[[int, int], None]
    ) -> None:
        self._dataset, self._preprocess, self._forward, self._advance = dataset, preprocess, forward, advance
        self._reading: deque[_Reading] = deque()
        self._writing: deque[Future[None]] = deque()
        self._batch = _Batch()
        self._open: list[ImageWriter] = []
        self._closing = ExitStack()
        threads = min(8, max(2, os.cpu_count() or 1))
        self._readers = self._closing.enter_context(ThreadPoolExecutor(threads, "read"))
        self._pen = self._closing.enter_context(ThreadPoolExecutor(1, "write"))

    def __enter__(self) -> Computing:
        return self

    def __exit__(self, *_: object) -> None:
        for reading in self._reading:
            if reading.prepared is not None:
                reading.prepared.cancel()
        for written in self._writing:
            written.cancel()
        self._closing.close()
        for writer in self._open:
            writer.abort()

    def add(self, writer: ImageWriter, samples: Sequence[Sample]) -> None:
        """Start reading the images of a shard; those before them are computed meanwhile."""
        self._open.append(writer)
        for sample in samples:
            preprocess = self._preprocess.at(sample.pixel_size_nm)
            prepared = None
            if not preprocess.tiled((sample.height, sample.width)):
                path = self._dataset.image_path(sample)
                prepared = self._readers.submit(read_prepared, path, sample, preprocess)
            self._reading.append(_Reading(writer, sample, prepared))
            while len(self._reading) >= _READ_AHEAD + self._forward.batch_size:
                self._compute_next()

    def drain(self) -> None:
        """Finish all that was added."""
        while self._reading:
            self._compute_next()
        while self._writing:
            self._writing.popleft().result()

    def _compute_next(self) -> None:
        reading = self._reading.popleft()
        writer = reading.writer
        last = not self._reading or self._reading[0].writer is not writer
        if reading.prepared is None:
            self._large(writer, reading.sample)
        else:
            prepared = reading.prepared.result()
            self._batch.pixels.append(prepared.pixels)
            self._batch.valid.append(prepared.valid)
        if self._batch.pixels and (last or len(self._batch.pixels) >= self._forward.batch_size):
            batch, self._batch, done = self._batch, _Batch(), 0
            for outputs in self._forward(batch.pixels, batch.valid):
                valid = batch.valid[done : done + len(outputs.cls)]
                done += len(valid)
                self._write(_add, writer, outputs, valid)
                self._advance(len(valid), sum(v.size for v in valid))
        if last:
            self._write(self._publish, writer)

    def _publish(self, writer: ImageWriter) -> None:
        writer.publish()
        self._open.remove(writer)

    def _write(self, function: Callable[..., None], *arguments: Any) -> None:
        """Have `function` called by the thread that writes, once those before it are done."""
        self._writing.append(self._pen.submit(function, *arguments))
        while len(self._writing) > _WRITE_BEHIND or (self._writing and self._writing[0].done()):
            self._writing.popleft().result()

    def _large(self, writer: ImageWriter, sample: Sample) -> None:
        """Compute an image in tiles: a row of them is in memory, and the rows before it are being written."""
        path = self._dataset.image_path(sample)
        require_manifests(path, "image", sample.image_sha256)
        preprocess = self._preprocess.at(sample.pixel_size_nm)
        with ExitStack() as opened:
            try:
                if not preprocess.plain:  # each channel has a scale of its own, known of the whole image
                    image = pixels_of(path, preprocess)
                    shown = replace(preprocess, view=PLAIN)
                    scaling = preprocess.scale_of(image)
                    canvas = Canvas(ArrayRows(preprocess.view(image)), shown, scaling)
                elif preprocess.view == PLAIN:
                    canvas = Canvas(opened.enter_context(open_rows(path)), preprocess)
                else:
                    image = read_image(path)
                    shown = replace(preprocess, view=PLAIN)
                    canvas = Canvas(ArrayRows(preprocess.view(image)), shown, intensity_window(image))
            except EmvfmError as error:
                raise named(error, path) from None
            summary = _Summary(valid_fraction(canvas.scaled, preprocess.patch))
            tiles = self._tiles(canvas, preprocess, summary, path)
            for rows in stitch(canvas.grid, preprocess.tile, preprocess.overlap, tiles):
                summary.add(rows)
                self._write(writer.add_rows, rows)
                self._advance(0, rows.shape[1] * rows.shape[2])
            self._write(writer.end_image, summary.cls, summary.mean, summary.valid)
            self._advance(1, 0)

    def _tiles(
        self, canvas: Canvas, preprocess: Preprocess, summary: _Summary, path: Path
    ) -> Callable[[int, Sequence[int]], Iterator[np.ndarray]]:
        patch, (h, w) = preprocess.patch, canvas.grid
        height, width = min(preprocess.tile, h), min(preprocess.tile, w)

        def compute(top: int, lefts: Sequence[int]) -> Iterator[np.ndarray]:
            try:
                band = canvas.band(top, top + height)
            except EmvfmError as error:
                raise named(error, path) from None
            valid = summary.valid[top : top + height]
            size = self._forward.batch_size
            for first in range(0, len(lefts), size):
                part = lefts[first : first + size]
                pixels = [
                    canvas.standardise(band[:, :, left * patch : (left + width) * patch]) for left in part
                ]
                for outputs in self._forward(
                    pixels, [valid[:, left : left + width] for left in part], torch.float32
                ):
                    patches, cls, _ = outputs.numpy()
                    summary.tiles.extend(cls)
                    yield from patches

        return compute


def _add(writer: ImageWriter, outputs: Outputs, valid: Sequence[np.ndarray]) -> None:
    for image in zip(*outputs.numpy(), valid, strict=True):
        writer.add(*image)


@dataclass
class _Summary:
    """What is known of a large image only at its end: the mean of its patches and of its tiles' class tokens."""

    valid: np.ndarray
    tiles: list[np.ndarray] = field(default_factory=list)
    _sum: np.ndarray | float = 0.0
    _rows: int = 0

    def add(self, rows: np.ndarray) -> None:
        weights = self.valid[self._rows : self._rows + rows.shape[1]].reshape(-1)
        self._sum = self._sum + weights.astype(np.float64) @ rows.reshape(len(rows), len(weights), -1)
        self._rows += rows.shape[1]

    @property
    def cls(self) -> np.ndarray:
        return np.mean(self.tiles, axis=0)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self._sum / self.valid.sum(dtype=np.float64), np.float32)
