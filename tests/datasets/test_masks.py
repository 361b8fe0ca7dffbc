from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from emvfm.datasets.images import list_images
from emvfm.datasets.masks import mask_from_values, read_mask
from emvfm.errors import CorruptError


@pytest.fixture
def truth() -> np.ndarray:
    """Three discs, about a tenth of the image."""
    y, x = np.mgrid[:96, :128]
    return (
        sum((y - a) ** 2 + (x - b) ** 2 < r**2 for a, b, r in ((30, 30, 14), (60, 90, 12), (70, 40, 9))) > 0
    )


def _labels(truth: np.ndarray) -> np.ndarray:
    from scipy.ndimage import label

    return label(truth)[0].astype(np.uint8)


def _palette(index: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.new("P", index.shape[::-1])
    image.putdata(index.ravel().tolist())
    image.putpalette([c for colour in colours for c in colour])
    return image


def _rgba(colour: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([colour, colour, colour, alpha]).astype(np.uint8))


_KINDS = {
    "1-bit": Image.fromarray,
    "0/1": lambda t: Image.fromarray(t.astype(np.uint8)),
    "0/255": lambda t: Image.fromarray(t.astype(np.uint8) * 255),
    "0/128": lambda t: Image.fromarray(t.astype(np.uint8) * 128),
    "0/65535": lambda t: Image.fromarray(t.astype(np.uint16) * 65535),
    "labels": lambda t: Image.fromarray(_labels(t)),
    "labels with gaps": lambda t: Image.fromarray(np.array([0, 17, 45, 90], np.uint8)[_labels(t)]),
    "16-bit labels": lambda t: Image.fromarray(np.array([0, 300, 301, 999], np.uint16)[_labels(t)]),
    "grey as RGB": lambda t: Image.fromarray(np.dstack([t] * 3).astype(np.uint8) * 255),
    "red on black": lambda t: Image.fromarray(np.dstack([t, 0 * t, 0 * t]).astype(np.uint8) * 200),
    "RGBA opaque": lambda t: _rgba(t * 255, np.full(t.shape, 255)),
    "RGBA half opaque": lambda t: _rgba(t * 255, np.full(t.shape, 128)),
    "RGBA in alpha": lambda t: _rgba(np.full(t.shape, 255), t * 255),
    "RGBA black in alpha": lambda t: _rgba(np.zeros(t.shape), t * 255),
    "RGBA in both": lambda t: _rgba(t * 255, t * 255),
    "palette labels": lambda t: _palette(_labels(t), [(0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 64)]),
    "palette labels on blue": lambda t: _palette(t * 1, [(0, 0, 255), (255, 255, 0)]),
    "palette of greys": lambda t: _palette(t * 1, [(0, 0, 0), (255, 255, 255)]),
    "palette of greys, white first": lambda t: _palette(1 - t, [(255, 255, 255), (0, 0, 0)]),
    "palette, black last": lambda t: _palette(1 - t, [(255, 0, 0), (0, 0, 0)]),
}


@pytest.mark.parametrize("kind", list(_KINDS))
def test_kinds_of_png_masks_read_the_same(tmp_path, truth, kind):
    path = tmp_path / "mask.png"
    _KINDS[kind](truth).save(path)
    mask = read_mask(path)
    assert mask.dtype == bool
    assert np.array_equal(mask, truth)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("top", [1, 255])
def test_tiff_masks(tmp_path, truth, dtype, top):
    values = truth.astype(dtype) if dtype is bool else truth.astype(dtype) * dtype(top)
    tifffile.imwrite(tmp_path / "mask.tif", values)
    assert np.array_equal(read_mask(tmp_path / "mask.tif"), truth)


def test_page_of_a_stack(tmp_path, truth):
    tifffile.imwrite(
        tmp_path / "m.tif", np.stack([~truth, truth, ~truth]).astype(np.uint8), photometric="minisblack"
    )
    assert np.array_equal(read_mask(tmp_path / "m.tif", 1), truth)


def test_antialiased_masks_are_cut_at_half_as_the_reference_does(tmp_path, truth):
    image = Image.fromarray(truth.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.2))
    image.save(tmp_path / "soft.png")
    expected = np.asarray(image) > 127
    assert np.array_equal(read_mask(tmp_path / "soft.png"), expected)
    assert len(np.unique(np.asarray(image))) > 50
    image.save(tmp_path / "soft.jpg", quality=90)
    assert (read_mask(tmp_path / "soft.jpg") ^ expected).mean() < 0.003


