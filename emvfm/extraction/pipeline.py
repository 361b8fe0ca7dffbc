"""Dataset and backbone to store: reading, computing and writing overlap, and nothing is computed twice.

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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.baselines.baseline import Baseline
from emvfm.backbones.canvas import Canvas
from emvfm.backbones.channel_input import channel_plan, channel_preprocess
from emvfm.backbones.channels import ChannelPlan
from emvfm.backbones.options import BackboneOptions, ChannelOptions
from emvfm.backbones.preprocess import Prepared, Preprocess, intensity_window, valid_fraction
from emvfm.backbones.registry import RGB
from emvfm.backbones.views import PLAIN, View
from emvfm.datasets.channel_names import channel_names
from emvfm.datasets.images import read_channels, read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.datasets.rows import ArrayRows, open_rows
from emvfm.errors import CorruptError, EmvfmError, UsageError
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.describing import Describing, bind
from emvfm.extraction.foreground import patch_foreground
from emvfm.extraction.forward import Forward, Outputs
from emvfm.extraction.progress import Progress
from emvfm.extraction.tiling import stitch
from emvfm.provenance import sha256_file
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import Grid
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings, image_key, write_table
from emvfm.store.writing import ImageWriter
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["channels_of", "embed_dataset", "fill_store", "identity_of", "open_embeddings", "preprocess_of"]

_READ_AHEAD = 3  # images decoded before they are needed, on top of a batch
_WRITE_BEHIND = 2  # batches, or bands of a large image, that wait to be written

_MOST_ROUNDS = 9  # a round goes by when another job takes images out of a shard that waits, or dies


def preprocess_of(
    backbone: Backbone, options: BackboneOptions, view: View = PLAIN, dataset: Dataset | None = None
) -> Preprocess:
    """Return how images of `dataset` become input of `backbone`; without a dataset, of images without names.

    Raises
    ------
    UsageError
        Options do not fit the backbone or the channels of the dataset.
    """
    plain = Preprocess.for_backbone(backbone.spec, options, view)
    if isinstance(backbone, Baseline):  # sees every channel as it is
        return plain
    try:
        return channel_preprocess(plain, backbone.spec, _names(dataset, options), options)
    except UsageError as error:
        raise error if dataset is None else UsageError(str(error), where=dataset.name) from None


def channels_of(backbone: Backbone, options: BackboneOptions, dataset: Dataset) -> ChannelPlan | None:
    """Return how the channels of `dataset` go into the slots of `backbone`; None where they go in as they are.

    Raises
    ------
    UsageError
        The options do not fit the channels of the dataset.
    """
    if isinstance(backbone, Baseline):
        return None
    chosen = options if isinstance(options, ChannelOptions) else ChannelOptions()
    return channel_plan(_names(dataset, options), backbone.spec, chosen)


def _names(dataset: Dataset | None, options: BackboneOptions) -> tuple[str, ...] | None:
    """Return the names of a dataset's channels; grey and colour have some where they are asked for by name."""
    if dataset is None:
        return None
    names = channel_names(dataset)
    asked = isinstance(options, ChannelOptions) and (options.channels != "auto" or options.map is not None)
    if names is not None or not asked or not dataset.samples:
        return names
    first = read_image(dataset.image_path(dataset.samples[0]))
    return {1: ("gray",), 3: RGB}.get(1 if first.ndim == 2 else first.shape[2])


def identity_of(
    backbone: Backbone,
    options: BackboneOptions,
    view: View = PLAIN,
    preprocess: Preprocess | None = None,
) -> EmbeddingIdentity:
    """Return what decides the numbers when `backbone` embeds a view of an image with `options`.

    Parameters
    ----------
    preprocess
        Of a dataset whose channels have names, `preprocess_of`.

    What a baseline says in nm² or counts does not fit 16 bits, so it always takes 32.
    """
    dtype = options.dtype if isinstance(options, EmbedConfig) else "float16"
    return EmbeddingIdentity(
        backbone=backbone.spec.identity(),
        weights=backbone.weights_digest,
        adapter=backbone.adapter_digest,
        preprocess=(preprocess or preprocess_of(backbone, options, view)).identity(),
        layers=backbone.choose_layers(options.layers),
        dtype="float32" if isinstance(backbone, Baseline) else dtype,
        precision=backbone.precision,
    )


def _require_manifests(path: Path, what: str, sha256: str | None) -> None:
    if not path.is_file() or sha256_file(path) != sha256:
        raise CorruptError(
            f"the {what} is not the one the manifest names", where=path, todo="compose the dataset again"
        )


def _named(error: EmvfmError, path: Path) -> EmvfmError:
    """Return the error with the file's name: preprocessing sees only pixels."""
    return error if str(path) in str(error) else type(error)(str(error), where=path)


def _read(path: Path, sample: Sample, preprocess: Preprocess) -> Prepared:
    _require_manifests(path, "image", sample.image_sha256)
    try:
        return preprocess.prepare(_pixels(path, preprocess))
    except EmvfmError as error:
        raise _named(error, path) from None


