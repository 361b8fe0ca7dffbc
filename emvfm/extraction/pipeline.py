"""Dataset and backbone to store: reading, computing and writing overlap, and nothing is computed twice."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.preprocess import Prepared, Preprocess
from emvfm.backbones.views import PLAIN, View
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.errors import CorruptError, EmvfmError, UsageError
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.foreground import patch_foreground
from emvfm.provenance import sha256_file
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import Grid
from emvfm.store.store import EmbeddingStore, ShardData
from emvfm.store.view import Embeddings, write_table
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["embed_dataset", "identity_of", "open_embeddings"]

_READ_AHEAD = 3  # images decoded before they are needed; decoding is far cheaper than a forward pass

_MOST_ROUNDS = 9  # a round goes by when another job takes images out of a shard that waits, or dies

T = TypeVar("T")
R = TypeVar("R")


def identity_of(backbone: Backbone, options: BackboneOptions, view: View = PLAIN) -> EmbeddingIdentity:
    """Return what decides the numbers when `backbone` embeds a view of an image with `options`."""
    return EmbeddingIdentity(
        backbone=backbone.spec.identity(),
        weights=backbone.weights_digest,
        adapter=backbone.adapter_digest,
        preprocess=Preprocess.for_backbone(backbone.spec, options, view).identity(),
        layers=backbone.choose_layers(options.layers),
        dtype=options.dtype if isinstance(options, EmbedConfig) else "float16",
        precision=backbone.precision,
    )


def _require_manifests(path: Path, what: str, sha256: str | None) -> None:
    if not path.is_file() or sha256_file(path) != sha256:
        raise CorruptError(
            f"the {what} is not the one the manifest names", where=path, todo="compose the dataset again"
        )


def _read(dataset: Dataset, sample: Sample, preprocess: Preprocess) -> Prepared:
    path = dataset.image_path(sample)
    _require_manifests(path, "image", sample.image_sha256)
    try:
        return preprocess.prepare(read_image(path))
    except EmvfmError as error:  # name the file: the preprocessing sees only pixels
        raise type(error)(str(error), where=None if str(path) in str(error) else path) from None


def _ahead(items: Iterable[T], function: Callable[[T], R], pool: ThreadPoolExecutor) -> Iterator[R]:
    """Yield ``function(item)`` in order, a few computed in advance in other threads."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > _READ_AHEAD:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in str(error).lower()


class _Forward:
    """The forward pass of a batch, with a batch size that shrinks for good when memory ends."""

    def __init__(self, backbone: Backbone, layers: tuple[int, ...], batch_size: int | None) -> None:
        self.backbone, self.layers = backbone, layers
        self.batch_size = batch_size or (1 if backbone.device.type == "cpu" else 8)

    def __call__(self, pixels: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return patches ``(n, L, h, w, D)`` and cls ``(n, L, D)``, float32."""
        patches, cls, done = [], [], 0
        while done < len(pixels):
            batch = torch.from_numpy(np.stack(pixels[done : done + self.batch_size]))
            try:
                with torch.inference_mode():
                    tokens = self.backbone.tokens(batch, self.layers)
                    patches.append(tokens.patches.cpu().numpy())
                    cls.append(tokens.cls.cpu().numpy())
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or self.batch_size == 1:
                    raise
                self.batch_size = max(1, self.batch_size // 2)
                gc.collect()
                if self.backbone.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            done += len(batch)
        return np.concatenate(patches), np.concatenate(cls)


def _progress(console: Console | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console or Console(quiet=True),
        transient=True,
    )


def _missing(
    store: EmbeddingStore, dataset: Dataset, preprocess: Preprocess
) -> dict[Grid, dict[str, Sample]]:
    """Return the samples whose image is not in the store, by patch grid and SHA-256."""
    have = store.rows()
    missing: dict[Grid, dict[str, Sample]] = {}
    for sample in dataset.samples:
        if sample.image_sha256 not in have:
            grid = preprocess.grid((sample.height, sample.width))
            missing.setdefault(grid, {})[sample.image_sha256] = sample
    return missing


def _embed_missing(
    store: EmbeddingStore,
    dataset: Dataset,
    backbone: Backbone,
    preprocess: Preprocess,
    batch_size: int | None,
    console: Console | None,
) -> None:
    missing = _missing(store, dataset, preprocess)
    if not missing:
        return
    samples = {sha: sample for group in missing.values() for sha, sample in group.items()}
    forward = _Forward(backbone, store.identity.layers, batch_size)
    with (
        ThreadPoolExecutor(2, "read") as readers,
        _progress(console) as progress,
    ):
        task = progress.add_task(f"embedding {dataset.name}", total=len(samples), rate="")
        for _ in range(_MOST_ROUNDS):
            shards = [shard for grid, group in missing.items() for shard in store.allocate(grid, list(group))]
            for shard in store.claim(shards):
                if not samples.keys() >= set(shard.images):
                    continue  # the job that had it died; the next round takes over what is ours in it
                parts: list[tuple[np.ndarray, np.ndarray]] = []
                valid: list[np.ndarray] = []
                waiting: list[np.ndarray] = []
                for prepared in _ahead(
                    shard.images, lambda sha: _read(dataset, samples[sha], preprocess), readers
                ):
                    valid.append(prepared.valid)
                    waiting.append(prepared.pixels)
                    if len(waiting) == forward.batch_size or len(valid) == len(shard.images):
                        parts.append(forward(waiting))
                        progress.advance(task, len(waiting))
                        speed = progress.tasks[0].speed
                        tokens = valid[0].size * (speed or 0)
                        progress.update(
                            task, rate=f"{speed:.2f} images/s, {tokens:,.0f} tokens/s" if speed else ""
                        )
                        waiting = []
                patches, cls = (np.concatenate(part) for part in zip(*parts, strict=True))
                store.write(shard, ShardData(patches, cls, np.stack(valid)))
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
    store = EmbeddingStore.ensure(
        workspace.store, identity_of(backbone, options, view), label=backbone.label, width=backbone.width
    )
    preprocess = Preprocess.for_backbone(backbone.spec, options, view)
    batch_size = options.batch_size if isinstance(options, EmbedConfig) else None
    _embed_missing(store, dataset, backbone, preprocess, batch_size, console)

    def foreground(sample: Sample) -> np.ndarray:
        path = dataset.mask_path(sample)
        assert path is not None
        _require_manifests(path, "mask", sample.mask_sha256)
        return patch_foreground(read_mask(path), preprocess)

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
    return Embeddings(EmbeddingStore(workspace.store / identity_of(backbone, options).key), dataset)
