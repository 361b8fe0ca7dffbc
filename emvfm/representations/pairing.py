"""Which rows of a metadata table count for a query, which against it, and which not at all.

A rule is terms joined by commas (or ``&``, or the word ``and``) that must all hold:

=========================  =================================================================
``same compound``          the candidate has the query's value in this column
``different plate``        the candidate has another value in this column
``shares target``          cells hold several labels parted by ``|`` or ``;``; one is common
``unshared target``        the same, and none is in common
``role=control|sham``      the candidate's value is one of these
``role!=control``          the candidate's value is none of these, or missing
=========================  =================================================================

``same compound, plate`` is ``same compound, same plate``; a colon may stand for the space, quotes hold a value or a
name with a comma, and the case of a column's name does not count where only one fits. A missing value is neither the
same as another nor different from it, so that it makes no pair. An exclusion is a list of columns: a candidate that
shares the query's value in any of them is left out. A row is never its own candidate, and what is both positive and
negative is positive.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from emvfm.errors import UsageError

__all__ = [
    "VERBS",
    "LabelPairing",
    "Pairing",
    "Rule",
    "Table",
    "find_column",
    "labels_of",
    "parse_rule",
    "rows_where",
]

Table = Mapping[str, Sequence[object]]
Mask = NDArray[np.bool_]
VERBS = ("same", "different", "shares", "unshared", "is", "isnt")
_MISSING = -1


@dataclass(frozen=True)
class Term:
    """One condition on a pair of rows, or (`is`, `isnt`) on the candidate alone."""

    verb: str
    columns: tuple[str, ...]
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """Terms that must all hold."""

    terms: tuple[Term, ...]
    text: str


_LITERAL = re.compile(
    r"^(?:(?P<verb>is|isnt)[:\s]\s*)?(?P<column>[^=!]+?)\s*(?P<sign>!?=)\s*(?P<values>.*)$", re.S
)
_PAIRED = re.compile(r"^(?P<verb>same|different|shares|unshared)(?:\s*:\s*|\s+)(?P<column>.+)$", re.S)
_EXPECTED = "same|different|shares|unshared COLUMN, COLUMN=VALUE|VALUE or COLUMN!=VALUE"


def _unquoted(text: str) -> str:
    return text.strip().strip('"').strip()


def _parts(text: str) -> list[str]:
    """Return what stands between commas, ampersands and the word `and`, outside quotes."""
    marked = re.sub(r"""("[^"]*")|\s+and\s+""", lambda found: found[1] or ",", text)
    if not re.fullmatch(r"""(?:"[^"]*"|[^"])*""", marked):
        return [""]  # a quote that is not closed
    return [part.strip() for part in re.split(r"""[,&](?=(?:[^"]*"[^"]*")*[^"]*$)""", marked)]


def _term(part: str, former: str | None) -> Term | None:
    """Return one term, None if it can't be read; a name alone takes the verb of the term before it."""
    literal = _LITERAL.match(part)
    if literal is not None and not _PAIRED.match(literal["column"]):
        values = tuple(_unquoted(value) for value in literal["values"].split("|"))
        turned = (literal["sign"] == "!=") != (literal["verb"] == "isnt")
        return (
            Term("isnt" if turned else "is", (_unquoted(literal["column"]),), values) if any(values) else None
        )
    paired = _PAIRED.match(part)
    if paired is not None:
        return Term(paired["verb"], (_unquoted(paired["column"]),))
    if part and former is not None and part not in VERBS and not re.match(r"^\w+:", part):
        return Term(former, (_unquoted(part),))
    return None


def parse_rule(text: str) -> Rule:
    """Read a rule such as ``same compound, different plate``.

    Raises
    ------
    UsageError
        A term that is none of those above.
    """
    terms: list[Term] = []
    for part in _parts(text):
        former = terms[-1].verb if terms and terms[-1].verb not in ("is", "isnt") else None
        term = _term(part, former)
        if term is None:
            raise UsageError("not a rule of pairs", where=text or "rule", got=repr(part), expected=_EXPECTED)
        terms.append(term)
    return Rule(tuple(terms), text)


