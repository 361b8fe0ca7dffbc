"""Tables of features that others made (CellProfiler, another encoder): numbers apart from what describes a row."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, MissingError, RefusedError, UsageError

__all__ = ["PREFIX", "FeatureTable", "is_table", "read_feature_table", "read_rows"]

#: What cell profiling puts before the names of columns that describe a row (pycytominer).
PREFIX = "Metadata_"
_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".npz")
_MISSING = frozenset(("", "na", "n/a", "nan", "none", "null", "<na>"))
_CHUNK = 256
#: A table is refused above this many characters or values, whatever an archive makes of it.
MOST_CHARACTERS = 16 * 2**30
MOST_VALUES = 2**31


@dataclass(frozen=True)
class FeatureTable:
    """A table taken apart.

    Attributes
    ----------
    features
        ``(n, d)`` float32; NaN where a cell is missing.
    columns
        Length d, names of the features.
    facts
        Length n each, by name; a leading ``Metadata_`` is gone.
    """

    features: NDArray[np.float32]
    columns: tuple[str, ...]
    facts: dict[str, tuple[str, ...]]


def is_table(reference: str) -> bool:
    """Return whether a reference is the name of a table rather than of a dataset."""
    return reference.lower().endswith(_ENDINGS)


class _Counted(io.TextIOBase):
    """Lines of a text stream, refused when there are more characters than any honest table has."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream, self._left = stream, MOST_CHARACTERS

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        while line := self._stream.readline(2**28):
            self._left -= len(line)
            if self._left < 0:
                raise UsageError("table too large", expected=f"{MOST_CHARACTERS} characters at most")
            yield line


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[list[str]]]:
    """Yield the rows of a text table; what is wrong with it becomes one line that names it."""
    lower = path.name.lower()
    delimiter = "\t" if lower.endswith((".tsv", ".tsv.gz")) else ","
    try:
        with (gzip.open if lower.endswith(".gz") else open)(
            path, "rt", encoding="utf-8-sig", newline=""
        ) as stream:
            yield csv.reader(_Counted(stream), delimiter=delimiter, strict=True)  # type: ignore[arg-type]
    except FileNotFoundError:
        raise MissingError("no such table", where=path) from None
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptError("not a readable table", where=path, got=error) from None
    except IsADirectoryError:
        raise UsageError("a folder, not a table", where=path) from None


def _header(rows: Iterator[list[str]], path: Path) -> list[str]:
    names = [name.strip() for name in next(rows, [])]
    if not names or not any(names):
        raise CorruptError("an empty table", where=path)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice or "" in names:
        got = repr(twice[0]) if twice else f"column {names.index('') + 1} of {len(names)}"
        raise CorruptError("a column without a name, or a name twice", where=path, got=got)
    return names


