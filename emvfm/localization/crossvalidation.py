"""The whole protocol: folds, inner split, representation and head, thresholds, scores; and what a leak adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.aggregation import aggregate, aggregate_labels
from emvfm.localization.folds import FoldReport, Folds, inner_split, make_folds
from emvfm.localization.heads import Training, fit_head, needs_validation
from emvfm.localization.metrics import METRICS, Scores, score
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.predictions import (
    FoldMean,
    Interval,
    Predictions,
    difference_interval,
    fold_values,
    mean_interval,
)
from emvfm.localization.thresholds import Thresholds, fixed_thresholds, tune_thresholds

__all__ = ["CrossValidation", "FoldRun", "Leak", "cross_validate", "measure_leak"]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class FoldRun:
    """One fold: how it was fitted, where it decided, how it scored."""

    fold: int
    seed: int
    n_fit: int
    n_validation: int
    thresholds: Thresholds
    training: Training
    scores: Scores

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self) | {"training": self.training.to_json()}


@dataclass(frozen=True)
class CrossValidation:
    """All folds of one run.

    Attributes
    ----------
    predictions
        Out of fold, in the order of the rows (at level group: fold by fold, proteins by name).
    row_scores
        ``(N, L)`` out-of-fold probabilities of the rows, whatever the level.
    pooled
        Scores of all out-of-fold predictions together; the mean over folds is in `means`.
    """

    head: HeadOptions
    protocol: ProtocolOptions
    names: tuple[str, ...]
    folds: Folds
    runs: tuple[FoldRun, ...]
    predictions: Predictions
    row_scores: NDArray[np.float64]
    pooled: Scores
    means: tuple[FoldMean, ...]

    def mean(self, metric: str) -> FoldMean:
        """Return the mean over folds of one of the metrics."""
        return fold_values(self.predictions, metric)

    def interval(self, metric: str, *, samples: int = 1000, level: float = 0.95) -> Interval:
        """Return the mean over folds with an interval over proteins."""
        found, seed = self.predictions, self.protocol.seed
        return mean_interval(found, metric, samples=samples, level=level, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays as strict JSON types."""
        return {
            "head": asdict(self.head),
            "protocol": asdict(self.protocol),
            "names": list(self.names),
            "folds": self.folds.report.to_json(),
            "runs": [run.to_json() for run in self.runs],
            "pooled": self.pooled.to_json(),
            "means": [mean.to_json() for mean in self.means],
        }


def cross_validate(
    embeddings: NDArray[np.floating],
    labels: ArrayLike,
    groups: ArrayLike,
    head: HeadOptions | None = None,
    protocol: ProtocolOptions | None = None,
    *,
    folds: Folds | None = None,
    names: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Callable[[FoldRun], None] | None = None,
) -> CrossValidation:
    """Fit and test a head on every fold.

    Of each fold's training rows an inner split is set aside where stopping or thresholds need one; scaler,
    components and head see the rest. Test rows are scored once, by thresholds that are settled by then.

    Parameters
    ----------
    embeddings
        ``(N, D)`` float.
    labels
        ``(N, L)`` of 0 and 1.
    groups
        ``(N,)`` protein of each row.
    folds
        Of another run, to compare with; made anew by default.
    names
        Of the classes.
    progress
        Called after each fold.

    Raises
    ------
    UsageError
        When the arrays do not fit.
    RefusedError
        When there are too few proteins for the folds, or given folds are of other rows.
    """
    head, protocol = head or HeadOptions(), protocol or ProtocolOptions()
    truth, owner = np.asarray(labels).astype(bool), np.asarray(groups)
    if np.ndim(embeddings) != 2 or truth.ndim != 2 or len(embeddings) != len(truth):
        got = f"{np.shape(embeddings)} and {truth.shape}"
        raise UsageError("not one embedding a row of labels", where="localisation", got=got)
    if folds is None:
        folds = make_folds(
            truth, owner, k=protocol.folds, grouped=protocol.grouped, order=protocol.order, seed=protocol.seed
        )
    elif len(folds.fold) != len(truth):
        raise RefusedError("folds of other rows", where="folds", got=len(folds.fold), expected=len(truth))
    classes = [str(i) for i in range(truth.shape[1])] if names is None else [str(name) for name in names]
    row_scores = np.full(truth.shape, np.nan)
    runs, parts = [], []
    for i, (train, test) in enumerate(folds):
        run, part, row_scores[test] = _one_fold(
            embeddings, truth, folds, i, train, test, head, protocol, classes, device
        )
        runs.append(run)
        parts.append(part)
        if progress is not None:
            progress(run)
    found = Predictions(
        *(
            np.concatenate([getattr(p, f) for p in parts])
            for f in ("labels", "scores", "decided", "group", "fold")
        )
    )
    if protocol.level == "row":
        order = np.argsort(np.concatenate([test for _, test in folds]))
        found = Predictions(
            found.labels[order],
            found.scores[order],
            found.decided[order],
            found.group[order],
            found.fold[order],
        )
    pooled = score(
        found.labels,
        found.scores,
        found.decided,
        names=classes,
        groups=found.group,
        protocol=_said(folds, protocol),
    )
    means = tuple(FoldMean.of_values(m, [run.scores.value(m) for run in runs]) for m in METRICS)
    return CrossValidation(
        head, protocol, tuple(classes), folds, tuple(runs), found, row_scores, pooled, means
    )


