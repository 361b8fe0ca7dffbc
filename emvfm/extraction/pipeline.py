"""Dataset and backbone to store: what is there already, what is missing, and who computes it; nothing twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.baselines.baseline import Baseline
from emvfm.backbones.channel_input import channel_plan, channel_preprocess
from emvfm.backbones.channels import ChannelPlan
from emvfm.backbones.options import BackboneOptions, ChannelOptions
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.registry import RGB
from emvfm.backbones.views import PLAIN, View
from emvfm.datasets.channel_names import channel_names
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.errors import EmvfmError, UsageError
from emvfm.extraction.computing import Computing
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.describing import Describing, bind
from emvfm.extraction.foreground import patch_foreground
from emvfm.extraction.forward import Forward
from emvfm.extraction.progress import Progress
from emvfm.extraction.reading import named, require_manifests
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.layout import Grid
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings, image_key, write_table
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["channels_of", "embed_dataset", "fill_store", "identity_of", "open_embeddings", "preprocess_of"]

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
                raise named(error, dataset.image_path(sample)) from None
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
            extraction: Computing | Describing
            if isinstance(backbone, Baseline):
                extraction = Describing(dataset, preprocess, backbone, progress.advance)
            else:
                extraction = Computing(dataset, preprocess, forward, progress.advance)
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
        require_manifests(path, "mask", sample.mask_sha256)
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
