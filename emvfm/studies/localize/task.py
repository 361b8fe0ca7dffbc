"""From facts and options to a task: which rows, with which labels, tested in which folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import MissingError, RefusedError, UsageError
from emvfm.localization.folds import Folds, make_folds
from emvfm.localization.label_spaces import LABEL_SPACES
from emvfm.localization.labels import (
    LabelStep,
    RowLabels,
    drop_grades,
    drop_rare,
    label_matrix,
    map_labels,
    split_labels,
)
from emvfm.localization.options import ProtocolOptions
from emvfm.localization.splits import one_split, value_folds
from emvfm.representations.pairing import find_column
from emvfm.studies.localize.options import TaskOptions
from emvfm.studies.profile_tables import read_rows

__all__ = ["Task", "make_task", "with_folds"]

Facts = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Task:
    """What is predicted, and who is tested.

    Attributes
    ----------
    rows
        ``(n,)`` rows of the profiles that take part.
    ids
        Length n, of these rows.
    names, labels
        Classes, and ``(n, L)`` bool.
    groups
        Length n: what stays on one side of a split.
    group_name
        The fact they come from; None where each row stands for itself.
    units, unit_name
        Length n: what rows are joined to at level unit, and the fact they come from; None without them.
    single
        Whether each row has one label and the classes compete.
    steps
        What was done to the labels.
    remarks
        What a person should know of the rows: how many were left out, and why.
    """

    rows: NDArray[np.intp]
    ids: tuple[str, ...]
    names: tuple[str, ...]
    labels: NDArray[np.bool_]
    groups: tuple[str, ...]
    group_name: str | None
    units: tuple[str, ...] | None
    single: bool
    folds: Folds
    steps: tuple[LabelStep, ...]
    remarks: tuple[str, ...]
    unit_name: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows as strict JSON types."""
        return {
            "n": len(self.rows),
            "classes": list(self.names),
            "positives": [int(n) for n in self.labels.sum(axis=0)],
            "labels_per_row": float(self.labels.sum(axis=1).mean()),
            "single": self.single,
            "groups": len(set(self.groups)),
            "group": self.group_name,
            "folds": self.folds.report.to_json(),
            "steps": [step.to_json() for step in self.steps],
            "remarks": list(self.remarks),
        }


def _column(facts: Facts, name: str, option: str) -> tuple[str, ...]:
    return tuple(facts[find_column(facts, name, option)])