def _said(folds: Folds, protocol: ProtocolOptions) -> str:
    kind = "grouped by protein" if folds.grouped else "NOT grouped by protein"
    level = "rows" if protocol.level == "row" else f"proteins ({protocol.aggregation} of rows)"
    tuned = (
        protocol.thresholds if protocol.thresholds == "fixed" else f"{protocol.thresholds} on an inner split"
    )
    return f"{folds.k} folds {kind}, out-of-fold scores of {level}, thresholds {tuned}, seed {protocol.seed}"


def _one_fold(
    embeddings: NDArray[np.floating],
    truth: NDArray[np.bool_],
    folds: Folds,
    i: int,
    train: Rows,
    test: Rows,
    head: HeadOptions,
    protocol: ProtocolOptions,
    names: Sequence[str],
    device: str,
) -> tuple[FoldRun, Predictions, NDArray[np.float64]]:
    seed = int(np.random.SeedSequence([protocol.seed, i]).generate_state(1)[0])
    tuned = protocol.thresholds != "fixed"
    fit, held = train, np.zeros(0, np.intp)
    if tuned or needs_validation(head):
        fit, held = inner_split(
            truth,
            folds.group,
            train,
            fraction=protocol.inner,
            grouped=folds.grouped,
            order=protocol.order,
            seed=seed,
        )
    watched = (embeddings[held], truth[held]) if needs_validation(head) else None
    fitted = fit_head(embeddings[fit], truth[fit], head, validation=watched, seed=seed, device=device)
    if tuned:
        inner = _units(truth[held], fitted.scores(embeddings[held]), folds.group[held], protocol)
        thresholds = tune_thresholds(inner[0], inner[1], protocol.thresholds, fixed=protocol.fixed)
    else:
        thresholds = fixed_thresholds(truth.shape[1], protocol.fixed)
    rows = fitted.scores(embeddings[test])
    labels, scores, group = _units(truth[test], rows, folds.group[test], protocol)
    decided = thresholds.decide(scores)
    said = f"test rows of fold {i + 1} of {folds.k}"
    scored = score(labels, scores, decided, names=names, groups=group, protocol=said)
    run = FoldRun(i, seed, len(fit), len(held), thresholds, fitted.training, scored)
    return run, Predictions(labels, scores, decided, group, np.full(len(group), i, np.intp)), rows


def _units(
    truth: NDArray[np.bool_], scores: NDArray[np.float64], group: Rows, protocol: ProtocolOptions
) -> tuple[NDArray[np.bool_], NDArray[np.float64], Rows]:
    """Return labels, scores and protein of what is scored: rows, or proteins."""
    if protocol.level == "row":
        return truth, scores, group
    joined = aggregate(scores, group, protocol.aggregation)
    return aggregate_labels(truth, group, differing="any"), joined.scores, joined.names.astype(np.intp)


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
            f" whole proteins ({found.value:+.4f}{between}); {report.crossing_groups} of {report.n_groups} proteins"
            f" cross folds, {report.seen_rows:.0%} of the rows have a sibling in training"
        )


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
        cross_validate(embeddings, labels, groups, head, replace(protocol, grouped=grouped), device=device)
        for grouped in (True, False)
    ]
    grouped, ungrouped = runs
    added = difference_interval(
        ungrouped.predictions, grouped.predictions, metric, samples=samples, level=level, seed=protocol.seed
    )
    leak = Leak(metric, grouped.mean(metric), ungrouped.mean(metric), added, ungrouped.folds.report)
    return leak, grouped, ungrouped
