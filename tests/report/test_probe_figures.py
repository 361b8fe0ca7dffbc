"""Figures of probes: valid PNG, the same every time, larger with more rows, refused without any."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report import probe_figures

NULL = np.random.default_rng(0).normal(0.5, 0.1, 50)
ROW = {"label": "a × $b_1$", "value": 0.9, "low": 0.8, "high": 1.0, "null": NULL, "chance": 0.5}
CURVE = {
    "label": "a's own",
    "values": [0.6, np.nan, 0.9],
    "low": [0.5, np.nan, 0.8],
    "high": [0.7, np.nan, 1.0],
}


def _size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.format == "PNG"
        assert np.asarray(image.convert("L"), float).std() > 5  # something is drawn
        return image.size


CALLS = {
    "bars": lambda: probe_figures.domain_probe_bars([{**ROW, "ends": {"a": 0.6, "b": 0.4}}]),
    "bare": lambda: probe_figures.domain_probe_bars(
        [{"label": "a", "value": 1.0, "null": [], "chance": 0.9}]
    ),
    "matrix": lambda: probe_figures.task_matrix(
        np.array([[0.9, np.nan], [0.6, 0.8]]), ["a", "b"], np.full((2, 2), 0.5), np.ones((2, 2))
    ),
    "layers": lambda: probe_figures.layer_curves([0, 1, 11], {"domain": [CURVE], "task": [CURVE] * 9}),
    "without masks": lambda: probe_figures.layer_curves([0, 1, 2], {"domain": [CURVE], "task": []}),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_figure_is_a_png_and_the_same_every_time(name: str) -> None:
    first = CALLS[name]()
    assert min(_size(first)) >= 150
    assert CALLS[name]() == first


def test_figures_grow_with_what_they_show() -> None:
    one, three = (_size(probe_figures.domain_probe_bars([ROW] * n)) for n in (1, 3))
    assert three[1] > one[1]
    two, single = _size(CALLS["layers"]()), _size(CALLS["without masks"]())
    assert two[0] > single[0]


def test_the_null_is_drawn_only_where_there_is_one() -> None:
    assert probe_figures.domain_probe_bars([ROW]) != probe_figures.domain_probe_bars([{**ROW, "null": []}])


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no probes"):
        probe_figures.domain_probe_bars([])
    with pytest.raises(ValueError, match="no curves"):
        probe_figures.layer_curves([0], {"task": []})