def test_soft_mask_whose_white_is_not_full(truth):
    image = Image.fromarray(truth.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.0))
    values = np.asarray(image)
    scaled = (values.astype(float) * 200 / 255).round().astype(np.uint8)
    assert (mask_from_values(scaled) ^ (values > 127)).mean() < 0.005


def test_soft_probabilities(truth):
    soft = np.asarray(Image.fromarray(truth.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(1)))
    assert np.array_equal(mask_from_values(soft.astype(np.float32) / 255), soft > 127)


def test_a_stray_grey_does_not_make_labels(truth):
    values = truth.astype(np.uint8) * 255
    values[0, 0], values[40, 70] = 1, 91
    assert np.array_equal(mask_from_values(values), values > 127)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_constant_masks(value):
    assert mask_from_values(np.full((8, 9), value, np.uint8)).all() == (value > 0)


_REFUSED = {
    "image": (np.random.default_rng(0).normal(120, 30, (96, 128)).clip(0, 255).astype(np.uint8), "image"),
    "constant grey": (np.full((20, 20), 77, np.uint8), "constant"),
    "no background": (np.repeat([[1], [2]], 20, 0).repeat(20, 1).astype(np.uint8), "background"),
    "three grey classes": (np.repeat([[0], [127], [255]], 20, 0).repeat(40, 1).astype(np.uint8), "classes"),
    "negative": (np.array([[-1, 0], [1, 1]], np.int16), "negative"),
    "fractions": (np.array([[0.5, 3.2], [1, 1]], np.float32), "fractions"),
}


@pytest.mark.parametrize("kind", list(_REFUSED))
def test_what_is_unclear_is_refused(kind):
    values, reason = _REFUSED[kind]
    with pytest.raises(CorruptError, match=f"here.*{reason}|here: .*{reason}"):
        mask_from_values(values, "here")


def test_colours_and_alpha_that_disagree_are_refused(tmp_path, truth):
    _rgba(truth * 255, truth[::-1] * 255).save(tmp_path / "m.png")
    with pytest.raises(CorruptError, match="differ"):
        read_mask(tmp_path / "m.png")


def test_coloured_mask_on_white_is_refused_not_inverted(tmp_path, truth):
    white = np.full((*truth.shape, 3), 255, np.uint8)
    white[truth] = (255, 0, 0)
    Image.fromarray(white).save(tmp_path / "m.png")
    with pytest.raises(CorruptError, match="without black background"):
        read_mask(tmp_path / "m.png")
    _palette(truth * 1 + 1, [(0, 0, 0), (255, 255, 255), (255, 0, 0)]).save(tmp_path / "p.png")
    with pytest.raises(CorruptError, match="without background"):
        read_mask(tmp_path / "p.png")


def test_empty_file(tmp_path):
    (tmp_path / "m.png").write_bytes(b"")
    with pytest.raises(CorruptError, match="0 bytes"):
        read_mask(tmp_path / "m.png")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 255, 65535]), st.floats(0.01, 0.99))
def test_any_two_valued_mask_is_its_foreground(seed, top, share):
    truth = np.random.default_rng(seed).random((17, 23)) < share
    if truth.any():
        assert np.array_equal(mask_from_values(truth.astype(np.uint16) * np.uint16(top)), truth)


def test_real_masks_agree_with_the_common_rule(shared_data):
    one_bit = 0
    for folder in ("vnc/stack1/mitochondria", "lucchi++/Test_Out"):
        for path in list_images(shared_data / folder):
            image = Image.open(path)
            one_bit += image.mode == "1"
            expected = np.asarray(image.convert("L")) > 127
            assert np.array_equal(read_mask(path), expected), path
            assert 0.01 < expected.mean() < 0.2
    assert one_bit == 3


def test_real_sections_are_no_masks(shared_data):
    for folder in ("vnc/stack1/raw", "lucchi++/Train_In"):
        for path in list_images(shared_data / folder)[::5]:
            with pytest.raises(CorruptError, match="image"):
                read_mask(path)
