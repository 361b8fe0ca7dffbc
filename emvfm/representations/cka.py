r"""Centred kernel alignment of two representations of the same rows (Kornblith et al. 2019, arXiv 1905.00414).

.. math:: \mathrm{CKA} = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}}

The biased form grows with D / n: of noise it tends to one. The debiased form takes the unbiased estimate of HSIC
(Song et al. 2012, jmlr.org/papers/v13/song12a; Nguyen, Raghu & Kornblith 2021, arXiv 2010.15327); of noise it is
nought on average, and it may be negative.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = [
    "MOST_ROWS",
    "kernel_hsic",
    "linear_cka",
    "linear_hsic",
    "pair_checked",
    "rbf_cka",
    "rbf_kernel",
    "single_checked",
]

Floats = NDArray[np.float64]

#: Rows up to which kernels of all pairs are held: two of 800 MB.
MOST_ROWS = 10_000


def pair_checked(x: ArrayLike, y: ArrayLike, least: int = 4) -> tuple[Floats, Floats]:
    """Return both as float64 with columns centred; they hold the same rows in the same order."""
    first, second = single_checked(x, "first", least), single_checked(y, "second", least)
    if len(first) != len(second):
        raise UsageError("representations of different rows", got=f"{len(first)} and {len(second)}")
    return first, second


def single_checked(values: ArrayLike, name: str = "representation", least: int = 4) -> Floats:
    """Return a representation as float64 with columns centred."""
    own = np.asarray(values, np.float64)
    if own.ndim != 2 or len(own) < least or not own.shape[1]:
        raise UsageError("not a representation", where=name, got=own.shape, expected=f"(n, D), n >= {least}")
    if not np.isfinite(own).all():
        raise UsageError("embeddings are not finite", where=name)
    centred = own - own.mean(axis=0)
    # A constant column leaves rounding behind, which would pass for a representation.
    rounding = 1e-13 * np.abs(own).max(axis=0)
    return np.where(np.abs(centred).max(axis=0) > rounding, centred, 0.0)


def _ratio(cross: float, first: float, second: float) -> float:
    """Return the alignment, NaN where a representation is constant."""
    return cross / math.sqrt(first * second) if first > 0 and second > 0 else math.nan


def _debiased(trace: float, sums_k: Floats, sums_l: Floats) -> float:
    """Return n (n - 3) times the unbiased HSIC of kernels without diagonal, from tr(KL) and their row sums."""
    n = len(sums_k)
    return float(
        trace
        + sums_k.sum() * sums_l.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * float(np.dot(sums_k, sums_l))
    )


def linear_hsic(x: Floats, y: Floats, *, debiased: bool) -> float:
    """Return HSIC of centred rows with linear kernels, up to a factor of n alone."""
    if len(x) < min(x.shape[1], y.shape[1]):  # fewer rows than columns: the kernels are the smaller thing
        trace = float(np.sum((x @ x.T) * (y @ y.T)))
    else:
        trace = float(np.sum((x.T @ y) ** 2))
    if not debiased:
        return trace
    own_x, own_y = np.einsum("nd,nd->n", x, x), np.einsum("nd,nd->n", y, y)
    sums_x, sums_y = x @ x.sum(axis=0) - own_x, y @ y.sum(axis=0) - own_y
    return _debiased(trace - float(own_x @ own_y), sums_x, sums_y)


def linear_cka(x: ArrayLike, y: ArrayLike, *, debiased: bool = True) -> float:
    """Return CKA with linear kernels; unchanged by rotation, common scale and shift of either.

    Parameters
    ----------
    x, y
        ``(n, D)`` and ``(n, E)``, n >= 4; where n exceeds D no n × n matrix is made.
    debiased
        Whether HSIC is estimated without bias.

    Returns
    -------
    float
        In [0, 1] if biased, at most about 1 if not; NaN for a constant representation.

    Raises
    ------
    UsageError
        For representations of different rows, too few of them, or ones that are not finite.
    """
    first, second = pair_checked(x, y)
    cross, own, other = (
        linear_hsic(a, b, debiased=debiased) for a, b in ((first, second), (first, first), (second, second))
    )
    return _ratio(cross, own, other)


def rbf_kernel(x: Floats, width: float) -> Floats:
    """Return the Gaussian kernel ``(n, n)``; ones where more than half of all distances are nought."""
    lengths = np.einsum("nd,nd->n", x, x)
    squared = np.maximum(lengths[:, None] + lengths - 2 * x @ x.T, 0)
    np.fill_diagonal(squared, 0)
    median = float(np.median(squared[np.triu_indices(len(x), 1)]))
    if median <= 0:
        return np.ones_like(squared)
    squared *= -1 / (2 * width**2 * median)
    return np.exp(squared, out=squared)


def kernel_hsic(k: Floats, m: Floats, *, debiased: bool) -> float:
    """Return HSIC of two kernels, up to a factor of n alone."""
    if debiased:
        off_k, off_m = k.sum(axis=1) - k.diagonal(), m.sum(axis=1) - m.diagonal()
        trace = float(np.einsum("ij,ij->", k, m)) - float(k.diagonal() @ m.diagonal())
        return _debiased(trace, off_k, off_m)
    means_k, means_m, n = k.mean(axis=1), m.mean(axis=1), len(k)
    cross = float(np.einsum("ij,ij->", k, m)) - 2 * n * float(means_k @ means_m)
    return cross + n * n * float(means_k.mean() * means_m.mean())


def rbf_cka(x: ArrayLike, y: ArrayLike, *, width: float = 1.0, debiased: bool = True) -> float:
    """Return CKA with Gaussian kernels.

    Parameters
    ----------
    x, y
        ``(n, D)`` and ``(n, E)``, n from 4 to 10 000.
    width
        Of the kernel, as a multiple of the median distance between rows, so that scale does not matter.
    debiased
        Whether HSIC is estimated without bias.

    Returns
    -------
    float
        As :func:`linear_cka`; NaN where more than half of all distances are nought.
    """
    first, second = pair_checked(x, y)
    if len(first) > MOST_ROWS:
        raise UsageError(
            "too many rows", where="rbf cka", got=len(first), expected=MOST_ROWS, todo="draw some of them"
        )
    if not width > 0:
        raise UsageError("not a width", where="rbf cka", got=width, expected="above 0")
    k, m = rbf_kernel(first, width), rbf_kernel(second, width)
    if k.min() == 1 or m.min() == 1:
        return math.nan
    cross, own, other = (kernel_hsic(a, b, debiased=debiased) for a, b in ((k, m), (k, k), (m, m)))
    return _ratio(cross, own, other)
