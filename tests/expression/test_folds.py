"""What is left out together, and what of it may be learned from."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import EmvfmError, RefusedError
from emvfm.expression.folds import block_folds, inner_folds, leave_one_out, pitch, spatial_blocks


def _grid(n: int = 12, step: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.arange(n) * step + 500, np.arange(n) * step + 90)
    return x.ravel(), y.ravel()


def test_each_group_is_tested_once_and_never_learned_from() -> None:
    groups = list("abcab")
    folds = leave_one_out(groups)
    assert [f.name for f in folds] == ["a", "b", "c"]
    for fold in folds:
        assert {groups[i] for i in fold.test} == {fold.name}
        assert fold.name not in {groups[i] for i in fold.train}
        assert sorted([*fold.train, *fold.test]) == list(range(5))
    with pytest.raises(RefusedError):
        leave_one_out(["a", "a"])


def test_the_pitch_of_a_grid_is_its_step() -> None:
    x, y = _grid(step=7.5)
    assert pitch(x, y, ["s"] * len(x)) == pytest.approx(7.5)
    # Sections that lie on one another are not neighbours.
    assert pitch(np.tile(x, 2), np.tile(y, 2), ["s"] * len(x) + ["t"] * len(x)) == pytest.approx(7.5)
    for places in (([1.0], [1.0]), ([1.0, 1.0], [2.0, 2.0])):
        with pytest.raises(RefusedError):
            pitch(*places, ["s"] * len(places[0]))


def test_blocks_are_squares_of_one_section() -> None:
    x, y = _grid()
    blocks = spatial_blocks(np.tile(x, 2), np.tile(y, 2), ["s"] * 144 + ["t"] * 144, 30.0)
    assert len(np.unique(blocks)) == 2 * 16
    assert set(np.bincount(blocks)) == {9}
    assert not set(blocks[:144]) & set(blocks[144:])
    for block in range(4):
        own = np.flatnonzero(blocks == block)
        assert np.ptp(x[own % 144]) < 30
        assert np.ptp(y[own % 144]) < 30


def test_blocks_do_not_depend_on_where_the_section_lies() -> None:
    x, y = _grid()
    assert np.array_equal(
        spatial_blocks(x, y, ["s"] * 144, 30.0), spatial_blocks(x + 1e4, y - 77, ["s"] * 144, 30.0)
    )


def test_folds_of_blocks_keep_their_distance() -> None:
    x, y = _grid()
    sections = ["s"] * 144
    blocks = spatial_blocks(x, y, sections, 30.0)
    folds = block_folds(x, y, sections, blocks, 4, buffer=15.0)
    assert sorted(np.concatenate([f.test for f in folds]).tolist()) == list(range(144))
    for fold in folds:
        assert not set(blocks[fold.test]) & set(blocks[fold.train])
        gaps = np.hypot(x[fold.test][:, None] - x[fold.train], y[fold.test][:, None] - y[fold.train])
        assert gaps.min() > 15.0
        assert len(fold.train) < 144 - len(fold.test)
    assert len(block_folds(x, y, sections, blocks, 4)[0].train) == 144 - len(folds[0].test)
    with pytest.raises(RefusedError):
        block_folds(x, y, sections, blocks, 4, buffer=1e6)
    with pytest.raises(RefusedError):
        block_folds(x, y, sections, np.zeros(144), 4)


def test_inner_folds_are_sections_or_blocks_of_what_is_learned_from() -> None:
    sections = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    blocks = np.arange(12) // 2
    train = np.arange(8)
    for learned, tested in inner_folds(train, sections, blocks):
        assert len({sections[train[i]] for i in tested}) == 1
        assert not {sections[train[i]] for i in tested} & {sections[train[i]] for i in learned}
    alone = inner_folds(np.arange(4), sections, blocks)
    assert [t.tolist() for _, t in alone] == [[0, 1], [2, 3]]
    assert len(inner_folds(np.arange(12), [str(i) for i in range(12)], blocks, most=5)) == 5
    with pytest.raises(RefusedError):
        inner_folds(np.arange(2), sections, blocks)


def test_positions_must_be_numbers() -> None:
    with pytest.raises(EmvfmError):
        spatial_blocks([1.0, np.nan], [0.0, 0.0], ["s", "s"], 3.0)
    with pytest.raises(EmvfmError):
        spatial_blocks([1.0, 2.0], [0.0, 0.0], ["s", "s"], 0.0)