def _pixels(path: Path, preprocess: Preprocess) -> np.ndarray:
    """Return an image as ``(H, W)`` or ``(H, W, C)``; channels with a plan never collapse where they are equal."""
    if preprocess.channels is None:
        return read_image(path)
    planes = read_channels(path)
    if preprocess.channels.count == 1 and (planes[:1] == planes).all():  # grey stored as colour
        planes = planes[:1]
    return np.moveaxis(planes, 0, -1)


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


class _Extraction:
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

    def __enter__(self) -> _Extraction:
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
                prepared = self._readers.submit(_read, path, sample, preprocess)
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
        _require_manifests(path, "image", sample.image_sha256)
        preprocess = self._preprocess.at(sample.pixel_size_nm)
        with ExitStack() as opened:
            try:
                if not preprocess.plain:  # each channel has a scale of its own, known of the whole image
                    image = _pixels(path, preprocess)
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
                raise _named(error, path) from None
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
                raise _named(error, path) from None
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


def _missing(
    store: EmbeddingStore, dataset: Dataset, preprocess: Preprocess
) -> dict[Grid, dict[str, Sample]]:
    """Return the samples whose image is not in the store, by patch grid and name of the image."""
    have, source = store.rows(), store.identity.preprocess.get("source")
    missing: dict[Grid, dict[str, Sample]] = {}
    for sample in dataset.samples:
        key = image_key(sample, preprocess.input_size, source)
        if key not in have:
            try:
                grid = preprocess.at(sample.pixel_size_nm).grid((sample.height, sample.width))
            except UsageError as error:
                raise _named(error, dataset.image_path(sample)) from None
            missing.setdefault(grid, {})[key] = sample
    return missing


def fill_store(
    store: EmbeddingStore,
    dataset: Dataset,
    backbone: Backbone,
    preprocess: Preprocess,
    batch_size: int | None = None,
    *,
    console: Console | None = None,
) -> None:
    """Compute what `store` lacks of the images of `dataset`; no sample table is written."""
    missing = _missing(store, dataset, preprocess)
    if not missing:
        return
    samples = {key: sample for group in missing.values() for key, sample in group.items()}
    join = "concat" if preprocess.channels is None else preprocess.channels.join
    forward = Forward(backbone, store.identity.layers, store.identity.dtype, batch_size, join)
    with Progress(console, f"embedding {dataset.name}", len(samples)) as progress:
        for _ in range(_MOST_ROUNDS):
            extraction: _Extraction | Describing
            if isinstance(backbone, Baseline):
                extraction = Describing(dataset, preprocess, backbone, progress.advance)
            else:
                extraction = _Extraction(dataset, preprocess, forward, progress.advance)
            with extraction:
                shards = [
                    shard for grid, group in missing.items() for shard in store.allocate(grid, list(group))
                ]
                for writer in store.claim(shards):
                    if writer is None:
                        extraction.drain()  # else two jobs could wait for each other
                    elif samples.keys() >= set(writer.shard.images):
                        extraction.add(writer, [samples[key] for key in writer.shard.images])
                    else:  # the job that had it died; the next round takes over what is ours in it
                        writer.abort()
                extraction.drain()
            missing = _missing(store, dataset, preprocess)
            if not missing:
                return
    absent = next(sample.id for group in missing.values() for sample in group.values())
    raise EmvfmError("some images were not embedded", where=dataset.name, got=absent, todo="run it again")


def embed_dataset(
    dataset: Dataset,
    backbone: Backbone,
    options: BackboneOptions,
    workspace: Workspace,
    *,
    view: View = PLAIN,
    console: Console | None = None,
) -> Embeddings:
    """Return the embeddings of all samples of `dataset`, computing only what the store lacks.

    Several processes may do this at once: each shard is computed by one of them, the others wait for it.

    Raises
    ------
    UsageError
        The dataset has no samples, as a split may.
    CorruptError
        An image is damaged, or an image or mask is not the one the manifest names.
    EmvfmError
        A value does not fit the stored type.
    """
    if not dataset.samples:
        raise UsageError("no images to embed", where=dataset.name, expected="at least one sample")
    backbone = bind(backbone, dataset)
    preprocess = preprocess_of(backbone, options, view, dataset)
    store = EmbeddingStore.ensure(
        workspace.store,
        identity_of(backbone, options, view, preprocess),
        label=backbone.label,
        width=backbone.width * preprocess.factor,
    )
    batch_size = options.batch_size if isinstance(options, EmbedConfig) else None
    fill_store(store, dataset, backbone, preprocess, batch_size, console=console)

    def foreground(sample: Sample) -> np.ndarray:
        path = dataset.mask_path(sample)
        assert path is not None
        _require_manifests(path, "mask", sample.mask_sha256)
        return patch_foreground(read_mask(path), preprocess.at(sample.pixel_size_nm))

    write_table(store, dataset, foreground)
    return Embeddings(store, dataset)


def open_embeddings(
    dataset: Dataset, backbone: Backbone, options: BackboneOptions, workspace: Workspace
) -> Embeddings:
    """Return the embeddings of `dataset` that are already in the store; nothing is computed.

    Raises
    ------
    MissingError
        Some are not there.
    """
    bound = bind(backbone, dataset)
    identity = identity_of(bound, options, preprocess=preprocess_of(bound, options, dataset=dataset))
    return Embeddings(EmbeddingStore(workspace.store / identity.key), dataset)
