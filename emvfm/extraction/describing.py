"""Datasets to store by baselines: images are read and described in threads, and written in their order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.baselines.baseline import Baseline, Described, Source
from emvfm.backbones.baselines.preprocess import BaselinePreprocess, columns_in
from emvfm.backbones.preprocess import Preprocess
from emvfm.datasets.images import read_image
from emvfm.datasets.label_masks import read_labels
from emvfm.datasets.manifest import Dataset, Sample, fact_names, load_dataset
from emvfm.errors import EmvfmError, UsageError
from emvfm.extraction.reading import named, require_manifests
from emvfm.store.writing import ImageWriter

__all__ = ["Describing", "bind", "bound_as"]

_AHEAD = 4  # images described and not written yet


def _channels(dataset: Dataset) -> int:
    """Return how many channels the images have: as the dataset says, else as some of them have."""
    if named := dataset.meta.get("channels"):
        return len(named)
    samples = dataset.samples
    some = {samples[0], samples[len(samples) // 2], samples[-1]}
    shapes = [read_image(dataset.image_path(sample)).shape for sample in some]
    return max(1 if len(shape) == 2 else shape[2] for shape in shapes)


def _facts(sample: Sample) -> dict[str, str]:
    """Return what the manifest says of a sample, its split, domain and volume among it."""
    return {"split": sample.split, "domain": sample.domain, "volume": sample.volume, **sample.facts}


def _vocabulary(dataset: Dataset, columns: Sequence[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the values of facts in the dataset's whole manifest: each split has the same codes."""
    there = (dataset.root / "dataset.json").is_file()
    samples = {s.id: s for s in (*(load_dataset(dataset.root).samples if there else ()), *dataset.samples)}
    known = [*fact_names(samples.values()), "split", "domain", "volume"]
    if unknown := [column for column in columns if column not in known]:
        raise UsageError(
            "no such fact in the manifest", where=dataset.name, got=unknown[0], expected=", ".join(known)
        )
    facts = [_facts(sample) for sample in samples.values()]
    parts = {c: {part.strip() for row in facts for part in row.get(c, "").split(";")} for c in columns}
    return tuple((column, tuple(sorted(values - {""}))) for column, values in parts.items())


def bind(backbone: Backbone, dataset: Dataset) -> Backbone:
    """Return `backbone`; a baseline with what it has to know of the dataset: channels, values of facts, units.

    Raises
    ------
    UsageError
        The dataset has no such facts, or no masks where they are described.
    """
    if not isinstance(backbone, Baseline):
        return backbone
    spec = backbone.spec
    if spec.kind == "pixel":
        return backbone.bound(channels=_channels(dataset))
    if spec.kind == "random":
        if spec.preset != "onehot":
            return backbone
        return backbone.bound(vocabulary=_vocabulary(dataset, columns_in(spec.argument)))
    if not spec.argument and (bare := [s.id for s in dataset.samples if s.mask is None]):
        raise UsageError(
            "structure is described from masks",
            where=dataset.name,
            got=f"{len(bare)} images without one, the first is {bare[0]}",
            expected=f"masks, or a table of cells: {spec.name}=TABLE",
        )
    known = all(sample.pixel_size_nm is not None for sample in dataset.samples)
    return backbone.bound(unit="nm" if known else "px")


def bound_as(backbone: Backbone, facts: Mapping[str, Any]) -> Backbone:
    """Return `backbone`; a baseline with what a store's identity says that it knew of a dataset."""
    if not isinstance(backbone, Baseline):
        return backbone
    vocabulary = tuple((column, tuple(values)) for column, values in facts["vocabulary"])
    unit = facts.get("unit", "px")
    return backbone.bound(channels=facts["channels"], vocabulary=vocabulary, unit=unit)


def _checked(dataset: Dataset, sample: Sample, what: str) -> np.ndarray:
    """Return the pixels or the labels of a sample, from the very file that the manifest names."""
    path = dataset.image_path(sample) if what == "image" else dataset.mask_path(sample)
    digest = sample.image_sha256 if what == "image" else sample.mask_sha256
    assert path is not None
    require_manifests(path, what, digest)
    if what == "mask":
        return read_labels(path)
    image, n = read_image(path), len(dataset.meta.get("channels") or ())
    if image.ndim == 2 and n > 1:  # equal channels are channels still
        return np.broadcast_to(image[..., None], (*image.shape, n))
    return image


class Describing:
    """Describes and writes the images of claimed shards, in the order in which they come."""

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        baseline: Baseline,
        advance: Callable[[int, int], None],
    ) -> None:
        assert isinstance(preprocess, BaselinePreprocess)
        self._dataset, self._preprocess, self._baseline = dataset, preprocess, baseline
        self._advance = advance
        self._waiting: deque[tuple[ImageWriter, Future[Described], bool]] = deque()
        self._open: list[ImageWriter] = []
        self._pool = ThreadPoolExecutor(min(_AHEAD, max(1, os.cpu_count() or 1)), "describe")

    def __enter__(self) -> Describing:
        return self

    def __exit__(self, *_: object) -> None:
        for waiting in self._waiting:
            waiting[1].cancel()
        self._pool.shutdown()
        for writer in self._open:
            writer.abort()

    def add(self, writer: ImageWriter, samples: Sequence[Sample]) -> None:
        """Start describing the images of a shard; those before them are written meanwhile."""
        self._open.append(writer)
        for i, sample in enumerate(samples, start=1):
            self._waiting.append((writer, self._pool.submit(self._describe, sample), i == len(samples)))
            while len(self._waiting) > _AHEAD:
                self._write_next()

    def drain(self) -> None:
        """Finish all that was added."""
        while self._waiting:
            self._write_next()

    def _describe(self, sample: Sample) -> Described:
        source = Source(
            image=lambda: _checked(self._dataset, sample, "image"),
            labels=lambda: _checked(self._dataset, sample, "mask"),
            facts=_facts(sample),
            name=sample.id,
            size=(sample.height, sample.width),
            pixel_size_nm=sample.pixel_size_nm,
        )
        try:
            return self._baseline.describe(source, self._preprocess)  # type: ignore[arg-type]
        except EmvfmError as error:
            raise named(error, self._dataset.image_path(sample)) from None

    def _write_next(self) -> None:
        writer, future, last = self._waiting.popleft()
        found = future.result()
        # What stands for an image is made of the image, not of its cells: the mean of percentiles is none.
        writer.add(found.patches[None], found.image[None], found.image[None], found.valid)
        self._advance(1, found.valid.size)
        if last:
            writer.publish()
            self._open.remove(writer)
