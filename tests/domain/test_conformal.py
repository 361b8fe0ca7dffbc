"""Conformal thresholds: naive twins, promises kept over many draws, and the parts they are made from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from emvfm.domain.conformal import block_parts, calibrate, conformal_p_values
from emvfm.errors import UsageError

UNITS = ("slice", "block", "maximum")


def _naive(score: float, calibration: np.ndarray, blocks: list[int], unit: str) -> float:
    groups = [[c for c, b in zip(calibration, blocks, strict=True) if b == block] for block in set(blocks)]
    if unit == "slice":
        return (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)
    if unit == "block":
        return (1 + sum(np.mean([c >= score for c in group]) for group in groups)) / (len(groups) + 1)
    return (1 + sum(max(group) >= score for group in groups)) / (len(groups) + 1)


@pytest.mark.parametrize("unit", UNITS)
def test_p_values_are_those_of_a_loop_with_ties(unit) -> None:
    rng = np.random.default_rng(0)
    calibration, blocks = rng.integers(0, 12, 40).astype(float), rng.integers(0, 7, 40).tolist()
    scores = np.arange(-1, 14) / 1.0
    expected = [_naive(s, calibration, blocks, unit) for s in scores]
    np.testing.assert_allclose(conformal_p_values(scores, calibration, blocks, unit), expected, rtol=1e-12)


@pytest.mark.parametrize("level", [0.05, 0.1, 0.25, 0.5])
def test_above_the_threshold_is_where_the_p_value_is_small(level) -> None:
    rng = np.random.default_rng(1)
    calibration, blocks = rng.normal(size=200).round(1), (np.arange(200) // 5).tolist()
    found = calibrate(calibration, blocks, level=level)
    scores = np.concatenate([calibration, rng.normal(size=300)])
    for unit, line in zip(
        UNITS, (found.slice_threshold, found.threshold, found.maximum_threshold), strict=True
    ):
        p = conformal_p_values(scores, calibration, blocks, unit)
        np.testing.assert_array_equal(scores > line, p <= level + 1e-9)


def test_single_slices_as_blocks_make_all_ways_of_counting_equal() -> None:
    scores = np.random.default_rng(2).normal(size=60)
    found = calibrate(scores, list(range(60)))
    assert found.threshold == found.slice_threshold == found.maximum_threshold
    # The textbook order statistic.
    assert found.threshold == np.sort(scores)[int(np.ceil(0.95 * 61)) - 1]


def _rates(draw, n_blocks: int, size: int, level: float, repeats: int = 3000) -> dict[str, int]:
    """Count over repeats how often a new slice (or block, for maximum) is flagged."""
    rng = np.random.default_rng(3)
    blocks = np.repeat(np.arange(n_blocks), size).tolist()
    flagged = dict.fromkeys(UNITS, 0)
    for _ in range(repeats):
        scores = draw(rng, n_blocks + 1, size)
        for unit in UNITS:
            p = conformal_p_values(scores[-1], scores[:-1].ravel(), blocks, unit)
            flagged[unit] += p.min() <= level if unit == "maximum" else p[0] <= level
    return flagged


def test_the_rate_of_false_alarms_is_the_promised_one_without_dependence() -> None:
    flagged = _rates(lambda rng, b, m: rng.normal(size=(b, m)), 39, 1, 0.05)
    low, high = binom.interval(0.999, 3000, 0.05)
    assert all(low <= flagged[unit] <= high for unit in UNITS), flagged


def test_counting_slices_undercovers_and_counting_blocks_does_not() -> None:
    def draw(rng, b, m):
        return rng.normal(size=(b, 1)) + 0.2 * rng.normal(size=(b, m))

    low, high = binom.interval(0.999, 3000, 0.05)
    flagged = _rates(draw, 19, 10, 0.05)
    assert flagged["block"] <= high
    assert low <= flagged["maximum"] <= high  # exact for whole blocks, not only safe
    # With ten blocks the slices still claim a level of 0.05; what they deliver is near 1/11.
    few = _rates(draw, 10, 10, 0.05)
    assert few["slice"] > 1.3 * 0.05 * 3000
    assert few["block"] == few["maximum"] == 0


def test_too_few_blocks_are_told_and_the_promise_is_weakened() -> None:
    scores, blocks = np.arange(30.0), (np.arange(30) // 10).tolist()
    found = calibrate(scores, blocks, level=0.05)
    assert (found.enough, found.needed, found.promised) == (False, 19, 0.25)
    assert found.threshold == 29
    assert found.maximum_threshold is None
    assert "too few calibration blocks for level 0.05 (3, 19 are needed)" in found.verdict
    enough = calibrate(np.arange(38.0), (np.arange(38) // 2).tolist(), level=0.05)
    assert (enough.enough, enough.promised, enough.threshold) == (True, 0.05, 37)
    assert "0.05, from 19" in enough.verdict
    assert enough.to_json()["needed"] == 19


def test_order_of_slices_does_not_matter() -> None:
    rng = np.random.default_rng(4)
    scores, blocks = rng.normal(size=80), rng.integers(0, 25, 80)
    order = rng.permutation(80)
    assert calibrate(scores, blocks.tolist()) == calibrate(scores[order], blocks[order].tolist())


# --- parts ---------------------------------------------------------------------------------------------


def _stack(n: int, length: int, volume: str = "v") -> tuple[list[str], list[int], list[int]]:
    return [volume] * n, list(range(n)), [i // length for i in range(n)]


@pytest.mark.parametrize("gap", [0, 1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_parts_are_whole_blocks_more_than_the_gap_apart(gap, seed) -> None:
    volumes, z, blocks = _stack(160, 10)
    parts = np.array(block_parts(volumes, z, blocks, gap=gap, seed=seed))
    for block in range(16):
        assert len(set(parts[block * 10 : block * 10 + 10]) - {"gap"}) == 1
    for i in range(160):
        for j in range(i + 1, min(160, i + gap + 1)):
            assert "gap" in (parts[i], parts[j]) or parts[i] == parts[j]
    assert (parts == "test").sum() == 50  # the test part never yields
    assert len({b for b, p in zip(blocks, parts, strict=True) if p == "calibration"}) == 5
    assert ("gap" in parts) == (gap > 0)


def test_parts_are_seeded_and_dealt_at_random() -> None:
    stack = _stack(160, 10)
    assert block_parts(*stack, seed=1) == block_parts(*stack, seed=1)
    assert block_parts(*stack, seed=1) != block_parts(*stack, seed=2)
    of_first = [block_parts(*stack, gap=0, seed=s)[0] for s in range(300)]
    for part, share in (("test", 5 / 16), ("calibration", 5 / 16)):
        low, high = binom.interval(0.999, 300, share)
        assert low <= of_first.count(part) <= high


def test_other_volumes_and_single_images_are_no_neighbours() -> None:
    volumes = [f"v{i}" for i in range(10)]
    assert "gap" not in block_parts(volumes, [0] * 10, list(range(10)), gap=5)
    assert "gap" not in block_parts(["v"] * 10, [None] * 10, list(range(10)), gap=5)


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: block_parts(*_stack(20, 10)), "too few blocks"),
        (lambda: block_parts(*_stack(30, 1), gap=-1), "unusable gap"),
        (lambda: block_parts(*_stack(12, 4), gap=9), "leaves no image for the"),
        (lambda: block_parts(*_stack(40, 2), test=0.7, calibration=0.3), "too few blocks"),
        (lambda: calibrate([1.0], [0], level=1), "rate of false alarms"),
        (lambda: calibrate([1.0, np.nan], [0, 1]), "not calibration scores"),
        (lambda: calibrate([1.0], [0, 1]), "not calibration scores"),
        (lambda: calibrate([], []), "not calibration scores"),
        (lambda: conformal_p_values([1.0], [1.0], [0], "row"), "not a way to count"),
    ],
)
def test_what_is_refused(call, part) -> None:
    with pytest.raises(UsageError, match=part):
        call()
