"""Nulls and intervals for a statistic of two groups of rows, by whole blocks of neighbouring slices.

Slices of a stack are not independent, so what is shuffled, halved or left out is a block of consecutive
slices, never a single one. A statistic is a function of two index arrays; with a Gram matrix behind it
(`frechet.frechet_from_gram`) thousands of resamples cost seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = [
    "PermutationTest",
    "SplitHalves",
    "Statistic",
    "block_jackknife_interval",
    "block_permutation_test",
    "equal_rows",
    "split_halves",
]

Statistic = Callable[[NDArray[np.intp], NDArray[np.intp]], float]


def _members(blocks: ArrayLike) -> list[NDArray[np.intp]]:
    """Return the row indices of each block."""
    labels = np.asarray(blocks)
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


@dataclass(frozen=True)
class PermutationTest:
    """A one-sided permutation test: how often a relabelling of blocks gives at least the observed value.

    `distinct` is the number of different relabellings there are; the p-value can't be below one over it.
    """

    observed: float
    p_value: float
    null: tuple[float, ...]
    distinct: int


def block_permutation_test(
    statistic: Statistic,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    permutations: int = 999,
    seed: int = 0,
    further: Literal["larger", "smaller"] = "larger",
    least: int = 2,
) -> PermutationTest:
    """Test whether two groups differ by exchanging whole blocks between them.

    Parameters
    ----------
    statistic
        Of two arrays of rows; rows of the first group come first in the numbering.
    blocks_x, blocks_y
        Block label of each row of either group.
    further
        Which values of the statistic mean further apart. Null values that are not a number are left out.
    least
        Rows that a group must have; exchanges that leave fewer are passed over.
    """
    groups = _members(blocks_x) + [m + len(blocks_x) for m in _members(blocks_y)]
    n_x, n = len(_members(blocks_x)), len(groups)
    rows_x, rows_y = np.arange(len(blocks_x)), len(blocks_x) + np.arange(len(blocks_y))
    observed = statistic(rows_x, rows_y)
    rng = np.random.default_rng(seed)
    null = []
    for _ in range(permutations):
        order = rng.permutation(n)
        first = np.concatenate([groups[i] for i in order[:n_x]])
        second = np.concatenate([groups[i] for i in order[n_x:]])
        if min(len(first), len(second)) >= least:
            null.append(statistic(first, second))
    null = [value for value in null if not math.isnan(value)]
    # The observed relabelling comes back with its rows in another order, hence another rounding.
    rounding = 1e-9 * abs(observed)
    if further == "larger":
        exceeding = sum(value >= observed - rounding for value in null)
    else:
        exceeding = sum(value <= observed + rounding for value in null)
    return PermutationTest(observed, (1 + exceeding) / (1 + len(null)), tuple(null), math.comb(n, n_x))


@dataclass(frozen=True)
class SplitHalves:
    """Distances at the size of half a domain: between halves of one domain, and of the two domains.

    `within` holds one value a draw for each domain; `between` compares a half of one with a half of the
    other at the very same sizes, so that their ratio is not a matter of n. In `within` the two domains
    alternate.
    """

    within: tuple[float, ...]
    between: tuple[float, ...]

    @property
    def ratio(self) -> float | None:
        """Mean distance between the domains over mean distance within them."""
        floor = float(np.mean(self.within)) if self.within else 0.0
        return float(np.mean(self.between)) / floor if floor > 0 else None


def _halves(
    groups: list[NDArray[np.intp]], rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    order = rng.permutation(len(groups))
    half = len(groups) // 2
    return np.concatenate([groups[i] for i in order[:half]]), np.concatenate(
        [groups[i] for i in order[half:]]
    )


def split_halves(
    statistic: Statistic,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    repeats: int = 100,
    seed: int = 0,
    least: int = 2,
) -> SplitHalves:
    """Compare halves (by blocks) of each domain with each other and with halves of the other domain.

    All compared sets are cut to the same number of rows, at least `least`. A domain of a single block has no halves and
    gives no value.
    """
    rng = np.random.default_rng(seed)
    groups_x = _members(blocks_x)
    groups_y = [m + len(blocks_x) for m in _members(blocks_y)]
    within: list[float] = []
    between: list[float] = []
    if min(len(groups_x), len(groups_y)) < 2:
        return SplitHalves((), ())
    for _ in range(repeats):
        x1, x2 = _halves(groups_x, rng)
        y1, y2 = _halves(groups_y, rng)
        n = min(map(len, (x1, x2, y1, y2)))
        if n < least:
            continue
        x1, x2, y1, y2 = (rng.permutation(rows)[:n] for rows in (x1, x2, y1, y2))
        found = (statistic(x1, x2), statistic(y1, y2), statistic(x1, y1))
        if not any(map(math.isnan, found)):
            within += found[:2]
            between.append(found[2])
    return SplitHalves(tuple(within), tuple(between))


def block_jackknife_interval(
    statistic: Statistic,
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, math.inf),
) -> tuple[float, float] | None:
    """Return a Student interval from leaving out one block at a time, None with fewer than 3 blocks a group.

    The bootstrap would draw slices twice, which shrinks covariances and lifts the distance, and puts pairs at
    distance nought into statistics of pairs and nearest neighbours; the jackknife does not (Efron & Tibshirani
    1993, chapter 11; two-sample form).

    Parameters
    ----------
    bounds
        Smallest and largest value there can be; the interval is cut there.
    """
    from scipy.stats import t

    if not 0 < level < 1:
        raise UsageError("not a coverage", got=level, expected="between 0 and 1")
    rows_x, rows_y = np.arange(len(blocks_x)), len(blocks_x) + np.arange(len(blocks_y))
    value = statistic(rows_x, rows_y)
    variance, freedom = 0.0, 0
    for own, offset in ((blocks_x, 0), (blocks_y, len(blocks_x))):
        groups = _members(own)
        if len(groups) < 3:
            return None
        left_out = []
        for members in groups:
            kept = np.delete(np.arange(len(own)), members) + offset
            left_out.append(statistic(kept, rows_y) if offset == 0 else statistic(rows_x, kept))
        deviations = np.asarray(left_out) - np.mean(left_out)
        variance += (len(groups) - 1) / len(groups) * float((deviations**2).sum())
        freedom += len(groups) - 1
    margin = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
    if math.isnan(value + margin):
        return None
    return max(bounds[0], value - margin), min(bounds[1], value + margin)


def equal_rows(blocks: Sequence[Sequence[int]], *, seed: int = 0) -> list[NDArray[np.intp]]:
    """Choose as many blocks and as many rows of each of several groups, so that bias is the same for all.

    As many blocks as the poorest group has are drawn; then the longest block in hand loses its last slice
    until all groups are of one size.

    Parameters
    ----------
    blocks
        One a group: block label of each of its rows, in the order of the slices.

    Returns
    -------
    list of arrays
        Rows of each group, increasing; all of the same length.
    """
    rng = np.random.default_rng(seed)
    groups = [_members(labels) for labels in blocks]
    fewest = min(map(len, groups))
    chosen = [[members[i] for i in rng.permutation(len(members))[:fewest]] for members in groups]
    target = min(sum(map(len, parts)) for parts in chosen)
    for parts in chosen:
        while sum(map(len, parts)) > target:
            longest = max(range(fewest), key=lambda i: len(parts[i]))
            parts[longest] = parts[longest][:-1]
    return [np.sort(np.concatenate(parts)) for parts in chosen]
