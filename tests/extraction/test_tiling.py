"""Tiles put together are the whole, whatever its size, the tiles and their overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.extraction.tiling import blend_weights, stitch, tile_starts

SIDES = st.integers(1, 40)
TILES = st.integers(1, 15).flatmap(lambda tile: st.tuples(st.just(tile), st.integers(0, tile - 1)))


@given(SIDES, TILES)
def test_tiles_cover_the_side_stay_inside_and_overlap_enough(length: int, tiles: tuple[int, int]) -> None:
    tile, overlap = tiles
    starts = tile_starts(length, tile, overlap)
    covered = {place for start in starts for place in range(start, min(start + tile, length))}
    assert covered == set(range(length))
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    assert all(tile - (b - a) >= overlap and b > a for a, b in pairwise(starts))


@given(SIDES, TILES)
def test_weights_are_positive_and_sum_to_one_everywhere(length: int, tiles: tuple[int, int]) -> None:
    tile, overlap = tiles
    starts = tile_starts(length, tile, overlap)
    total = np.zeros(length)
    for start, weights in zip(starts, blend_weights(starts, tile, length), strict=True):
        assert (weights > 0).all()
        total[start : start + tile] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_a_weight_falls_towards_a_neighbour_and_not_towards_the_border() -> None:
    left, right = blend_weights(tile_starts(10, 6, 2), 6, 10)
    np.testing.assert_allclose(left, [1, 1, 1, 1, 2 / 3, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(right, left[::-1], atol=1e-6)


def _tiles_of(image: np.ndarray, tile: int, calls: list[tuple[int, tuple[int, ...]]] | None = None) -> object:
    def compute(top: int, lefts: Sequence[int]) -> Iterator[np.ndarray]:
        if calls is not None:
            calls.append((top, tuple(lefts)))
        for left in lefts:
            yield image[:, top : top + tile, left : left + tile].copy()

    return compute


@given(st.tuples(SIDES, SIDES), TILES, st.integers(0, 2**31))
@settings(deadline=None)
def test_a_model_that_returns_its_input_reproduces_the_image(
    grid: tuple[int, int], tiles: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).normal(size=(2, *grid, 3)).astype(np.float32)
    bands = list(stitch(grid, *tiles, _tiles_of(image, tiles[0])))  # type: ignore[arg-type]
    np.testing.assert_allclose(np.concatenate(bands, axis=1), image, atol=1e-5)


def test_each_row_of_tiles_is_computed_once_and_given_out_as_soon_as_it_is_final() -> None:
    image = np.zeros((1, 20, 9, 1), np.float32)
    calls: list[tuple[int, tuple[int, ...]]] = []
    bands = stitch((20, 9), 6, 2, _tiles_of(image, 6, calls))  # type: ignore[arg-type]
    seen = [(len(calls), band.shape[1]) for band in bands]
    assert calls == [(top, (0, 3)) for top in (0, 4, 8, 12, 14)]
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 2), (5, 6)]


def test_an_overlap_that_leaves_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap of 4"):
        tile_starts(10, 4, 4)
