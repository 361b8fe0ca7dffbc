"""Corrections as a step of a benchmark: which rows they are fitted on, and that none of them is tested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.representations.corrections import CorrectionOptions, fit_correction
from emvfm.representations.pairing import find_column, rows_where
from emvfm.studies.bench.options import BenchOptions, FoldCorrectionOptions

__all__ = ["CorrectionPlan", "control_rows", "joint_labels", "plan_of"]

Facts = Mapping[str, Sequence[str]]


def joint_labels(facts: Facts, columns: Sequence[str], where: str) -> list[str]:
    """Return one label a row for the values of several columns, empty where one of them is."""
    found = [facts[find_column(facts, name, where)] for name in columns]
    return [" | ".join(own) if all(own) else "" for own in zip(*found, strict=True)]


def control_rows(facts: Facts, n: int, condition: str) -> NDArray[np.bool_]:
    """Return which of n rows are controls ``(n,)``.

    Raises
    ------
    UsageError
        None are.
    """
    if condition.strip() == "all":
        return np.ones(n, np.bool_)
    found = rows_where(facts, condition, "--controls")
    if not found.any():
        raise UsageError("no row is a control", where="--controls", got=condition)
    return found


@dataclass(frozen=True)
class CorrectionPlan:
    """A correction of n rows before it is fitted.

    Attributes
    ----------
    controls
        ``(n,)``: rows that it may be fitted on.
    batches
        Label of each row; None where all are one batch.
    condition, columns
        What controls and batches are, as asked for.
    flag
        Option that names the columns.
    transductive
        Whether controls that are tested are fitted on too.
    """

    name: str
    controls: NDArray[np.bool_]
    batches: tuple[str, ...] | None
    options: CorrectionOptions
    condition: str
    columns: tuple[str, ...]
    flag: str
    transductive: bool = False

    def take(self, rows: NDArray[np.intp]) -> CorrectionPlan:
        """Return the plan of some rows in the order given."""
        own = None if self.batches is None else tuple(self.batches[i] for i in rows.tolist())
        return replace(self, controls=self.controls[rows], batches=own)

    def fit(
        self, features: ArrayLike, tested: NDArray[np.intp] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Fit on controls that are not tested, and return all rows corrected ``(n, K)`` and a record.

        No label enters, of whatever row. Rows of a batch that has no control outside the test can not be corrected.

        Parameters
        ----------
        features
            ``(n, D)``.
        tested
            Positions of rows that a score is made of.

        Raises
        ------
        UsageError
            Rows without a batch.
        RefusedError
            Too few controls in a batch, or controls that do not vary.
        """
        if self.batches is not None and "" in self.batches:
            raise UsageError(
                "rows without a batch", where=self.flag,
                got=f"{self.batches.count('')} of {len(self.batches)}", todo="leave them out",
            )  # fmt: skip
        used = self.controls.copy()
        if tested is not None and not self.transductive:
            used[tested] = False
        if not used.any():
            raise RefusedError(
                "every control is tested", where=f"--correct {self.name}", got=f"--controls {self.condition}",
                todo="name controls that are not, or fit on tested rows too with --transductive",
            )  # fmt: skip
        if self.batches is not None:
            labels = np.asarray(self.batches)
            lost = sorted(set(labels[self.controls]) - set(labels[used]))
            if lost:
                raise RefusedError(
                    "a batch all of whose controls are tested", where=f"{self.flag} {', '.join(self.columns)}",
                    got=lost[0],
                    todo=f"name controls that are not, leave out {self.flag}, or fit on tested rows too with --transductive",
                )  # fmt: skip
        fitted = fit_correction(self.name, features, used, self.batches, options=self.options)
        record = {**fitted.to_json(), "controls": self.condition, "batch": list(self.columns)}
        return fitted.apply(features, self.batches).astype(np.float32), record

    def within(
        self,
        features: NDArray[np.float32],
        rows: NDArray[np.intp],
        without: NDArray[np.intp] | None = None,
    ) -> Callable[[NDArray[np.intp]], NDArray[np.float32]]:
        """Return what gives corrected features of some rows, from which of these are tested.

        Parameters
        ----------
        features
            ``(n, D)`` of all rows: controls that are none of `rows` are never tested.
        without
            Rows that have no part in it, neither as controls nor corrected.
        """
        taken = np.union1d(rows, np.flatnonzero(self.controls))
        taken = taken if without is None else np.setdiff1d(taken, without)
        own, place, chosen = self.take(taken), np.searchsorted(taken, rows), features[taken]
        return lambda tested: own.fit(chosen, place[tested])[0][place]

    def to_json(self) -> dict[str, Any]:
        """Return what is fitted on which rows, in the presence of folds."""
        return {
            "name": self.name, "controls": self.condition, "batch": list(self.columns),
            "n_controls": int(self.controls.sum()), "protocol": self.protocol,
        }  # fmt: skip

    @property
    def protocol(self) -> str:
        """What is fitted on which rows, in words."""
        by = f" by {', '.join(self.columns)}" if self.columns else ""
        if self.transductive:
            return f"{self.name}{by}, fitted on all controls, tested ones too, without labels"
        return f"{self.name}{by}, fitted on controls that are not tested, without labels, anew in every fold"


def plan_of(facts: Facts, n: int, options: BenchOptions | FoldCorrectionOptions) -> CorrectionPlan | None:
    """Return the correction that options ask for, of n rows with these facts; None without one.

    Raises
    ------
    UsageError
        No controls are named or none are there, or a column is not.
    """
    if options.correct == "none":
        if isinstance(options, FoldCorrectionOptions) and (
            options.controls is not None or options.correct_by or options.transductive
        ):
            raise UsageError(
                "nothing is corrected", where="--correct", todo="name a correction, such as sphere"
            )
        return None
    if options.controls is None:
        raise UsageError(
            "nothing to fit the correction on", where=f"--correct {options.correct}",
            todo="name controls, such as --controls role=control, or all rows with --controls all",
        )  # fmt: skip
    if isinstance(options, FoldCorrectionOptions):
        columns, flag = options.correct_by, "--correct-by"
        chosen = CorrectionOptions(
            options.correct_eps, options.correct_shrinkage, options.correct_ridge, options.correct_axes
        )
    else:
        columns, flag = options.batch, "--batch"
        chosen = CorrectionOptions(options.eps, options.shrinkage, options.ridge, options.components)
    return CorrectionPlan(
        name=options.correct,
        controls=control_rows(facts, n, options.controls),
        batches=tuple(joint_labels(facts, columns, flag)) if columns else None,
        options=chosen,
        condition=options.controls,
        columns=tuple(columns),
        flag=flag,
        transductive=bool(getattr(options, "transductive", False)),
    )
