"""Pairs by metadata: every verb against a loop over rows that spells it out."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.representations.pairing import LabelPairing, Pairing, labels_of, parse_rule, rows_where

TABLE = {
    "compound": ["a", "a", "b", "b", None, "a", "dmso", "dmso"],
    "plate": ["1", "2", "1", "2", "1", "1", "2", ""],
    "moa": ["x|y", "y", "z", "x ; z", "x", "", "y;z", float("nan")],
    "kind": ["trt", "trt", "trt", "trt", "trt", "trt", "ctl", "ctl"],
}


def holds(verb: str, q: object, c: object, values: tuple[str, ...] = ()) -> bool:
    """The table in the module's docstring, one pair of cells at a time."""
    q, c = ("" if str(v) in ("None", "nan") else str(v) for v in (q, c))
    labels_q, labels_c = (
        {p.strip() for p in cell.replace(";", "|").split("|") if p.strip()} for cell in (q, c)
    )
    return {
        "same": bool(q) and q == c,
        "different": bool(q) and bool(c) and q != c,
        "shares": bool(labels_q & labels_c),
        "unshared": bool(labels_q) and bool(labels_c) and not labels_q & labels_c,
        "is": c in values,
        "isnt": c not in values,
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
        "shares moa, different compound, kind=trt",
        "same compound, plate",
        "kind!=trt",
        "kind=trt and compound!=a|b and different Plate",
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
        return all(
            holds(t.verb, TABLE[k.lower()][q], TABLE[k.lower()][c], t.values)
            for t in terms
            for k in t.columns
        )

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


@pytest.mark.parametrize(
    "text",
    ["", "like:compound", "same", "same: ", "is:kind", "same:a & ", "kind", "kind=", 'a="b', "kind=x, plate"],
)
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


def test_the_same_rule_in_many_words() -> None:
    plain = parse_rule("same compound, different plate, role=a|b").terms
    for text in (
        "same:compound & different:plate & is:role=a|b",
        "same compound and different plate and role = a | b",
        'same "compound", different plate, "role"="a"|b',
    ):
        assert parse_rule(text).terms == plain, text
    assert parse_rule("same a,b").terms == parse_rule("same:a & same:b").terms
    assert parse_rule("isnt:a=b").terms == parse_rule("a!=b").terms
    (term,) = parse_rule('compound="a, b and c"').terms
    assert (term.columns, term.values) == (("compound",), ("a, b and c",))
    (term,) = parse_rule("same cell line").terms
    assert term.columns == ("cell line",)


def test_rows_where_a_condition_holds() -> None:
    assert rows_where(TABLE, "kind=ctl", "--controls").tolist() == [False] * 6 + [True] * 2
    assert rows_where(TABLE, "compound!=a, kind=trt", "--queries").tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    with pytest.raises(UsageError, match="--controls: a condition on one row compares two"):
        rows_where(TABLE, "same kind", "--controls")
    with pytest.raises(UsageError, match="--controls: no such column"):
        rows_where(TABLE, "role=control", "--controls")


def test_a_query_for_each_label_finds_those_that_carry_it() -> None:
    pairing = LabelPairing(TABLE, "moa", positives="shares moa", negatives="unshared moa")
    cells = [labels_of(None if v != v else str(v)) for v in TABLE["moa"]]
    entries = [(row, label) for row, own in enumerate(cells) for label in own]
    assert pairing.labels == tuple(label for _, label in entries)
    assert pairing.rows(np.arange(len(entries))).tolist() == [row for row, _ in entries]
    positive, negative = pairing.masks(np.arange(len(entries)))
    for place, (row, label) in enumerate(entries):
        for other, own in enumerate(cells):
            assert positive[place, other] == (label in own and other != row)
            assert negative[place, other] == (bool(own) and not set(own) & set(cells[row]))
    with pytest.raises(UsageError, match="without labels"):
        LabelPairing({"a": ["", ""], "b": ["x", "x"]}, "a", positives="same b")
