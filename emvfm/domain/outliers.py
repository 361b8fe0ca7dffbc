"""How far embeddings lie from those of one dataset: eight scores, larger is more outlying.

Every score is fitted on in-distribution embeddings ``(n, D)`` alone; no outlier is ever seen.

=================  =======================================================================================
mahalanobis        distance to the mean, covariance shrunk by Ledoit & Wolf (doi:10.1016/S0047-259X(03)00096-4)
mahalanobis-oas    the same, shrunk by OAS (Chen et al. 2010, arXiv 0907.4698)
relative           squared Mahalanobis distance less that to a background (Ren et al. 2021, arXiv 2106.09022)
knn                Euclidean distance to the k-th nearest fitted embedding (Sun et al. 2022, arXiv 2204.06507)
knn-cosine         the same with one minus the cosine
cosine             one minus the cosine to the mean
residual           norm of what the first principal components leave (the residual of ViM, arXiv 2203.10807)
norm               absolute log ratio of the length to the median length: a control that knows no direction
=================  =======================================================================================

pytorch-ood inverts unshrunk scatters with 1e-6 on the diagonal: with fewer images than dimensions that constant decides
its Mahalanobis distances, so ours shrink instead. Its relative distance of a single class is nought for every image; ours
then takes a part of the variance as background (see `fit_detector`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["SCORES", "Detector", "balanced_sample", "fit_detector", "shrunk_covariance"]

Floats = NDArray[np.float64]

#: Names with what they are called in tables and figures.
SCORES = {
    "mahalanobis": "Mahalanobis (Ledoit-Wolf)",
    "mahalanobis-oas": "Mahalanobis (OAS)",
    "relative": "relative Mahalanobis",
    "knn": "kNN distance",
    "knn-cosine": "kNN cosine",
    "cosine": "cosine to the mean",
    "residual": "PCA residual",
    "norm": "length",
}
#: Rows that are scored at a time, so that a distance matrix stays small.
_CHUNK = 1024


@dataclass(frozen=True)
class Detector:
    """A fitted score.

    Attributes
    ----------
    name
        One of `SCORES`.
    n, dimension
        Embeddings it was fitted on and their length.
    note
        What was decided at fitting: shrinkage, components, background, neighbours.
    """

    name: str
    n: int
    dimension: int
    note: str
    _score: Callable[[Floats], Floats]
    _fitted: Floats | None = None

    def score(self, x: ArrayLike) -> Floats:
        """Return ``(m,)`` float64 scores of ``(m, D)`` embeddings, larger is more outlying."""
        values = np.asarray(x)
        if values.ndim != 2 or values.shape[1] != self.dimension:
            raise UsageError(
                "embeddings of another length", got=values.shape, expected=f"(m, {self.dimension})"
            )
        scores = np.empty(len(values))
        for start in range(0, len(values), _CHUNK):
            part = values[start : start + _CHUNK].astype(np.float64)
            if not np.isfinite(part).all():
                raise UsageError("embeddings are not finite", where=self.name)
            scores[start : start + _CHUNK] = self._score(part)
        return scores

    def in_sample(self, x: ArrayLike) -> Floats:
        """Return scores of the very embeddings it was fitted on; a neighbour is never the embedding itself.

        These are too low for anything but showing how much too low they are.
        """
        return self.score(x) if self._fitted is None else self._fitted


def shrunk_covariance(x: Floats, method: str) -> tuple[Floats, float]:
    """Return the covariance ``(D, D)`` of ``(n, D)`` embeddings and how much of it is a multiple of identity.

    Parameters
    ----------
    method
        ``ledoit-wolf`` or ``oas``.
    """
    from sklearn.covariance import ledoit_wolf, oas

    covariance, shrinkage = {"ledoit-wolf": ledoit_wolf, "oas": oas}[method](x)
    return np.atleast_2d(covariance), float(shrinkage)


def _quadratic(mean: Floats, covariance: Floats) -> Callable[[Floats], Floats]:
    """Return the function from embeddings to their squared Mahalanobis distance."""
    from scipy.linalg import cholesky, solve_triangular

    lower = cholesky(covariance, lower=True)

    def squared(x: Floats) -> Floats:
        return (solve_triangular(lower, (x - mean).T, lower=True) ** 2).sum(axis=0)

    return squared


def _mahalanobis(x: Floats, method: str) -> tuple[Callable[[Floats], Floats], str]:
    covariance, shrinkage = shrunk_covariance(x, method)
    squared = _quadratic(x.mean(axis=0), covariance)
    return lambda y: np.sqrt(squared(y)), f"shrinkage {shrinkage:.3g}"


def _leading(variances: Floats, explained: float) -> int:
    """Return how many of the descending variances reach the share `explained`."""
    shares = np.cumsum(variances) / variances.sum()
    return int(np.searchsorted(shares, explained - 1e-12) + 1)


def _relative(
    x: Floats, groups: Sequence[str] | None, explained: float
) -> tuple[Callable[[Floats], Floats], str]:
    labels = np.asarray(groups if groups is not None else [""] * len(x))
    names, sizes = np.unique(labels, return_counts=True)
    if len(names) > 1 and sizes.min() >= 2:
        means = np.stack([x[labels == name].mean(axis=0) for name in names])
        within = np.concatenate([x[labels == name] - m for name, m in zip(names, means, strict=True)])
        own = [_quadratic(m, shrunk_covariance(within, "ledoit-wolf")[0]) for m in means]
        background = _quadratic(x.mean(axis=0), shrunk_covariance(x, "ledoit-wolf")[0])
        note = f"nearest of {len(names)} sources, background: all fitted embeddings pooled"
        return lambda y: np.min([square(y) for square in own], axis=0) - background(y), note
    # One class has no background of its own: there the Gaussian of the first principal part stands for what
    # all images of the kind share, and the difference is the distance within the remaining directions.
    mean = x.mean(axis=0)
    variances, axes = np.linalg.eigh(shrunk_covariance(x, "ledoit-wolf")[0])
    empirical = np.clip(np.linalg.eigvalsh(np.atleast_2d(np.cov(x, rowvar=False, ddof=0)))[::-1], 0, None)
    kept = min(_leading(empirical, explained), x.shape[1] - 1)
    rest, spread = axes[:, : x.shape[1] - kept], variances[: x.shape[1] - kept]
    note = f"background: the first {kept} principal components ({explained:.0%} of the variance)"
    return lambda y: (((y - mean) @ rest) ** 2 / spread).sum(axis=1), note


def _unit(x: Floats) -> Floats:
    """Return rows of length one; a row of zeros stays, at right angles to everything."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1)