def _groups(facts: Facts, options: TaskOptions, ids: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return the group of each row and the fact it comes from."""
    if options.group is not None:
        name = find_column(facts, options.group, "--group")
        groups = tuple(facts[name])
    else:
        close = [name for name in facts if name.lower() == "protein"]
        if not close and not (options.split_by or options.test_split or options.train_split):
            raise UsageError(
                "no fact protein to keep on one side of a split", where="--group", expected=", ".join(facts),
                todo="name the fact whose rows belong together (id: every row for itself)",
            )  # fmt: skip
        if not close:
            return tuple(ids), None
        name, groups = close[0], tuple(facts[close[0]])
    if not all(groups):
        got = f"{sum(not g for g in groups)} rows without {name}"
        raise RefusedError("rows that belong to no group", where="--group", got=got)
    return groups, name


def _grade(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError("a grade that is no number", where=where, got=repr(text)) from None


def _from_table(
    path: Path, options: TaskOptions, groups: Sequence[str], group_name: str | None
) -> tuple[RowLabels, list[list[float]] | None]:
    names, rows = read_rows(path)
    where = str(path)
    key = names.index(find_column(names, options.label_key or group_name or "protein", where))
    label = names.index(find_column(names, options.labels, where))
    mark = None if options.grades is None else names.index(find_column(names, options.grades, where))
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        own = found.setdefault(row[key], {})
        if row[label] and row[label] not in options.unknown:
            value = 0.0 if mark is None else _grade(row[mark], where)
            own[row[label]] = max(value, own.get(row[label], value))
    labels = tuple(tuple(found.get(group, {})) for group in groups)
    grades = None if mark is None else [list(found.get(group, {}).values()) for group in groups]
    if not any(labels):
        raise UsageError(
            "no group of the rows is in the table", where=path, got=f"{names[key]} such as {rows[0][key] if rows else ''}",
            expected=f"{group_name} such as {groups[0]}", todo="choose the column with --label-key",
        )  # fmt: skip
    return labels, grades


def _label_map(name: Path, labels: RowLabels) -> dict[str, str]:
    """Return what labels become, by a table known by name or by a file."""
    if str(name) in LABEL_SPACES:
        return LABEL_SPACES[str(name)].mapping(sorted({label for own in labels for label in own}))
    if not name.suffix and not name.exists():
        raise MissingError(
            "no such map of labels", where=name, expected=", ".join(LABEL_SPACES) + " or a CSV"
        )
    names, rows = read_rows(name)
    if len(names) != 2:
        raise UsageError("not a map of labels", where=name, got=f"{len(names)} columns", expected="2")
    return {row[0]: row[1] for row in rows}


def _labels(
    facts: Facts, options: TaskOptions, groups: Sequence[str], group_name: str | None
) -> tuple[RowLabels, list[LabelStep]]:
    """Return the labels of all rows after every filter."""
    grades: list[list[float]] | None = None
    if options.label_table is not None:
        labels, grades = _from_table(options.label_table, options, groups, group_name)
    else:
        labels = split_labels(_column(facts, options.labels, "--labels"), unknown=options.unknown)
        if options.grades is not None:
            cells = split_grades(_column(facts, options.grades, "--grades"))
            grades = [[_grade(text, "--grades") for text in own] for own in cells]
    steps = []
    if grades is not None:
        labels, step = drop_grades(labels, grades, options.grade)
        steps.append(step)
    for name in options.label_map:
        labels, step = map_labels(labels, _label_map(name, labels))
        steps.append(replace(step, what=f"label map {name.name}"))
    if options.min_count > 1:
        labels, step = drop_rare(labels, groups, options.min_count)
        steps.append(step)
    return labels, steps


def split_grades(cells: Sequence[str]) -> list[list[str]]:
    """Return the grades of cells such as ``3;1``; none for an empty cell."""
    return [[part.strip() for part in cell.split(";")] if cell.strip() else [] for cell in cells]


def _tested(facts: Facts, options: TaskOptions) -> tuple[NDArray[np.intp] | None, tuple[str, ...] | None]:
    """Return the side of each row (1 test, 0 training, -1 neither) or the value to leave out; None for folds."""
    if options.split_by is not None and (options.train_split or options.test_split):
        raise UsageError(
            "two ways to split", where="--split-by", todo="leave out --train-split and --test-split"
        )
    if options.train_split or options.test_split:
        if not (options.train_split and options.test_split):
            raise UsageError("one side of a split", where="--train-split", todo="give --test-split with it")
        if both := set(options.train_split) & set(options.test_split):
            raise UsageError("a split on both sides", where="--test-split", got=", ".join(sorted(both)))
        own = _column(facts, "split", "--test-split")
        absent = [name for name in (*options.train_split, *options.test_split) if name not in own]
        if absent:
            raise UsageError("no rows of a split", got=absent[0], expected=", ".join(sorted(set(own))))
        return np.array(
            [1 if s in options.test_split else 0 if s in options.train_split else -1 for s in own], np.intp
        ), None
    if options.split_by is None:
        return None, None
    name, equals, text = options.split_by.partition("=")
    own = _column(facts, name.strip(), "--split-by")
    if not equals:
        return None, own
    wanted = [value.strip() for value in text.split(",") if value.strip()]
    absent = [value for value in wanted if value not in own]
    if absent or not wanted:
        expected = ", ".join(sorted(set(own))[:20])
        raise UsageError(
            "no rows with a value", where="--split-by", got=(absent or [text])[0], expected=expected
        )
    return np.array([int(value in wanted) for value in own], np.intp), None


def make_task(
    facts: Facts,
    ids: Sequence[str],
    options: TaskOptions,
    protocol: ProtocolOptions,
    *,
    single: bool | None = None,
) -> Task:
    """Decide rows, labels, groups and folds.

    Rows without a label take no part: nobody said that they have none.

    Parameters
    ----------
    facts, ids
        Of all rows.
    single
        Whether the classes compete; None where every row has exactly one label.

    Raises
    ------
    UsageError
        A fact that is not there, or options that do not go together.
    RefusedError
        Too few rows, groups or classes for the folds.
    """
    groups, group_name = _groups(facts, options, ids)
    labels, steps = _labels(facts, options, groups, group_name)
    side, values = _tested(facts, options)
    remarks = [text for step in steps if (text := step.text())]
    keep: NDArray[np.bool_] = np.array([bool(own) for own in labels])
    if not keep.all():
        remarks.append(f"{int((~keep).sum())} of {len(keep)} rows have no label and are left out")
    several = np.array([len(own) > 1 for own in labels])
    competing = bool(single) if single is not None else not several[keep].any()
    if competing and several.any():
        remarks.append(f"{int(several.sum())} rows have several labels and are left out")
        keep &= ~several
    if side is not None and (side[keep] < 0).any():
        remarks.append(f"{int((side[keep] < 0).sum())} labelled rows are in neither split")
        keep &= side >= 0
    if values is not None and not all(values[i] for i in np.flatnonzero(keep).tolist()):
        raise RefusedError("rows without a value to leave out", where="--split-by", got=options.split_by)
    if not keep.any():
        raise RefusedError("no row with a label is left", where="--labels", got=options.labels)
    rows = np.flatnonzero(keep)
    places = rows.tolist()
    names, matrix = label_matrix(tuple(labels[i] for i in places))
    if len(names) < 2:
        raise RefusedError("a single class", where="--labels", got=names[0], expected="2 or more")
    own_groups = tuple(groups[i] for i in places)
    folds = _folds(matrix, own_groups, protocol, None if side is None else side[rows],
                   None if values is None else [values[i] for i in places])  # fmt: skip
    if folds.k == 1:
        taught = matrix[folds.fold < 0].sum(axis=0).tolist()
        unseen = [name for name, n in zip(names, taught, strict=True) if not n]
        remarks += [f"no training row has {', '.join(unseen)}"] if unseen else []
    units = None if options.unit is None else _column(facts, options.unit, "--unit")
    return Task(
        rows, tuple(ids[i] for i in places), names, matrix, own_groups, group_name,
        None if units is None else tuple(units[i] for i in places), competing, folds, tuple(steps), tuple(remarks),
        options.unit,
    )  # fmt: skip


def _folds(
    labels: NDArray[np.bool_],
    groups: Sequence[str],
    protocol: ProtocolOptions,
    side: NDArray[np.intp] | None,
    values: Sequence[str] | None,
) -> Folds:
    if side is not None:
        return one_split(labels, groups, side == 1)
    if values is not None:
        return value_folds(labels, groups, values)
    return make_folds(
        labels,
        groups,
        k=protocol.folds,
        grouped=not protocol.ungrouped,
        order=protocol.order,
        seed=protocol.seed,
    )


def with_folds(task: Task, protocol: ProtocolOptions) -> Task:
    """Return the task with folds of its rows by another protocol."""
    return replace(task, folds=_folds(task.labels, task.groups, protocol, None, None))
