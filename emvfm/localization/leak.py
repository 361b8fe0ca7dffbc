"""What ungrouped folds add to a score: the same head on the same rows, with proteins cut apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.localization.crossvalidation import CrossValidation, cross_validate
from emvfm.localization.folds import FoldReport
from emvfm.localization.metrics import METRICS
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.predictions import FoldMean, Interval, difference_interval

__all__ = ["Leak", "leak_of", "measure_leak"]


@dataclass(frozen=True)
class Leak:
    """What ungrouped folds add to a score of the same head on the same rows.

    Attributes
    ----------
    overstatement
        Ungrouped minus grouped, with an interval over proteins, positive where the score looks better than it is
        for a metric that is better when high.
    """

    metric: str
    grouped: FoldMean
    ungrouped: FoldMean
    overstatement: Interval
    folds: FoldReport

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self) | {"overstatement": self.overstatement.to_json()}

    def text(self) -> str:
        """Return one line for a person."""
        found, report = self.overstatement, self.folds
        between = "" if found.low is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
        good = METRICS[self.metric]
        ends = [good * end for end in (found.low, found.high) if end is not None] or [good * found.value]
        verb = (
            "overstate" if min(ends) > 0 else "understate" if max(ends) < 0 else "do not measurably overstate"
        )
        return (
            f"ungrouped folds {verb} {self.metric}: {self.ungrouped.mean:.4f} against {self.grouped.mean:.4f} with"
            f" whole groups ({found.value:+.4f}{between}); {report.crossing_groups} of {report.n_groups} groups"
            f" cross folds, {report.seen_rows:.0%} of the rows have a sibling in training"
        )


def leak_of(
    grouped: CrossValidation,
    ungrouped: CrossValidation,
    metric: str = "macro_f1_present",
    *,
    samples: int = 1000,
    level: float = 0.95,
) -> Leak:
    """Compare a run with whole proteins to one of the same head with proteins cut apart.

    Parameters
    ----------
    samples, level
        Of the interval over proteins.
    """
    added = difference_interval(
        ungrouped.predictions,
        grouped.predictions,
        metric,
        samples=samples,
        level=level,
        seed=grouped.protocol.seed,
    )
    return Leak(metric, grouped.mean(metric), ungrouped.mean(metric), added, ungrouped.folds.report)


def measure_leak(
    embeddings: NDArray[np.floating],
    labels: ArrayLike,
    groups: ArrayLike,
    head: HeadOptions | None = None,
    protocol: ProtocolOptions | None = None,
    *,
    metric: str = "macro_f1_present",
    samples: int = 1000,
    level: float = 0.95,
    device: str = "cpu",
) -> tuple[Leak, CrossValidation, CrossValidation]:
    """Run the protocol with folds by protein and with folds by row, and compare.

    Parameters are those of :func:`cross_validate`; `samples` and `level` are of the interval over proteins.

    Returns
    -------
    tuple
        The leak, the grouped run, the ungrouped run.
    """
    protocol = protocol or ProtocolOptions()
    runs = [
        cross_validate(
            embeddings, labels, groups, head, replace(protocol, ungrouped=ungrouped), device=device
        )
        for ungrouped in (False, True)
    ]
    grouped, ungrouped = runs
    return leak_of(grouped, ungrouped, metric, samples=samples, level=level), grouped, ungrouped
