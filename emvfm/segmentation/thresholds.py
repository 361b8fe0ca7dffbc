"""Precision and recall over all thresholds, and the threshold that serves best.

A threshold is a choice made on data, so it may only come from slices that no score is taken on:
:func:`best_threshold` takes a histogram of validation slices, never one of test slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.segmentation.histograms import BINS, ProbabilityHistogram

__all__ = ["Curve", "average_precision_of", "best_threshold", "precision_recall"]


@dataclass(frozen=True)
class Curve:
    """Precision, recall and IoU of the foreground where its probability is above each threshold.

    Parameters
    ----------
    threshold
        ``(n,)`` float64, rising, in [0, 1).
    precision, recall, iou
        ``(n,)`` float64 in [0, 1]. Without any predicted foreground precision is 1; without any foreground
        recall is 1; without either IoU is 1.
    """

    threshold: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    iou: NDArray[np.float64]

    def to_json(self, step: int = 1) -> dict[str, Any]:
        """Return every `step`-th point as lists rounded to 5 digits."""
        return {
            key: getattr(self, key)[::step].round(5).tolist()
            for key in ("threshold", "precision", "recall", "iou")
        }


def _above(counts: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return false and true positives ``(..., BINS)`` at the thresholds k / BINS, k = 0 …"""
    above = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return above[..., 0, :], above[..., 1, :]


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.ones_like(part), where=whole > 0)


def precision_recall(histogram: ProbabilityHistogram) -> Curve:
    """Return the curve of pooled pixels; at the threshold 0 all pixels count as foreground, even those of 0."""
    fp, tp = _above(histogram.counts)
    positive = np.full_like(tp, tp[0])
    threshold = np.arange(BINS) / BINS
    return Curve(threshold, _share(tp, tp + fp), _share(tp, positive), _share(tp, positive + fp))


def average_precision_of(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average precision over pixels: precision weighted by the step in recall, as in scikit-learn.

    Parameters
    ----------
    counts
        ``(..., 2, BINS)`` of histograms. Without foreground it is 0: there is nothing to rank high.
    """
    fp, tp = _above(counts)
    step = tp - np.concatenate([tp[..., 1:], np.zeros_like(tp[..., :1])], axis=-1)
    whole = tp[..., 0]
    area = (step * _share(tp, tp + fp)).sum(axis=-1)
    return np.divide(area, whole, out=np.zeros_like(area), where=whole > 0)


def best_threshold(validation: ProbabilityHistogram) -> float:
    """Return the threshold of the highest pooled IoU, which is that of the highest F1 too.

    Among equals it is the one nearest to 0.5, so that a model sure of itself keeps 0.5.

    Parameters
    ----------
    validation
        Histogram of validation slices; test slices would make the scores taken on them too good.

    Raises
    ------
    UsageError
        No foreground in the slices: every threshold would be as good.
    """
    if validation.counts[1].sum() == 0:
        raise UsageError("no foreground in the validation slices to choose a threshold on", where="threshold")
    curve = precision_recall(validation)
    threshold, iou = curve.threshold[1:], curve.iou[1:]
    best = threshold[iou >= iou.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
