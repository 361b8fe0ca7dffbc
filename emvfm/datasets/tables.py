"""Tables of what is known of images: CSV or TSV, read as text and never trusted."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from emvfm.datasets.manifest import check_fact
from emvfm.errors import CorruptError, MissingError, UsageError

__all__ = ["Table", "column_and_values", "join_labels", "keep_rows", "read_table"]

#: Largest table in bytes of text, unpacked: about a million rows.
MOST_BYTES = 2**28


@dataclass(frozen=True)
class Table:
    """The rows of a table as text, by the names of its columns.

    Attributes
    ----------
    numbers
        Position of each row in the file, from 0: rows may have been left out.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, n: int) -> str:
        """Return the place of row `n` for a message; the header is line 1."""
        return f"{self.path}:{self.numbers[n] + 2}"

    def column(self, name: str, option: str) -> tuple[str, ...]:
        """Return the values of a column.

        Raises
        ------
        UsageError
            There is none of this name; `option` asked for it.
        """
        if name not in self.columns:
            raise UsageError(
                "the table has no such column", where=option, got=name, expected=", ".join(self.columns)
            )
        return tuple(row[name] for row in self.rows)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes() if path.stat().st_size <= MOST_BYTES else None
        if data is not None and path.suffix.lower() == ".gz":
            with gzip.open(io.BytesIO(data)) as stream:
                data = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise MissingError("no such table", where=path) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CorruptError("damaged table", where=path, got=error) from None
    if data is None or len(data) > MOST_BYTES:
        raise CorruptError("a table too large", where=path, expected=f"{MOST_BYTES} bytes at the most")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptError("a table that is not UTF-8 text", where=path, got=error) from None


def read_table(path: Path) -> Table:
    """Read a table with a header: commas, or tabs if the name ends in ``.tsv``; ``.gz`` is unpacked.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        It is damaged, not UTF-8, too large, has no rows, rows of different length, or columns without or with
        equal names, or text that no manifest can have.
    """
    path = Path(path)
    delimiter = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    try:
        lines = list(csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise CorruptError("not a table", where=path, got=error) from None
    lines = [line for line in lines if line]
    if len(lines) < 2:
        raise CorruptError("a table without rows", where=path, expected="a header and one row an image")
    columns = tuple(name.strip() for name in lines[0])
    for name in columns:
        if not name or columns.count(name) > 1:
            what = "a column twice" if name else "a column without a name"
            raise CorruptError(what, where=path, got=repr(name) if name else None)
    rows = []
    for n, line in enumerate(lines[1:]):
        where = f"{path}:{n + 2}"
        if len(line) != len(columns):
            expected = f"{len(columns)} as in the header"
            raise CorruptError("a row of another length", where=where, got=len(line), expected=expected)
        rows.append({c: check_fact(c, value.strip(), where) for c, value in zip(columns, line, strict=True)})
    return Table(path, columns, tuple(rows), tuple(range(len(rows))))


def column_and_values(text: str, option: str) -> tuple[str, tuple[str, ...]]:
    """Return ``COLUMN=V1,V2`` as the column and its values; no values without ``=``.

    >>> column_and_values("well=A01,A12", "--where")
    ('well', ('A01', 'A12'))
    """
    column, equals, values = text.partition("=")
    chosen = tuple(value.strip() for value in values.split(",")) if equals else ()
    if not column.strip() or (equals and not all(chosen)):
        raise UsageError("not a choice by a column", where=option, got=repr(text), expected="COLUMN=V1,V2")
    return column.strip(), chosen


def keep_rows(table: Table, conditions: Sequence[str]) -> Table:
    """Return the rows that meet all conditions ``COLUMN=V1,V2``.

    Raises
    ------
    UsageError
        A condition is none, names no column or a value that the column has not, or no row is left.
    """
    keep = [True] * len(table)
    for text in conditions:
        column, values = column_and_values(text, "--where")
        found = table.column(column, "--where")
        if not values or (unknown := sorted(set(values) - set(found))):
            some = sorted(set(found))[:8]
            got = ", ".join(unknown) if values else repr(text)
            raise UsageError("no row is so", where=f"--where {column}", got=got, expected=", ".join(some))
        keep = [kept and value in values for kept, value in zip(keep, found, strict=True)]
    if not any(keep):
        raise UsageError("no row is left", where="--where", got=" and ".join(conditions))
    rows = tuple(row for row, kept in zip(table.rows, keep, strict=True) if kept)
    numbers = tuple(n for n, kept in zip(table.numbers, keep, strict=True) if kept)
    return replace(table, rows=rows, numbers=numbers)


def join_labels(table: Table, choice: str | None) -> Table:
    """Return the table with the column ``label``: of `choice` ``COLUMN`` or ``COLUMN=SEPARATOR``.

    Labels are parted in the column by the separator, else by ``;`` or ``|``; in ``label`` by ``;``, each once.

    Raises
    ------
    UsageError
        There is no such column, or ``label`` is another one.
    """
    if choice is None:
        return table
    column, equals, separator = choice.partition("=")
    pattern = re.escape(separator) if equals and separator else "[;|]"
    values = table.column(column, "--labels")
    if column != "label" and "label" in table.columns:
        raise UsageError("the table has a column label already", where="--labels", got=column)
    rows = []
    for row, value in zip(table.rows, values, strict=True):
        labels = dict.fromkeys(part.strip() for part in re.split(pattern, value))
        rows.append({**row, "label": ";".join(label for label in labels if label)})
    columns = table.columns if column == "label" else (*table.columns, "label")
    return replace(table, columns=columns, rows=tuple(rows))
