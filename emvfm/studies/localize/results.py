"""A grid of localisation runs as tables, sentences and a table for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emvfm.localization.levels import LEVELS
from emvfm.localization.metrics import METRICS
from emvfm.localization.predictions import FoldMean, Interval
from emvfm.studies.localize.grid import Localization, MemberRun

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["TITLES", "class_rows", "floor", "level_table", "remarks", "run_table", "slug", "tables"]

_SHOWN = ("macro_f1_present", "micro_f1", "macro_ap", "macro_auroc", "calibration_error")
TITLES = {
    "macro_f1_present": "macro F1", "macro_f1_all": "macro F1, all classes", "micro_f1": "micro F1",
    "weighted_f1": "weighted F1", "samples_f1": "F1 a row", "exact_match": "exact match", "macro_ap": "macro AP",
    "micro_ap": "micro AP", "ranking_ap": "ranking AP", "macro_auroc": "macro AUROC", "calibration_error": "ECE",
}  # fmt: skip


def slug(name: str) -> str:
    """Return a name that is safe in a path."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:60] or "run"


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def class_rows(run: MemberRun) -> list[dict[str, Any]]:
    """Return one mapping a class: pooled scores, and F1 over the folds where the class has a positive row."""
    rows = []
    for i, pooled in enumerate(run.run.pooled.classes):
        own = [fold.scores.classes[i] for fold in run.run.runs]
        f1 = FoldMean.of_values("f1", [c.f1 if c.support else float("nan") for c in own])
        rows.append(
            {"class": pooled.name, "support": pooled.support, "predicted": pooled.predicted,
             "precision": pooled.precision, "recall": pooled.recall, "f1": pooled.f1, "ap": pooled.ap,
             "auroc": pooled.auroc, "brier": pooled.brier, "calibration_error": pooled.calibration_error,
             "f1_mean": f1.mean, "f1_std_ddof0": f1.std_ddof0, "f1_std_ddof1": f1.std_ddof1, "folds": f1.folds}
        )  # fmt: skip
    return rows


def _scores(found: Localization) -> str:
    rows = []
    for run in found.runs:
        for mean in run.run.means:
            ends = (run.interval.low, run.interval.high) if mean.metric == found.score else (None, None)
            rows.append(
                [run.name, mean.metric, mean.mean, mean.std_ddof0, mean.std_ddof1, *ends, mean.folds,
                 run.interval.n, run.interval.n_groups, run.run.protocol.seed]
            )  # fmt: skip
    header = [
        "run",
        "metric",
        "mean",
        "std_ddof0",
        "std_ddof1",
        "low",
        "high",
        "folds",
        "n",
        "groups",
        "seed",
    ]
    return _csv(header, rows)


def level_names(found: Localization) -> dict[str, str]:
    """Return what the levels are called: by the facts that join rows."""
    task = found.task
    return {
        "row": "rows",
        "unit": f"units ({task.unit_name})" if task.unit_name else "units",
        "group": f"groups ({task.group_name})" if task.group_name else "groups",
    }


def _at_levels(run: MemberRun) -> list[tuple[str, Sequence[FoldMean], Interval]]:
    """Return level, means and interval of a run at every level, from rows to groups."""
    own = (run.run.protocol.level, run.run.means, run.interval)
    every = [own, *((one.level, one.means, ends) for one, ends in run.levels)]
    return sorted(every, key=lambda one: LEVELS.index(one[0]))


def _levels(found: Localization) -> str:
    header = [
        "run", "level", "metric", "mean", "std_ddof0", "std_ddof1", "low", "high", "folds", "n", "groups",
    ]  # fmt: skip
    rows = [
        [run.name, level, mean.metric, mean.mean, mean.std_ddof0, mean.std_ddof1,
         *((ends.low, ends.high) if mean.metric == found.score else (None, None)), mean.folds, ends.n, ends.n_groups]
        for run in found.runs
        for level, means, ends in _at_levels(run)
        for mean in means
    ]  # fmt: skip
    return _csv(header, rows)


