"""Embeddings with a leak of known size: each protein has a look of its own, and its rows share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.localization.folds import group_numbers

__all__ = ["ExpectedLeak", "expected_leak", "simulate_embeddings"]


def simulate_embeddings(
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    width: int = 64,
    signal: float = 0.0,
    identity: float = 1.0,
    noise: float = 0.1,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Draw embeddings ``(N, width)`` float32 of rows with labels ``(N, L)`` and proteins ``(N,)``.

    Each row is `signal` times the sum of its labels' directions, plus `identity` times a Gaussian vector of its
    protein, plus `noise` times one of its own.
    """
    truth, group = np.asarray(labels, np.float64), group_numbers(groups)
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(truth.shape[1], width))
    own = rng.normal(size=(int(group.max()) + 1, width))
    found = signal * truth @ directions + identity * own[group]
    return (found + noise * rng.normal(size=found.shape)).astype(np.float32)


@dataclass(frozen=True)
class ExpectedLeak:
    """Macro F1 to expect of one nearest neighbour where embeddings tell proteins apart and nothing else."""

    grouped: float
    ungrouped: float

    @property
    def overstatement(self) -> float:
        """By how much ungrouped folds are too high."""
        return self.ungrouped - self.grouped


def expected_leak(labels: ArrayLike, seen_rows: float) -> ExpectedLeak:
    """Return what one nearest neighbour scores without signal and with next to no noise.

    A row with a sibling in training gets its own labels; any other row gets those of a random protein, which has
    a label as often as its share p of rows is. With a share s of rows that have a sibling, precision and recall
    of a class are both s + (1 - s) p, hence so is F1; grouped folds have s = 0.

    Parameters
    ----------
    labels
        ``(N, L)`` of 0 and 1.
    seen_rows
        Share of rows tested after a sibling was in training, of the folds' report.
    """
    shares = np.asarray(labels, np.float64).mean(axis=0)
    shares = shares[shares > 0]
    return ExpectedLeak(float(shares.mean()), float((seen_rows + (1 - seen_rows) * shares).mean()))
