"""Several runs on one test set: their mean and the paired difference between two groups, with intervals.

Training again with another seed and testing on other slices are two sources of chance; both are resampled
together (Owen & Eckles 2012, doi:10.1214/12-AOAS547), so that neither passes for the other.
A test of no difference exchanges the two groups' predictions, whole blocks of slices at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.segmentation.metrics import Counts, Estimate, Statistic, scores

__all__ = ["ExchangeTest", "exchange_test", "holm", "mean_of_runs", "paired_difference"]

Runs = Sequence[Sequence[Counts]]

#: Up to this many blocks all ways of exchanging them are gone through, above it random ones.
_ENUMERATED = 14


def mean_of_runs(
    runs: Runs,
    blocks: Sequence[int],
    *,
    statistic: Statistic = "iou",
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate the mean over runs of pooled IoU or Dice.

    Parameters
    ----------
    runs
        For each run the counts of each slice, in one order of slices.
    blocks
        Label of each slice, of :func:`~emvfm.segmentation.metrics.block_labels`.
    statistic
        ``iou`` or ``dice``.
    samples
        Number of resamples.
    level
        Nominal coverage in (0, 1).
    seed
        Of the resampling.

    Raises
    ------
    UsageError
        Without runs, or when slices and labels differ in number.
    """
    totals = _block_totals(runs, blocks)
    value = float(scores(totals.sum(axis=1), statistic).mean())
    return _estimate(value, _replicates(totals, statistic, samples, seed), totals, level, len(blocks))


