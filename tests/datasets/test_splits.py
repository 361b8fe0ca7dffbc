from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from emvfm.datasets.splits import block_split, carve_validation, random_split, smallest_distance
from emvfm.errors import RefusedError, UsageError


def _distance_by_definition(splits: list[str]) -> int | None:
    """The naive twin: all pairs of slices in different splits."""
    kept = [(n, s) for n, s in enumerate(splits) if s != "gap"]
    return min((abs(a - b) for a, s in kept for b, t in kept if s != t), default=None)


@given(
    n=st.integers(1, 120),
    val=st.sampled_from([0.0, 0.05, 0.1, 0.3]),
    test=st.sampled_from([0.0, 0.1, 0.2, 0.4]),
    gap=st.integers(0, 5),
    seed=st.integers(0, 30),
)
def test_block_splits_are_blocks_and_keep_the_gap(n, val, test, gap, seed):
    try:
        splits = block_split(n, val=val, test=test, gap=gap, seed=seed)
    except RefusedError:
        # Refused only where it is tight: blocks, gaps and a slice do not all fit in the worst place.
        needed = (max(1, round(val * n)) if val else 0) * 3 + (max(1, round(test * n)) if test else 0) * 2
        assert n <= needed + 6 * gap + 3
        assume(False)
    assert len(splits) == n
    assert set(splits) <= {"train", "val", "test", "gap"}
    distance = _distance_by_definition(splits)
    assert distance == smallest_distance(splits)
    assert distance is None or distance > gap
    for name, fraction in (("val", val), ("test", test)):
        positions = [p for p, s in enumerate(splits) if s == name]
        assert len(positions) == (max(1, round(fraction * n)) if fraction else 0)
        assert positions == list(range(positions[0], positions[-1] + 1)) if positions else True
    assert "train" in splits
    for position, split in enumerate(splits):  # a slice is given up only where it must be
        if split == "gap":
            near = splits[max(0, position - gap) : position + gap + 1]
            assert {"val", "test"} & set(near)


def test_seeds_visit_all_test_blocks():
    n, n_test = 100, 20
    blocks = {
        tuple(p for p, s in enumerate(block_split(n, seed=seed)) if s == "test")
        for seed in range(n // n_test)
    }
    assert len(blocks) == 5
    assert sorted(p for block in blocks for p in block) == list(range(n))
    assert block_split(50, seed=3) == block_split(50, seed=3)


def test_no_gap_is_wasted_at_the_ends():
    splits = block_split(40, val=0.1, test=0.2, gap=2, seed=0)
    assert splits.count("gap") <= 6


def test_defaults_on_twenty_sections():
    splits = block_split(20)
    assert (splits.count("test"), splits.count("val")) == (4, 2)
    assert splits.count("train") >= 11


def test_too_short_a_stack_says_so():
    with pytest.raises(RefusedError, match="4 slices"):
        block_split(4, gap=2)
    with pytest.raises(RefusedError):
        block_split(1)


@pytest.mark.parametrize("bad", [{"val": 1.0}, {"test": -0.1}, {"gap": -1}])
def test_bad_fractions(bad):
    with pytest.raises(UsageError):
        block_split(20, **bad)


def test_carving_touches_validation_only():
    splits = carve_validation(55, gap=2, seed=1)
    assert splits.count("val") == 6
    assert "test" not in splits


def test_random_split_is_the_reference_systems():
    splits = random_split(20, val=0)
    names = [f"{n:02d}" for n in range(20)]
    assert [name for name, split in zip(names, splits, strict=True) if split == "test"] == ["00", "03", "08"]
    shuffled = list(names)  # as its script does it, written out again
    random.Random(42).shuffle(shuffled)
    train = set(shuffled[: round(0.85 * 20)])
    assert {name for name, split in zip(names, splits, strict=True) if split == "train"} == train


def test_random_split_takes_validation_from_training():
    splits = random_split(20)
    assert [n for n, s in enumerate(splits) if s == "test"] == [0, 3, 8]
    assert splits.count("val") == round(0.1 * 17)
    assert random_split(20, seed=1) != splits


@given(
    st.integers(1, 80), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([0.0, 0.15, 0.3])
)
def test_random_splits_are_complete(n, seed, val, test):
    try:
        splits = random_split(n, val=val, test=test, seed=seed)
    except RefusedError:
        assert n < 14
        return
    assert len(splits) == n
    assert splits.count("train") >= 1
    assert (splits.count("test") > 0) == (test > 0)
    assert (splits.count("val") > 0) == (val > 0)


def test_smallest_distance():
    assert smallest_distance(["train", "train"]) is None
    assert smallest_distance(["train", "test"]) == 1
    assert smallest_distance(["train", "gap", "gap", "val", "test"]) == 1
