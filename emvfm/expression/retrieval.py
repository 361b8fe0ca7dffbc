"""Is the spot that looks most alike also alike in expression? Between a spot picked blindly and the best there is.

arXiv 2603.13377 scores "HEST-1k-1NN" and says no more of it. This is the reading as retrieval: how the expression of a
spot and of its nearest spot among other samples correlate over genes. That number alone says little, so both bounds
stand beside it: the expected correlation with any spot, and that with the spot nearest in expression itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.expression.crossvalidation import FoldPredictions
from emvfm.expression.resampling import draw
from emvfm.representations.estimates import Estimate, from_replicates

__all__ = ["Matches", "RetrievalScore", "match_expression", "score_retrieval"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """Correlations over genes of each tested spot with training spots, ``(M,)`` in [-1, 1], NaN where there is none.

    Attributes
    ----------
    found
        With the expression that was retrieved.
    blind
        Expected of a training spot drawn at random.
    best
        With the training spot of the highest correlation: what perfect retrieval would give.
    """

    found: Floats
    blind: Floats
    best: Floats


def _directions(values: Floats, mean: Floats, scale: Floats) -> Floats:
    """Return rows of unit length, centred over genes, so that products are correlations; NaN for constant ones."""
    rows = (values - mean) / scale
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.full_like(rows, np.nan), where=length > 1e-12)


def match_expression(retrieved: ArrayLike, measured: ArrayLike, trained: ArrayLike) -> Matches:
    """Correlate tested spots with what was retrieved for them, and with all training spots.

    Genes are first given mean 0 and variance 1 by the training spots: genes differ in their means, so that otherwise
    any two spots correlate. Genes that do not vary there are left out.

    Parameters
    ----------
    retrieved, measured
        ``(M, G)`` expression, of the nearest training spot (the mean of those that tie) and of the tested spot.
    trained
        ``(T, G)`` expression of the training spots.

    Raises
    ------
    UsageError
        Shapes do not fit, or fewer than two genes vary.
    """
    r, y, t = (np.asarray(v, np.float64) for v in (retrieved, measured, trained))
    if r.ndim != 2 or r.shape != y.shape or t.ndim != 2 or t.shape[1] != y.shape[1] or not len(t):
        raise UsageError("shapes do not fit", where="retrieval", got=f"{r.shape}, {y.shape} and {t.shape}")
    mean, scale = t.mean(axis=0), t.std(axis=0)
    used = scale > 1e-9 * np.maximum(np.abs(mean), 1e-12)
    if used.sum() < 2:
        raise UsageError("fewer than two genes vary among the training spots", where="retrieval")
    own, found, known = (_directions(v[:, used], mean[used], scale[used]) for v in (y, r, t))
    known = known[np.isfinite(known).all(axis=1)]
    blind, best = np.full(len(own), np.nan), np.full(len(own), np.nan)
    step = max(1, 4_000_000 // max(len(known), 1))
    for start in range(0, len(own) if len(known) else 0, step):
        products = own[start : start + step] @ known.T
        blind[start : start + step], best[start : start + step] = products.mean(axis=1), products.max(axis=1)
    return Matches((own * found).sum(axis=1), blind, best)


@dataclass(frozen=True)
class RetrievalScore:
    """How well one model retrieves: means over spots, then over folds.

    Attributes
    ----------
    found
        Correlation with the retrieved spot.
    blind, best
        Of any spot, and of the best; the same for all models but for spots that are undefined.
    share
        (found - blind) / (best - blind): 0 is chance, 1 is all that retrieval could give.
    undefined
        Spots without a correlation; they count in no mean.
    """

    name: str
    found: Estimate
    blind: float
    best: float
    share: Estimate
    undefined: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "found": self.found.to_json(), "share": self.share.to_json()}


def score_retrieval(
    names: Sequence[str],
    folds: Sequence[FoldPredictions],
    sections: Sequence[str],
    blocks: ArrayLike,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[RetrievalScore, ...]:
    """Score the models of these names by what they retrieved in each fold, with intervals over blocks of spots.

    Parameters
    ----------
    folds
        Predictions of one nearest neighbour. Models without a correlation anywhere, as the mean of training, are
        left out.
    sections, blocks
        Of all spots; blocks are drawn within their section, in the same draws for all models.
    """
    labels, numbers = np.asarray(sections, str), np.asarray(blocks)
    own = [np.unique(numbers[f.fold.test], return_index=True, return_inverse=True) for f in folds]
    strata = [labels[f.fold.test][first] for f, (_, first, _) in zip(folds, own, strict=True)]
    drawn = draw(strata, [f.genes for f in folds], max(int(f.genes.max()) for f in folds) + 1,
                 samples=samples, seed=seed).blocks  # fmt: skip
    n, n_blocks = sum(len(f.fold.test) for f in folds), sum(map(len, strata))

    def estimate(values: Floats) -> Estimate:
        return from_replicates(
            float(values[0]),
            values[1:],
            units="blocks of spots",
            n=n,
            n_units=n_blocks,
            level=level,
            seed=seed,
        )

    scores = []
    for name in names:
        total, undefined = np.zeros((3, len(drawn[0]))), 0
        for fold, (_, _, place), weights in zip(folds, own, drawn, strict=True):
            found = match_expression(fold.predicted[name].values, fold.measured, fold.trained)
            table = np.stack([found.found, found.blind, found.best])
            known = np.asarray(np.isfinite(table).all(axis=0))
            undefined += int((~known).sum())
            sums = np.zeros((4, weights.shape[1]))
            for row, values in zip(sums, [*table, np.ones(len(known))], strict=True):
                np.add.at(row, place.reshape(-1)[known], values[known])
            with np.errstate(invalid="ignore", divide="ignore"):
                total += (sums[:3] @ weights.T) / (sums[3] @ weights.T)
        found_, blind, best = total / len(folds)
        if np.isfinite(found_[0]):
            with np.errstate(invalid="ignore", divide="ignore"):
                share = (found_ - blind) / (best - blind)
            scores.append(
                RetrievalScore(
                    name, estimate(found_), float(blind[0]), float(best[0]), estimate(share), undefined
                )
            )
    return tuple(scores)
