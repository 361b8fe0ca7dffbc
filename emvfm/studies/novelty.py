"""Is an image of the kind a run was trained on? Windows of it against windows of the training images.

The embedding of a window is the mean of the last layer's patch tokens, as it comes out of the pass that segments.
Its score is the Mahalanobis distance to windows of the run's training and validation slices, cut as the input is
(covariance shrunk by Ledoit & Wolf, doi:10.1016/S0047-259X(03)00096-4). What is usual is known from the same
slices: each block of neighbouring slices is scored by the others (leave-one-block-out, arXiv 2104.08279 and
1905.02928), and a conformal p-value counts blocks. An image is judged by the median of its windows. If windows
exceed a threshold at a rate of p, medians of images exceed it at a rate of 2 p at the most, and usually far less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.backbones.canvas import Canvas
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.rows import open_rows
from emvfm.domain.conformal import Calibration, calibrate, conformal_p_values
from emvfm.domain.outliers import Detector, fit_detector
from emvfm.errors import CorruptError, EmvfmError
from emvfm.provenance import digest
from emvfm.segmentation.checkpoints import Segmenter
from emvfm.segmentation.intervals import block_labels
from emvfm.segmentation.prediction import Windows, plan_of
from emvfm.segmentation.prediction_config import PredictConfig
from emvfm.workspace import Workspace, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Novelty", "Reference", "Unlikeness", "novelty_of"]

#: Windows of training slices that are embedded, and fewest blocks of slices that tell what is usual.
_WINDOWS, _FEWEST_BLOCKS = 128, 3
_LEVEL = 0.05
#: Most folds in which blocks are left out: a covariance is inverted for each.
_MOST_FOLDS = 20

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Unlikeness:
    """How an image lies to the training images.

    Attributes
    ----------
    n
        Windows of the image.
    score
        Median Mahalanobis distance of its windows.
    p_value
        Conformal, in (0, 1]: share of blocks of training slices whose windows are as far out.
    limit
        Distance above which it is flagged.
    promised
        Rate of false alarms of that limit for single windows.
    reference, blocks
        Training windows it is compared with, and their blocks of slices.
    """

    n: int
    score: float
    p_value: float
    limit: float
    promised: float
    reference: int
    blocks: int

    @property
    def flagged(self) -> bool:
        return self.score > self.limit

    @property
    def sentence(self) -> str:
        side = "above" if self.flagged else "within"
        return (
            f"distance {self.score:.3g}, {side} the limit of {self.limit:.3g} (p = {self.p_value:.2g}, of "
            f"{self.blocks} blocks of training slices; false alarms at a rate of {self.promised:.2g})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all values as plain JSON values."""
        protocol = "median window, Mahalanobis (Ledoit-Wolf), conformal by blocks left out in turn"
        return {
            **asdict(self),
            "flagged": self.flagged,
            "sentence": self.sentence,
            "seed": 0,
            "protocol": protocol,
        }


@dataclass(frozen=True)
class Reference:
    """Embeddings of training windows.

    Attributes
    ----------
    embeddings
        ``(n, D)`` float32.
    blocks
        ``(n,)`` int64 label of the block of slices each comes from.
    """

    embeddings: Floats
    blocks: NDArray[np.int64]

    @cached_property
    def detector(self) -> Detector:
        return fit_detector("mahalanobis", self.embeddings)

    @cached_property
    def left_out(self) -> NDArray[np.float64]:
        """``(n,)`` scores of the training windows, each by a detector that saw none of its block."""
        names = np.unique(self.blocks)
        folds = np.searchsorted(names, self.blocks) % min(_MOST_FOLDS, len(names))
        scores = np.empty(len(folds))
        for fold in np.unique(folds):
            own = folds == fold
            scores[own] = fit_detector("mahalanobis", self.embeddings[~own]).score(self.embeddings[own])
        return scores

    @cached_property
    def calibration(self) -> Calibration:
        return calibrate(self.left_out, self.blocks.tolist(), level=_LEVEL)

    def judge(self, scores: Sequence[float]) -> Unlikeness:
        """Judge an image by the scores of its windows."""
        score = float(np.median(scores))
        p_value = conformal_p_values([score], self.left_out, self.blocks.tolist())[0]
        line = self.calibration
        return Unlikeness(
            len(scores), score, float(p_value), line.threshold, line.promised, len(self.blocks), line.blocks
        )


