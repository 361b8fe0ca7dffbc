"""Folds that somebody else decided: one split into training and test, or each value of a column left out in turn."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.folds import Folds, fold_report, group_numbers

__all__ = ["one_split", "value_folds"]


def _checked(
    labels: ArrayLike, groups: ArrayLike, column: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    truth, group = np.asarray(labels).astype(bool), group_numbers(groups)
    if truth.ndim != 2 or len(truth) != len(group) or np.shape(column) != (len(group),):
        got = f"labels {truth.shape}, {len(group)} groups, {np.shape(column)}"
        raise UsageError("not one group a row of labels", where="split", got=got, expected="(N, L), N and N")
    return truth, group


def _folds(truth: NDArray[np.bool_], group: NDArray[np.intp], fold: NDArray[np.intp], k: int) -> Folds:
    crossing = fold_report(truth, group, fold, k, True).crossing_groups
    report = fold_report(truth, group, fold, k, not crossing)
    return Folds(fold, group, k, report.grouped, 1, 0, report)


def one_split(labels: ArrayLike, groups: ArrayLike, test: ArrayLike) -> Folds:
    """Return a single fold that tests the rows where `test` ``(N,)`` bool is true and learns from the others.

    It counts as grouped where no group is on both sides.

    Raises
    ------
    UsageError
        When the arrays do not fit.
    RefusedError
        When one side is empty.
    """
    tested = np.asarray(test, bool)
    truth, group = _checked(labels, groups, tested)
    if tested.all() or not tested.any():
        got = f"{int(tested.sum())} of {len(tested)} rows tested"
        raise RefusedError("nothing to learn from, or nothing to test", where="split", got=got)
    return _folds(truth, group, np.where(tested, 0, -1).astype(np.intp), 1)


def value_folds(labels: ArrayLike, groups: ArrayLike, values: ArrayLike) -> Folds:
    """Return one fold a value of a column ``(N,)``, such as a plate: each is tested by what the others taught.

    Raises
    ------
    UsageError
        When the arrays do not fit.
    RefusedError
        When there is only one value.
    """
    truth, group = _checked(labels, groups, values)
    fold = group_numbers(values)
    k = int(fold.max(initial=-1)) + 1
    if k < 2:
        raise RefusedError("a single value to leave out", where="split", got=k, expected="2 or more")
    return _folds(truth, group, fold, k)
