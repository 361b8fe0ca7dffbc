"""Tables of cells: where they are, in which image, of what type."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emvfm.backbones.baselines.structure.objects import Objects
from emvfm.errors import CorruptError, MissingError
from emvfm.provenance import sha256_file

__all__ = ["CellTable", "read_cells"]

_MOST_BYTES = 2**30
_MOST_TYPES = 1000


@dataclass(frozen=True)
class CellTable:
    """Cells by the sample they are in.

    Attributes
    ----------
    digest
        SHA-256 of the file.
    cells
        By sample id: ``(n, 2)`` x and y in px of the native image, and the types, empty where there are none.
    types
        All that occur, sorted.
    """

    digest: str
    cells: Mapping[str, tuple[np.ndarray, tuple[str, ...]]]
    types: tuple[str, ...]

    def of(self, sample: str, size: tuple[int, int]) -> Objects:
        """Return the cells of a sample of this height and width; a sample that is not in the table has none."""
        points, types = self.cells.get(sample, (np.zeros((0, 2)), ()))
        return Objects.of_cells(points, (float(size[1]), float(size[0])), types or None)


def read_cells(path: Path) -> CellTable:
    """Read a CSV or TSV table with columns ``sample``, ``x``, ``y`` (px) and perhaps ``type``.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        A column or a number is missing, or it is no table.
    """
    if not path.is_file():
        raise MissingError("no such table of cells", where=path)
    if path.stat().st_size > _MOST_BYTES:
        raise CorruptError(
            "too large for a table of cells", where=path, expected=f"at most {_MOST_BYTES} bytes"
        )
    digest = sha256_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        names = list(reader.fieldnames or ())
        if missing := [name for name in ("sample", "x", "y") if name not in names]:
            raise CorruptError(
                "a column is missing",
                where=path,
                got=", ".join(names[:8]) or "no header",
                expected=missing[0],
            )
        found: dict[str, tuple[list[tuple[float, float]], list[str]]] = {}
        for line, row in enumerate(reader, start=2):
            points, types = found.setdefault(row["sample"], ([], []))
            points.append((_number(row["x"], path, line), _number(row["y"], path, line)))
            if "type" in names:
                types.append(row["type"] or "")
    except (csv.Error, UnicodeDecodeError) as error:
        raise CorruptError("not a table", where=path, got=error) from None
    kinds = tuple(sorted({kind for _, types in found.values() for kind in types}))
    if len(kinds) > _MOST_TYPES:
        raise CorruptError(
            "too many types of cells", where=path, got=len(kinds), expected=f"{_MOST_TYPES} at most"
        )
    cells = {
        sample: (np.array(points, np.float64), tuple(types)) for sample, (points, types) in found.items()
    }
    return CellTable(digest, cells, kinds)


def _number(text: str | None, path: Path, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CorruptError(
            "not a position", where=f"{path}:{line}", got=repr(text), expected="a number of px"
        )
    return value
