"""Cells to fields to proteins: loops as twins, invariants, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.aggregation import aggregate, aggregate_labels, aggregate_levels


@pytest.mark.parametrize(
    ("how", "twin"),
    [("mean", np.mean), ("max", np.max), ("noisy-or", lambda p, axis: 1 - np.prod(1 - p, axis=axis))],
)
def test_every_way_is_that_of_a_loop(how, twin) -> None:
    rng = np.random.default_rng(0)
    scores, groups = rng.random((50, 4)), rng.choice(["c", "a", "b"], 50)
    scores[3] = 1.0
    found = aggregate(scores, groups, how)
    assert found.names.tolist() == ["a", "b", "c"]
    for name, row, size in zip(found.names, found.scores, found.sizes, strict=True):
        np.testing.assert_allclose(row, twin(scores[groups == name], axis=0), rtol=1e-12)
        assert size == (groups == name).sum()
    order = rng.permutation(50)
    np.testing.assert_allclose(aggregate(scores[order], groups[order], how).scores, found.scores, rtol=1e-12)


def test_noisy_or_keeps_small_probabilities() -> None:
    found = aggregate(np.full((3, 1), 1e-18), ["a"] * 3, "noisy-or")
    assert found.scores[0, 0] == pytest.approx(3e-18, rel=1e-9)


def test_a_field_counts_once_however_many_cells_it_has() -> None:
    scores = np.array([[1.0], [1.0], [1.0], [0.0], [0.5]])
    fields, proteins = ["f1", "f1", "f1", "f2", "f3"], ["p", "p", "p", "p", "q"]
    field, protein = aggregate_levels(scores, [fields, proteins])
    assert field.scores.ravel().tolist() == [1.0, 0.0, 0.5]
    assert protein.scores.ravel().tolist() == [0.5, 0.5]
    assert protein.sizes.tolist() == [2, 1]
    assert aggregate(scores, proteins).scores[0, 0] == 0.75
    assert aggregate_levels(scores, [fields, proteins], ["mean", "max"])[1].scores[0, 0] == 1.0


def test_a_field_of_two_proteins_is_refused() -> None:
    with pytest.raises(RefusedError, match="lies in two"):
        aggregate_levels(np.zeros((2, 1)), [["f", "f"], ["p", "q"]])


def test_labels_of_a_group_agree_or_a_rule_is_named() -> None:
    labels, groups = [[1, 0], [1, 1], [1, 0], [0, 1]], ["a", "a", "a", "b"]
    with pytest.raises(RefusedError, match="different labels"):
        aggregate_labels(labels, groups)
    assert aggregate_labels(labels, groups, differing="any").tolist() == [[True, True], [False, True]]
    assert aggregate_labels(labels, groups, differing="majority").tolist() == [[True, False], [False, True]]
    assert aggregate_labels([[1], [1], [0]], ["x", "x", "y"]).tolist() == [[True], [False]]


def test_what_cannot_be_aggregated_is_refused() -> None:
    with pytest.raises(UsageError, match="no probability"):
        aggregate([[1.5]], ["a"], "noisy-or")
    with pytest.raises(UsageError, match="no such way"):
        aggregate([[1.0]], ["a"], "median")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one group a row"):
        aggregate([[1.0]], ["a", "b"])
    with pytest.raises(UsageError, match="one way a level"):
        aggregate_levels([[1.0]], [["a"]], ["mean", "max"])