def level_table(found: Localization) -> Table | None:
    """Return one line a run with the score at each level as a Rich table; None where there is a single level."""
    from rich.markup import escape
    from rich.table import Table

    if not any(run.levels for run in found.runs):
        return None
    names = level_names(found)
    first = _at_levels(found.runs[0])
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(f"{TITLES[found.score]} of")
    for level, _, ends in first:
        table.add_column(escape(f"{names[level]}, n = {ends.n}"))
    for run in found.runs:
        cells = []
        for _, _, ends in _at_levels(run):
            value = None if ends.value != ends.value else ends.value
            between = "" if ends.low is None else f" [{ends.low:.3f}, {ends.high:.3f}]"
            cells.append(_number(value) + between)
        table.add_row(*map(escape, (run.name, *cells)))
    return table


def _folds(found: Localization) -> str:
    rows = [
        [run.name, fold.fold, fold.n_fit, fold.n_validation, fold.scores.n,
         *(None if (v := fold.scores.value(m)) != v else v for m in METRICS)]
        for run in found.runs
        for fold in run.run.runs
    ]  # fmt: skip
    return _csv(["run", "fold", "n_fit", "n_validation", "n_test", *METRICS], rows)


def _predictions(found: Localization, run: MemberRun) -> str:
    """Return what was predicted of every tested unit, with its labels and probabilities."""
    predictions, task = run.run.predictions, found.task
    names = run.run.names
    level = run.run.protocol.level
    # Units and groups are numbered in the order of their names.
    known = (
        list(task.ids) if level == "row"
        else sorted(set(task.units or ())) if level == "unit"
        else sorted(set(task.groups))
    )  # fmt: skip
    group_of = dict(zip(task.units or (), task.groups, strict=False)) if level == "unit" else {}
    rows = []
    for unit, fold, truth, decided, scores in zip(
        predictions.unit,
        predictions.fold,
        predictions.labels,
        predictions.decided,
        predictions.scores,
        strict=True,
    ):
        name = known[unit]
        group = task.groups[unit] if level == "row" else group_of.get(name, name)
        said = [";".join(n for n, own in zip(names, flags, strict=True) if own) for flags in (truth, decided)]
        rows.append([name, group, int(fold), *said, *(f"{s:.6g}" for s in scores)])
    return _csv(["id", "group", "fold", "labels", "predicted", *names], rows)


def _comparisons(found: Localization) -> str:
    header = [
        "first", "second", "metric", "difference", "low", "high", "corrected_t_p", "wilcoxon_p",
        "bootstrap_p", "p_holm", "compared",
    ]  # fmt: skip
    rows = [
        [*c.names, c.metric, c.proteins.value, c.proteins.low, c.proteins.high,
         None if c.corrected is None else c.corrected.p_value,
         None if c.signed_ranks is None else c.signed_ranks.p_value, c.proteins.p_value, c.p_holm, c.n_compared]
        for c in found.comparisons
    ]  # fmt: skip
    return _csv(header, rows)


