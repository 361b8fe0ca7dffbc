"""Statistics of pixels against closed forms, naive twins and scikit-image."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.stats
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from emvfm.backbones.baselines.intensity import histogram, intensity, intensity_names
from emvfm.backbones.baselines.pixel import PRESETS, describe, feature_names
from emvfm.backbones.baselines.planes import Plane, planes_of
from emvfm.backbones.baselines.spectrum import EDGES, band_powers, spectrum
from emvfm.backbones.baselines.texture import LEVELS, binary_patterns, cooccurrence, texture, texture_names
from emvfm.backbones.baselines.thumbnail import thumbnail
from emvfm.errors import CorruptError, UsageError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(side: int = 64, seed: int = 0) -> np.ndarray:
    """An image with structure at several scales, 8 bits."""
    from scipy.ndimage import gaussian_filter

    draw = np.random.default_rng(seed).standard_normal((side, side))
    field = sum(gaussian_filter(draw, s) * s for s in (1, 3, 8))
    return np.clip(128 + 90 * field / np.abs(field).max(), 0, 255).astype(np.uint8)


def one(image: np.ndarray, preset: str, cell: int | None = None) -> np.ndarray:
    return describe(planes_of(image), preset, cell)[0]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((40, 50), np.uint8),
        np.full((17, 33), 7, np.uint16),
        np.full((20, 20, 5), 1e6, np.float32),
        np.full((20, 20), -3.0, np.float64),
        np.ones((3, 5), bool),
        np.ones((1, 1), np.uint8),
        noise(37, 41, 4),
        np.arange(900, dtype=np.int16).reshape(30, 30) - 450,
    ],
    ids=["black", "16-bit constant", "float constant", "negative", "bool", "one pixel", "channels", "int16"],
)
def test_every_image_has_finite_numbers(preset: str, image: np.ndarray) -> None:
    planes = planes_of(image)
    whole, cells = describe(planes, preset, None, 16)
    assert whole.shape == (1, len(feature_names(preset, len(planes))))
    assert len(set(feature_names(preset, len(planes)))) == whole.shape[1]
    grid = [-(-side // 16) for side in image.shape[:2]]
    assert cells.shape == (grid[0] * grid[1], whole.shape[1])
    assert np.isfinite(whole).all()
    assert np.isfinite(cells).all()


def test_a_cell_is_what_the_image_of_it_alone_is() -> None:
    image = noise(32, 48)
    names = feature_names("all")
    local = [
        i for i, name in enumerate(names) if not name.startswith("texture")
    ]  # has neighbours beyond a cell
    cells = one(image, "all", 16)[:, local]
    for at, (y, x) in enumerate(itertools.product(range(2), range(3))):
        alone = one(image[16 * y : 16 * y + 16, 16 * x : 16 * x + 16], "all")[0, local]
        np.testing.assert_allclose(cells[at], alone, atol=1e-5)


def test_moments_are_scipys() -> None:
    image = np.random.default_rng(1).gamma(2, 20, (50, 60)).astype(np.float32)
    found = dict(zip(intensity_names(), intensity(planes_of(image)[0])[0], strict=True))
    expected: dict[str, Any] = {
        "mean": image.mean(), "std": image.std(), "min": image.min(), "max": image.max(),
        "p5": np.percentile(image, 5), "skewness": scipy.stats.skew(image, axis=None),
        "kurtosis": scipy.stats.kurtosis(image, axis=None),
    }  # fmt: skip
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-4), name


def test_entropy_and_foreground_of_two_levels() -> None:
    image = np.zeros((10, 10), np.uint8)
    image[:, :3] = 255
    found = dict(zip(intensity_names(), intensity(planes_of(image)[0])[0], strict=True))
    assert found["foreground"] == pytest.approx(0.3)
    assert found["entropy"] == pytest.approx(scipy.stats.entropy([0.3, 0.7], base=2))


def test_intensities_of_a_camera_keep_their_difference() -> None:
    """The absolute brightness of 16-bit images is what a batch effect is made of."""
    dim = np.random.default_rng(0).integers(100, 200, (40, 40)).astype(np.uint16)
    means = [one(image, "intensity")[0, 0] for image in (dim, dim * 10)]
    assert means[1] == pytest.approx(10 * means[0], rel=1e-4)
    np.testing.assert_allclose(one(dim, "histogram"), one(dim * 10, "histogram"), atol=0.01)


@pytest.mark.parametrize("preset", ["intensity", "histogram"])
def test_the_order_of_pixels_does_not_matter(preset: str) -> None:
    image = smooth()
    shuffled = np.random.default_rng(0).permutation(image.ravel()).reshape(image.shape)
    np.testing.assert_allclose(one(image, preset), one(shuffled, preset), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", ["intensity", "histogram", "texture", "spectrum"])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_change_nothing(preset: str, turns: int) -> None:
    image = smooth()
    names = feature_names(preset)
    # A gradient exactly on the border of two directions may fall on either side.
    kept = [i for i, name in enumerate(names) if not name.endswith("orientation-entropy")]
    turned = one(np.rot90(image, turns), preset)
    np.testing.assert_allclose(turned[:, kept], one(image, preset)[:, kept], rtol=1e-3, atol=2e-3)


def test_whole_cells_move_with_the_image() -> None:
    image = np.tile(smooth(32), (2, 2))
    cells = one(image, "texture", 16).reshape(4, 4, -1)
    moved = one(np.roll(image, 16, axis=1), "texture", 16).reshape(4, 4, -1)
    np.testing.assert_allclose(moved[1:3, 2], cells[1:3, 1], rtol=1e-3, atol=1e-3)


def test_histogram_counts_each_pixel_once() -> None:
    image = noise(33, 65)
    counts = np.bincount(np.minimum(image.ravel().astype(int) * 32 // 255, 31), minlength=32) / image.size
    np.testing.assert_allclose(histogram(planes_of(image)[0])[0], counts, atol=0.002)
    np.testing.assert_allclose(histogram(planes_of(image)[0], 16).sum(axis=1), 1)


def test_band_powers_add_up_to_the_variance() -> None:
    """Parseval: with the window's weights, in space and in frequency."""
    tiles = np.random.default_rng(0).standard_normal((3, 20, 31)).astype(np.float32)
    y, x = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n) for n in (20, 31))
    weights = np.outer(y, x) ** 2
    centred = tiles - tiles.mean(axis=(1, 2), keepdims=True)
    variance = (weights * centred**2).sum(axis=(1, 2)) / weights.sum()
    np.testing.assert_allclose(band_powers(tiles).sum(axis=1), variance, rtol=1e-6)


