"""Folds of stacks: no neighbour leaks, nothing is lost, and labels move in whole parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.domain.folds import count_relabellings, join_plans, plan_folds
from emvfm.errors import UsageError
from emvfm.segmentation.metrics import block_labels


@settings(deadline=None)  # the machine may be busy
@given(
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=3),
    length=st.integers(1, 5),
    parts=st.integers(2, 12),
    gap=st.integers(0, 2),
    seed=st.integers(0, 100),
)
def test_every_row_is_tested_once_far_from_what_was_learnt(
    sizes: list[int], length: int, parts: int, gap: int, seed: int
) -> None:
    stack = [(f"v{v}", z) for v, size in enumerate(sizes) for z in range(size)]
    order = np.random.default_rng(seed).permutation(len(stack))
    volumes, positions = zip(*(stack[i] for i in order), strict=True)
    blocks = block_labels(volumes, positions, length=length)
    plan = plan_folds(blocks, volumes, positions, parts=parts, gap=gap)
    assert sorted(np.concatenate([f.test for f in plan.folds])) == list(range(len(stack)))
    assert len(plan.folds) == min(parts, len(set(blocks)))
    # The rank of a block within its volume, found without the planner.
    ranks = {
        b: sorted({c for c, v in zip(blocks, volumes, strict=True) if v == volumes[blocks.index(b)]},
                  key=lambda c: min(z for z, d in zip(positions, blocks, strict=True) if d == c)).index(b)
        for b in set(blocks)
    }  # fmt: skip
    for i, fold in enumerate(plan.folds):
        assert (plan.parts[fold.test] == i).all()
        near = {
            row
            for row, tested in itertools.product(range(len(stack)), fold.test)
            if volumes[row] == volumes[tested] and abs(ranks[blocks[row]] - ranks[blocks[tested]]) <= gap
        }
        assert set(fold.train) == set(range(len(stack))) - near


def test_images_without_a_position_have_no_neighbours() -> None:
    plan = plan_folds([0, 1, 2], ["v"] * 3, [None] * 3)
    assert [f.train.tolist() for f in plan.folds] == [[1, 2], [0, 2], [0, 1]]


def test_joined_plans_test_one_part_and_learn_from_all_other_datasets() -> None:
    first = plan_folds([0, 0, 1, 2], ["v"] * 4, [0, 1, 2, 3])
    second = plan_folds([5, 7], ["w"] * 2, [0, 1], gap=0)
    joined = join_plans([first, second])
    assert joined.parts.tolist() == [0, 0, 1, 2, 3, 4]
    assert joined.blocks.tolist() == [0, 0, 1, 2, 3, 4]
    assert [(f.train.tolist(), f.test.tolist()) for f in joined.folds] == [
        ([3, 4, 5], [0, 1]),
        ([4, 5], [2]),
        ([0, 1, 4, 5], [3]),
        ([0, 1, 2, 3, 5], [4]),
        ([0, 1, 2, 3, 4], [5]),
    ]


def test_parts_change_places_and_places_keep_their_gaps() -> None:
    plan = plan_folds([0, 0, 1, 2, 3, 3], ["v"] * 6, [0, 1, 2, 3, 4, 5])
    assert plan.gaps.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    moved = plan.exchanged([3, 0, 2, 1])  # rows 4 5 | 0 1 | 3 | 2
    assert [(f.train.tolist(), f.test.tolist()) for f in moved] == [
        ([2, 3], [4, 5]),
        ([2], [0, 1]),
        ([4, 5], [3]),
        ([0, 1, 4, 5], [2]),
    ]


def test_only_the_nearest_block_of_a_longer_part_is_the_gap() -> None:
    plan = plan_folds([0, 1, 2, 3, 4, 5], ["v"] * 6, range(6), parts=3)
    assert [f.train.tolist() for f in plan.folds] == [[3, 4, 5], [0, 5], [0, 1, 2]]
    assert [f.train.tolist() for f in plan.exchanged([1, 0, 2])] == [[1, 4, 5], [2, 5], [0, 2, 3]]


def test_relabellings_are_counted_with_those_that_change_nothing() -> None:
    assert count_relabellings([4, 4]) == (70, 2)
    assert count_relabellings([3, 5]) == (56, 1)
    assert count_relabellings([2, 2, 2]) == (90, 6)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(([0, 1], ["v"], [0, 1]), {}), (([0], ["v"], [0]), {"parts": 1}), (([0], ["v"], [0]), {"gap": -1})],
)
def test_what_makes_no_folds_is_refused(arguments, options) -> None:
    with pytest.raises(UsageError):
        plan_folds(*arguments, **options)
