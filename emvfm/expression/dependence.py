"""Over what distance errors of prediction resemble each other, which blocks of spots must outlast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emvfm.expression.correlation import varies
from emvfm.expression.crossvalidation import FoldPredictions

__all__ = ["Reach", "residual_reach"]


@dataclass(frozen=True)
class Reach:
    """Correlation of the errors of two spots by their distance, mean over genes and sections.

    Attributes
    ----------
    distances, correlations
        Upper ends of bins in distances of neighbours, and the mean correlation in each; None without pairs.
    reach
        The first distance beyond which the correlation is below `threshold`; None if none is reached.
    """

    distances: tuple[float, ...]
    correlations: tuple[float | None, ...]
    reach: float | None
    threshold: float


def residual_reach(
    folds: Sequence[FoldPredictions],
    model: str,
    x: ArrayLike,
    y: ArrayLike,
    sections: Sequence[str],
    unit: float,
    *,
    most: float = 12.0,
    threshold: float = 0.05,
) -> Reach:
    """Correlate the errors of `model` at pairs of spots of one section, in bins of `unit`.

    Each gene's errors have mean 0 and variance 1 within a section, so the correlation over all its pairs is slightly
    below 0. Sections with more than 3000 spots are thinned evenly.
    """
    from scipy.spatial.distance import pdist

    places = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1) / unit
    labels = np.asarray(sections, str)
    ends = np.arange(1.5, most + 1)
    total, pairs = np.zeros(len(ends)), np.zeros(len(ends))
    for fold in folds:
        error = fold.measured - fold.predicted[model].values
        own = labels[fold.fold.test]
        for section in np.unique(own):
            rows = np.flatnonzero(own == section)
            rows = rows[:: -(-len(rows) // 3000)]
            part = error[rows]
            part = part[:, varies(part)]
            if len(rows) < 3 or not part.shape[1]:
                continue
            part = (part - part.mean(axis=0)) / part.std(axis=0)
            both = (part @ part.T / part.shape[1])[np.triu_indices(len(rows), 1)]
            bins = np.searchsorted(ends, pdist(places[fold.fold.test][rows]))
            near = bins < len(ends)
            total += np.bincount(bins[near], both[near], minlength=len(ends))
            pairs += np.bincount(bins[near], minlength=len(ends))
    found = [float(t / n) if n else None for t, n in zip(total, pairs, strict=True)]
    below = [
        end
        for end, value in zip(ends.tolist(), found, strict=True)
        if value is not None and value < threshold
    ]
    # The bin that is below begins where the one before it ends.
    reach = None if not below else max(below[0] - 1.0, 0.0)
    return Reach(tuple(ends.tolist()), tuple(found), reach, threshold)
