"""What a comparison of domains says: numbers with their n, null and interval, and one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emvfm.domain.frechet import frechet_from_gram, gram
from emvfm.domain.resampling import block_jackknife_interval, block_permutation_test, split_halves

__all__ = ["FrechetComparison", "compare_frechet"]


@dataclass(frozen=True)
class FrechetComparison:
    """The Fréchet distance of two domains with what it takes to believe it.

    Attributes
    ----------
    value
        Squared Fréchet distance, ddof 1, float64.
    low, high
        Block-jackknife interval; None with too few blocks.
    n, blocks
        Embeddings and blocks of consecutive slices of each domain; blocks are the effective n.
    p_value
        Of a one-sided test that exchanges whole blocks between the domains.
    distinct
        Different relabellings of blocks; the p-value can't be below one over it.
    ratio
        Distance between halves of different domains over halves of the same domain, at equal n.
    within, between
        Those distances.
    null
        Distances under permutation.
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
    ddof: int = 1

    @property
    def verdict(self) -> str:
        """One sentence a person can quote, or why nothing can be said."""
        first, second = self.names
        # The distance is symmetric: with equally many blocks, exchanging all of them changes nothing.
        observed_ways = 2 if self.blocks[0] == self.blocks[1] else 1
        if observed_ways / self.distinct > 0.05 or self.ratio is None:
            return (
                f"{first} and {second}: too few blocks of slices to say anything "
                f"({self.blocks[0]} and {self.blocks[1]}, {self.distinct} ways to exchange them)"
            )
        test = f"p = {self.p_value:.3g} from {self.permutations} exchanges of blocks"
        if self.p_value > 0.05:
            return f"{first} and {second}: no evidence that they differ to this backbone ({test})"
        return (
            f"{first} and {second} differ to this backbone: {self.ratio:.1f} times as far apart as halves "
            f"of one of them, at equal n ({test})"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        return {**asdict(self), "verdict": self.verdict}


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
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    matrix = gram(first, second)

    def statistic(a: np.ndarray, b: np.ndarray) -> float:
        return frechet_from_gram(matrix, a, b)

    test = block_permutation_test(statistic, blocks_x, blocks_y, permutations=permutations, seed=seed)
    halves = split_halves(statistic, blocks_x, blocks_y, seed=seed)
    interval = block_jackknife_interval(statistic, blocks_x, blocks_y, level=level)
    low, high = interval if interval is not None else (None, None)
    return FrechetComparison(
        names=names,
        value=test.observed,
        low=low,
        high=high,
        level=level,
        n=(len(first), len(second)),
        blocks=(len(set(blocks_x)), len(set(blocks_y))),
        dimension=first.shape[1],
        p_value=test.p_value,
        permutations=len(test.null),
        distinct=test.distinct,
        ratio=halves.ratio,
        within=halves.within,
        between=halves.between,
        null=test.null,
        seed=seed,
    )
