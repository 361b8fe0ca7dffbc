"""Comparisons by the Fréchet distance, as it stands and in its variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from emvfm.domain.comparison import Comparison, Measure, compare
from emvfm.domain.frechet import (
    Extrapolation,
    FrechetAtInfinity,
    ShrunkFrechet,
    frechet_from_gram,
    frechet_from_moments,
    gram,
)
from emvfm.domain.moments import Moments
from emvfm.errors import UsageError

__all__ = [
    "FRECHET",
    "FrechetComparison",
    "compare_frechet",
    "compare_frechet_at_infinity",
    "compare_moments",
    "compare_shrunk_frechet",
]

FRECHET = Measure("fd", "Fréchet distance", ddof=1)


@dataclass(frozen=True)
class FrechetComparison(Comparison):
    """The squared Fréchet distance of two domains, ddof 1, float64, with what it takes to believe it."""

    ddof: int | None = 1
    measure: str = FRECHET.name
    key: str = FRECHET.key


def _frechet(found: Comparison) -> FrechetComparison:
    return FrechetComparison(**{item.name: getattr(found, item.name) for item in fields(found)})


def compare_frechet(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    permutations: int = 999,
    level: float = 0.95,
    seed: int = 0,
) -> FrechetComparison:
    """Compare ``(n, D)`` with ``(m, D)`` embeddings whose rows carry block labels.

    One Gram matrix serves the value, the permutations, the halves and the jackknife.
    """
    matrix = gram(x, y)
    (found,) = compare(
        names, lambda a, b: (frechet_from_gram(matrix, a, b),), (FRECHET,), blocks_x, blocks_y,
        dimension=np.shape(x)[1], permutations=permutations, level=level, seed=seed,
    )  # fmt: skip
    return _frechet(found)


def compare_shrunk_frechet(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    permutations: int = 999,
    level: float = 0.95,
    seed: int = 0,
) -> FrechetComparison:
    """Compare as `compare_frechet`, with covariances shrunk by Ledoit and Wolf's rule in every resample."""
    distance = ShrunkFrechet(x, y)
    n, m = len(np.asarray(x)), len(np.asarray(y))
    shrinkage = [distance.shrinkage(np.arange(n)), distance.shrinkage(n + np.arange(m))]
    measure = Measure(
        "fd-ledoit-wolf", "Fréchet distance, shrunk covariances", ddof=1, parameters={"shrinkage": shrinkage}
    )
    (found,) = compare(
        names, lambda a, b: (distance(a, b),), (measure,), blocks_x, blocks_y,
        dimension=distance.dimension, permutations=permutations, level=level, seed=seed,
    )  # fmt: skip
    return _frechet(found)


def compare_frechet_at_infinity(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    points: int = 15,
    permutations: int = 999,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare by the Fréchet distance extrapolated to infinite n; the points of the line are in `parameters`.

    Raises
    ------
    UsageError
        A domain is a single block, so there are no subsamples.
    """
    matrix = gram(x, y)
    n, m = len(np.asarray(x)), len(np.asarray(y))
    labels = [*(f"x{b}" for b in blocks_x), *(f"y{b}" for b in blocks_y)]
    distance = FrechetAtInfinity(matrix, labels, points=points, seed=seed)
    line: Extrapolation | None = distance.fit(np.arange(n), n + np.arange(m))
    if line is None:
        raise UsageError("too few blocks to extrapolate", where=" × ".join(names), expected="2 or more each")
    measure = Measure(
        "fd-infinity", "Fréchet distance at infinite n", centred=True, bounds=(-np.inf, np.inf), ddof=1,
        parameters=asdict(line),
    )  # fmt: skip
    (found,) = compare(
        names, lambda a, b: (distance(a, b),), (measure,), blocks_x, blocks_y,
        dimension=np.shape(x)[1], permutations=permutations, level=level, seed=seed,
    )  # fmt: skip
    return found


def compare_moments(
    names: tuple[str, str],
    x: Mapping[int, Moments],
    y: Mapping[int, Moments],
    *,
    permutations: int = 999,
    repeats: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> FrechetComparison:
    """Compare two domains by the streamed moments of each block of slices, such as of patch embeddings.

    What is exchanged, halved and left out are the blocks; moments of any union of them follow by merging.

    Parameters
    ----------
    x, y
        Moments of the embeddings of each block, by its label.
    """
    parts = [*x.values(), *y.values()]

    def union(rows: np.ndarray) -> Moments:
        merged = parts[rows[0]]
        for row in rows[1:]:
            merged = merged.merged(parts[row])
        return merged

    def distance(a: np.ndarray, b: np.ndarray) -> tuple[float]:
        first, second = union(a), union(b)
        return (frechet_from_moments(first.mean, first.covariance(), second.mean, second.covariance()),)

    measure = Measure("fd", FRECHET.name, ddof=1, parameters={"embeddings": "patches"})
    (found,) = compare(
        names, distance, (measure,), list(x), list(y), dimension=len(parts[0].mean),
        n=(sum(p.n for p in x.values()), sum(p.n for p in y.values())),
        least=1, permutations=permutations, repeats=repeats, level=level, seed=seed,
    )  # fmt: skip
    return _frechet(found)