def _chunks(rows: Iterator[list[str]], width: int, path: Path) -> Iterator[list[list[str]]]:
    chunk: list[list[str]] = []
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != width:
            raise CorruptError(
                "a row of another length", where=f"{path}, row {number}", got=len(row), expected=width
            )
        chunk.append(row)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names of the columns and the rows of a small CSV or TSV file, cells stripped.

    Raises
    ------
    MissingError, CorruptError
        There is no such file, or it is not a table with a header and rows of one length.
    """
    with _opened(path) as rows:
        names = _header(rows, path)
        return names, [[c.strip() for c in row] for chunk in _chunks(rows, len(names), path) for row in chunk]


def _number(cell: str) -> float:
    """Return a cell as a number, NaN where it is missing; ValueError for anything else."""
    text = cell.strip()
    if text.lower() in _MISSING:
        return math.nan
    if "_" in text:  # Python's own notation, nobody's table
        raise ValueError(text)
    return float(text)


def _as_floats(cells: Sequence[Sequence[str]]) -> tuple[NDArray[np.float32], list[int]]:
    """Return ``(rows, columns)`` and which of the columns hold something else than numbers."""
    try:
        with np.errstate(over="ignore"):
            return np.array(cells, np.float64).astype(np.float32), []
    except ValueError:
        pass
    found = np.full((len(cells), len(cells[0])), np.nan, np.float32)
    other = []
    for j, column in enumerate(zip(*cells, strict=True)):
        try:
            with np.errstate(over="ignore"):
                found[:, j] = [_number(cell) for cell in column]
        except ValueError:
            other.append(j)
    return found, other


def _pick(columns: Sequence[int]) -> Any:
    return itemgetter(*columns, columns[0])  # a single column would come without its tuple


def _read_text(path: Path, described: frozenset[str]) -> FeatureTable:
    texts: list[list[str]] = []
    floats: list[NDArray[np.float32]] = []
    with _opened(path) as rows:
        names = _header(rows, path)
        numeric = [j for j, name in enumerate(names) if not name.startswith(PREFIX) and name not in described]
        late: set[int] = set()
        for chunk in _chunks(rows, len(names), path):
            if (sum(map(len, floats)) + len(chunk)) * max(1, len(numeric)) > MOST_VALUES:
                raise UsageError("table too large", where=path, expected=f"{MOST_VALUES} values at most")
            if numeric:
                pick = _pick(numeric)
                values, other = _as_floats([pick(row)[:-1] for row in chunk])
                if other:
                    gone = {numeric[j] for j in other}
                    late |= gone if floats else set()
                    kept = np.array([j for j in range(len(numeric)) if numeric[j] not in gone], np.intp)
                    floats = [block[:, kept] for block in floats]
                    values, numeric = values[:, kept], [numeric[j] for j in kept]
                floats.append(values)
            facts = [j for j in range(len(names)) if j not in set(numeric)]
            texts += [[row[j] if j not in late else "" for j in facts] for row in chunk] if not late else []
    if late:  # text after numbers: what came before has to be read again
        return _read_text(path, described | {names[j] for j in late})
    if not floats and not texts:
        raise CorruptError("a table without rows", where=path)
    features = np.concatenate(floats) if numeric else np.zeros((len(texts), 0), np.float32)
    known: NDArray[np.bool_] = np.logical_or.reduce(
        ~np.isnan(features), axis=0
    )  # a column without any value is no feature
    describing = [j for j in range(len(names)) if j not in set(numeric)]
    columns = dict(zip((names[j] for j in describing), zip(*texts, strict=True), strict=True))
    columns |= {names[j]: ("",) * len(texts) for j, own in zip(numeric, known, strict=True) if not own}
    return FeatureTable(
        features[:, known],
        tuple(names[j] for j, own in zip(numeric, known, strict=True) if own),
        _facts(list(columns), list(columns.values())),
    )


def _facts(names: Sequence[str], columns: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    short = [name.removeprefix(PREFIX) or name for name in names]
    return {
        (own if short.count(own) == 1 else name): tuple(cell.strip() for cell in column)
        for name, own, column in zip(names, short, columns, strict=True)
    }


def _read_archive(path: Path) -> FeatureTable:
    try:
        with np.load(path, allow_pickle=False) as archive:
            sizes = [info.file_size for info in archive.zip.infolist()]
            if sum(sizes) > 8 * MOST_VALUES:
                raise UsageError("archive too large", where=path, got=f"{sum(sizes)} bytes")
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise MissingError("no such table", where=path) from None
    except (ValueError, zipfile.BadZipFile, EOFError, zlib.error, KeyError, NotImplementedError) as error:
        raise CorruptError("not a readable archive of arrays", where=path, got=error) from None
    tables = {name: a for name, a in arrays.items() if a.ndim == 2 and a.dtype.kind in "fiu"}
    if len(tables) != 1 and "features" not in tables:
        raise UsageError(
            "no table of features", where=path, got=", ".join(f"{n} {a.shape}" for n, a in arrays.items()),
            expected="one matrix of numbers, or one named features",
        )  # fmt: skip
    chosen = "features" if "features" in tables else next(iter(tables))
    features = tables[chosen]
    if not features.size:
        raise CorruptError("a table without rows", where=path, got=features.shape)
    names = arrays.get("columns")
    columns = tuple(map(str, names)) if names is not None and names.shape == features.shape[1:] else ()
    facts = {
        name: array
        for name, array in arrays.items()
        if name not in (chosen, "columns")
        and array.shape == features.shape[:1]
        and array.dtype.kind in "USfiub"
    }
    cells = [
        [c.decode("utf-8", "replace") if isinstance(c, bytes) else str(c) for c in a] for a in facts.values()
    ]
    with np.errstate(over="ignore"):
        return FeatureTable(
            features.astype(np.float32),
            columns or tuple(f"{chosen}_{j}" for j in range(features.shape[1])),
            _facts(list(facts), cells),
        )


def read_feature_table(
    path: Path, *, described: Sequence[str] = (), drop_missing: bool = False
) -> FeatureTable:
    """Read a table: numeric columns are features, but those whose names begin with ``Metadata_``.

    Parameters
    ----------
    path
        CSV or TSV text with a header, gzipped or not, or an ``.npz`` archive with one matrix of numbers and columns
        of as many rows.
    described
        Numeric columns that describe a row and are no features either.
    drop_missing
        Leave out features with a missing or infinite value; without it such a table is refused.

    Raises
    ------
    MissingError, CorruptError
        There is no such table, or it is damaged.
    RefusedError
        Features that are not finite.
    UsageError
        No features, or a column of `described` that is not there.
    """
    table = (
        _read_archive(path) if path.name.lower().endswith(".npz") else _read_text(path, frozenset(described))
    )
    absent = [
        name for name in described if name not in table.facts and name.removeprefix(PREFIX) not in table.facts
    ]
    if absent:
        raise UsageError(
            "no such column", where=path, got=absent[0], expected=", ".join(list(table.facts)[:20])
        )
    if not table.features.shape[1]:
        raise UsageError(
            "no features", where=path, got=f"{len(table.facts)} columns of text",
            expected=f"numeric columns whose names do not begin with {PREFIX}",
        )  # fmt: skip
    finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(table.features), axis=0)
    if finite.all():
        return table
    if not drop_missing or not finite.any():
        first = table.columns[int(np.flatnonzero(~finite)[0])]
        raise RefusedError(
            "features with missing or infinite values", where=path,
            got=f"{int((~finite).sum())} of {len(finite)} columns, the first is {first}",
            todo="leave those columns out with --drop-missing" if finite.any() else "mend the table",
        )  # fmt: skip
    kept = tuple(name for name, own in zip(table.columns, finite, strict=True) if own)
    return FeatureTable(np.ascontiguousarray(table.features[:, finite]), kept, table.facts)