def _neighbours(x: Floats, k: int, cosine: bool) -> tuple[Callable[[Floats], Floats], str, Floats]:
    if len(x) <= k:
        raise UsageError("too few embeddings for the neighbours", where="--k", got=k, expected=f"< {len(x)}")
    bank = _unit(x) if cosine else x
    lengths = (bank**2).sum(axis=1)

    def distance(y: Floats, rank: int) -> Floats:
        points = _unit(y) if cosine else y
        if cosine:
            return np.partition(1 - points @ bank.T, rank - 1, axis=1)[:, rank - 1]
        squared = (points**2).sum(axis=1)[:, None] + lengths - 2 * points @ bank.T
        # The expansion of the square cancels near zero; the chosen distance is taken again.
        chosen = np.argpartition(squared, rank - 1, axis=1)[:, rank - 1]
        return np.linalg.norm(points - bank[chosen], axis=1)

    own = np.concatenate([distance(x[i : i + _CHUNK], k + 1) for i in range(0, len(x), _CHUNK)])
    return lambda y: distance(y, k), f"neighbour {k} of {len(x)}", own


def _residual(x: Floats, explained: float) -> tuple[Callable[[Floats], Floats], str]:
    mean = x.mean(axis=0)
    _, singular, axes = np.linalg.svd(x - mean, full_matrices=False)
    kept = min(_leading(singular**2, explained), x.shape[1] - 1)
    basis = axes[:kept].T

    def left(y: Floats) -> Floats:
        centred = y - mean
        return np.linalg.norm(centred - (centred @ basis) @ basis.T, axis=1)

    return left, f"beyond the first {kept} principal components ({explained:.0%} of the variance)"


