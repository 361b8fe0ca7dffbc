"""All pairs of many representations of the same rows by one measure, with intervals and nulls, at little more cost.

Every measure of :mod:`~emvfm.representations.similarity` falls into what depends on one representation alone
(kernels, bases, ranks, neighbours), made once, and a product of two of those; rows in random order only reorder what
was made. So k representations take k preparations for the value, and k for each group left out, not k² of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from emvfm.errors import UsageError
from emvfm.representations.cka import MOST_ROWS, kernel_hsic, linear_hsic, rbf_kernel, single_checked
from emvfm.representations.estimates import from_left_out, left_out_parts
from emvfm.representations.ranking import unit_rows
from emvfm.representations.similarity import (
    MEASURES,
    Similarity,
    canonical_basis,
    fewer_columns,
    nearest,
    prediction_correlation,
)

__all__ = ["PREPARED", "Prepared", "compare_representations", "similarity_matrix"]

Floats = NDArray[np.float64]
Order = NDArray[np.intp]


@dataclass(frozen=True)
class Prepared:
    """A measure in two steps.

    Attributes
    ----------
    make
        From ``(n, D)`` what the measure needs of one representation, None where it is constant.
    reorder
        The same for rows in another order.
    score
        Of two.
    """

    make: Callable[[Floats], Any]
    reorder: Callable[[Any, Order], Any]
    score: Callable[[Any, Any], float]


def _linear(debiased: bool) -> Prepared:
    def make(x: Floats) -> tuple[Floats, float] | None:
        centred = single_checked(x)
        own = linear_hsic(centred, centred, debiased=debiased)
        return (centred, own) if own > 0 else None

    def score(a: tuple[Floats, float], b: tuple[Floats, float]) -> float:
        return linear_hsic(a[0], b[0], debiased=debiased) / math.sqrt(a[1] * b[1])

    return Prepared(make, lambda a, order: (a[0][order], a[1]), score)


def _rbf(debiased: bool) -> Prepared:
    def make(x: Floats) -> tuple[Floats, float] | None:
        centred = single_checked(x)
        if len(centred) > MOST_ROWS:
            raise UsageError("too many rows", where="rbf cka", got=len(centred), expected=MOST_ROWS)
        kernel = rbf_kernel(centred, 1.0)
        own = kernel_hsic(kernel, kernel, debiased=debiased)
        return (kernel, own) if own > 0 and kernel.min() < 1 else None

    def score(a: tuple[Floats, float], b: tuple[Floats, float]) -> float:
        return kernel_hsic(a[0], b[0], debiased=debiased) / math.sqrt(a[1] * b[1])

    return Prepared(make, lambda a, order: (a[0][np.ix_(order, order)], a[1]), score)


def _normed(x: Floats) -> Floats | None:
    centred = single_checked(x)
    norm = float(np.linalg.norm(centred))
    return fewer_columns(centred) / norm if norm > 0 else None


def _nuclear(a: Floats, b: Floats) -> float:
    return float(np.linalg.svd(a.T @ b, compute_uv=False).sum())


def _basis(x: Floats) -> Floats | None:
    return canonical_basis(single_checked(x), 0.99)


def _canonical(a: Floats, b: Floats) -> float:
    return float(np.clip(np.linalg.svd(a.T @ b, compute_uv=False), 0, 1).mean())


def _ranks(x: Floats) -> Floats | None:
    """Return the ranks of similarities as a square matrix of mean nought and norm one above its diagonal."""
    unit = unit_rows(x)
    above = np.triu_indices(len(unit), 1)
    values = (unit @ unit.T)[above].round(12)
    if np.ptp(values) == 0:
        return None
    ranks = rankdata(values)
    ranks -= ranks.mean()
    square = np.zeros((len(unit), len(unit)))
    square[above] = ranks / np.linalg.norm(ranks)
    return square + square.T


def _neighbours(k: int = 10) -> Callable[[Floats], NDArray[np.bool_] | None]:
    def make(x: Floats) -> NDArray[np.bool_] | None:
        unit = unit_rows(x)
        if not 1 <= k < len(unit):
            raise UsageError("too few rows", where="mutual-knn", got=len(unit), expected=f"more than {k}")
        if np.ptp(unit, axis=0).max() < 1e-12:
            return None
        found = np.zeros((len(unit), len(unit)), np.bool_)
        np.put_along_axis(found, nearest(unit, k), True, axis=1)
        return found

    return make


def _square(a: NDArray[Any], order: Order) -> NDArray[Any]:
    return a[np.ix_(order, order)]


def _rows(a: NDArray[Any], order: Order) -> NDArray[Any]:
    return a[order]


PREPARED: Mapping[str, Prepared] = {
    "cka": _linear(True),
    "cka-biased": _linear(False),
    "cka-rbf": _rbf(True),
    "cka-rbf-biased": _rbf(False),
    "procrustes": Prepared(_normed, _rows, _nuclear),
    "svcca": Prepared(_basis, _rows, _canonical),
    "rsa": Prepared(_ranks, _square, lambda a, b: float(np.einsum("ij,ij->", a, b)) / 2),
    "mutual-knn": Prepared(_neighbours(), _square, lambda a, b: float((a & b).sum() / a.sum())),
    "predictions": Prepared(lambda x: x, _rows, prediction_correlation),
}


def _scores(prepared: Prepared, made: Sequence[Any]) -> list[float]:
    return [math.nan if a is None or b is None else prepared.score(a, b) for a, b in combinations(made, 2)]


def similarity_matrix(
    representations: Sequence[ArrayLike],
    measure: str = "cka",
    *,
    groups: Sequence[object] | None = None,
    permutations: int = 99,
    parts: int = 20,
    level: float = 0.95,
    seed: int = 0,
) -> list[Similarity]:
    """Measure every pair of representations, in the order of :func:`itertools.combinations`.

    Parameters
    ----------
    representations
        ``(n, D_i)`` each, of the same n rows in the same order; predictions may be ``(n,)``.
    measure
        A name of the table :data:`~emvfm.representations.similarity.MEASURES`.
    groups
        What is left out at a time for the interval, such as wells or donors; joined at random into `parts`.
    permutations
        Random orders of rows, the same for all pairs; nought for none.
    parts
        Sets of groups that are left out in turn; nought for no interval.

    Raises
    ------
    UsageError
        An unknown measure, fewer than two representations, or ones that it refuses.
    """
    if measure not in MEASURES:
        raise UsageError("no such measure", where="similarity", got=measure, expected=", ".join(MEASURES))
    arrays = [np.asarray(x, np.float64) for x in representations]
    arrays = [x[:, None] if x.ndim == 1 else x for x in arrays]
    if len(arrays) < 2:
        raise UsageError("nothing to compare with", where="similarity", got=f"{len(arrays)} representation")
    n = len(arrays[0])
    if any(len(x) != n for x in arrays):
        raise UsageError("representations of different rows", got=" and ".join(str(len(x)) for x in arrays))
    prepared = PREPARED[measure]
    made = [prepared.make(x) for x in arrays]
    values = _scores(prepared, made)
    labels, n_units = left_out_parts(n, groups, most=max(parts, 1), seed=seed)
    n_parts = int(labels.max()) + 1 if parts >= 3 else 0
    left_out = np.array(
        [_scores(prepared, [prepared.make(x[labels != part]) for x in arrays]) for part in range(n_parts)]
    ).reshape(n_parts, len(values))
    rng = np.random.default_rng(seed)
    null = np.full((permutations, len(values)), np.nan)
    for draw in range(permutations):
        order = rng.permutation(n)
        turned = [None if own is None else prepared.reorder(own, order) for own in made]
        null[draw] = [
            math.nan if a is None or b is None else prepared.score(made[i], b)
            for (i, a), (_, b) in combinations(enumerate(turned), 2)
        ]
    found = []
    for i, value in enumerate(values):
        estimate = from_left_out(
            value,
            left_out[:, i],
            n=n,
            n_units=n_units,
            level=level,
            seed=seed if n_units > max(parts, 1) else None,
        )
        if permutations < 1 or math.isnan(value):
            found.append(Similarity(measure, estimate, None, None, None, 0))
            continue
        drawn = null[:, i]
        p_value = (1 + int((drawn >= value - 1e-12).sum())) / (1 + permutations)
        high = float(np.quantile(drawn, 0.95))
        found.append(Similarity(measure, estimate, float(drawn.mean()), high, p_value, permutations))
    return found


def compare_representations(
    x: ArrayLike,
    y: ArrayLike,
    measure: str = "cka",
    *,
    groups: Sequence[object] | None = None,
    permutations: int = 99,
    level: float = 0.95,
    seed: int = 0,
) -> Similarity:
    """Measure how alike two representations are, with an interval and against rows in random order.

    Parameters
    ----------
    x, y
        ``(n, D)`` and ``(n, E)`` of the same rows; predictions may be ``(n,)``.
    measure
        A name of the table :data:`MEASURES`.
    groups
        What is left out at a time for the interval, such as wells or donors; rows by default, joined into fifty.
    permutations
        Random orders of rows; nought for none.

    Raises
    ------
    UsageError
        An unknown measure, or representations that it refuses.
    """
    (found,) = similarity_matrix(
        [x, y], measure, groups=groups, permutations=permutations, parts=50, level=level, seed=seed
    )
    return found
