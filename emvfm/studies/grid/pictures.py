"""The figures of a study, made of its rows: which ones it has depends on its grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emvfm.datasets.catalog import open_dataset, parse_reference
from emvfm.errors import EmvfmError
from emvfm.report.figures import iou_matrix
from emvfm.report.segmentation_figures import differences
from emvfm.report.study_figures import (
    Curve,
    Mark,
    Pairs,
    Series,
    arm_bars,
    learning_curves,
    paired_dots,
    trend,
)
from emvfm.segmentation.history import read_steps
from emvfm.segmentation.intervals import Estimate
from emvfm.studies.grid.materials import audit_effect
from emvfm.studies.grid.results import Row, gather
from emvfm.studies.grid.runner import Opened
from emvfm.studies.grid.summary import Arm, Summary, summary_of

__all__ = ["Picture", "draw_study", "pictures_of"]

_MOST_PAIRS, _MOST_CURVES, _MOST_BARS, _MOST_CELLS = 12, 18, 60, 24


@dataclass(frozen=True)
class Picture:
    """A figure with what it shows."""

    file: str
    png: bytes
    caption: str


def draw_study(study: Opened) -> list[Picture]:
    """Return the figures of what is finished of a study.

    Raises
    ------
    UsageError
        Nothing is finished.
    """
    rows = gather(study)
    return pictures_of(study, rows, summary_of(study, rows))


def pictures_of(study: Opened, rows: Sequence[Row], summary: Summary) -> list[Picture]:
    """Return the figures of rows that are summed up already."""
    measure = f"foreground {_metric(summary)}"
    found = [_bars(summary, measure)] if len(summary.arms) <= _MOST_BARS * len(study.spec.tests) else []
    if study.spec.trend is not None:
        found += _trend(study, summary, measure)
    if summary.compared:
        found += [_differences(summary, measure), _paired(summary, measure)]
    if "train" in study.spec.axes and len(study.spec.tests) > 1:
        found += _matrix(study, summary, measure)
    return found + _curves(rows)


def _metric(summary: Summary) -> str:
    return {"iou": "IoU", "dice": "Dice"}[summary.metric]


def _mark(label: str, estimate: Estimate, values: Sequence[float]) -> Mark:
    low, high = (np.nan if end is None else end for end in (estimate.low, estimate.high))
    return Mark(label, estimate.value, float(low), float(high), values)


def _bars(summary: Summary, measure: str) -> Picture:
    tests = list(dict.fromkeys(arm.test for arm in summary.arms))
    panels = {
        f"tested on {test}": [_mark(a.name, a.over_both, a.values) for a in summary.arms if a.test == test]
        for test in tests
    }
    level = f"{summary.rule.level:.0%}".replace("%", " %")
    caption = (
        f"Mean over seeds of {measure}; lines: {level} interval over seeds and blocks of slices; dots: seeds."
    )
    return Picture("bars.png", arm_bars(panels, measure), caption)


def _differences(summary: Summary, measure: str) -> Picture:
    shown = sorted(summary.compared, key=lambda each: each.difference.value)[: 2 * _MOST_PAIRS]
    items = [
        {
            "label": f"{each.name} on {each.test}", "value": each.difference.value, "low": each.difference.low,
            "high": each.difference.high, "note": each.outcome,
        }
        for each in shown
    ]  # fmt: skip
    caption = "Paired differences with their intervals, the lowest first; beside them what the rule says."
    return Picture("differences.png", differences(items, f"difference of {measure}"), caption)


def _paired(summary: Summary, measure: str) -> Picture:
    pairs = [
        Pairs(
            f"on {each.test}" + (f": {', '.join(each.at.values())}" if each.at else ""),
            (", ".join(each.second.values()), ", ".join(each.first.values())),
            [(second, first) for first, second in each.values],
            f"{each.difference.value:+.3f}".replace("-", "−"),
        )
        for each in sorted(summary.compared, key=lambda each: each.difference.value)[:_MOST_PAIRS]
    ]
    text = "Each line is a seed, on the same slices on both sides; the short bars are means."
    return Picture("pairs.png", paired_dots(pairs, measure), text)


def _rest(arm: Arm, axis: str) -> tuple[str, ...]:
    return tuple(label for name, label in arm.labels.items() if name != axis)


def _series_name(arm: Arm, axis: str, arms: Sequence[Arm], tests: int) -> str:
    varied = [
        label
        for n, label in enumerate(_rest(arm, axis))
        if len({_rest(other, axis)[n] for other in arms}) > 1
    ]
    return ", ".join([*varied, *([f"on {arm.test}"] if tests > 1 else [])])


def _trend(study: Opened, summary: Summary, measure: str) -> list[Picture]:
    stated = study.spec.trend
    assert stated is not None
    tests = len({arm.test for arm in summary.arms})
    groups: dict[str, list[Arm]] = {}
    for arm in summary.arms:
        if arm.labels[stated.axis] in stated.at:
            groups.setdefault(_series_name(arm, stated.axis, summary.arms, tests), []).append(arm)
    series = [
        Series(
            name,
            [stated.at[arm.labels[stated.axis]] for arm in own],
            [_mark(arm.name, arm.over_both, arm.values) for arm in own],
        )
        for name, own in groups.items()
    ]
    if not series:
        return []
    panels: dict[str, list[Series]] = {measure: series}
    effects = _effects(study)
    at = {label: number for label, number in stated.at.items() if label in effects}
    note = ""
    if len({round(effects[label], 3) for label in at}) > 1:
        marks = [Mark(label, effects[label], np.nan, np.nan) for label in at]
        panels["audit: effect size"] = [Series("", list(at.values()), marks)]
        note = " On the right, how well masks fit their slices by the audit, before anything is trained."
    caption = (
        f"{measure[0].upper()}{measure[1:]} over {stated.title}; bands: intervals, small marks: seeds.{note}"
    )
    apart = [arm for arm in summary.arms if arm.labels[stated.axis] not in stated.at]
    lines = {
        arm.labels[stated.axis]: _mark(arm.name, arm.over_both, ())
        for arm in apart
        if arm.test == _first(study)
    }
    alone = len(study.spec.grid) == 1
    return [Picture("trend.png", trend(panels, stated.title, apart=lines if alone else None), caption)]


def _first(study: Opened) -> str:
    """Return the test that the rule looks at first."""
    return study.spec.rule.compare[0].test


def _effects(study: Opened) -> Mapping[str, float]:
    """Return for each label of the trend's axis the weakest audit of what it trains on and others don't."""
    stated = study.spec.trend
    assert stated is not None
    axis = next(axis for axis in study.spec.grid if axis.name == stated.axis)
    trained = {label: tuple(settings.get("data", ())) for label, settings in axis.values.items()}
    common = set.intersection(*map(set, trained.values()))
    found = {}
    for label, references in trained.items():
        effects = []
        for reference in references:
            if reference in common:
                continue
            try:
                dataset = open_dataset(study.workspace, parse_reference(reference)[0])
            except EmvfmError:  # not composed yet
                continue
            effect = audit_effect(dataset)
            effects += [] if effect is None else [effect]
        if effects:
            found[label] = min(effects)
    return found


def _matrix(study: Opened, summary: Summary, measure: str) -> list[Picture]:
    names = list(dict.fromkeys(arm.name for arm in summary.arms))
    tests = list(study.spec.tests)
    if len(names) > _MOST_CELLS:
        return []
    values = np.full((3, len(names), len(tests)), np.nan)
    for arm in summary.arms:
        ends = [np.nan if end is None else end for end in (arm.over_both.low, arm.over_both.high)]
        values[:, names.index(arm.name), tests.index(arm.test)] = (arm.over_both.value, *ends)
    picture = iou_matrix(values[0], names, tests, values[1], values[2], measure=measure)
    return [
        Picture("matrix.png", picture, f"{measure}: every training set on every test set, with intervals.")
    ]


def _curves(rows: Sequence[Row]) -> list[Picture]:
    groups = list(dict.fromkeys(row.arm for row in rows))
    if len(groups) > _MOST_CURVES:
        groups = groups[:_MOST_CURVES]
    curves, seen = [], set()
    for row in rows:
        if row.run.path in seen or row.arm not in groups:
            continue
        seen.add(row.run.path)
        steps = read_steps(row.run.steps_path)
        judged = [(h["step"], h["val_iou"]) for h in row.run.history() if h.get("val_iou") is not None]
        curves.append(Curve(", ".join(row.arm), [s.step for s in steps], [s.loss for s in steps], judged))
    if not curves:
        return []
    return [
        Picture(
            "learning-curves.png", learning_curves(curves), "Loss of every run over its steps, a line a seed."
        )
    ]
