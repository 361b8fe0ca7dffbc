"""Comparisons of two domains by each family of measures: what is computed once, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, TypedDict, Unpack, get_args

import numpy as np
from numpy.typing import ArrayLike

from emvfm.domain.comparison import Comparison, Measure, Rows, compare
from emvfm.domain.coverage import Coverage, neighbour_coverage
from emvfm.domain.frechet import (
    Extrapolation,
    FrechetAtInfinity,
    ShrunkFrechet,
    frechet_from_gram,
    frechet_from_moments,
    gram,
)
from emvfm.domain.kernel import (
    energy_kernel,
    median_gamma,
    mmd2,
    mmd2_between_blocks,
    mmd2_of_subsets,
    polynomial_kernel,
    rbf_kernel,
    squared_distances,
)
from emvfm.domain.moments import Moments
from emvfm.domain.transport import SlicedWasserstein
from emvfm.errors import UsageError

__all__ = [
    "DISCREPANCIES",
    "FRECHET",
    "Discrepancy",
    "FrechetComparison",
    "Resampling",
    "compare_coverage",
    "compare_discrepancies",
    "compare_frechet",
    "compare_frechet_at_infinity",
    "compare_moments",
    "compare_shrunk_frechet",
]

Discrepancy = Literal["polynomial", "rbf", "energy", "sliced-wasserstein"]
DISCREPANCIES: tuple[Discrepancy, ...] = get_args(Discrepancy)
FRECHET = Measure("fd", "Fréchet distance", ddof=1)


class Resampling(TypedDict, total=False):
    """How any comparison is resampled; see `comparison.compare` for what is not given.

    Attributes
    ----------
    permutations, repeats
        Exchanges of blocks for the null, draws of halves.
    level
        Coverage of the interval.
    seed
        Of the exchanges and halves, and of whatever else a measure draws.
    """

    permutations: int
    repeats: int
    level: float
    seed: int


@dataclass(frozen=True)
class FrechetComparison(Comparison):
    """The squared Fréchet distance of two domains, ddof 1, float64, with what it takes to believe it."""

    ddof: int | None = 1
    measure: str = FRECHET.name
    key: str = FRECHET.key


def _joint_labels(blocks_x: Sequence[int], blocks_y: Sequence[int]) -> list[str]:
    """Return labels that no two blocks of different domains share."""
    return [*(f"x{b}" for b in blocks_x), *(f"y{b}" for b in blocks_y)]


def _frechet(found: Comparison) -> FrechetComparison:
    return FrechetComparison(**{item.name: getattr(found, item.name) for item in fields(found)})


def compare_frechet(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    **resampling: Unpack[Resampling],
) -> FrechetComparison:
    """Compare ``(n, D)`` with ``(m, D)`` embeddings whose rows carry block labels.

    One Gram matrix serves the value, the permutations, the halves and the jackknife.
    """
    matrix = gram(x, y)
    (found,) = compare(
        names, lambda a, b: (frechet_from_gram(matrix, a, b),), (FRECHET,), blocks_x, blocks_y,
        dimension=np.shape(x)[1], **resampling,
    )  # fmt: skip
    return _frechet(found)


def compare_shrunk_frechet(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    **resampling: Unpack[Resampling],
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
        dimension=distance.dimension, **resampling,
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
    **resampling: Unpack[Resampling],
) -> Comparison:
    """Compare by the Fréchet distance extrapolated to infinite n; the points of the line are in `parameters`.

    Raises
    ------
    UsageError
        A domain is a single block, so there are no subsamples.
    """
    matrix = gram(x, y)
    n, m = len(np.asarray(x)), len(np.asarray(y))
    labels = _joint_labels(blocks_x, blocks_y)
    distance = FrechetAtInfinity(matrix, labels, points=points, seed=resampling.get("seed", 0))
    line: Extrapolation | None = distance.fit(np.arange(n), n + np.arange(m))
    if line is None:
        raise UsageError("too few blocks to extrapolate", where=" × ".join(names), expected="2 or more each")
    measure = Measure(
        "fd-infinity", "Fréchet distance at infinite n", centred=True, bounds=(-np.inf, np.inf), ddof=1,
        parameters=asdict(line),
    )  # fmt: skip
    (found,) = compare(
        names, lambda a, b: (distance(a, b),), (measure,), blocks_x, blocks_y,
        dimension=np.shape(x)[1], **resampling,
    )  # fmt: skip
    return found


def compare_moments(
    names: tuple[str, str],
    x: Mapping[int, Moments],
    y: Mapping[int, Moments],
    **resampling: Unpack[Resampling],
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
        least=1, **resampling,
    )  # fmt: skip
    return _frechet(found)


def compare_discrepancies(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    kinds: Sequence[Discrepancy] = DISCREPANCIES,
    pairs: Literal["all", "between-blocks"] = "all",
    gamma: float | None = None,
    projections: int = 128,
    order: int = 2,
    **resampling: Unpack[Resampling],
) -> tuple[Comparison, ...]:
    """Compare by kernel distances, the energy distance or the sliced Wasserstein distance.

    Parameters
    ----------
    pairs
        Of the kernel and energy distances: all pairs of different rows, or only those of different blocks.
    gamma
        Of the RBF kernel; the median heuristic on all rows of both domains without it.
    """
    seed = resampling.get("seed", 0)
    distances = squared_distances(x, y)
    n, m, dimension = len(np.asarray(x)), len(np.asarray(y)), np.shape(x)[1]
    labels = np.unique(_joint_labels(blocks_x, blocks_y), return_inverse=True)[1]
    kernels: dict[str, np.ndarray] = {}
    measures = []
    sliced = SlicedWasserstein(x, y, projections=projections, order=order, seed=seed)
    for kind in kinds:
        parameters: dict[str, object] = {"pairs": pairs}
        if kind == "polynomial":
            kernels[kind] = polynomial_kernel(x, y)
            subsets = mmd2_of_subsets(kernels[kind], np.arange(n), n + np.arange(m), seed=seed)
            parameters |= {"degree": 3, "gamma": 1 / dimension, "coefficient": 1, "subsets": asdict(subsets)}
            name = "kernel distance, cubic"
        elif kind == "rbf":
            scale = parameters["gamma"] = median_gamma(distances) if gamma is None else gamma
            kernels[kind] = rbf_kernel(distances, scale)
            name = "kernel distance, RBF"
        elif kind == "energy":
            kernels[kind], name = energy_kernel(distances), "energy distance"
        else:
            parameters, name = {"projections": projections, "order": order}, "sliced Wasserstein distance"
        centred = kind in kernels
        bounds = (-np.inf, np.inf) if centred else (0.0, np.inf)
        measures.append(Measure(kind, name, centred=centred, bounds=bounds, parameters=parameters))

    def value(kind: Discrepancy, a: Rows, b: Rows) -> float:
        if kind not in kernels:
            return sliced(a, b)
        if pairs == "all":
            return mmd2(kernels[kind], a, b)
        return mmd2_between_blocks(kernels[kind], a, b, labels)

    return compare(
        names, lambda a, b: [value(kind, a, b) for kind in kinds], measures, blocks_x, blocks_y,
        dimension=dimension, **resampling,
    )  # fmt: skip


def compare_coverage(
    names: tuple[str, str],
    x: ArrayLike,
    y: ArrayLike,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    k: int = 5,
    neighbours: Literal["other-blocks", "all"] = "other-blocks",
    **resampling: Unpack[Resampling],
) -> tuple[Comparison, ...]:
    """Compare by precision, recall, density and coverage of `y` with `x` as reference.

    Parameters
    ----------
    neighbours
        Rows that may be the k-th neighbour of a row: those of other blocks of its set, or all others of its set
        (the published definition, which near-duplicates within a block defeat).
    """
    distances = squared_distances(x, y)
    labels = np.unique(_joint_labels(blocks_x, blocks_y), return_inverse=True)[1]
    own = labels if neighbours == "other-blocks" else None
    measures = [
        Measure(
            name, name, further="smaller", symmetric=False, parameters={"k": k, "neighbours": neighbours},
            bounds=(0.0, np.inf) if name == "density" else (0.0, 1.0),
        )
        for name in Coverage._fields
    ]  # fmt: skip
    return compare(
        names, lambda a, b: neighbour_coverage(distances, a, b, k=k, labels=own), measures, blocks_x, blocks_y,
        dimension=np.shape(x)[1], **resampling,
    )  # fmt: skip
