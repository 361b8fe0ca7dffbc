"""Figures of a study: pictures of the right kind, that survive few and many marks, and refuse none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report.study_figures import (
    Curve,
    Mark,
    Pairs,
    Series,
    arm_bars,
    learning_curves,
    paired_dots,
    trend,
)


def _picture(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def _mark(label: str, value: float, *, seeds: int = 3) -> Mark:
    return Mark(label, value, value - 0.05, value + 0.05, [value - 0.02, value, value + 0.02][:seeds])


def test_bars_grow_with_arms_and_panels() -> None:
    few = _picture(arm_bars({"on a": [_mark("x", 0.5), _mark("y", 0.7)]}))
    many = _picture(arm_bars({t: [_mark(f"x, {n}", n / 12) for n in range(10)] for t in ("on a", "on b")}))
    assert many.shape[0] > few.shape[0]
    assert many.shape[1] > few.shape[1]


def test_a_mark_without_interval_or_seeds_is_drawn() -> None:
    bare = Mark("x", 0.4, float("nan"), float("nan"))
    assert _picture(arm_bars({"on a": [bare]})).std() > 0
    assert _picture(trend({"IoU": [Series("", [0.0], [bare])]}, "share")).std() > 0


def test_pairs_are_folded_into_rows() -> None:
    pair = Pairs("on a", ("alone", "both"), [(0.5, 0.6), (0.55, 0.58)], "+0.065")
    one, five = (_picture(paired_dots([pair] * n, columns=4)) for n in (1, 5))
    assert five.shape[0] > 1.8 * one.shape[0]


def test_a_trend_has_a_panel_a_measure_and_lines_for_what_stands_apart() -> None:
    series = Series("on a", [1, 0, 0.5], [_mark("1", 0.1), _mark("0", 0.7), _mark("0.5", 0.4)])
    one = _picture(trend({"IoU": [series]}, "share"))
    two = _picture(trend({"IoU": [series], "effect": [series]}, "share", apart={"sorted": _mark("s", 0.05)}))
    assert two.shape[1] > 1.8 * one.shape[1]


def test_curves_with_validation_have_a_second_panel() -> None:
    plain = Curve("x", list(range(1, 30)), [1 / n for n in range(1, 30)])
    judged = Curve("y", plain.steps, plain.losses, [(10, 0.5), (20, 0.6)])
    assert _picture(learning_curves([plain, judged])).shape[1] > _picture(learning_curves([plain])).shape[1]


@pytest.mark.parametrize(
    ("draw", "empty"),
    [(arm_bars, {}), (arm_bars, {"on a": []}), (paired_dots, []), (learning_curves, [Curve("x", [], [])])],
)
def test_nothing_to_draw_is_an_error(draw, empty) -> None:
    with pytest.raises(ValueError, match="to draw"):
        draw(empty)
    with pytest.raises(ValueError, match="to draw"):
        trend({}, "share")
