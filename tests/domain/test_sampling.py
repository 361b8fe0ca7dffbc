"""Equal shares, whole blocks, and slices spread through a stack."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.domain.sampling import draw_blocks, equal_shares, evenly_spread
from emvfm.errors import UsageError


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 400), st.integers(0, 9))
def test_shares_are_equal_where_there_is_enough(available: list[int], total: int, seed: int) -> None:
    taken = equal_shares(available, total, np.random.default_rng(seed))
    assert taken.sum() == min(total, sum(available))
    assert (taken <= available).all()
    free = taken[taken < np.asarray(available)]
    if len(free):
        assert free.max() - free.min() <= 1
        assert taken.max() <= free.min() + 1  # those that gave all they have gave no more than the others
    np.testing.assert_array_equal(taken, equal_shares(available, total, np.random.default_rng(seed)))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 80), st.integers(0, 9))
def test_blocks_are_drawn_whole(blocks: list[int], at_most: int, seed: int) -> None:
    labels = np.asarray(blocks)
    rows = draw_blocks(labels, at_most, np.random.default_rng(seed))
    assert 1 <= len(rows) <= at_most
    assert (np.diff(rows) > 0).all()
    if min(np.bincount(labels)[np.unique(labels)]) <= at_most:
        for label in np.unique(labels[rows]):
            assert set(np.flatnonzero(labels == label)) <= set(rows)
    if len(labels) <= at_most:
        assert len(rows) == len(labels)


def test_other_seeds_draw_other_blocks() -> None:
    blocks = np.repeat(np.arange(20), 5)
    drawn = {tuple(draw_blocks(blocks, 25, np.random.default_rng(seed))) for seed in range(8)}
    assert len(drawn) == 8
    with pytest.raises(UsageError):
        draw_blocks(blocks, 0, np.random.default_rng(0))


def test_slices_are_spread_through_the_stack() -> None:
    z = [9, 3, 0, 6, 1, 2, 4, 5, 8, 7]
    assert [z[i] for i in evenly_spread(z, 2)] == [2, 7]
    assert [z[i] for i in evenly_spread(z, 1)] == [5]
    assert sorted(z[i] for i in evenly_spread(z, 99)) == list(range(10))
    assert evenly_spread([], 3) == []