def rows_where(table: Table, text: str, where: str) -> Mask:
    """Return which rows ``(n,)`` a condition such as ``role=control, plate!=p3`` holds for.

    Raises
    ------
    UsageError
        It cannot be read, compares two rows, or names a column that is not there.
    """
    terms = parse_rule(text).terms
    compared = [term.verb for term in terms if term.verb not in ("is", "isnt")]
    if compared:
        raise UsageError(
            "a condition on one row compares two", where=where, got=f"{compared[0]} in {text!r}",
            expected="COLUMN=VALUE or COLUMN!=VALUE",
        )  # fmt: skip
    conditions = [_Condition(term, table, where) for term in terms]
    return np.logical_and.reduce([condition.candidates for condition in conditions])


def find_column(names: Iterable[str], name: str, where: str) -> str:
    """Return the column that is meant by a name; case does not count where only one fits.

    Raises
    ------
    UsageError
        There is none.
    """
    known = list(names)
    if name in known:
        return name
    close = [own for own in known if own.lower() == name.lower()]
    if len(close) != 1:
        raise UsageError("no such column", where=where, got=name, expected=", ".join(known))
    return close[0]


def _column(table: Table, name: str, where: str) -> list[str | None]:
    """Return a column as text, None where the value is missing."""
    values = table[find_column(table, name, where)]
    missing = ("", "nan", "none", "<na>")
    return [None if str(value).strip().lower() in missing else str(value).strip() for value in values]


