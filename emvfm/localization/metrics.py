"""Scores of multi-label predictions, each equal to scikit-learn's where that one is defined.

Where a score is undefined, the rule is one of two. A score of decisions counts an empty denominator as 0, as
``zero_division=0`` does: a class that is neither there nor predicted has F1 0, and so has a row without labels
and predictions. A score of rankings (average precision, AUROC) is NaN for a class with nothing to rank, and
means over classes leave that class out; scikit-learn writes 0 there, which punishes a fold for a class that
its draw left empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = [
    "METRICS",
    "ClassScore",
    "Scores",
    "auroc",
    "average_precision",
    "check_pair",
    "class_counts",
    "coverage_error",
    "f1_from_counts",
    "f1_means",
    "ranking_average_precision",
    "samples_f1",
    "score",
]

Labels = NDArray[np.bool_]
Values = NDArray[np.float64]

#: Which numbers of :class:`Scores` there are, and which way is better: 1 for high, -1 for low.
METRICS = {
    "macro_f1_present": 1,
    "macro_f1_all": 1,
    "micro_f1": 1,
    "weighted_f1": 1,
    "samples_f1": 1,
    "exact_match": 1,
    "hamming_loss": -1,
    "macro_ap": 1,
    "micro_ap": 1,
    "ranking_ap": 1,
    "coverage_error": -1,
    "macro_auroc": 1,
    "brier": -1,
    "calibration_error": -1,
}

_ROWS = 4096  # rows whose (classes x classes) comparisons are held at a time


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class; None where there is nothing to rank."""

    name: str
    support: int
    predicted: int
    precision: float
    recall: float
    f1: float
    ap: float | None
    auroc: float | None
    brier: float
    calibration_error: float


@dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions; None where a score is undefined.

    Attributes
    ----------
    n, n_groups
        Rows, and proteins (groups) they come from.
    macro_f1_present, macro_f1_all
        Mean F1 over the classes with a positive row, and over all classes (0 for those without).
    coverage_error
        How far down a row's ranking one has to go for all its labels, in 1 to L (0 for rows without labels).
    brier, calibration_error
        Means over classes of the squared error and of the expected calibration error of the scores, which
        are read as probabilities.
    protocol
        What was scored and how, in words.
    """

    n: int
    n_groups: int | None
    n_classes: int
    n_present: int
    macro_f1_present: float
    macro_f1_all: float
    micro_f1: float
    weighted_f1: float
    samples_f1: float
    exact_match: float
    hamming_loss: float
    macro_ap: float | None
    micro_ap: float | None
    ranking_ap: float
    coverage_error: float
    macro_auroc: float | None
    brier: float
    calibration_error: float
    classes: tuple[ClassScore, ...]
    protocol: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)

    def value(self, metric: str) -> float:
        """Return one of :data:`METRICS`, NaN where it is undefined.

        Raises
        ------
        UsageError
            For a name that is none.
        """
        if metric not in METRICS:
            raise UsageError("no such score", where="metric", got=metric, expected=", ".join(METRICS))
        found = getattr(self, metric)
        return math.nan if found is None else float(found)


def check_pair(labels: ArrayLike, values: ArrayLike, *, where: str = "scores") -> tuple[Labels, Values]:
    """Return labels as ``(N, L)`` bool and values as ``(N, L)`` float64.

    Raises
    ------
    UsageError
        When the shapes differ or are not two-dimensional, without rows or classes, when labels are other than
        0 and 1, or when a value is not finite.
    """
    truth, found = np.asarray(labels), np.asarray(values)
    if truth.ndim != 2 or truth.shape != found.shape or 0 in truth.shape:
        got = f"labels {truth.shape} and values {found.shape}"
        raise UsageError("not one value a row and class", where=where, got=got, expected="(N, L) twice")
    if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
        raise UsageError("labels are not 0 or 1", where="labels", got=f"{np.unique(truth)[:5]}")
    found = found.astype(np.float64)
    if not np.isfinite(found).all():
        got = f"{int((~np.isfinite(found)).sum())} that are not"
        raise UsageError("values are not finite", where=where, got=got, todo="look at the embeddings")
    return truth.astype(np.bool_), found


def class_counts(labels: Labels, decided: Labels) -> NDArray[np.int64]:
    """Return ``(L, 3)``: true positives, false positives, false negatives of each class."""
    hits = (labels & decided).sum(axis=0)
    return np.stack([hits, decided.sum(axis=0) - hits, labels.sum(axis=0) - hits], axis=1)


def _share(part: ArrayLike, whole: ArrayLike) -> Values:
    """Divide, 0 where the denominator is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole > 0)


