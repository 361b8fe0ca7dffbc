"""Average precision when the order of candidates is random: exact where it can be counted, else drawn.

Draws depend on the seed and on the sizes alone, not on what else is tested or on any file.

The mean over the queries of a group has a null of its own. Two queries that are each other's positives share
their similarity, so their scores are not independent: independent draws make p-values too small, one draw used for
all queries (copairs 0.5) makes them too large. Here a pair of queries shares one random similarity, as in the data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["BUDGET", "Null", "null_of_group", "null_of_query", "p_value"]

Floats = NDArray[np.float64]

#: Orders that are gone through one by one; above it they are drawn.
BUDGET = 20_000
#: Numbers held at a time while drawing.
_HELD = 4_000_000
#: Numbers drawn for one null in all; above it there are fewer draws, but never fewer than `_LEAST`.
_DRAWN = 200_000_000
_LEAST = 39

#: The null, increasing, and whether it is complete.
Null = tuple[Floats, bool]


def _precision_of_places(places: NDArray[np.integer]) -> Floats:
    """Return the average precision of positives at `places` ``(draws, M)``, counted from 1 and increasing."""
    m = places.shape[1]
    return (np.arange(1, m + 1) / places).mean(axis=1)


def _generator(seed: int, *key: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])


def null_of_query(
    n_positives: int, n_candidates: int, *, draws: int = 9999, seed: int = 0, budget: int = BUDGET
) -> Null:
    """Return average precisions of random orders, increasing, and whether they are all there are.

    Parameters
    ----------
    n_positives, n_candidates
        M of N, 1 <= M <= N.
    draws
        Random orders where there are more than `budget` sets of places.

    Raises
    ------
    UsageError
        When there is no such query.
    """
    m, n = n_positives, n_candidates
    if not 1 <= m <= n:
        raise UsageError("no such query", where="null", got=f"{m} positives of {n}", expected="1 <= M <= N")
    ways = math.comb(n, m)
    if ways <= budget:
        flat = np.fromiter(
            (place for way in combinations(range(1, n + 1), m) for place in way), np.int64, ways * m
        )
        return np.sort(_precision_of_places(flat.reshape(ways, m))), True
    rng = _generator(seed, "query", m, n)
    found = np.empty(draws)
    step = max(1, _HELD // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        if m * m < 8 * n:  # first places by rejection: cheap while clashes are rare
            places = _distinct(rng, size, m, n)
        else:
            places = (
                np.argpartition(rng.random((size, n)), m - 1, axis=1)[:, :m]
                if m < n
                else np.tile(np.arange(n), (size, 1))
            )
        found[start : start + size] = _precision_of_places(np.sort(places, axis=1) + 1)
    return np.sort(found), False


def _distinct(rng: np.random.Generator, size: int, m: int, n: int) -> NDArray[np.int64]:
    """Draw m of n places for each of `size` rows (Floyd's algorithm, all rows at once)."""
    chosen = np.empty((size, m), np.int64)
    for i, top in enumerate(range(n - m, n)):
        drawn = rng.integers(0, top + 1, size)
        taken = (chosen[:, :i] == drawn[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, top, drawn)
    return chosen


def null_of_group(
    shared: ArrayLike,
    n_positives: Sequence[int],
    n_candidates: Sequence[int],
    *,
    draws: int = 9999,
    seed: int = 0,
    budget: int = BUDGET,
) -> Null:
    """Return mean average precisions of a group's queries under random similarities, increasing.

    Parameters
    ----------
    shared
        ``(q, q)`` bool: which queries of the group are positives of which; a pair that is so both ways has one
        similarity. Positives outside the group are drawn for each query alone.
    n_positives, n_candidates
        Of each query.
    draws
        Random orders; fewer of a group so large that they would be more than 2e8 numbers.

    Returns
    -------
    array, bool
        The null, and whether it is complete (a single query whose orders can be counted).
    """
    graph = np.asarray(shared, bool)
    sizes = [(int(m), int(n)) for m, n in zip(n_positives, n_candidates, strict=True)]
    if graph.shape != (len(sizes), len(sizes)):
        raise UsageError(
            "not the pairs of this group", where="null", got=graph.shape, expected=(len(sizes),) * 2
        )
    if len(sizes) == 1:
        return null_of_query(*sizes[0], draws=draws, seed=seed, budget=budget)
    both = graph & graph.T & ~np.eye(len(sizes), dtype=bool)
    first, second = np.nonzero(np.triu(both))
    rng = _generator(seed, "group", sizes, both.tobytes())
    ends = np.concatenate([first, second])
    turns = np.argsort(ends, kind="stable") % max(1, len(first))
    pairs_of = np.split(turns, np.cumsum(np.bincount(ends, minlength=len(sizes)))[:-1])
    draws = min(draws, max(_LEAST, _DRAWN // sum(m for m, _ in sizes)))
    found = np.empty(draws)
    step = max(1, _HELD // (len(first) + max(m for m, _ in sizes) * 3))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        pairs = rng.random((size, len(first)))
        total = np.zeros(size)
        for i, (m, n) in enumerate(sizes):
            own = pairs[:, pairs_of[i]]
            scores = np.sort(np.concatenate([own, rng.random((size, m - own.shape[1]))], axis=1), axis=1)
            # Scores fall from the right; given them, negatives fall into the gaps like balls into boxes.
            gaps = np.diff(np.c_[np.zeros(size), scores, np.ones(size)], axis=1)[:, ::-1]
            above = np.cumsum(rng.multinomial(n - m, gaps / gaps.sum(axis=1, keepdims=True)), axis=1)[:, :-1]
            total += _precision_of_places(above + np.arange(1, m + 1))
        found[start : start + size] = total / len(sizes)
    return np.sort(found), False


def p_value(observed: float, null: Floats, *, exact: bool) -> float:
    """Return how often a random order does at least as well; drawn nulls count the observed order in."""
    as_good = len(null) - int(np.searchsorted(null, observed - 1e-12))
    return as_good / len(null) if exact else (as_good + 1) / (len(null) + 1)