def _codes(values: list[str | None]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array(
        [_MISSING if v is None else numbers.setdefault(v, len(numbers)) for v in values], np.int64
    )


def _joint(columns: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return one number for the values of several columns, missing where any of them is."""
    stacked = np.stack(columns, axis=1)
    numbers = np.unique(stacked, axis=0, return_inverse=True)[1].reshape(-1)
    return np.where((stacked == _MISSING).any(axis=1), _MISSING, numbers)


def labels_of(cell: str | None) -> list[str]:
    """Return the labels of a cell, each once, in the order of their names."""
    return sorted({label.strip() for label in re.split(r"[|;]", cell or "")} - {""})


def _incidence(values: list[str | None]) -> tuple[sparse.csr_array, Mask]:
    """Return which of all labels ``(rows, labels)`` each row carries, and which rows carry any."""
    numbers: dict[str, int] = {}
    places = [
        (row, numbers.setdefault(label.strip(), len(numbers)))
        for row, cell in enumerate(values)
        for label in labels_of(cell)
    ]
    rows, columns = np.array(places, np.int64).reshape(-1, 2).T
    shape = (len(values), max(1, len(numbers)))
    matrix = sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    return matrix, np.asarray(matrix.sum(axis=1)).ravel() > 0


class _Condition:
    """A term with the codes of its columns: gives its mask for a block of queries."""

    def __init__(self, term: Term, table: Table, where: str) -> None:
        columns = [_column(table, name, where) for name in term.columns]
        self.verb = term.verb
        if term.verb in ("shares", "unshared"):
            self.labels = [_incidence(column) for column in columns]
        elif term.verb in ("is", "isnt"):
            wanted = set(term.values)
            hit = np.array([v in wanted for v in columns[0]], bool)
            self.candidates = hit if term.verb == "is" else ~hit
        else:
            codes = [_codes(column) for column in columns]
            self.codes = [_joint(codes)] if term.verb == "same" else codes

    def mask(self, rows: NDArray[np.intp]) -> Mask:
        """Return ``(rows, candidates)``."""
        if self.verb in ("is", "isnt"):
            return np.broadcast_to(self.candidates, (len(rows), len(self.candidates)))
        if self.verb in ("shares", "unshared"):
            parts = []
            for matrix, known in self.labels:
                common = (matrix[rows] @ matrix.T).toarray() > 0
                parts.append(common if self.verb == "shares" else ~common & known[rows, None] & known)
            return np.logical_and.reduce(parts)
        parts = []
        for codes in self.codes:
            own = codes[rows, None]
            if self.verb == "same":
                parts.append((own == codes) & (own != _MISSING))
            else:
                parts.append((own != codes) & (own != _MISSING) & (codes != _MISSING))
        return np.logical_and.reduce(parts)


class Pairing:
    """The candidates of each query: positives, negatives and exclusions over one metadata table.

    Parameters
    ----------
    table
        Columns of equal length by name; values are compared as text.
    positives, negatives
        Rules in the words of this module; negatives default to every row that is not positive.
    exclude
        Columns in which no candidate may share the query's value, such as plate, well or batch.

    Raises
    ------
    UsageError
        A rule that cannot be read, a column that is not there, or columns of unequal length.
    """

    def __init__(
        self, table: Table, *, positives: str, negatives: str | None = None, exclude: Sequence[str] = ()
    ) -> None:
        lengths = {name: len(values) for name, values in table.items()}
        if len(set(lengths.values())) != 1:
            raise UsageError("columns of unequal length", where="metadata", got=lengths)
        self.n = next(iter(lengths.values()))
        self.n_queries = self.n
        self.text = {"positives": positives, "negatives": negatives or "others", "exclude": ",".join(exclude)}
        self._positives = [_Condition(t, table, "positives") for t in parse_rule(positives).terms]
        rule = parse_rule(negatives) if negatives else Rule((), "others")
        self._negatives = [_Condition(t, table, "negatives") for t in rule.terms]
        self._excluded = [_codes(_column(table, name, "exclude")) for name in exclude]

    def rows(self, queries: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the row that each query stands in."""
        return queries

    def masks(self, queries: NDArray[np.intp]) -> tuple[Mask, Mask]:
        """Return positives and negatives of queries, both ``(queries, n)``, never overlapping."""
        rows = self.rows(queries)
        allowed = np.ones((len(rows), self.n), bool)
        allowed[np.arange(len(rows)), rows] = False
        for codes in self._excluded:
            own = codes[rows, None]
            allowed &= (own != codes) | (own == _MISSING)
        positives, negatives = allowed.copy(), allowed
        for condition in self._positives:
            positives &= condition.mask(rows)
        for condition in self._negatives:
            negatives &= condition.mask(rows)
        negatives &= ~positives
        return positives, negatives

    def to_json(self) -> dict[str, Any]:
        """Return the rules as they were written."""
        return dict(self.text)


class LabelPairing(Pairing):
    """Queries are a row and one of its labels: positives carry this very label, negatives are as the rules say.

    So every label has the mean of the queries that ask for it, as in copairs' multilabel form. A row that shares
    another label with the query is neither, if the rule of negatives is ``unshared``.

    Parameters
    ----------
    column
        Of the labels; ``shares`` it is among the positives' terms.
    """

    def __init__(
        self,
        table: Table,
        column: str,
        *,
        positives: str,
        negatives: str | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        super().__init__(table, positives=positives, negatives=negatives, exclude=exclude)
        self.text["label"] = column
        cells = [labels_of(cell) for cell in _column(table, column, "label")]
        entries = [(row, label) for row, labels in enumerate(cells) for label in labels]
        if not entries:
            raise UsageError("a column without labels", where="label", got=column)
        self.labels = tuple(label for _, label in entries)
        self.n_queries = len(entries)
        self._row_of = np.array([row for row, _ in entries], np.intp)
        codes = np.unique(self.labels, return_inverse=True)[1]
        ones = np.ones(len(entries), np.bool_)
        self._carriers = sparse.csr_array((ones, (codes, self._row_of)), shape=(codes.max() + 1, self.n))
        self._code_of = codes

    def rows(self, queries: NDArray[np.intp]) -> NDArray[np.intp]:
        return self._row_of[queries]

    def masks(self, queries: NDArray[np.intp]) -> tuple[Mask, Mask]:
        positives, negatives = super().masks(queries)
        positives &= self._carriers[self._code_of[queries]].toarray()
        return positives, negatives
