"""Scoring runs on test sets at native resolution: pooled, per image, per source, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emvfm.datasets.catalog import open_dataset, parse_reference
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.masks import read_mask
from emvfm.errors import UsageError
from emvfm.segmentation.checkpoints import Segmenter, load_run
from emvfm.segmentation.config import EvalConfig
from emvfm.segmentation.metrics import (
    Counts,
    Estimate,
    Statistic,
    block_labels,
    bootstrap_pooled,
    count,
    mean_per_image,
)
from emvfm.segmentation.slices import Slices
from emvfm.workspace import Workspace, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

#: Image, mask, prediction and title of one slice.
Panel = tuple[np.ndarray, np.ndarray, np.ndarray, str]

__all__ = ["PROTOCOL", "Cell", "ImageScore", "evaluate"]

PROTOCOL = (
    "native resolution, foreground where its probability is above 0.5, counts pooled over slices; "
    "intervals from resampled blocks of consecutive slices"
)


@dataclass(frozen=True)
class ImageScore:
    """One slice: pixel counts and the scores they give."""

    id: str
    source: str
    counts: Counts

    def to_json(self) -> dict[str, Any]:
        scores = {"iou": self.counts.iou, "dice": self.counts.dice}
        return {"id": self.id, "source": self.source, **asdict(self.counts), **scores}


@dataclass(frozen=True)
class Cell:
    """One run on one test set: a cell of the train × test matrix."""

    run: str
    train: str
    adaptation: str
    backbone: str
    test: str
    seed: int
    iou: Estimate
    dice: Estimate
    iou_per_image: float
    per_source: dict[str, Estimate]
    images: tuple[ImageScore, ...]

    @property
    def macro(self) -> float:
        """Mean of the sources' pooled IoU: every source counts alike."""
        return float(np.mean([estimate.value for estimate in self.per_source.values()]))

    def to_json(self) -> dict[str, Any]:
        """Return the cell as plain JSON values."""
        return {
            "run": self.run,
            "train": self.train,
            "adaptation": self.adaptation,
            "backbone": self.backbone,
            "test": self.test,
            "n": len(self.images),
            "seed": self.seed,
            "protocol": PROTOCOL,
            "iou": self.iou.to_json(),
            "dice": self.dice.to_json(),
            "iou_per_image": self.iou_per_image,
            "per_source": {name: estimate.to_json() for name, estimate in self.per_source.items()},
            "macro": self.macro,
            "images": [image.to_json() for image in self.images],
        }


def _estimate(
    samples: Sequence[Sample], counts: Sequence[Counts], statistic: Statistic, config: EvalConfig
) -> Estimate:
    blocks = block_labels([s.volume for s in samples], [s.z for s in samples])
    return bootstrap_pooled(
        counts, blocks, statistic=statistic, samples=config.samples, level=config.level, seed=config.seed
    )


def _mask(dataset: Dataset, sample: Sample) -> np.ndarray:
    path = dataset.mask_path(sample)
    assert path is not None
    return read_mask(path)


def _score(segmenter: Segmenter, slices: Slices, test: str, config: EvalConfig) -> Cell:
    samples = slices.samples
    counts = [
        count(slices.probability(i) > 0.5, _mask(slices.dataset, sample)) for i, sample in enumerate(samples)
    ]
    sources = dict.fromkeys(s.domain for s in samples)
    members = {name: [i for i, s in enumerate(samples) if s.domain == name] for name in sources}
    return Cell(
        run=segmenter.run.path.name,
        train="+".join(segmenter.config.data),
        adaptation=segmenter.run.provenance["adaptation"],
        backbone=segmenter.run.provenance["backbone"],
        test=test,
        seed=segmenter.config.seed,
        iou=_estimate(samples, counts, "iou", config),
        dice=_estimate(samples, counts, "dice", config),
        iou_per_image=mean_per_image(counts),
        per_source={
            name: _estimate([samples[i] for i in rows], [counts[i] for i in rows], "iou", config)
            for name, rows in members.items()
        },
        images=tuple(ImageScore(s.id, s.domain, c) for s, c in zip(samples, counts, strict=True)),
    )


def _examples(slices: Slices, cell: Cell) -> list[Panel]:
    """Return the worst, the median and the best slice with their masks and predictions."""
    order = np.argsort([image.counts.iou for image in cell.images], kind="stable")
    chosen = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
    panels = []
    for name, i in chosen.items():
        sample = slices.samples[i]
        title = f"{name}: {sample.id}, IoU {cell.images[i].counts.iou:.2f}"
        image = read_image(slices.dataset.image_path(sample))
        panels.append((image, _mask(slices.dataset, sample), slices.probability(int(i)) > 0.5, title))
    return panels


def evaluate(
    runs: Sequence[Path],
    config: EvalConfig,
    workspace: Workspace,
    *,
    draw: Callable[[Sequence[Panel]], bytes] | None = None,
    console: Console | None = None,
) -> list[Cell]:
    """Score each run on each test set; results also go into the runs' ``metrics.json``.

    Parameters
    ----------
    draw
        Makes a PNG of the worst, the median and the best slice of a cell, for the run's figures.

    Raises
    ------
    UsageError
        Nothing to score on, or a test set without masks.
    """
    if not config.data:
        raise UsageError("no data to score on", where="--data", expected="the name of a dataset")
    tests = {}
    for reference in config.data:
        name = reference if parse_reference(reference)[1] else f"{reference}:test"
        tests[name] = open_dataset(workspace, name).annotated()
        if len(tests[name]) == 0:
            raise UsageError("no annotated slices to score on", where=name)
    cells = []
    for folder in runs:
        segmenter = load_run(folder, workspace)
        scored = dict(segmenter.run.metrics.get("eval", {}))
        for name, dataset in tests.items():
            slices = segmenter.slices(dataset, workspace, console)
            cell = _score(segmenter, slices, name, config)
            scored[name] = cell.to_json()
            cells.append(cell)
            if draw is not None:
                file = name.replace(":", "-").replace("/", "-").strip("-.")[-80:] + ".png"
                picture = draw(_examples(slices, cell))
                write_bytes(segmenter.run.path / "figures" / file, picture)
        segmenter.run.update_metrics("eval", scored)
    return cells
