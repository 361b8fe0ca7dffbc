"""Figures of projections are PNG of a sensible size, repeatable, and show what they are given."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report.projection_figures import (
    ColourMap,
    Stack,
    colour_maps,
    layer_scatters,
    scatter_by_domain,
    scatter_by_slice,
    scatter_by_value,
    variance_curves,
)

AXES = ("PC1", "PC2")


def _points(n: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2))


def _pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def _holds(data: bytes, colour: str, least: int = 30) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(_pixels(data).astype(int) - wanted).max(axis=-1) < 40).sum()) >= least


@pytest.mark.parametrize("n", [1, 40, 900])
def test_domains_have_colours_of_their_own(n: int) -> None:
    labels = ["a", "b $x$ <i>"] * n
    data = scatter_by_domain(_points(2 * n), labels, AXES, "title", "a remark")
    assert min(_pixels(data).shape[:2]) > 400
    assert _holds(data, "#0072B2")
    assert _holds(data, "#E69F00")
    assert data == scatter_by_domain(_points(2 * n), labels, AXES, "title", "a remark")


def test_more_domains_than_colours_do() -> None:
    assert scatter_by_domain(_points(40), [f"d{i % 20}" for i in range(40)], AXES)


def test_paths_through_stacks() -> None:
    stacks = [Stack(str(k), f"d{k % 2}", _points(9, k), np.arange(9)[::-1]) for k in range(3)]
    data = scatter_by_slice(stacks, AXES, cloud=_points(500), remark="r", title="t")
    assert _holds(data, "#440154")
    assert _holds(data, "#FDE725", 8)
    assert scatter_by_slice([Stack("s", "d", _points(1), [4])], AXES)


def test_values_colour_points() -> None:
    values = np.linspace(0, 1, 40)
    values[30:] = np.nan
    data = scatter_by_value(_points(), values, "foreground fraction", AXES)
    assert _holds(data, "#440154")
    assert _holds(data, "#c3c8cb")
    assert scatter_by_value(_points(3), [0.5] * 3, "x", AXES)


def test_curves_of_variance() -> None:
    assert _holds(variance_curves({"block 1": [3.0, 1.0, 0.5]}), "#0072B2")
    spectra = {f"block {k}": np.exp(-np.arange(70) / (k + 2)) for k in range(4)}
    assert _holds(variance_curves(spectra, title="t"), "#440154", 20)
    assert variance_curves({"nothing": np.zeros(3)})


def test_layers_side_by_side() -> None:
    panels = [(f"block {k}", _points(seed=k)) for k in range(5)]
    data = layer_scatters(panels, ["a", "b"] * 20)
    assert _pixels(data).shape[1] > _pixels(layer_scatters(panels[:1], ["a", "b"] * 20)).shape[1]


def test_the_colours_of_a_map_lie_where_its_patches_are() -> None:
    colours = np.zeros((2, 3, 3))
    colours[0, 0], colours[1, 2] = (1, 0, 0), (0, 0, 1)
    colours[0, 2] = np.nan
    image = np.tile(np.linspace(0, 1, 42), (28, 1))
    item = ColourMap(image, colours, (28.0, 42.0), "a · z 3", np.eye(28, 42) > 0)
    pixels = _pixels(colour_maps([item])).astype(int)
    red = np.argwhere((pixels[..., 0] > 200) & (pixels[..., 1:].max(axis=-1) < 50))
    blue = np.argwhere((pixels[..., 2] > 200) & (pixels[..., :2].max(axis=-1) < 50))
    assert len(red) > 500
    assert abs(len(red) / len(blue) - 1) < 0.2
    assert (red.mean(axis=0) < blue.mean(axis=0)).all()
    assert red[:, 1].min() > pixels.shape[1] / 2 - 20  # beside the image


def test_padding_reaches_out_of_the_picture() -> None:
    colours = np.zeros((1, 2, 3))
    colours[0, 0], colours[0, 1] = (1, 0, 0), (0, 0, 1)
    item = ColourMap(np.random.default_rng(0).random((10, 12)), colours, (10.0, 20.0), "x")
    pixels = _pixels(colour_maps([item])).astype(int)
    red = ((pixels[..., 0] > 200) & (pixels[..., 1:].max(axis=-1) < 50)).sum()
    blue = ((pixels[..., 2] > 200) & (pixels[..., :2].max(axis=-1) < 50)).sum()
    assert red / blue == pytest.approx(5, rel=0.1)  # 10 of 12 columns, and what is left of the second patch


@pytest.mark.parametrize(
    "call",
    [
        lambda: scatter_by_domain(np.empty((0, 2)), [], AXES),
        lambda: scatter_by_domain(_points(3), ["a"], AXES),
        lambda: scatter_by_value(_points(3), [1.0], "x", AXES),
        lambda: scatter_by_slice([], AXES),
        lambda: variance_curves({}),
        lambda: layer_scatters([], []),
        lambda: colour_maps([]),
    ],
)
def test_nothing_to_draw(call: object) -> None:
    with pytest.raises(ValueError, match=r"no|points"):
        call()  # type: ignore[operator]
