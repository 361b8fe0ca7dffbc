"""Several runs on one test set: their mean and the paired difference between two groups, with intervals.

Training again with another seed and testing on other slices are two sources of chance; both are resampled
together (Owen & Eckles 2012, doi:10.1214/12-AOAS547), so that neither passes for the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.segmentation.metrics import Counts, Estimate, Statistic, scores

__all__ = ["mean_of_runs", "paired_difference"]

Runs = Sequence[Sequence[Counts]]


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
    if len(first) != len(second):
        raise UsageError("runs are not in pairs", where="runs", got=f"{len(first)} and {len(second)}")
    totals = _block_totals([*first, *second], blocks).reshape(2, len(first), -1, 4)
    means = [scores(group.sum(axis=1), statistic).mean() for group in totals]
    draws = [_replicates(group, statistic, samples, seed) for group in totals]
    return _estimate(float(means[0] - means[1]), draws[0] - draws[1], totals[0], level, len(blocks))


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
