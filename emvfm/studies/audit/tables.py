"""The tables that runs leave, by columns, and sums of their rows over units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError
from emvfm.studies.profile_tables import read_rows

__all__ = ["Table", "ratio", "read_table", "sum_units"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A text table by columns."""

    path: Path
    columns: Mapping[str, tuple[str, ...]]

    def text(self, name: str) -> tuple[str, ...]:
        if name not in self.columns:
            raise CorruptError("a table without a column", where=self.path, expected=name)
        return self.columns[name]

    def numbers(self, name: str) -> Floats:
        try:
            found = np.array([float(v) if v else np.nan for v in self.text(name)])
        except ValueError as error:
            raise CorruptError("not a number", where=f"{self.path}, {name}", got=error) from None
        if np.isinf(found).any():
            raise CorruptError("an infinite number", where=f"{self.path}, {name}")
        return found


def read_table(path: Path) -> Table:
    """Return a text table with at least one row, else raise CorruptError."""
    names, rows = read_rows(path)
    if not rows:
        raise CorruptError("a table without rows", where=path)
    return Table(path, {name: tuple(row[i] for row in rows) for i, name in enumerate(names)})


def sum_units(labels: Sequence[str], values: Floats) -> tuple[tuple[str, ...], Floats]:
    """Return the units in the order of their names, and ``(U, ...)`` sums of the rows of each."""
    names, numbers = np.unique(np.asarray(labels, str), return_inverse=True)
    total = np.zeros((len(names), *values.shape[1:]))
    np.add.at(total, numbers.reshape(-1), values)
    return tuple(map(str, names)), total


def ratio(top: Floats, bottom: Floats) -> Floats:
    """Return the quotients, NaN where nothing is divided by."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)
