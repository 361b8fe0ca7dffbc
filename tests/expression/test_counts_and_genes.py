"""Counts, genes and what they may know of each other."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import EmvfmError, MissingError, RefusedError, UsageError
from emvfm.expression.counts import checked_counts, normalise
from emvfm.expression.genes import named_genes, variable_genes, within_variance


def _counts(n: int = 40, g: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3, (n, g)).astype(np.float32)


def test_log1p_of_the_library_is_its_closed_form() -> None:
    counts = _counts()
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    assert np.allclose(normalise(counts), expected, rtol=1e-6)
    assert np.allclose(normalise(counts, "log1p"), np.log1p(counts))
    assert np.array_equal(normalise(counts, "none"), counts)


def test_a_spot_knows_nothing_of_the_others_and_not_its_depth() -> None:
    counts = _counts()
    assert np.array_equal(normalise(counts)[:7], normalise(counts[:7]))
    deeper = counts.copy()
    deeper[3] *= 5
    assert np.allclose(normalise(deeper), normalise(counts), rtol=1e-5)
    assert not np.allclose(normalise(deeper, "log1p"), normalise(counts, "log1p"))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_what_is_no_count_is_refused(bad: float) -> None:
    counts = _counts()
    counts[2, 3] = bad
    with pytest.raises(RefusedError):
        normalise(counts)


def test_empty_spots_tables_and_unknown_ways_are_refused() -> None:
    counts = _counts()
    counts[5] = 0
    with pytest.raises(RefusedError, match="without a single count"):
        normalise(counts)
    assert np.isfinite(normalise(counts, "log1p")).all()
    with pytest.raises(RefusedError):
        checked_counts(np.zeros((0, 4)))
    with pytest.raises(UsageError):
        normalise(_counts(), "cpm")  # type: ignore[arg-type]


def test_genes_are_chosen_by_what_varies_within_sections() -> None:
    rng = np.random.default_rng(1)
    sections = ["a"] * 50 + ["b"] * 50
    values = rng.normal(5, 0.1, (100, 4))
    values[50:, 0] += 50  # differs between sections only
    values[:, 1] = rng.normal(5, 1.0, 100)
    values[:, 2] = 5.0  # never varies
    values[:, 3] = np.where(np.arange(100) == 0, 9.0, 0.0)  # one spot only
    assert variable_genes(values, sections, 1).tolist() == [1]
    assert variable_genes(values, sections, 10, detected=0.0)[0] == 1
    assert 2 not in variable_genes(values, sections, 10)
    assert 3 not in variable_genes(values, sections, 10)
    both = (
        np.concatenate([values[:50].var(axis=0) * 50, values[50:].var(axis=0) * 50]).reshape(2, -1).sum(0)
        / 100
    )
    assert np.allclose(within_variance(values, sections), both)


def test_equal_genes_are_taken_in_their_order() -> None:
    values = np.tile(np.array([[1.0], [3.0]]), (1, 6))
    assert variable_genes(values, ["a", "a"], 3).tolist() == [0, 1, 2]


def test_named_genes_must_be_there_once() -> None:
    names = ("A", "B", "C")
    assert named_genes(names, ["C", "A"]).tolist() == [2, 0]
    with pytest.raises(MissingError, match="1 of 2"):
        named_genes(names, ["A", "Z"])
    for wanted in ([], ["A", "A"]):
        with pytest.raises(UsageError):
            named_genes(names, wanted)


def test_no_genes_is_an_error_in_one_line() -> None:
    for values, n in ((np.ones((5, 3)), 3), (np.ones((1, 3)), 3), (np.eye(4), 0)):
        with pytest.raises(EmvfmError) as caught:
            variable_genes(values, ["a"] * len(values), n)
        assert "\n" not in str(caught.value)
