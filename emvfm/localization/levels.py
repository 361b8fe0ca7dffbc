"""What is scored: rows such as cells, units of them such as fields, or whole groups such as proteins.

One head, fitted once, is scored at every level that the facts allow: a field's scores are the mean of its cells' (or
their largest, or a noisy-or), a protein's that of its fields'. Thresholds are tuned at the level that they decide at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.localization.aggregation import aggregate_labels, aggregate_levels
from emvfm.localization.folds import Folds, group_numbers
from emvfm.localization.metrics import Scores
from emvfm.localization.options import ProtocolOptions
from emvfm.localization.predictions import FoldMean, Interval, Predictions, fold_values, mean_interval

__all__ = ["LEVELS", "Joining", "Level", "LevelScores", "other_levels"]

Rows = NDArray[np.intp]
Level = Literal["row", "unit", "group"]
LEVELS: tuple[Level, ...] = ("row", "unit", "group")


@dataclass(frozen=True)
class Joining:
    """How rows become what is scored at one level."""

    protocol: ProtocolOptions
    units: Rows | None
    single: bool

    def __call__(
        self, truth: NDArray[np.bool_], scores: NDArray[np.float64], group: Rows, rows: Rows
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64], Rows, Rows]:
        """Return labels, scores, protein and number of each scored unit of `rows`."""
        level, how = self.protocol.level, self.protocol.aggregation
        if level == "row":
            return truth, scores, group, rows
        levels = [group] if self.units is None else [self.units[rows], group]
        joined = aggregate_levels(scores, levels, how)[0 if level == "unit" else -1]
        owner = levels[0] if level == "unit" else group
        first = np.unique(owner, return_index=True)[1]
        labels = aggregate_labels(truth, owner, differing="refuse" if self.single else "any")
        return labels, joined.scores, group[first], joined.names.astype(np.intp)


@dataclass(frozen=True)
class LevelScores:
    """The scores of a run at another level than that of its protocol.

    Attributes
    ----------
    predictions
        Out of fold, fold by fold, units by name.
    pooled
        Scores of all out-of-fold predictions together.
    means
        Mean over folds of every score.
    """

    level: Level
    predictions: Predictions
    pooled: Scores
    means: tuple[FoldMean, ...]

    def mean(self, metric: str) -> FoldMean:
        """Return the mean over folds of one of the metrics."""
        return fold_values(self.predictions, metric)

    def interval(self, metric: str, *, samples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
        """Return the mean over folds with an interval over proteins."""
        return mean_interval(self.predictions, metric, samples=samples, level=level, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays as strict JSON types."""
        return {
            "level": self.level,
            "pooled": self.pooled.to_json(),
            "means": [mean.to_json() for mean in self.means],
        }


def _alike(values: NDArray[Any], number: Rows) -> bool:
    """Say whether rows ``(N, ...)`` of the same number have the same value."""
    first = values[np.unique(number, return_index=True)[1]]
    return bool((values == first[number]).all())


def other_levels(
    labels: ArrayLike, folds: Folds, units: ArrayLike | None, own: str, *, single: bool = False
) -> tuple[Level, ...]:
    """Return the levels beside `own` that the facts allow.

    A level is there if it joins rows, if what it joins is tested in one fold, each unit lies in one group and, where
    the classes compete, its rows have one label.

    Parameters
    ----------
    labels
        ``(N, L)`` of all rows.
    units
        ``(N,)`` names of the units; None without any.
    """
    truth = np.asarray(labels).astype(bool)
    number = None if units is None else group_numbers(units)
    nested = number is None or _alike(folds.group, number)
    found: list[Level] = ["row"]
    least = len(truth)
    for level, joined in (("unit", number), ("group", folds.group)):
        if joined is None or not nested or len(np.unique(joined)) == least:
            continue
        if _alike(folds.fold, joined) and not (single and not _alike(truth, joined)):
            found.append("unit" if level == "unit" else "group")
            least = len(np.unique(joined))
    return tuple(level for level in found if level != own)