def tables(found: Localization) -> dict[str, str]:
    """Return the CSV files of a grid by path."""
    classes = [(run.name, row) for run in found.runs for row in class_rows(run)]
    files = {
        "scores.csv": _scores(found),
        "folds.csv": _folds(found),
        "classes.csv": _csv(["run", *classes[0][1]], [[name, *row.values()] for name, row in classes]),
    }
    for number, run in enumerate(found.runs, 1):
        files[f"predictions/{number}-{slug(run.name)}.csv"] = _predictions(found, run)
    if any(run.levels for run in found.runs):
        files["levels.csv"] = _levels(found)
    if found.comparisons:
        files["comparisons.csv"] = _comparisons(found)
    points = [(run.name, point) for run in found.runs for point in run.efficiency]
    if points:
        header = [
            "run",
            "share",
            "rows",
            "groups",
            "metric",
            "mean",
            "std_ddof0",
            "std_ddof1",
            "low",
            "high",
            "failed",
        ]
        files["efficiency.csv"] = _csv(
            header,
            [
                [name, p.share, p.rows, p.groups, found.score,
                 *((None,) * 3 if p.mean is None else (p.mean.mean, p.mean.std_ddof0, p.mean.std_ddof1)),
                 *((None, None) if p.interval is None else (p.interval.low, p.interval.high)), p.failed]
                for name, p in points
            ],
        )  # fmt: skip
    return files


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def run_table(found: Localization) -> Table:
    """Return one line a run as a Rich table."""
    from rich.markup import escape
    from rich.table import Table

    several = found.task.folds.k > 1
    shown = tuple(dict.fromkeys((found.score, *_SHOWN)))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("run", "features", *(TITLES[name] for name in shown)):
        table.add_column(column)
    for run in found.runs:
        mean, interval = run.run.mean(found.score), run.interval
        first = _number(mean.mean)
        if several and mean.std_ddof0 is not None and mean.std_ddof1 is not None:
            first += f" ± {mean.std_ddof0:.3f} / {mean.std_ddof1:.3f}"
        if interval.low is not None and interval.high is not None:
            first += f" [{interval.low:.3f}, {interval.high:.3f}]"
        others = [_number(run.run.mean(name).mean) for name in shown[1:]]
        table.add_row(*map(escape, (run.name, str(run.width), first, *others)))
    return table


def floor(found: Localization) -> dict[str, float]:
    """Return what can be had without looking: of constant answers, on the tested rows of the first run.

    Returns
    -------
    dict
        ``macro_f1_present`` of the best constant answer (every class; with one label a row the largest) and
        ``exact_match`` of the commonest set of labels.
    """
    labels = found.runs[0].run.predictions.labels
    n, positives = len(labels), labels.sum(axis=0)
    present = positives[positives > 0]
    if found.task.single:
        best = present.max()
        constant = 2 * best / (best + n) / len(present)
    else:
        constant = (2 * present / (present + n)).mean()
    _, counts = np.unique(labels, axis=0, return_counts=True)
    return {"macro_f1_present": float(constant), "exact_match": float(counts.max() / n)}


def remarks(found: Localization) -> list[str]:
    """Return what a person has to know beside the table: rows, folds, leaks, comparisons."""
    task, first = found.task, found.runs[0].run
    kind = "one label a row" if task.single else f"{task.labels.sum(axis=1).mean():.2f} labels a row"
    whole = (
        f"{len(set(task.groups))} groups ({task.group_name})" if task.group_name else "every row for itself"
    )
    said = [f"{len(task.rows)} rows, {whole}, {len(task.names)} classes, {kind}; {first.pooled.protocol}"]
    spread = "± std over folds with ddof 0 / ddof 1, " if first.folds.k > 1 else ""
    interval = found.runs[0].interval
    if interval.low is not None:
        said.append(f"{spread}[{interval.level:.0%} interval over groups]: {interval.protocol}")
    made = {run.member.backbone: run.label for run in found.runs if run.member.backbone}
    said += [f"{asked}: {label}" for asked, label in made.items() if asked != label]
    said += task.remarks
    if found.correction is not None:
        said.append(f"embeddings are corrected: {found.correction.protocol}")
    constant = floor(found)
    said.append(
        f"without looking: macro F1 {constant['macro_f1_present']:.3f}, exact match {constant['exact_match']:.3f}"
        " (the best constant answers)"
    )
    report = task.folds.report
    if report.crossing_groups:
        said.append(report.text())
    elif report.empty:
        lacking = len({fold for fold, _ in report.empty})
        said.append(f"{lacking} of {report.k} test sides lack a positive of some class")
    said += [f"{run.name}: {run.leak.text()}" for run in found.runs if run.leak is not None]
    said += [comparison.text() for comparison in found.comparisons]
    failed = [(run.name, p) for run in found.runs for p in run.efficiency if p.failed]
    said += [f"{name}: no run with {point.share:.0%} of the groups: {point.failed}" for name, point in failed]
    return said
