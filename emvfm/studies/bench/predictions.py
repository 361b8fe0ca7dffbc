"""What the runs of benchmarks predicted, read back from their tables by the ids of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, MissingError
from emvfm.provenance import sha256_file
from emvfm.studies.profile_tables import read_rows

__all__ = ["RunPredictions", "read_predictions"]

#: Tables of single rows that benchmarks write: pattern, columns of the key, columns that are no prediction.
_TABLES = (
    ("queries.csv", ("id", "group"), ("expected", "normalised", "p_value", "positives", "candidates")),
    ("predictions/*.csv", ("id",), ("group", "fold", "labels", "predicted")),
    ("predictions.csv", ("id",), ("group", "fold", "labels", "predicted")),
)


@dataclass(frozen=True)
class RunPredictions:
    """One table of a run.

    Attributes
    ----------
    keys
        Key of a row to its place.
    columns
        Name of what is predicted to ``(n,)``, NaN where there is no value.
    digest
        Of the table's bytes.
    """

    name: str
    folder: str
    keys: Mapping[str, int]
    columns: Mapping[str, NDArray[np.float64]]
    digest: str

    def table(self, keys: Sequence[str], columns: Sequence[str]) -> NDArray[np.float64]:
        """Return ``(keys, columns)``."""
        places = [self.keys[key] for key in keys]
        return np.stack([self.columns[name][places] for name in columns], axis=1)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": self.folder,
            "rows": len(self.keys),
            "columns": list(self.columns),
        }


def _numbers(cells: Sequence[str], path: Path) -> NDArray[np.float64]:
    try:
        return np.array([float(cell) if cell else np.nan for cell in cells])
    except ValueError as error:
        raise CorruptError("a prediction that is no number", where=path, got=error) from None


def _read(path: Path, name: str, key: tuple[str, ...], others: tuple[str, ...]) -> RunPredictions:
    names, rows = read_rows(path)
    if key[0] not in names or not rows:
        raise CorruptError("a table without rows or ids", where=path)
    keyed = [names.index(own) for own in key if own in names]
    columns: dict[str, NDArray[np.float64]] = {}
    for i, own in enumerate(names):
        if i not in keyed and own not in others and not own.startswith("hit_at_"):
            columns[own] = _numbers([row[i] for row in rows], path)
    keys = {" | ".join(row[i] for i in keyed): place for place, row in enumerate(rows)}
    if len(keys) < len(rows):
        raise CorruptError("an id occurs twice", where=path)
    return RunPredictions(name, str(path.parent), keys, columns, sha256_file(path))


def read_predictions(folder: Path, name: str) -> list[RunPredictions]:
    """Read every table of single rows in the folder of a run; its name is taken, with the table's where several are.

    Raises
    ------
    MissingError
        The run has none.
    CorruptError
        A table is damaged.
    """
    found = [
        (path, key, others)
        for pattern, key, others in _TABLES
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]
    if not found:
        raise MissingError(
            "no predictions of single rows in this run",
            where=folder,
            expected="a run of bench retrieve or localize",
        )
    several = len(found) > 1
    return [
        _read(path, f"{name}/{path.stem}" if several else name, key, others) for path, key, others in found
    ]
