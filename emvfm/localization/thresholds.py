"""Where a score becomes a decision: fixed, one for all classes, or one a class; the likeliest of competing classes.

Thresholds are tuned on an inner validation split of the training rows. The functions here take only that
split's labels and scores; test rows have no way in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.localization.metrics import check_pair

__all__ = ["ThresholdRule", "Thresholds", "fixed_thresholds", "likeliest", "tune_thresholds"]

ThresholdRule = Literal["fixed", "global", "per-class", "likeliest"]
_TUNED = ("fixed", "global", "per-class")


@dataclass(frozen=True)
class Thresholds:
    """A decision rule: a class is predicted where its score is above its threshold, or where it is the highest.

    Attributes
    ----------
    rule
        How the thresholds came about.
    values
        One a class; none for ``likeliest``.
    tuned_on
        Rows they were tuned on; 0 for fixed ones.
    too_rare
        Classes with too few positives to tune on, which got the global threshold instead of their own.
    """

    rule: ThresholdRule
    values: tuple[float, ...]
    tuned_on: int = 0
    too_rare: tuple[int, ...] = ()

    def decide(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Return ``(N, L)`` bool of scores ``(N, L)``.

        Raises
        ------
        UsageError
            When there is not one column a class.
        """
        values = np.asarray(scores, np.float64)
        if self.rule == "likeliest" and values.ndim == 2:
            return np.asarray(np.arange(values.shape[1]) == values.argmax(axis=1)[:, None])
        if values.ndim != 2 or values.shape[1] != len(self.values):
            raise UsageError("not one score a class", got=values.shape, expected=f"(N, {len(self.values)})")
        return values > np.array(self.values)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


def fixed_thresholds(n_classes: int, value: float = 0.5) -> Thresholds:
    """Return the same threshold for all classes, 0.5 as DINO4Cells has it."""
    return Thresholds("fixed", (float(value),) * n_classes)


def likeliest() -> Thresholds:
    """Return the rule for rows with one label: the class with the highest score, the first of equal ones."""
    return Thresholds("likeliest", ())


def tune_thresholds(
    labels: ArrayLike,
    scores: ArrayLike,
    rule: ThresholdRule = "per-class",
    *,
    fixed: float = 0.5,
    least: int = 5,
) -> Thresholds:
    """Choose the thresholds with the best F1 on validation rows, of all cuts there are between scores.

    Parameters
    ----------
    labels, scores
        ``(N, L)`` of the inner validation split.
    rule
        ``fixed`` looks at nothing; ``global`` takes the best macro F1 over present classes; ``per-class`` the
        best F1 of each class. Among equally good cuts the one nearest to `fixed` is taken.
    fixed
        The fixed threshold.
    least
        Positive rows that a class must have for a threshold of its own; rarer ones take the global one. The
        best cut of two positives is noise.

    Raises
    ------
    UsageError
        For another rule, or arrays that do not fit.
    """
    if rule not in _TUNED:
        raise UsageError("no such rule", where="thresholds", got=rule, expected=", ".join(_TUNED))
    truth, values = check_pair(labels, scores)
    n, n_classes = truth.shape
    if rule == "fixed":
        return fixed_thresholds(n_classes, fixed)
    present = np.flatnonzero(truth.any(axis=0))
    common = _best_cut(truth[:, present], values[:, present], fixed) if len(present) else fixed
    if rule == "global":
        return Thresholds(rule, (common,) * n_classes, n)
    rare = truth.sum(axis=0) < max(1, least)
    own = [common if rare[i] else _best_cut(truth[:, [i]], values[:, [i]], fixed) for i in range(n_classes)]
    return Thresholds(rule, tuple(own), n, tuple(np.flatnonzero(rare).tolist()))


def _best_cut(truth: NDArray[np.bool_], values: NDArray[np.float64], fixed: float) -> float:
    """Return the cut with the highest mean F1 over columns, each of which has a positive.

    One pass from the highest score down: each score that falls to the predicted side changes one class's F1.
    """
    n, n_classes = truth.shape
    rows = np.argsort(-values, axis=0, kind="stable")
    hits = np.cumsum(np.take_along_axis(truth, rows, axis=0), axis=0)
    f1 = 2 * hits / (np.arange(1, n + 1)[:, None] + truth.sum(axis=0))
    steps = np.diff(f1, axis=0, prepend=0.0)
    flat = np.take_along_axis(values, rows, axis=0).ravel()
    order = np.argsort(-flat, kind="stable")
    ordered = flat[order]
    mean = np.concatenate([[0.0], np.cumsum(steps.ravel()[order]) / n_classes])
    # A cut can lie above all scores, between two different ones, or below all.
    middles = (ordered[:-1] + ordered[1:]) / 2
    middles = np.where(middles < ordered[:-1], middles, ordered[1:])  # two neighbours in float64
    ends = max(ordered[0], fixed), min(np.nextafter(ordered[-1], -np.inf), fixed)
    cuts = np.concatenate([[ends[0]], middles, [ends[1]]])
    allowed = np.concatenate([[True], ordered[:-1] > ordered[1:], [True]])
    best = np.flatnonzero(allowed & (mean >= mean[allowed].max() - 1e-12))
    # Any point of the gap decides alike; `fixed` itself where the gap holds it.
    upper, lower = np.append(np.inf, ordered), np.append(ordered, -np.inf)
    holds = (lower[best] <= fixed) & (fixed < upper[best])
    if holds.any():
        return float(fixed)
    return float(cuts[best[np.argmin(np.abs(cuts[best] - fixed))]])