class Novelty:
    """Judges inputs of a run; training windows are embedded when first needed, and kept with the run."""

    def __init__(
        self,
        segmenter: Segmenter,
        config: PredictConfig,
        datasets: Sequence[Dataset],
        console: Console | None = None,
    ) -> None:
        self._segmenter, self._config, self._console = segmenter, config, console
        self._datasets = datasets
        backbone = segmenter.model.backbone
        assert backbone is not None
        self.key = digest(
            {
                "version": 1,
                "backbone": [backbone.weights_digest, backbone.adapter_digest, backbone.precision],
                "layer": segmenter.model.layers[-1],
                "preprocess": segmenter.preprocess.identity(),
                "windows": [config.tile, config.overlap, _WINDOWS],
                "data": [dataset.digest for dataset in datasets],
            }
        )

    @property
    def path(self) -> Path:
        """File of the embeddings of training windows."""
        return self._segmenter.run.path / "novelty" / f"{self.key[:16]}.safetensors"

    @cached_property
    def reference(self) -> Reference:
        """Embeddings of training windows, read or made.

        Raises
        ------
        CorruptError
            The file that keeps them is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file, save

        if self.path.is_file():
            try:
                kept = load_file(self.path)
                return Reference(kept["embeddings"], kept["blocks"])
            except (SafetensorError, KeyError) as error:
                raise CorruptError(
                    "damaged embeddings of training windows", where=self.path, got=error, todo="remove it"
                ) from None
        if self._console is not None:
            self._console.print("embedding windows of the training slices, once for this run and tile")
        made = _embedded(self._segmenter, self._datasets, self._config)
        write_bytes(self.path, save({"embeddings": made.embeddings, "blocks": made.blocks}))
        return made

    def scores(self, embeddings: Floats) -> list[float]:
        """Return the distance of each of ``(n, D)`` embeddings of windows."""
        return [float(score) for score in self.reference.detector.score(embeddings)]

    def verdict(self, scores: Sequence[float]) -> Unlikeness:
        """Judge an image by the scores of its windows."""
        return self.reference.judge(scores)


def _chosen(datasets: Sequence[Dataset]) -> list[tuple[Dataset, Sample, int]]:
    """Return slices with their blocks: all, or evenly spaced ones where there are more than windows wanted."""
    rows = [(dataset, sample) for dataset in datasets for sample in dataset.samples]
    blocks = block_labels([f"{dataset.digest}/{s.volume}" for dataset, s in rows], [s.z for _, s in rows])
    picked = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _WINDOWS)).round().astype(int))
    return [(*rows[i], blocks[i]) for i in picked]


def _embedded(segmenter: Segmenter, datasets: Sequence[Dataset], config: PredictConfig) -> Reference:
    """Embed windows of the training slices, as many of each, drawn by a fixed seed."""
    chosen = _chosen(datasets)
    each = math.ceil(_WINDOWS / len(chosen))
    rng = np.random.default_rng(0)
    windows = Windows(segmenter, batch_size=config.batch_size, embed=True)
    embeddings, blocks = [], []
    for dataset, sample, block in chosen:
        found = list(_of_slice(segmenter, dataset, sample, config, windows, each, rng))
        embeddings += found
        blocks += [block] * len(found)
    return Reference(np.stack(embeddings), np.asarray(blocks, np.int64))


def _of_slice(
    segmenter: Segmenter,
    dataset: Dataset,
    sample: Sample,
    config: PredictConfig,
    windows: Windows,
    each: int,
    rng: np.random.Generator,
) -> Iterator[Floats]:
    preprocess = segmenter.preprocess.at(sample.pixel_size_nm)
    patch = preprocess.patch
    with open_rows(dataset.image_path(sample)) as image:
        canvas = Canvas(image, preprocess)
        cut = plan_of(canvas.scaled, config, patch)
        places = [(top, left) for top in cut.rows.starts for left in cut.columns.starts]
        for place in sorted(rng.permutation(len(places))[:each]):
            top, left = places[place]
            band = canvas.band(top // patch, (top + cut.rows.window) // patch)
            pixels = canvas.standardise(band[:, :, left : left + cut.columns.window])
            for answer in windows([lambda pixels=pixels: pixels]):  # type: ignore[misc]
                assert answer.embedding is not None
                yield answer.embedding


def novelty_of(
    segmenter: Segmenter, config: PredictConfig, workspace: Workspace, *, console: Console | None = None
) -> tuple[Novelty | None, str]:
    """Return what judges inputs of a run, or None and why there is no such."""
    if segmenter.model.backbone is None:
        return None, "a U-Net has no embeddings to compare"
    try:
        datasets = [
            open_dataset(workspace, reference).split("train", "val") for reference in segmenter.config.data
        ]
    except EmvfmError as error:
        return None, f"the training data are not at hand ({error})"
    rows = [(f"{d.digest}/{s.volume}", s.z) for d in datasets for s in d.samples]
    gone = [path for d in datasets for s in d.samples if not (path := d.image_path(s)).is_file()]
    if gone:
        return None, f"training images are not at hand ({gone[0]})"
    blocks = block_labels([volume for volume, _ in rows], [z for _, z in rows]) if rows else []
    if len(set(blocks)) < _FEWEST_BLOCKS:
        return None, f"{len(rows)} training slices are too few to tell what is usual"
    return Novelty(segmenter, config, datasets, console), ""