def test_a_wave_has_its_power_in_its_band() -> None:
    wave = np.sin(2 * np.pi * np.arange(128) * 0.25)[None, :] * np.ones((128, 1))
    powers = band_powers(wave[None].astype(np.float32))[0]
    assert powers[np.digitize(0.25, EDGES) - 1] > 0.99 * powers.sum()
    full = np.abs(scipy.fft.fft2(wave)) ** 2
    assert np.unravel_index(full.argmax(), full.shape)[1] in (32, 96)


def test_a_large_image_has_the_spectrum_of_its_parts() -> None:
    image = noise(1030, 1100)
    np.testing.assert_allclose(
        spectrum(planes_of(image)[0])[0, 5:], spectrum(planes_of(image[:515, :550])[0])[0, 5:], atol=0.05
    )


@pytest.mark.filterwarnings("ignore:Applying `local_binary_pattern`")
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_binary_patterns_are_scikit_images(radius: int) -> None:
    image = (
        np.random.default_rng(radius).random((60, 70)).astype(np.float32)
    )  # no ties, which rounding decides
    theirs = local_binary_pattern(image.astype(np.float64), 8, radius, "uniform")
    inside = (slice(radius + 1, -radius - 1),) * 2
    assert (binary_patterns(image, radius)[inside] == theirs[inside]).mean() > 0.9999


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_cooccurrence_is_scikit_images(distance: int) -> None:
    image = smooth(48)
    levels = np.minimum((image / np.float32(255) * LEVELS).astype(np.intp), LEVELS - 1).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(levels, [distance], angles, LEVELS, symmetric=True, normed=True)
    scale = {"contrast": (LEVELS - 1) ** -2, "dissimilarity": 1 / (LEVELS - 1)}
    expected = [
        float(graycoprops(matrix, name).mean()) * scale.get(name, 1)
        for name in ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
    ]
    found = cooccurrence(planes_of(image)[0].unit, distance)[0]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-6)
    entropies = [scipy.stats.entropy(matrix[:, :, 0, a].ravel(), base=2) for a in range(4)]
    assert found[5] == pytest.approx(np.mean(entropies))


def test_lines_are_coherent_and_noise_is_not() -> None:
    names = texture_names()
    lines = np.tile(np.arange(64) // 4 % 2 * 200, (64, 1)).astype(np.uint8)
    of_lines, of_noise = (
        dict(zip(names, texture(planes_of(image)[0], None)[0][0], strict=True))
        for image in (lines, noise(64, 64))
    )
    assert of_lines["coherence-sigma4"] > 0.95 > 0.3 > of_noise["coherence-sigma4"]
    assert of_lines["orientation-entropy"] < 0.1 < 2.9 < of_noise["orientation-entropy"]


def test_a_thumbnail_keeps_the_mean_and_whole_blocks() -> None:
    image = noise(64, 48)
    small = thumbnail(planes_of(image)[0]).reshape(16, 16)
    blocks = image.reshape(16, 4, 16, 3).mean(axis=(1, 3)) / 255
    np.testing.assert_allclose(small, blocks, atol=1e-5)
    odd = thumbnail(planes_of(noise(50, 37))[0])
    assert odd.mean() == pytest.approx(noise(50, 37).mean() / 255, rel=1e-4)


def test_channels_stand_one_after_the_other_and_are_related() -> None:
    a, b = smooth(seed=1), smooth(seed=2)
    both = one(np.stack([a, b, a], axis=-1), "intensity")[0]
    names = feature_names("intensity", 3)
    assert names[-3:] == ["intensity/correlation0x1", "intensity/correlation0x2", "intensity/correlation1x2"]
    np.testing.assert_array_equal(both[:15], one(a, "intensity")[0])
    np.testing.assert_array_equal(both[15:30], one(b, "intensity")[0])
    assert both[-2] == pytest.approx(1, abs=1e-5)
    assert both[-3] == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-4)


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4, 5)), np.zeros((0, 5)), np.full((4, 4), "a")])
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="not an image"):
        planes_of(image)


def test_values_that_are_not_finite_are_refused() -> None:
    image = np.zeros((4, 4), np.float32)
    image[1, 1] = np.nan
    with pytest.raises(CorruptError, match="finite"):
        planes_of(image)


def test_a_plane_of_one_level_is_all_zero_on_the_relative_scale() -> None:
    plane = planes_of(np.full((5, 5), 3, np.uint16))[0]
    assert isinstance(plane, Plane)
    assert not plane.unit.any()
