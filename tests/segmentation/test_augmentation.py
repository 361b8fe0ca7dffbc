"""The symmetries form the group of the square; the grey-level changes do what their names say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d

from emvfm.errors import UsageError
from emvfm.segmentation.augmentation import (
    Augmentation,
    Dihedral,
    all_dihedral,
    augment,
    margin_of,
    photometric,
    random_dihedral,
)
from emvfm.segmentation.losses import IGNORE

ELEMENTS = list(all_dihedral())
OFF = {"brightness": 0.0, "contrast": 0.0, "gamma": 0.0, "noise": 0.0, "blur": 0.0}


def _image(seed: int = 0, shape: tuple[int, ...] = (32, 40)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 0.7, shape).astype(np.float32)


def test_the_eight_elements_differ_and_the_first_is_the_identity() -> None:
    array = torch.arange(12.0).reshape(3, 4)
    square = torch.arange(9.0).reshape(3, 3)
    assert torch.equal(ELEMENTS[0](array), array)
    assert len({tuple(g(square).flatten().tolist()) for g in ELEMENTS}) == 8
    assert set(ELEMENTS) == {Dihedral(k, flip) for k in range(4) for flip in (False, True)}


def test_composition_is_that_of_the_transformed_arrays_and_stays_in_the_group() -> None:
    array = torch.arange(24.0).reshape(2, 3, 4)
    for a, b in product(ELEMENTS, ELEMENTS):
        assert torch.equal((a @ b)(array), a(b(array)))
        assert a @ b in ELEMENTS
    assert any(a @ b != b @ a for a, b in product(ELEMENTS, ELEMENTS))


def test_the_inverse_undoes_the_element() -> None:
    array = torch.arange(24.0).reshape(2, 3, 4)
    for g in ELEMENTS:
        assert torch.equal(g.inverse()(g(array)), array)
        assert torch.equal(g(g.inverse()(array)), array)
        assert g @ g.inverse() == ELEMENTS[0]


def test_turns_and_flips_are_the_ones_of_numpy() -> None:
    array = np.arange(12).reshape(3, 4)
    for k in range(4):
        assert np.array_equal(Dihedral(k)(torch.tensor(array)).numpy(), np.rot90(array, k))
    assert np.array_equal(Dihedral(0, True)(torch.tensor(array)).numpy(), np.fliplr(array))


@pytest.mark.parametrize("g", ELEMENTS, ids=str)
def test_tokens_of_the_turned_image_are_the_turned_tokens_and_the_mask_follows(g: Dihedral) -> None:
    image = torch.randn(3, 24, 32, dtype=torch.float64)
    mask = image[0] > 0
    tokens = avg_pool2d(image, 8)
    assert torch.allclose(avg_pool2d(g(image), 8), g(tokens))
    assert torch.equal(g(mask), g(image)[0] > 0)
    assert g(image).is_contiguous()
    assert g(mask).dtype == torch.bool


def test_random_elements_are_uniform_and_follow_the_generator() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(random_dihedral(rng) for _ in range(4000))
    assert set(drawn) == set(ELEMENTS)
    assert max(drawn.values()) - min(drawn.values()) < 150
    first, second = ([random_dihedral(np.random.default_rng(s)) for s in range(20)] for _ in range(2))
    assert first == second


def test_more_than_three_turns_are_refused() -> None:
    for k in (4, -1):
        with pytest.raises(UsageError, match="quarter turns"):
            Dihedral(k)


def test_with_everything_off_the_image_stays() -> None:
    image = _image()
    assert np.allclose(photometric(image, np.random.default_rng(0), **OFF), image, atol=1e-6)


@given(
    seed=st.integers(0, 10**6),
    colour=st.booleans(),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
)
@settings(max_examples=30, deadline=None)
def test_any_result_is_float32_in_range_of_the_shape_and_only_by_the_seed(
    seed: int, colour: bool, dtype: type
) -> None:
    shape = (9, 11, 3) if colour else (9, 11)
    image = np.random.default_rng(seed).uniform(0, 1, shape).astype(dtype)
    before = image.copy()
    strong = {"brightness": 0.5, "contrast": 1.0, "gamma": 2.0, "noise": 0.3, "blur": 0.5}
    got, again = (photometric(image, np.random.default_rng(seed), **strong) for _ in range(2))
    assert got.shape == shape
    assert got.dtype == np.float32
    assert got.min() >= 0
    assert got.max() <= 1
    assert np.array_equal(got, again)
    assert np.array_equal(image, before)
    assert not np.array_equal(got, photometric(image, np.random.default_rng(seed + 1), **strong))


def test_grey_images_stay_grey_and_equal_the_single_channel_result() -> None:
    grey = _image()
    single = photometric(grey, np.random.default_rng(3), blur=1.0)
    colour = photometric(grey[:, :, None].repeat(3, axis=2), np.random.default_rng(3), blur=1.0)
    assert np.allclose(colour, single[:, :, None], atol=1e-6)


def test_blur_mixes_neighbours_but_never_channels() -> None:
    image = np.zeros((16, 16, 3), np.float32)
    image[:, :, 1] = 0.5
    assert np.allclose(photometric(image, np.random.default_rng(0), **{**OFF, "blur": 1.0}), image, atol=1e-6)


def test_brightness_shifts_contrast_stretches_about_the_mean() -> None:
    image = _image()
    for seed in range(20):
        shift = photometric(image, np.random.default_rng(seed), **{**OFF, "brightness": 0.2}) - image
        assert np.ptp(shift) < 1e-6
        assert 0 < abs(shift.mean()) <= 0.2 + 1e-6
        stretched = photometric(image, np.random.default_rng(seed), **{**OFF, "contrast": 0.3})
        assert stretched.mean() == pytest.approx(image.mean(), abs=1e-5)
        assert 0.7 - 1e-4 <= stretched.std() / image.std() <= 1.3 + 1e-4


def test_gamma_is_a_power_within_its_bounds() -> None:
    image, exponents = _image(), []
    for seed in range(40):
        got = photometric(image, np.random.default_rng(seed), **{**OFF, "gamma": 0.5})
        ratio = np.log(got) / np.log(image)
        assert np.ptp(ratio) < 1e-3
        exponents.append(ratio.mean())
    assert 1 / 1.5 - 1e-3 <= min(exponents) < 0.85
    assert 1.2 < max(exponents) <= 1.5 + 1e-3


def test_noise_has_at_most_the_stated_deviation_and_blur_smooths() -> None:
    flat = np.full((64, 64), 0.5, np.float32)
    spread = [photometric(flat, np.random.default_rng(s), **{**OFF, "noise": 0.05}).std() for s in range(20)]
    assert min(spread) > 0
    assert 0.03 < max(spread) < 0.055
    image = _image()
    blurred = photometric(image, np.random.default_rng(0), **{**OFF, "blur": 1.0})
    assert blurred.std() < 0.95 * image.std()
    assert blurred.mean() == pytest.approx(image.mean(), abs=5e-3)


def test_turning_one_change_off_leaves_the_generator_where_it_was() -> None:
    image = _image()
    generators = [np.random.default_rng(0), np.random.default_rng(0)]
    photometric(image, generators[0])
    photometric(image, generators[1], **OFF)
    assert generators[0].random() == generators[1].random()


def test_normalised_integer_or_misshapen_images_and_odd_strengths_are_refused() -> None:
    rng, image = np.random.default_rng(0), _image()
    with pytest.raises(UsageError, match="before normalising"):
        photometric((image - 0.5) / 0.1, rng)
    with pytest.raises(UsageError, match="out of range"):
        photometric(np.full((4, 4), np.nan, np.float32), rng)
    with pytest.raises(UsageError, match="dtype"):
        photometric((image * 255).astype(np.uint8), rng)
    for shape in ((3, 8, 9), (0, 4), (4,)):
        with pytest.raises(UsageError, match="shape"):
            photometric(np.zeros(shape, np.float32), rng)
    for name in OFF:
        for value in (-0.1, 11.0):
            with pytest.raises(UsageError, match=name):
                photometric(image, rng, **{name: value})


NOTHING = Augmentation(
    flips=False, warp=0, rotation=0, zoom=0, elastic=0, brightness=0, contrast=0, gamma=0, noise=0, blur=0
)
GEOMETRY = replace(NOTHING, flips=True, warp=1.0, rotation=30, zoom=0.3, elastic=6)


def _disks(shape: tuple[int, int] = (150, 160)) -> np.ndarray:
    y, x = np.indices(shape)
    return (((y % 40 - 20) ** 2 + (x % 50 - 25) ** 2) < 150).astype(np.uint8)


@given(seed=st.integers(0, 10**6), colour=st.booleans(), size=st.sampled_from([None, (20, 24), (31, 39)]))
@settings(max_examples=20, deadline=None)
def test_with_everything_off_the_crop_and_its_mask_stay_to_the_bit(
    seed: int, colour: bool, size: tuple[int, int] | None
) -> None:
    image = _image(seed, (32, 40, 3) if colour else (32, 40))
    target = np.random.default_rng(seed).integers(0, 256, (32, 40)).astype(np.uint8)
    got, under = augment(image, target, NOTHING, np.random.default_rng(seed), size=size)
    h, w = size or (32, 40)
    top, left = (32 - h) // 2, (40 - w) // 2
    assert np.array_equal(got, image[top : top + h, left : left + w])
    assert np.array_equal(under, target[top : top + h, left : left + w])


@pytest.mark.parametrize("colour", [False, True])
def test_image_and_mask_move_together(colour: bool) -> None:
    mask = _disks()
    image = mask.astype(np.float32) if not colour else mask[:, :, None].repeat(3, 2).astype(np.float32)
    for seed in range(8):
        got, under = augment(image, mask, GEOMETRY, np.random.default_rng(seed), size=(64, 64))
        plane = got if not colour else got[..., 1]
        known = under != IGNORE
        assert known.mean() > 0.9
        # Half a pixel of the outline may fall either way, nothing else.
        sure = known & (np.abs(plane - 0.5) > 0.49)
        assert sure.mean() > 0.6
        assert np.array_equal(plane[sure] > 0.5, under[sure] == 1)


def test_the_margin_keeps_every_pixel_of_the_crop_known() -> None:
    size = (48, 40)
    rows, columns = margin_of(size, GEOMETRY)
    mask = _disks((size[0] + 2 * rows, size[1] + 2 * columns))
    for seed in range(30):
        _, under = augment(mask.astype(np.float32), mask, GEOMETRY, np.random.default_rng(seed), size=size)
        assert IGNORE not in under
        assert under.shape in {size, size[::-1]}
    assert margin_of(size, replace(GEOMETRY, warp=0.0)) == (0, 0)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_gives_the_same_crop_no_new_label_and_leaves_the_input(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, target = _image(seed), rng.choice(np.array([0, 2, 7], np.uint8), size=(32, 40))
    kept = image.copy(), target.copy()
    (got, under), again = (
        augment(image, target, Augmentation(warp=1.0), np.random.default_rng(seed)) for _ in range(2)
    )
    assert np.array_equal(got, again[0])
    assert np.array_equal(under, again[1])
    assert set(np.unique(under)) <= {0, 2, 7, IGNORE}
    assert (got.dtype, under.dtype) == (np.float32, np.uint8)
    assert got.shape == under.shape
    assert 0 <= got.min() <= got.max() <= 1
    assert got.flags["C_CONTIGUOUS"]
    assert under.flags["C_CONTIGUOUS"]
    assert np.array_equal(image, kept[0])
    assert np.array_equal(target, kept[1])


def test_strengths_decide_what_happens_not_what_is_drawn() -> None:
    image, target = _image(), np.zeros((32, 40), np.uint8)
    left = []
    for strengths in (Augmentation(), NOTHING, GEOMETRY, replace(GEOMETRY, warp=0.0)):
        rng = np.random.default_rng(5)
        augment(image, target, strengths, rng)
        left.append(rng.random())
    assert len(set(left)) == 1


def test_warps_come_as_often_as_their_chance_says() -> None:
    image, target = _image(), np.zeros((32, 40), np.uint8)
    strengths = replace(NOTHING, warp=0.3, rotation=20)
    rng = np.random.default_rng(0)
    changed = sum(not np.array_equal(augment(image, target, strengths, rng)[0], image) for _ in range(400))
    assert changed == pytest.approx(120, abs=35)


def test_flips_alone_are_the_eight_symmetries_of_both() -> None:
    image, target = _image(shape=(24, 24)), np.random.default_rng(1).integers(0, 2, (24, 24)).astype(np.uint8)
    want = {
        (g(torch.tensor(image)).numpy().tobytes(), g(torch.tensor(target)).numpy().tobytes())
        for g in ELEMENTS
    }
    rng, found = np.random.default_rng(0), set()
    for _ in range(100):
        got, under = augment(image, target, replace(NOTHING, flips=True), rng)
        found.add((got.tobytes(), under.tobytes()))
    assert found == want


def test_masks_that_do_not_fit_are_refused() -> None:
    rng, image, target = np.random.default_rng(0), _image(), np.zeros((32, 40), np.uint8)
    with pytest.raises(UsageError, match="not the size"):
        augment(image, target[:-1], NOTHING, rng)
    with pytest.raises(UsageError, match="dtype"):
        augment(image, target.astype(np.int64), NOTHING, rng)
    for size in ((33, 40), (32, 41), (0, 4)):
        with pytest.raises(UsageError, match="no such crop"):
            augment(image, target, NOTHING, rng, size=size)
    with pytest.raises(UsageError, match="before normalising"):
        augment(image - 1, target, NOTHING, rng)
    with pytest.raises(UsageError, match="warp"):
        augment(image, target, replace(NOTHING, warp=1.5), rng)
