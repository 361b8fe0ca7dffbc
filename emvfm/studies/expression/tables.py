"""Tables of counts, spots by genes or genes by spots, as published; read as text and never trusted."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, MissingError, UsageError

__all__ = ["CountTable", "find_tables", "read_counts", "table_stem"]

_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
#: A table is refused above this many values, or characters once unpacked, whatever an archive makes of it.
MOST_VALUES = 2**31
MOST_CHARACTERS = 16 * 2**30


@dataclass(frozen=True)
class CountTable:
    """Values with the names of rows and columns, as in the file."""

    path: Path
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float32]

    def by_spot(self, spots: Sequence[str]) -> CountTable:
        """Return the table with spots as rows: turned, if more of `spots` are among its columns.

        Raises
        ------
        UsageError
            No spot is in it.
        """
        wanted = set(spots)
        in_rows, in_columns = len(wanted & set(self.rows)), len(wanted & set(self.columns))
        if not in_rows and not in_columns:
            raise UsageError(
                "none of the spots is in the table of counts", where=self.path,
                got=f"{self.rows[0]} and {self.columns[0]}", expected=f"names such as {next(iter(spots), '')}",
                todo="name the fact that names spots with --spot",
            )  # fmt: skip
        if in_rows >= in_columns:
            return self
        return CountTable(self.path, self.columns, self.rows, np.ascontiguousarray(self.values.T))


def table_stem(path: Path) -> str:
    """Return the name of a table without its endings: ``C2`` of ``C2.tsv.gz``."""
    name = path.name
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return path.stem


def find_tables(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the tables that files and folders stand for.

    Raises
    ------
    MissingError
        A file is not there, or a folder has no table.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.name.lower().endswith(_ENDINGS) and p.is_file())
            if not inside:
                raise MissingError(
                    "no table of counts in this folder", where=path, expected=", ".join(_ENDINGS)
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise MissingError("no such table of counts", where=path)
    return tuple(dict.fromkeys(found))


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    opening: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opening(path, "rt", encoding="utf-8-sig") as stream:
            yield stream
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptError("not a readable table of counts", where=path, got=error) from None


def _lines(stream: IO[str], path: Path) -> Iterator[str]:
    left = MOST_CHARACTERS
    while line := stream.readline(2**28):
        left -= len(line)
        if left < 0:
            raise CorruptError(
                "table too large", where=path, expected=f"{MOST_CHARACTERS} characters at most"
            )
        if line.strip():
            yield line.rstrip("\r\n")


def _names(names: Sequence[str], what: str, path: Path) -> tuple[str, ...]:
    plain = tuple(name.strip().strip('"') for name in names)
    if "" in plain or len(set(plain)) < len(plain):
        twice = next((name for name in plain if name and plain.count(name) > 1), "")
        raise CorruptError(f"a {what} without a name, or a name twice", where=path, got=repr(twice))
    return plain


def _values(text: str, separator: str, width: int, where: str) -> NDArray[np.float32]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = np.fromstring(text, np.float64, sep=separator)
        except (DeprecationWarning, ValueError):
            raise CorruptError("counts that are no numbers", where=where) from None
    if len(found) != width:
        raise CorruptError("a row of another length", where=where, got=len(found), expected=width)
    if not np.isfinite(found).all() or found.min(initial=0.0) < 0 or found.max(initial=0.0) > 1e30:
        raise CorruptError("counts that are negative or not finite", where=where)
    return found.astype(np.float32)


def read_counts(path: Path) -> CountTable:
    """Read a table with names in the first row and column; the first row may lack its first cell.

    Parts are separated by tabs, else commas, else spaces.

    Raises
    ------
    CorruptError
        It is damaged, too large, not a table, or holds what is no count.
    """
    with _opened(path) as stream:
        lines = _lines(stream, path)
        header = next(lines, "")
        first = next(lines, "")
        separator = next((s for s in ("\t", ",", " ") if s in first), "")
        if not separator:
            raise CorruptError("not a table of counts", where=path, expected="names of rows and of columns")
        names, width = header.split(separator), len(first.split(separator)) - 1
        columns = _names(names[1:] if len(names) == width + 1 else names, "column", path)
        rows, values = [], []
        for number, line in enumerate(chain([first], lines), start=2):
            name, _, text = line.partition(separator)
            rows.append(name)
            values.append(_values(text, separator, len(columns), f"{path}, row {number}"))
            if len(values) * len(columns) > MOST_VALUES:
                raise CorruptError("table too large", where=path, expected=f"{MOST_VALUES} values at most")
    return CountTable(path, _names(rows, "row", path), columns, np.stack(values))
