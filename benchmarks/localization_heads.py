"""One section of docs/results-localization.md: the head of DINO4Cells beside logistic regression, on the same folds."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.document import Document
from benchmarks.localization_steps import PIXELS, Bench, Work
from benchmarks.localization_texts import TEXTS
from benchmarks.verdicts import between
from emvfm.localization.predictions import Interval, Predictions, difference_interval
from emvfm.segmentation.comparison import holm

__all__ = ["HEADS", "heads", "read_predictions"]

#: Beside logistic regression: what they are called on the page, and the options of the command.
HEADS = (("mlp", ("--head", "mlp")), ("dino4cells", ("--preset", "dino4cells")))


def read_predictions(found: dict[str, Any], name: str) -> Predictions:
    """Read what one run of a grid predicted from the table it wrote.

    Parameters
    ----------
    found
        The record of ``bench localize`` with its ``folder``.
    name
        Of the run.
    """
    number = [run["name"] for run in found["runs"]].index(name) + 1
    (path,) = (Path(found["folder"]) / "predictions").glob(f"{number}-*.csv")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    classes = found["task"]["classes"]
    labels, decided = (
        np.array([[c in row[column].split(";") for c in classes] for row in rows])
        for column in ("labels", "predicted")
    )
    scores = np.array([[float(row[c]) for c in classes] for row in rows])
    group = np.unique([row["group"] for row in rows], return_inverse=True)[1].astype(np.intp)
    fold = np.array([int(row["fold"]) for row in rows], np.intp)
    return Predictions(labels, scores, decided, group, fold, np.arange(len(rows)))


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _against_logreg(
    page: Document, runs: Sequence[dict[str, Any]], title: Callable[[str], str]
) -> list[list[Interval]]:
    """Write every backbone with every head; return the differences from logistic regression, one list a head."""
    plain, *others = runs
    rows = []
    differences: list[list[Interval]] = [[] for _ in others]
    for run in others[0]["runs"]:
        own = next(one for one in plain["runs"] if one["name"] == run["name"])
        first = read_predictions(plain, run["name"])
        cells: list[str] = []
        for found, own_differences in zip(others, differences, strict=True):
            twin = next(one for one in found["runs"] if one["name"] == run["name"])
            added = difference_interval(read_predictions(found, run["name"]), first, found["score"])
            own_differences.append(added)
            cells += [between(twin["interval"]), between(added.to_json(), "+"), _p(added.p_value)]
        rows.append(
            [
                title(run["backbone"]),
                run["channels"] or "as they are",
                between(own["interval"]),
                *cells,
            ]
        )
    columns = [part for name, _ in HEADS for part in (name, "minus logreg", "p")]
    page.table(["backbone", "channels", "logreg [95 %]", *columns], rows)
    return differences


def _between_backbones(page: Document, found: dict[str, Any], title: Callable[[str], str]) -> None:
    """Write the trained backbones minus the untrained twin and minus pixels, all read by one head."""
    runs = found["runs"]
    rows, differences = [], []
    for run in runs:
        if "untrained" in run["backbone"] or run["backbone"] == PIXELS:
            continue
        for rival in runs:
            same_way = "untrained" in rival["backbone"] and rival["channels"] == run["channels"]
            if same_way or rival["backbone"] == PIXELS:
                own, other = (read_predictions(found, one["name"]) for one in (run, rival))
                differences.append(difference_interval(own, other, found["score"]))
                rows.append(
                    [title(run["backbone"]), run["channels"] or "as they are", title(rival["backbone"])]
                )
    corrected = holm([1.0 if one.p_value is None else one.p_value for one in differences])
    page.table(
        ["read by mlp", "channels", "minus", "difference [95 %]", "p", "p, Holm"],
        [
            [*row, between(one.to_json(), "+"), _p(one.p_value), _p(p)]
            for row, one, p in zip(rows, differences, corrected, strict=True)
        ],
    )


def heads(page: Document, work: Work, benches: Sequence[Bench], title: Callable[[str], str]) -> None:
    """Write the section: what another head makes of the same embeddings, and of the order of backbones."""
    text = TEXTS["heads"]
    page.section(text.title, text.what)
    differences: list[list[Interval]] = [[] for _ in HEADS]
    for bench in benches:
        others = [work.headed(bench, options) for _, options in HEADS]
        measure = "macro AP" if others[0]["score"] == "macro_ap" else "macro F1"
        page.text(
            f"**{TEXTS[bench.name].title}**, {measure}; {others[0]['runs'][0]['interval']['protocol']}:"
        )
        added = _against_logreg(page, [work.grid(bench), *others], title)
        differences = [[*all_sets, *own] for all_sets, own in zip(differences, added, strict=True)]
        page.text("Paired differences, Holm's correction over the rows of the table:")
        _between_backbones(page, others[0], title)
    for (name, _), own in zip(HEADS, differences, strict=True):
        ends = [(one.low, one.high) for one in own if one.low is not None and one.high is not None]
        above, below = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
        page.text(
            f"Over all sets `{name}` is above logistic regression in {above} of {len(own)} rows and below it in {below} "
            "(intervals without 0, each for itself)."
        )
    page.text(f"**The trap.** {text.trap}")
