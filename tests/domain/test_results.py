"""What a comparison says: the words follow the numbers, and the numbers are those of the pieces."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from emvfm.domain.frechet import frechet_distance
from emvfm.domain.resampling import block_jackknife_interval, block_permutation_test, split_halves
from emvfm.domain.results import FrechetComparison, compare_frechet
from emvfm.errors import UsageError


def _compare(shift: float, n_blocks: int = 6):
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(n_blocks), 3)
    x, y = (
        np.repeat(rng.normal(size=(n_blocks, 8)), 3, axis=0) + 0.1 * rng.normal(size=(3 * n_blocks, 8))
        for _ in range(2)
    )
    return (
        x,
        y + shift,
        compare_frechet(("a", "b"), x, y + shift, rows.tolist(), rows.tolist(), permutations=199, seed=3),
    )


def test_domains_far_apart_differ_and_the_value_is_the_distance() -> None:
    x, y, found = _compare(5.0)
    assert found.value == pytest.approx(frechet_distance(x, y), rel=1e-6)
    assert 1 / 200 <= found.p_value <= 0.02  # of 924 relabellings two are the observed one
    assert found.ratio is not None
    assert found.ratio > 3
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    assert (found.n, found.blocks, found.dimension) == ((18, 18), (6, 6), 8)
    assert "a and b differ to this backbone" in found.verdict
    assert f"{found.ratio:.1f} times" in found.verdict


def test_domains_alike_give_no_evidence() -> None:
    _, _, found = _compare(0.0)
    assert found.p_value > 0.05
    assert "no evidence" in found.verdict


def test_too_few_blocks_say_nothing_however_far_apart() -> None:
    _, _, found = _compare(50.0, n_blocks=2)
    assert found.distinct == 6
    assert found.low is None
    assert "too few blocks" in found.verdict
    assert "6 ways" in found.verdict


def test_it_is_strict_json() -> None:
    for found in (_compare(1.0)[2], _compare(1.0, n_blocks=2)[2]):
        text = json.dumps(found.to_json(), allow_nan=False)
        assert json.loads(text)["verdict"] == found.verdict
        assert json.loads(text)["ddof"] == 1
    assert replace(found, p_value=0.5, distinct=100, ratio=1.0).verdict != found.verdict


def _facts(**changed: object) -> FrechetComparison:
    facts = {
        "names": ("left", "right"), "value": 3.0, "low": 2.0, "high": 4.0, "level": 0.95, "n": (20, 24),
        "blocks": (5, 6), "dimension": 8, "p_value": 0.004, "permutations": 999, "distinct": 462,
        "ratio": 2.5, "within": (1.0, 1.4), "between": (3.0,), "null": (1.0, 2.0), "seed": 0,
    }  # fmt: skip
    return FrechetComparison(**{**facts, **changed})


@pytest.mark.parametrize(
    ("facts", "said", "unsaid"),
    [
        ({}, ("left and right differ", "2.5 times", "p = 0.004 from 999"), ("no evidence", "too few")),
        ({"p_value": 0.05}, ("differ to this backbone: ",), ("no evidence",)),
        ({"p_value": 0.051}, ("no evidence that they differ", "p = 0.051"), ("too few", "times")),
        ({"distinct": 15, "blocks": (2, 4)}, ("too few blocks", "2 and 4", "15 ways"), ("p =", "evidence")),
        ({"ratio": None}, ("too few blocks",), ("p =", "evidence", "None")),
        # Exchanging all of 3 + 3 blocks is the same comparison: 2 of 20, never below p = 0.1.
        ({"distinct": 20, "blocks": (3, 3), "p_value": 0.1}, ("too few blocks", "20 ways"), ("evidence",)),
        ({"distinct": 35, "blocks": (3, 4), "p_value": 0.03}, ("differ to this",), ("too few",)),
        ({"distinct": 70, "blocks": (4, 4), "p_value": 0.03}, ("differ to this",), ("too few",)),
    ],
)
def test_the_words_follow_the_facts(
    facts: dict[str, object], said: tuple[str, ...], unsaid: tuple[str, ...]
) -> None:
    verdict = _facts(**facts).verdict
    assert all(part in verdict for part in said), verdict
    assert not any(part in verdict for part in unsaid), verdict
    assert "\n" not in verdict


@pytest.mark.parametrize(("n_x", "n_y"), [(2, 2), (2, 6), (3, 3), (3, 4), (4, 4), (1, 19), (1, 20)])
def test_too_few_blocks_is_said_exactly_where_no_distance_could_ever_differ(n_x: int, n_y: int) -> None:
    rng = np.random.default_rng(n_x + n_y)
    x, y = rng.normal(size=(2 * n_x, 3)), rng.normal(size=(2 * n_y, 3)) + 1000
    found = compare_frechet(
        ("x", "y"),
        x,
        y,
        np.repeat(np.arange(n_x), 2).tolist(),
        np.repeat(np.arange(n_y), 2).tolist(),
        permutations=2000,
    )
    # No two domains are further apart than these: a test that still has p > 0.05 has nothing to say.
    powerless = found.p_value > 0.055 or n_x == 1
    assert ("too few blocks" in found.verdict) == powerless
    assert ("differ to this backbone:" in found.verdict) == (not powerless)


def test_all_numbers_are_those_of_the_pieces() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(15, 6)), rng.normal(size=(12, 6)) + 1
    blocks_x, blocks_y = np.repeat(np.arange(5), 3).tolist(), np.repeat(np.arange(4), 3).tolist()
    joint = np.concatenate([x, y])

    def direct(a: np.ndarray, b: np.ndarray) -> float:
        return frechet_distance(joint[a], joint[b])

    found = compare_frechet(("x", "y"), x, y, blocks_x, blocks_y, permutations=99, level=0.8, seed=5)
    test = block_permutation_test(direct, blocks_x, blocks_y, permutations=99, seed=5)
    halves = split_halves(direct, blocks_x, blocks_y, seed=5)
    interval = block_jackknife_interval(direct, blocks_x, blocks_y, level=0.8)
    assert found.value == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert found.null == pytest.approx(test.null, rel=1e-6)
    assert (found.p_value, found.distinct, found.permutations) == (test.p_value, 126, 99)
    assert found.within == pytest.approx(halves.within, rel=1e-6)
    assert found.between == pytest.approx(halves.between, rel=1e-6)
    assert found.ratio == pytest.approx(np.mean(halves.between) / np.mean(halves.within), rel=1e-6)
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-6)
    assert (found.n, found.blocks, found.level, found.seed, found.ddof) == ((15, 12), (5, 4), 0.8, 5, 1)


def test_json_carries_every_field_and_no_nan() -> None:
    x = np.zeros((8, 3))  # no spread at all: no ratio, and nothing to divide by
    blocks = [0, 0, 1, 1, 2, 2, 3, 3]
    found = compare_frechet(("x", "y"), x, x + 1, blocks, blocks, permutations=99)
    back = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(back) == {field.name for field in fields(found)} | {"least_p_value", "verdict"}
    assert back["ratio"] is None
    assert back["names"] == ["x", "y"]
    assert back["null"] == pytest.approx(found.null)
    assert (back["value"], back["verdict"]) == (pytest.approx(3.0), found.verdict)


def test_embeddings_in_half_precision_compare_as_in_double() -> None:
    rng = np.random.default_rng(8)
    x, y = (rng.normal(50, 1, size=(12, 4)).astype(np.float16) for _ in range(2))
    blocks = np.repeat(np.arange(4), 3).tolist()
    half, double = (
        compare_frechet(("x", "y"), x.astype(dtype), y.astype(dtype), blocks, blocks, permutations=99)
        for dtype in (np.float16, np.float64)
    )
    assert half == double


def test_embeddings_of_different_length_are_refused() -> None:
    with pytest.raises(UsageError, match="different length"):
        compare_frechet(("x", "y"), np.ones((4, 3)), np.ones((4, 2)), [0, 0, 1, 1], [0, 0, 1, 1])
