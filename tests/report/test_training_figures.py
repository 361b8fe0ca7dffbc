"""The learning curve: a valid PNG with and without validation, and a smoothing that keeps what is smooth."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from emvfm.report.training_figures import learning_curve, smoothed

STEPS = [SimpleNamespace(step=i + 1, loss=1 / (i + 1)) for i in range(50)]


@pytest.mark.parametrize("ious", [(None, None), (0.2, 0.9), (0.99, 0.1)])
def test_a_curve_is_a_picture_of_every_run(ious: tuple[float | None, float | None]) -> None:
    history = [
        {"step": 25 * (i + 1), "val_iou": iou, "val_loss": None if iou is None else 1 - iou}
        for i, iou in enumerate(ious)
    ]
    data = learning_curve(STEPS, history, 25)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "PNG"
    assert image.width > (900 if ious[0] is not None else 500)
    assert learning_curve(STEPS, history, 25) == data


def test_a_run_without_steps_is_drawn() -> None:
    assert learning_curve([], [], 0)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_smoothing_is_the_mean_of_the_neighbours(n: int) -> None:
    values = np.random.default_rng(0).random(n)
    half = max(1, round(0.05 * n / 2))
    want = [values[max(0, i - half) : i + half + 1].mean() for i in range(n)]
    np.testing.assert_allclose(smoothed(values), want)
