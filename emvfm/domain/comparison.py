"""One comparison for every measure: its value with null, halves, interval, p-value and one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emvfm.domain.resampling import block_jackknife_interval, block_permutation_test, split_halves
from emvfm.errors import UsageError

__all__ = ["TOO_SMALL", "Comparison", "Measure", "Statistics", "compare"]

Rows = NDArray[np.intp]
#: What a p-value is where a caveat is known; the caveat itself is said once, beside all results.
TOO_SMALL = "too small by an unknown amount, as slices depend on each other beyond what is exchanged"
#: One value a measure, of two arrays of rows; rows of the second set follow those of the first.
Statistics = Callable[[Rows, Rows], Sequence[float]]


@dataclass(frozen=True)
class Measure:
    """What a number means.

    Attributes
    ----------
    key, name
        For files, and for people.
    further
        Whether larger or smaller values mean further apart.
    symmetric
        Whether the two sets may be exchanged; else the first is the reference.
    centred
        Whether it is about nought for one law, so that no ratio to it makes sense.
    bounds
        Smallest and largest value there can be.
    ddof
        Of the covariances in it, None where there are none.
    parameters
        Whatever else decides the value, as plain JSON values.
    """

    key: str
    name: str
    further: Literal["larger", "smaller"] = "larger"
    symmetric: bool = True
    centred: bool = False
    bounds: tuple[float, float] = (0.0, math.inf)
    ddof: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A measure of two domains with what it takes to believe it.

    Attributes
    ----------
    names
        The two domains; of a measure that is not symmetric the first is the reference.
    value
        Of all rows of both.
    low, high
        Block-jackknife interval; None with too few blocks.
    n, blocks
        Embeddings and blocks of consecutive slices of each domain; blocks are the effective n.
    p_value
        Of a one-sided test that exchanges whole blocks between the domains.
    distinct
        Different relabellings of blocks; the p-value can't be below one over it.
    ratio
        Mean value between halves of different domains over halves of the same domain, at equal n; None where
        halves are at about nought.
    relative
        `value` over the mean value between halves of the same domain.
    within, between
        Values of halves of the same domain (the two domains alternate) and of different domains.
    null
        Values under permutation.
    caveat
        Why the p-value may be too small, empty where nothing is known against it; see `emvfm.domain.dependence`.
    """

    names: tuple[str, str]
    value: float
    low: float | None
    high: float | None
    level: float
    n: tuple[int, int]
    blocks: tuple[int, int]
    dimension: int
    p_value: float
    permutations: int
    distinct: int
    ratio: float | None
    within: tuple[float, ...]
    between: tuple[float, ...]
    null: tuple[float, ...]
    seed: int
    ddof: int | None = None
    measure: str = "distance"
    key: str = "distance"
    further: Literal["larger", "smaller"] = "larger"
    symmetric: bool = True
    centred: bool = False
    relative: float | None = None
    interval: str = "block jackknife, Student"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    caveat: str = ""

    @property
    def least_p_value(self) -> float:
        """What no p-value of these blocks is below, however far apart the domains are."""
        # A symmetric measure with equally many blocks: exchanging all of them changes nothing.
        observed_ways = 2 if self.symmetric and self.blocks[0] == self.blocks[1] else 1
        return observed_ways / self.distinct

    @property
    def too_few(self) -> bool:
        """Whether there are too few blocks to say anything, however far apart the domains are."""
        no_halves = not self.within if self.centred else self.ratio is None
        return self.least_p_value > 0.05 or no_halves

    @property
    def beyond(self) -> bool:
        """Whether the value is further out than chance explains at 5 %."""
        return not self.too_few and self.p_value <= 0.05

    @property
    def bound(self) -> float | None:
        """The value that 95 % of the null do not go beyond."""
        if not self.null:
            return None
        return float(np.quantile(self.null, 0.95 if self.further == "larger" else 0.05))

    @property
    def verdict(self) -> str:
        """One sentence a person can quote, or why nothing can be said."""
        first, second = self.names
        if self.too_few and self.least_p_value <= 0.05:
            lacking = (
                "hold too few to be compared" if not self.within else f"are at {np.mean(self.within):.3g}"
            )
            return (
                f"{first} and {second}: too few blocks of slices to say anything: halves of one of them {lacking}, so "
                f"that nothing shows what no difference looks like ({self.blocks[0]} and {self.blocks[1]} blocks)"
            )
        if self.too_few:
            return (
                f"{first} and {second}: too few blocks of slices to say anything "
                f"({self.blocks[0]} and {self.blocks[1]}, {self.distinct} ways to exchange them, so that no p-value "
                f"is below {self.least_p_value:.2g})"
            )
        test = f"p = {self.p_value:.3g} from {self.permutations} exchanges of blocks"
        if self.caveat and self.p_value <= 0.05:
            test += f", {TOO_SMALL}"
        if self.p_value > 0.05:
            return f"{first} and {second}: no evidence that they differ to this backbone ({test})"
        if self.ratio is not None and self.further == "larger":
            return (
                f"{first} and {second} differ to this backbone: {self.ratio:.1f} times as far apart as halves "
                f"of one of them, at equal n ({test})"
            )
        return (
            f"{first} and {second} differ to this backbone: {self.measure} {np.mean(self.between):.3g} between "
            f"halves of the two, {np.mean(self.within):.3g} between halves of one of them, at equal n ({test})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        return {**asdict(self), "least_p_value": self.least_p_value, "verdict": self.verdict}


def compare(
    names: tuple[str, str],
    statistics: Statistics,
    measures: Sequence[Measure],
    blocks_x: Sequence[int],
    blocks_y: Sequence[int],
    *,
    dimension: int,
    n: tuple[int, int] | None = None,
    least: int = 2,
    permutations: int = 999,
    repeats: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare two domains by one or more measures at once.

    The interval is a block jackknife for every measure: all of them look at pairs of rows or at covariances, and
    a bootstrap, which draws rows twice, would bias each of them.

    Parameters
    ----------
    statistics
        One value for each of `measures`, of two arrays of rows; not a number where there is none.
    blocks_x, blocks_y
        Block label of each row of either domain.
    dimension
        Of the embeddings.
    n
        Embeddings of each domain, where a row is not one embedding.
    least
        Rows that a set must have to be compared.
    repeats
        Draws of halves.

    Returns
    -------
    tuple
        One comparison a measure, in their order. They share their resamples.

    Raises
    ------
    UsageError
        A measure has no value for the two domains as they are.
    """
    known: dict[tuple[bytes, bytes], Sequence[float]] = {}

    def values(a: Rows, b: Rows) -> Sequence[float]:
        """Measures are resampled one after the other, with one seed: what was drawn before is known."""
        key = (a.tobytes(), b.tobytes())
        if key not in known:
            known[key] = statistics(a, b)
        return known[key]

    results = []
    for i, measure in enumerate(measures):

        def statistic(a: Rows, b: Rows, i: int = i) -> float:
            return float(values(a, b)[i])

        test = block_permutation_test(
            statistic, blocks_x, blocks_y,
            permutations=permutations, seed=seed, further=measure.further, least=least,
        )  # fmt: skip
        if math.isnan(test.observed):
            raise UsageError(f"too few embeddings for {measure.name}", where=" × ".join(names))
        halves = split_halves(statistic, blocks_x, blocks_y, repeats=repeats, seed=seed, least=least)
        interval = block_jackknife_interval(statistic, blocks_x, blocks_y, level=level, bounds=measure.bounds)
        low, high = interval if interval is not None else (None, None)
        floor = float(np.mean(halves.within)) if halves.within and not measure.centred else 0.0
        results.append(
            Comparison(
                names=names,
                value=test.observed,
                low=low,
                high=high,
                level=level,
                n=(len(blocks_x), len(blocks_y)) if n is None else n,
                blocks=(len(set(blocks_x)), len(set(blocks_y))),
                dimension=dimension,
                p_value=test.p_value,
                permutations=len(test.null),
                distinct=test.distinct,
                ratio=None if measure.centred else halves.ratio,
                within=halves.within,
                between=halves.between,
                null=test.null,
                seed=seed,
                ddof=measure.ddof,
                measure=measure.name,
                key=measure.key,
                further=measure.further,
                symmetric=measure.symmetric,
                centred=measure.centred,
                relative=test.observed / floor if floor > 0 else None,
                parameters=dict(measure.parameters),
            )
        )
    return tuple(results)
