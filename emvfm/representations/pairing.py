"""Which rows of a metadata table count for a query, which against it, and which not at all.

A rule is written as terms joined by ``&``, each a verb and columns:

======================  ====================================================================
``same:a,b``            the candidate has the query's value in every one of these columns
``different:a,b``       the candidate has another value in every one of these columns
``shares:a``            cells hold several labels parted by ``|``; at least one is in common
``unshared:a``          the same, and none is in common
``is:a=v|w``            the candidate's value is one of these
``isnt:a=v|w``          the candidate's value is none of these
======================  ====================================================================

A missing value is neither the same as another nor different from it, so that it makes no pair. An exclusion is
a list of columns: a candidate that shares the query's value in any of them is left out. A row is never its own
candidate, and what is both positive and negative is positive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from emvfm.errors import UsageError

__all__ = ["VERBS", "Pairing", "Rule", "Table", "find_column", "parse_rule"]

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


def parse_rule(text: str) -> Rule:
    """Read a rule such as ``same:compound & different:plate``.

    Raises
    ------
    UsageError
        An unknown verb, no columns, or ``is`` without a value.
    """
    terms = []
    for part in text.split("&"):
        verb, colon, rest = part.strip().partition(":")
        if verb not in VERBS or not colon or not rest.strip():
            raise UsageError(
                "not a rule of pairs",
                where=text,
                got=repr(part.strip()),
                expected=f"{'|'.join(VERBS)}:columns",
            )
        if verb in ("is", "isnt"):
            column, equals, values = rest.partition("=")
            if not equals:
                raise UsageError(
                    "no value to compare with", where=text, got=part.strip(), expected="is:column=value"
                )
            terms.append(Term(verb, (column.strip(),), tuple(v.strip() for v in values.split("|"))))
        else:
            terms.append(Term(verb, tuple(name.strip() for name in rest.split(","))))
    return Rule(tuple(terms), text)


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


def _incidence(values: list[str | None]) -> tuple[sparse.csr_array, Mask]:
    """Return which of all labels ``(rows, labels)`` each row carries, and which rows carry any."""
    numbers: dict[str, int] = {}
    places = [
        (row, numbers.setdefault(label.strip(), len(numbers)))
        for row, cell in enumerate(values)
        for label in set((cell or "").split("|"))
        if label.strip()
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
            known = np.array([v is not None for v in columns[0]], bool)
            self.candidates = hit if term.verb == "is" else known & ~hit
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
        self.text = {"positives": positives, "negatives": negatives or "others", "exclude": ",".join(exclude)}
        self._positives = [_Condition(t, table, "positives") for t in parse_rule(positives).terms]
        rule = parse_rule(negatives) if negatives else Rule((), "others")
        self._negatives = [_Condition(t, table, "negatives") for t in rule.terms]
        self._excluded = [_codes(_column(table, name, "exclude")) for name in exclude]

    def masks(self, rows: NDArray[np.intp]) -> tuple[Mask, Mask]:
        """Return positives and negatives of the queries `rows`, both ``(rows, n)``, never overlapping."""
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
