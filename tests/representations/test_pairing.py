"""Pairs by metadata: every verb against a loop over rows that spells it out."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.representations.pairing import Pairing, parse_rule

TABLE = {
    "compound": ["a", "a", "b", "b", None, "a", "dmso", "dmso"],
    "plate": ["1", "2", "1", "2", "1", "1", "2", ""],
    "moa": ["x|y", "y", "z", "x | z", "x", "", "y|z", float("nan")],
    "kind": ["trt", "trt", "trt", "trt", "trt", "trt", "ctl", "ctl"],
}


def holds(verb: str, q: object, c: object, values: tuple[str, ...] = ()) -> bool:
    """The table in the module's docstring, one pair of cells at a time."""
    q, c = ("" if str(v) in ("None", "nan") else str(v) for v in (q, c))
    labels_q, labels_c = ({p.strip() for p in cell.split("|") if p.strip()} for cell in (q, c))
    return {
        "same": bool(q) and q == c,
        "different": bool(q) and bool(c) and q != c,
        "shares": bool(labels_q & labels_c),
        "unshared": bool(labels_q) and bool(labels_c) and not labels_q & labels_c,
        "is": c in values,
        "isnt": bool(c) and c not in values,
    }[verb]


@pytest.mark.parametrize(
    "rule",
    [
        "same:compound",
        "different:compound",
        "same:compound,plate",
        "different:compound,plate",
        "shares:moa",
        "unshared:moa",
        "is:kind=ctl",
        "is:compound=a|dmso",
        "isnt:compound=a",
        "same:compound & different:plate",
        "shares:moa & different:compound & is:kind=trt",
    ],
)
@pytest.mark.parametrize("exclude", [(), ("plate",), ("plate", "compound")])
def test_masks_are_the_rule_spelt_out(rule: str, exclude: tuple[str, ...]) -> None:
    n = len(TABLE["plate"])
    negatives = "is:kind=ctl"
    rows = np.arange(n)

    def naive(text: str, q: int, c: int) -> bool:
        if q == c or any(holds("same", TABLE[e][q], TABLE[e][c]) for e in exclude):
            return False
        terms = parse_rule(text).terms
        return all(holds(t.verb, TABLE[k][q], TABLE[k][c], t.values) for t in terms for k in t.columns)

    positive, negative = Pairing(TABLE, positives=rule, negatives=negatives, exclude=exclude).masks(rows)
    expected = np.array([[naive(rule, q, c) for c in rows] for q in rows])
    np.testing.assert_array_equal(positive, expected)
    against = np.array([[naive(negatives, q, c) for c in rows] for q in rows]) & ~expected
    np.testing.assert_array_equal(negative, against)


def test_without_a_rule_for_negatives_all_other_candidates_are() -> None:
    positive, negative = Pairing(TABLE, positives="same:compound").masks(np.arange(3))
    assert not (positive & negative).any()
    np.testing.assert_array_equal((positive | negative).sum(axis=1), 7)


def test_a_block_of_queries_is_a_block_of_the_whole() -> None:
    pairing = Pairing(TABLE, positives="shares:moa", exclude=["plate"])
    for whole, part in zip(pairing.masks(np.arange(8)), pairing.masks(np.array([6, 2])), strict=True):
        np.testing.assert_array_equal(whole[[6, 2]], part)


@pytest.mark.parametrize("text", ["", "like:compound", "same", "same: ", "is:kind", "same:a & "])
def test_a_rule_that_cannot_be_read_says_what_rules_look_like(text: str) -> None:
    with pytest.raises(UsageError, match="expected"):
        parse_rule(text)


def test_an_unknown_column_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="expected compound, plate"):
        Pairing(TABLE, positives="same:treatment")
    with pytest.raises(UsageError, match="exclude"):
        Pairing(TABLE, positives="same:compound", exclude=["well"])


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(UsageError, match="unequal"):
        Pairing({"a": [1, 2], "b": [1]}, positives="same:a")