def paired_difference(
    first: Runs,
    second: Runs,
    blocks: Sequence[int],
    *,
    statistic: Statistic = "iou",
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate by how much `first` scores above `second`: same seeds, same slices, one pair a seed.

    The draws of seeds and blocks are shared by both groups, so what they have in common cancels.
    Parameters, return and errors are those of :func:`mean_of_runs`; the groups have equally many runs.
    """
    _in_pairs(first, second)
    totals = _block_totals([*first, *second], blocks).reshape(2, len(first), -1, 4)
    means = [scores(group.sum(axis=1), statistic).mean() for group in totals]
    draws = [_replicates(group, statistic, samples, seed) for group in totals]
    return _estimate(float(means[0] - means[1]), draws[0] - draws[1], totals[0], level, len(blocks))


@dataclass(frozen=True)
class ExchangeTest:
    """Could a difference come from which of two groups made which prediction?

    Parameters
    ----------
    difference
        First minus second, of the mean over runs of pooled IoU or Dice.
    p_value
        Two-sided; what to expect of chance alone.
    smallest
        The least p-value that so many blocks can give.
    n_blocks
        Blocks of slices that were exchanged.
    method
        How the p-value was made, and whether blocks are too few for it to say anything.
    """

    difference: float
    p_value: float
    smallest: float
    n_blocks: int
    method: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


def exchange_test(
    first: Runs,
    second: Runs,
    blocks: Sequence[int],
    *,
    statistic: Statistic = "iou",
    samples: int = 9999,
    level: float = 0.95,
    seed: int = 0,
) -> ExchangeTest:
    """Test whether two groups of runs score alike on the same slices, by exchanging blocks of predictions.

    If the groups were alike, it would not matter which of them made the predictions of a block; so the
    difference is compared with those after exchanging the groups' counts in some blocks (Fisher's
    randomisation test on paired data; Good 2005, doi:10.1007/b138696). Up to 14 blocks every way is gone
    through; else `samples` random ones are, with the one at hand counted in (Phipson & Smyth 2010,
    doi:10.2202/1544-6115.1585). It speaks of these runs on slices like these, not of other seeds.

    Parameters
    ----------
    first, second
        For each run the counts of each slice, in one order of slices; equally many runs, one pair a seed.
    blocks
        Label of each slice, of :func:`~emvfm.segmentation.metrics.block_labels`.
    statistic
        ``iou`` or ``dice``.
    samples
        Random exchanges where there are too many blocks for all.
    level
        1 - level is the p-value below which a reader would speak of a difference.
    seed
        Of the random exchanges.

    Raises
    ------
    UsageError
        Without runs or samples, or when slices and labels or the groups' runs differ in number.
    """
    if samples < 1:
        raise UsageError("out of range", where="samples", got=samples, expected="at least 1")
    _in_pairs(first, second)
    groups = [_block_totals(runs, blocks) for runs in (first, second)]
    n_blocks = groups[0].shape[1]
    exact = n_blocks <= _ENUMERATED
    if exact:
        ways = (np.arange(2**n_blocks)[:, None] >> np.arange(n_blocks)) % 2
    else:
        ways = np.random.default_rng(seed).integers(0, 2, (samples, n_blocks))
    means = []
    for own, other in (groups, groups[::-1]):
        runs = (own[r].T @ (1 - ways).T + other[r].T @ ways.T for r in range(len(own)))
        means.append(np.mean([scores(run.T, statistic) for run in runs], axis=0))
    difference = means[0] - means[1]
    observed = float(
        scores(groups[0].sum(axis=1), statistic).mean() - scores(groups[1].sum(axis=1), statistic).mean()
    )
    as_far = int((np.abs(difference) >= abs(observed) - 1e-12).sum())
    p_value = as_far / len(ways) if exact else (as_far + 1) / (samples + 1)
    smallest = 2 / 2**n_blocks if exact else 1 / (samples + 1)
    kind = f"all {len(ways)}" if exact else f"{samples} random"
    method = f"{kind} exchanges of {n_blocks} blocks of slices, two-sided"
    if smallest > 1 - level:
        needed = math.ceil(math.log2(2 / (1 - level)))
        method += f"; too few blocks: p can't be below {smallest:.2g}, {needed} blocks could"
    return ExchangeTest(observed, min(1.0, p_value), min(1.0, smallest), n_blocks, method)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number, in the same order (Holm 1979, jstor 4615733)."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    corrected = np.empty_like(values)
    corrected[order] = raised
    return corrected.tolist()


def _in_pairs(first: Runs, second: Runs) -> None:
    if len(first) != len(second):
        raise UsageError("runs are not in pairs", where="runs", got=f"{len(first)} and {len(second)}")


def _block_totals(runs: Runs, blocks: Sequence[int]) -> NDArray[np.float64]:
    """Return ``(runs, blocks, 4)`` counts."""
    if not runs or any(len(run) != len(blocks) for run in runs):
        got = ", ".join(str(len(run)) for run in runs) or "no runs"
        raise UsageError("one block per slice of each run", where="runs", got=got, expected=len(blocks))
    names, block = np.unique(np.asarray(blocks), return_inverse=True)
    totals = np.zeros((len(runs), len(names), 4))
    for run, counts in zip(totals, runs, strict=True):
        np.add.at(run, block, [[c.tp, c.fp, c.fn, c.tn] for c in counts])
    return totals


def _replicates(
    totals: NDArray[np.float64], statistic: Statistic, samples: int, seed: int
) -> NDArray[np.float64]:
    """Return `samples` means over drawn runs of the scores on drawn blocks; the draws depend on sizes and seed."""
    n_runs, n_blocks, _ = totals.shape
    rng = np.random.default_rng(seed)
    blocks = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=samples)
    runs = rng.multinomial(n_runs, np.full(n_runs, 1 / n_runs), size=samples)
    drawn = scores(np.einsum("sb,rbc->src", blocks, totals, optimize=True), statistic)
    return (drawn * runs).sum(axis=1) / n_runs


def _estimate(
    value: float, replicates: NDArray[np.float64], totals: NDArray[np.float64], level: float, n: int
) -> Estimate:
    n_runs, n_blocks, _ = totals.shape
    if n_blocks < 2:
        return Estimate(value, None, None, level, "no interval: a single block of slices", n)
    low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2])
    runs = f"{n_runs} seeds and " if n_runs > 1 else ""
    method = f"percentile bootstrap of {runs}{n_blocks} blocks of slices, {len(replicates)} resamples"
    return Estimate(value, float(low), float(high), level, method, n)
