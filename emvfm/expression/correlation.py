"""Correlations gene by gene, undefined where either side does not vary: never 0, never left out in silence."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["determination", "pearson", "pearson_of_rows", "spearman", "varies"]

Floats = NDArray[np.float64]

#: A column whose range is less than this share of its size is constant but for rounding.
_ROUNDING = 1e-9


def _paired(predicted: ArrayLike, measured: ArrayLike) -> tuple[Floats, Floats]:
    p, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if p.ndim != 2 or p.shape != y.shape:
        raise UsageError("not two tables of one shape", where="correlation", got=f"{p.shape} and {y.shape}")
    return p, y


def varies(values: Floats) -> NDArray[np.bool_]:
    """Return ``(G,)``: whether each column of ``(N, G)`` values varies by more than rounding."""
    if len(values) < 2:
        return np.zeros(values.shape[1], bool)
    return np.asarray(np.ptp(values, axis=0) > _ROUNDING * np.abs(values).max(axis=0))


def pearson(predicted: ArrayLike, measured: ArrayLike) -> Floats:
    """Return ``(G,)`` Pearson correlations of the columns of two ``(N, G)`` tables; NaN where one does not vary."""
    p, y = _paired(predicted, measured)
    found = np.full(p.shape[1], np.nan)
    if len(p) < 2:
        return found
    defined = varies(p) & varies(y)
    p, y = (v[:, defined] - v[:, defined].mean(axis=0) for v in (p, y))
    p, y = (v / np.sqrt((v**2).sum(axis=0)) for v in (p, y))
    found[defined] = np.clip((p * y).sum(axis=0), -1, 1)
    return found


def spearman(predicted: ArrayLike, measured: ArrayLike) -> Floats:
    """Return ``(G,)`` Spearman correlations, ties at their mean rank; NaN where a column does not vary."""
    from scipy.stats import rankdata

    p, y = _paired(predicted, measured)
    found = np.full(p.shape[1], np.nan)
    defined = varies(p) & varies(y)
    if defined.any():
        found[defined] = pearson(rankdata(p[:, defined], axis=0), rankdata(y[:, defined], axis=0))
    return found


def pearson_of_rows(predicted: ArrayLike, measured: ArrayLike) -> Floats:
    """Return ``(N,)``: for each spot the Pearson correlation over genes; NaN where a row does not vary.

    Genes differ in their means, so the mean expression of training alone scores high here.
    """
    p, y = _paired(predicted, measured)
    return pearson(p.T, y.T)


def determination(predicted: ArrayLike, measured: ArrayLike, trained_mean: ArrayLike) -> Floats:
    """Return ``(G,)``: 1 - squared error / squared error of the mean of training; NaN where that is 0.

    The mean expression of training has 0 by definition, and below 0 is worse than it.
    """
    p, y = _paired(predicted, measured)
    errors = ((y - p) ** 2).sum(axis=0)
    least = ((y - np.asarray(trained_mean, np.float64)) ** 2).sum(axis=0)
    known = least > 0
    return np.where(known, 1 - errors / np.where(known, least, 1), np.nan)