def fit_detector(
    name: str,
    x: ArrayLike,
    *,
    k: int = 5,
    explained: float = 0.9,
    groups: Sequence[str] | None = None,
    bank: int | None = None,
    seed: int = 0,
) -> Detector:
    """Fit one score on ``(n, D)`` in-distribution embeddings.

    Parameters
    ----------
    name
        One of `SCORES`.
    k
        Neighbour whose distance counts, below n.
    explained
        Share of the variance, in (0, 1], that the principal components of ``residual`` and of the background
        of ``relative`` hold; one direction is always left over.
    groups
        Source of each embedding. With several, ``relative`` takes the distance to the nearest source's mean
        and the pooled Gaussian as background, as its paper does with classes. With one, its background is the
        first principal part of the fitted embeddings.
    bank
        Largest number of embeddings to compare with in the kNN scores, drawn by `seed`; all without it.

    Raises
    ------
    UsageError
        No such score, fewer than two embeddings, all of them the same, not finite, or not more than `k`.
    """
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or len(values) < 2:
        raise UsageError("not a set of embeddings", where=name, got=values.shape, expected="(n, D), n >= 2")
    if not np.isfinite(values).all():
        raise UsageError("embeddings are not finite", where=name)
    if not np.ptp(values, axis=0).any():
        raise UsageError("the fitted embeddings are all the same", where=name, got=f"{len(values)} images")
    if not 0 < explained <= 1:
        raise UsageError("not a share of the variance", where="--explained", got=explained, expected="(0, 1]")
    own = None
    if name in ("mahalanobis", "mahalanobis-oas"):
        score, note = _mahalanobis(values, "oas" if name.endswith("oas") else "ledoit-wolf")
    elif name == "relative":
        score, note = _relative(values, groups, explained)
    elif name in ("knn", "knn-cosine"):
        rows = values
        if bank is not None and len(values) > bank:
            rows = values[np.sort(np.random.default_rng(seed).permutation(len(values))[:bank])]
        score, note, own = _neighbours(rows, k, name.endswith("cosine"))
    elif name == "cosine":
        direction = _unit(values.mean(axis=0, keepdims=True))[0]
        score, note = (lambda y: 1 - _unit(y) @ direction), ""
    elif name == "residual":
        score, note = _residual(values, explained)
    elif name == "norm":
        middle = float(np.median(np.linalg.norm(values, axis=1)))
        tiny = np.finfo(np.float64).tiny
        score, note = (lambda y: np.abs(np.log((np.linalg.norm(y, axis=1) + tiny) / (middle + tiny)))), ""
    else:
        raise UsageError("no such score", got=name, expected=", ".join(SCORES))
    return Detector(name, len(values), values.shape[1], note, score, own)


def balanced_sample(
    images: Iterable[NDArray[np.float32]], blocks: Sequence[int], size: int, *, seed: int = 0
) -> NDArray[np.float32]:
    """Draw patches so that every block of slices gives about as many, one image in memory at a time.

    Parameters
    ----------
    images
        ``(n_i, D)`` patches of each image in turn.
    blocks
        Block label of each image.
    size
        Patches wanted; an image with fewer than its share gives all it has.

    Returns
    -------
    ndarray
        ``(m, D)`` float32 with m at most `size`, or one an image where there are more images than that.
    """
    if size < 1:
        raise UsageError("not a number of patches", where="--patch-sample", got=size, expected="1 or more")
    labels, counts = np.unique(np.asarray(blocks), return_counts=True)
    members = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    rng = np.random.default_rng(seed)
    drawn = []
    for block, patches in zip(blocks, images, strict=True):
        quota = max(1, size // (len(members) * members[block]))
        rows = rng.permutation(len(patches))[:quota]
        drawn.append(np.asarray(patches, np.float32)[np.sort(rows)])
    return np.concatenate(drawn)
