"""The whole protocol: folds, inner split, representation and head, thresholds, scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.epochs import Training
from emvfm.localization.folds import Folds, group_numbers, inner_split, make_folds
from emvfm.localization.heads import fit_head, needs_validation
from emvfm.localization.levels import Joining, Level, LevelScores
from emvfm.localization.metrics import METRICS, Scores, score
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.predictions import (
    FoldMean,
    Interval,
    Predictions,
    fold_values,
    mean_interval,
)
from emvfm.localization.thresholds import Thresholds, fixed_thresholds, likeliest, tune_thresholds

__all__ = ["CrossValidation", "FoldRun", "cross_validate"]

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
        Out of fold, in the order of the rows (at other levels: fold by fold, units by name).
    row_scores
        ``(N, L)`` out-of-fold probabilities of the rows, whatever the level; NaN for rows that no fold tests.
    pooled
        Scores of all out-of-fold predictions together; the mean over folds is in `means`.
    others
        The same run scored at other levels.
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
    others: tuple[LevelScores, ...] = ()

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
            "others": [other.to_json() for other in self.others],
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
    units: ArrayLike | None = None,
    learn_from: Callable[[int, Rows], Rows] | None = None,
    prepare: Callable[[Rows], NDArray[np.floating]] | None = None,
    levels: Sequence[Level] = (),
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
    units
        ``(N,)`` what is scored at level unit, such as the field of each cell; each lies in one protein. At level
        group, scores are joined to units first.
    learn_from
        Given the number of a fold and its training rows, which of them to learn from; all by default.
    prepare
        Given the tested rows of a fold, the embeddings of all rows ``(N, K)`` in it, such as corrected by the others.
    levels
        At which the same heads are scored as well, see :func:`~emvfm.localization.levels.other_levels`.
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
            truth,
            owner,
            k=protocol.folds,
            grouped=not protocol.ungrouped,
            order=protocol.order,
            seed=protocol.seed,
        )
    elif len(folds.fold) != len(truth):
        raise RefusedError("folds of other rows", where="folds", got=len(folds.fold), expected=len(truth))
    if "unit" in (protocol.level, *levels) and units is None:
        raise UsageError("no units to score", where="level", got="unit", todo="give units")
    number = None if units is None else group_numbers(units)
    protocols = [protocol, *(replace(protocol, level=level) for level in levels)]
    joinings = [Joining(one, number, bool(head.single)) for one in protocols]
    classes = [str(i) for i in range(truth.shape[1])] if names is None else [str(name) for name in names]
    row_scores = np.full(truth.shape, np.nan)
    runs, parts = [], []
    scored: list[list[Scores]] = []
    for i, (train, test) in enumerate(folds):
        chosen = train if learn_from is None else learn_from(i, train)
        own = embeddings if prepare is None else prepare(test)
        run, tested, row_scores[test] = _one_fold(
            own, truth, folds, i, chosen, test, head, joinings, classes, device
        )
        runs.append(run)
        parts.append([part for _, part in tested])
        scored.append([scores for scores, _ in tested])
        if progress is not None:
            progress(run)
    whole = []
    for at, one in enumerate(protocols):
        found = _together([part[at] for part in parts], in_order=one.level == "row")
        said = _said(folds, one, head)
        pooled = score(
            found.labels, found.scores, found.decided, names=classes, groups=found.group, protocol=said
        )
        means = tuple(FoldMean.of_values(m, [own[at].value(m) for own in scored]) for m in METRICS)
        whole.append(LevelScores(one.level, found, pooled, means))
    main, *others = whole
    return CrossValidation(
        head, protocol, tuple(classes), folds, tuple(runs), main.predictions, row_scores, main.pooled,
        main.means, tuple(others),
    )  # fmt: skip


def _together(parts: Sequence[Predictions], *, in_order: bool) -> Predictions:
    """Join the predictions of all folds, in the order of rows or fold by fold, proteins numbered without gaps."""
    columns = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in fields(Predictions)
    }
    if in_order:
        order = np.argsort(columns["unit"], kind="stable")
        columns = {name: column[order] for name, column in columns.items()}
    columns["group"] = group_numbers(columns["group"])
    return Predictions(**columns)


def _said(folds: Folds, protocol: ProtocolOptions, head: HeadOptions) -> str:
    kind = "of whole groups" if folds.grouped else "that cuts groups apart"
    how = f" ({protocol.aggregation} of rows)"
    level = {"row": "rows", "unit": "units" + how, "group": "groups" + how}[protocol.level]
    tuned = (
        protocol.thresholds if protocol.thresholds == "fixed" else f"{protocol.thresholds} on an inner split"
    )
    decided = "the likeliest class predicted" if head.single else f"thresholds {tuned}"
    many = "one split" if folds.k == 1 else f"cross-validation in {folds.k} folds"
    return f"{many} {kind}, out-of-fold scores of {level}, {decided}, seed {protocol.seed}"


def _one_fold(
    embeddings: NDArray[np.floating],
    truth: NDArray[np.bool_],
    folds: Folds,
    i: int,
    train: Rows,
    test: Rows,
    head: HeadOptions,
    joinings: Sequence[Joining],
    names: Sequence[str],
    device: str,
) -> tuple[FoldRun, list[tuple[Scores, Predictions]], NDArray[np.float64]]:
    """Return the run at the first level, scores and predictions at each, and the scores of the tested rows."""
    protocol = joinings[0].protocol
    seed = int(np.random.SeedSequence([protocol.seed, i]).generate_state(1)[0])
    tuned = protocol.thresholds != "fixed" and not head.single
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
    seen = fitted.scores(embeddings[held]) if tuned else None
    rows = fitted.scores(embeddings[test])
    said = f"test rows of fold {i + 1} of {folds.k}"
    tested, settled = [], []
    for joining in joinings:
        thresholds = likeliest() if head.single else fixed_thresholds(truth.shape[1], protocol.fixed)
        if seen is not None:
            inner = joining(truth[held], seen, folds.group[held], held)
            thresholds = tune_thresholds(inner[0], inner[1], protocol.thresholds, fixed=protocol.fixed)
        labels, scores, group, unit = joining(truth[test], rows, folds.group[test], test)
        decided = thresholds.decide(scores)
        scored = score(labels, scores, decided, names=names, groups=group, protocol=said)
        settled.append(thresholds)
        fold = np.full(len(group), i, np.intp)
        tested.append((scored, Predictions(labels, scores, decided, group, fold, unit)))
    run = FoldRun(i, seed, len(fit), len(held), settled[0], fitted.training, tested[0][0])
    return run, tested, rows
