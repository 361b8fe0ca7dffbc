"""Distances of outlines against a naive twin, torchmetrics and scikit-image, and where they are undefined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import hausdorff_distance as skimage_hausdorff
from torchmetrics.functional.segmentation.utils import mask_edges

from emvfm.errors import UsageError
from emvfm.segmentation.boundary import BoundaryScore, boundary_score, outline, outline_distances

EMPTY, FULL = np.zeros((20, 30), bool), np.ones((20, 30), bool)
DOT = EMPTY.copy()
DOT[7, 9] = True


def _blobs(seed: int, shape: tuple[int, int] = (40, 52), share: float = 0.3) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 1 - share)


def _naive_outline(mask: np.ndarray, frame: bool = True) -> np.ndarray:
    height, width = mask.shape
    found = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                inside = 0 <= y + dy < height and 0 <= x + dx < width
                beyond = not mask[y + dy, x + dx] if inside else frame
                found[y, x] |= mask[y, x] and beyond
    return found


def _naive_distances(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float], frame: bool) -> np.ndarray:
    from_a, to_b = (np.argwhere(_naive_outline(m, frame)) * np.array(spacing) for m in (a, b))
    return np.array([np.sqrt(((to_b - point) ** 2).sum(axis=1)).min() for point in from_a])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("frame", [True, False])
def test_scores_are_those_of_all_pairs_of_outline_pixels(seed: int, frame: bool) -> None:
    a, b, spacing = _blobs(seed), _blobs(seed + 100, share=0.2), (5.0, 8.0)
    np.testing.assert_array_equal(outline(a, frame=frame), _naive_outline(a, frame))
    to_true = _naive_distances(a, b, spacing, frame)
    to_predicted = _naive_distances(b, a, spacing, frame)
    predicted, true = outline_distances(a, b, spacing=spacing, frame=frame)
    np.testing.assert_allclose(predicted, to_true)
    np.testing.assert_allclose(true, to_predicted)
    score = boundary_score(a, b, tolerance=10.0, spacing=spacing, frame=frame)
    precision, recall = (to_true <= 10).mean(), (to_predicted <= 10).mean()
    assert score.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert score.mean_assd == pytest.approx(np.concatenate([to_true, to_predicted]).mean())
    assert score.mean_hausdorff == pytest.approx(
        max(np.percentile(to_true, 95), np.percentile(to_predicted, 95))
    )


@pytest.mark.parametrize("seed", range(5))
def test_outlines_are_those_of_torchmetrics_and_distances_those_of_scikit_image(seed: int) -> None:
    a, b = _blobs(seed), _blobs(seed + 50)
    edges = [edge.bool() for edge in mask_edges(torch.from_numpy(a), torch.from_numpy(b))]
    for mine, theirs in zip((outline(a), outline(b)), edges, strict=True):
        np.testing.assert_array_equal(mine, theirs[1:-1, 1:-1].numpy())  # they pad by one pixel
    got = boundary_score(a, b, percentile=100).mean_hausdorff
    assert got == pytest.approx(skimage_hausdorff(outline(a), outline(b)))


def test_a_moved_square_has_the_distances_of_geometry() -> None:
    a, b = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    a[5:15, 5:15] = True
    b[5:15, 8:18] = True
    assert boundary_score(a, b, percentile=100).mean_hausdorff == 3
    assert boundary_score(a, b, percentile=100, spacing=(4.6, 4.6)).mean_hausdorff == pytest.approx(13.8)
    assert boundary_score(a, b, tolerance=3).f1 == 1
    assert boundary_score(a, b, tolerance=2.9).f1 < 1


@pytest.mark.parametrize("seed", range(3))
def test_turning_moving_and_exchanging_the_masks_changes_nothing(seed: int) -> None:
    a, b = _blobs(seed), _blobs(seed + 9)
    want = boundary_score(a, b)
    for change in (np.flipud, np.fliplr, np.rot90, lambda m: np.pad(m, ((3, 1), (0, 5)))):
        got = boundary_score(change(a), change(b))
        assert (got.f1, got.assd, got.hausdorff) == pytest.approx((want.f1, want.assd, want.hausdorff))
    swapped = boundary_score(b, a)
    assert (swapped.f1, swapped.assd, swapped.hausdorff) == pytest.approx(
        (want.f1, want.assd, want.hausdorff)
    )
    assert (swapped.near_true, swapped.true) == (want.near_predicted, want.predicted)
    scaled = boundary_score(a, b, tolerance=10, spacing=(5, 5))
    assert (scaled.f1, scaled.assd) == pytest.approx((want.f1, 5 * want.assd))


def test_agreement_is_perfect_and_f1_grows_with_the_tolerance() -> None:
    for mask in (DOT, FULL, _blobs(1)):
        score = boundary_score(mask, mask, tolerance=0)
        assert (score.f1, score.mean_assd, score.mean_hausdorff, score.defined) == (1, 0, 0, 1)
    a, b = _blobs(2), _blobs(3)
    grown = [boundary_score(a, b, tolerance=t).f1 for t in (0, 1, 2, 5, 100)]
    assert grown == sorted(grown)
    assert grown[-1] == 1


def test_nothing_on_both_sides_agrees_and_on_one_side_has_no_distance() -> None:
    nothing = boundary_score(EMPTY, EMPTY)
    assert (nothing.f1, nothing.mean_assd, nothing.mean_hausdorff) == (1, 0, 0)
    for pair in ((EMPTY, DOT), (DOT, EMPTY), (EMPTY, FULL)):
        score = boundary_score(*pair)
        assert (score.f1, score.one_sided, score.defined) == (0, 1, 0)
        assert math.isnan(score.mean_assd)
        assert math.isnan(score.mean_hausdorff)
    assert boundary_score(FULL, EMPTY, frame=False) == BoundaryScore(defined=1)
    assert boundary_score(FULL, DOT).f1 < 0.1


def test_images_add_up() -> None:
    first, second = boundary_score(_blobs(1), _blobs(2)), boundary_score(DOT, EMPTY)
    total = first + second + BoundaryScore()
    assert total.predicted == first.predicted + 1
    assert total.mean_hausdorff == first.mean_hausdorff
    assert (total.defined, total.one_sided) == (1, 1)
    assert total.f1 < first.f1


@pytest.mark.parametrize(
    ("arguments", "options", "part"),
    [
        ((DOT.astype(np.uint8), DOT), {}, "dtype"),
        ((DOT, DOT[1:]), {}, "shape"),
        ((DOT, DOT), {"tolerance": -1}, "out of range"),
        ((DOT, DOT), {"tolerance": float("nan")}, "out of range"),
        ((DOT, DOT), {"percentile": 0}, "out of range"),
        ((DOT, DOT), {"spacing": (1, 0)}, "pixel size"),
    ],
)
def test_misuse_is_told(arguments, options, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        boundary_score(*arguments, **options)