def f1_from_counts(counts: ArrayLike) -> Values:
    """Return F1 ``(...)`` of counts ``(..., 3)`` as :func:`class_counts` gives them; 0 where all are 0."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    return _share(2 * tp, 2 * tp + fp + fn)


def f1_means(counts: ArrayLike) -> dict[str, Values]:
    """Return the means of F1 over classes, of counts ``(..., L, 3)``: each ``(...)``."""
    table = np.asarray(counts, np.float64)
    f1, support = f1_from_counts(table), table[..., 0] + table[..., 2]
    return {
        "macro_f1_present": _share((f1 * (support > 0)).sum(axis=-1), (support > 0).sum(axis=-1)),
        "macro_f1_all": f1.mean(axis=-1),
        "micro_f1": f1_from_counts(table.sum(axis=-2)),
        "weighted_f1": _share((f1 * support).sum(axis=-1), support.sum(axis=-1)),
    }


def samples_f1(labels: Labels, decided: Labels) -> float:
    """Return the mean over rows of F1 between the labels of a row and those decided."""
    return float(_share(2 * (labels & decided).sum(axis=1), labels.sum(axis=1) + decided.sum(axis=1)).mean())


def average_precision(labels: Labels, values: Values) -> float:
    """Return average precision of one ranking ``(N,)``, ties taken together; NaN without a positive row."""
    positives = int(labels.sum())
    if positives == 0:
        return math.nan
    hits, seen = _steps(labels, values)
    return float((np.diff(hits, prepend=0) / positives * (hits / seen)).sum())


def auroc(labels: Labels, values: Values) -> float:
    """Return the area under the ROC curve of one ranking ``(N,)``, ties as halves; NaN for a single kind of row."""
    from scipy.stats import rankdata

    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return math.nan
    rank_sum = rankdata(values)[labels].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def _steps(labels: Labels, values: Values) -> tuple[Values, Values]:
    """Return positives and rows at or above each distinct value, from the highest."""
    order = np.argsort(-values, kind="stable")
    last = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    return np.cumsum(labels[order], dtype=np.float64)[last], last + 1.0


def ranking_average_precision(labels: Labels, values: Values) -> float:
    """Return label-ranking average precision; 1 for a row with no label or with all of them."""
    total = 0.0
    for start in range(0, len(labels), _ROWS):
        truth, block = labels[start : start + _ROWS], values[start : start + _ROWS]
        at_least = block[:, None, :] >= block[:, :, None]  # [row, class, other class]
        above, true_above = at_least.sum(axis=2), (at_least & truth[:, None, :]).sum(axis=2)
        n_true = truth.sum(axis=1)
        per_row = _share((true_above / above * truth).sum(axis=1), n_true)
        total += float(np.where((n_true == 0) | (n_true == truth.shape[1]), 1.0, per_row).sum())
    return total / len(labels)


def coverage_error(labels: Labels, values: Values) -> float:
    """Return the mean rank of the lowest-ranked label of each row; 0 for a row without labels."""
    lowest = np.where(labels, values, np.inf).min(axis=1)
    return float((values >= lowest[:, None]).sum(axis=1).mean())


def calibration_error(labels: Labels, values: Values, *, bins: int = 15) -> float:
    """Return the expected calibration error of one class ``(N,)`` in `bins` of equal width over 0 to 1.

    Guo et al. 2017 (arXiv 1706.04599), of the positive class. Scores outside 0 to 1 fall into the end bins.
    """
    place = np.clip((values * bins).astype(np.intp), 0, bins - 1)
    gap = np.bincount(place, weights=values - labels, minlength=bins)
    return float(np.abs(gap).sum() / len(values))


def score(
    labels: ArrayLike,
    scores: ArrayLike,
    decided: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    groups: ArrayLike | None = None,
    bins: int = 15,
    protocol: str = "",
) -> Scores:
    """Score predictions in every way this package knows.

    Parameters
    ----------
    labels
        ``(N, L)`` of 0 and 1.
    scores
        ``(N, L)`` probabilities; only their order matters to the ranking scores.
    decided
        ``(N, L)`` of 0 and 1, of :meth:`~emvfm.localization.thresholds.Thresholds.decide`.
    names
        Of the classes; their numbers by default.
    groups
        ``(N,)`` protein of each row, only counted here.
    bins
        Of the calibration error.

    Raises
    ------
    UsageError
        When shapes or values are not as above.
    """
    truth, values = check_pair(labels, scores)
    _, found = check_pair(truth, decided, where="decided")
    if not np.isin(found, (0, 1)).all():
        raise UsageError("decisions are not 0 or 1", where="decided", todo="apply the thresholds first")
    if bins < 1:
        raise UsageError("too few bins", where="bins", got=bins, expected="at least 1")
    chosen = found.astype(np.bool_)
    n, n_classes = truth.shape
    names = [str(i) for i in range(n_classes)] if names is None else list(names)
    if len(names) != n_classes:
        raise UsageError("not one name a class", where="names", got=len(names), expected=n_classes)
    counts = class_counts(truth, chosen)
    tp, fp, fn = counts.T.astype(np.float64)
    precision, recall, f1 = _share(tp, tp + fp), _share(tp, tp + fn), f1_from_counts(counts)
    aps = np.array([average_precision(truth[:, i], values[:, i]) for i in range(n_classes)])
    areas = np.array([auroc(truth[:, i], values[:, i]) for i in range(n_classes)])
    briers = ((values - truth) ** 2).mean(axis=0)
    gaps = np.array([calibration_error(truth[:, i], values[:, i], bins=bins) for i in range(n_classes)])
    classes = tuple(
        ClassScore(
            names[i], int(tp[i] + fn[i]), int(tp[i] + fp[i]), float(precision[i]), float(recall[i]), float(f1[i]),
            _defined(aps[i]), _defined(areas[i]), float(briers[i]), float(gaps[i]),
        )
        for i in range(n_classes)
    )  # fmt: skip
    means = {name: float(value) for name, value in f1_means(counts).items()}
    return Scores(
        n=n,
        n_groups=None if groups is None else len(np.unique(np.asarray(groups))),
        n_classes=n_classes,
        n_present=int((tp + fn > 0).sum()),
        **means,
        samples_f1=samples_f1(truth, chosen),
        exact_match=float((truth == chosen).all(axis=1).mean()),
        hamming_loss=float((truth != chosen).mean()),
        macro_ap=_mean_of_defined(aps),
        micro_ap=_defined(average_precision(truth.ravel(), values.ravel())),
        ranking_ap=ranking_average_precision(truth, values),
        coverage_error=coverage_error(truth, values),
        macro_auroc=_mean_of_defined(areas),
        brier=float(briers.mean()),
        calibration_error=float(gaps.mean()),
        classes=classes,
        protocol=protocol,
    )


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _mean_of_defined(values: Values) -> float | None:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else None
