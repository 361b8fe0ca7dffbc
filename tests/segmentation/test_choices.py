"""Heads, losses and samplings go through a whole training, and back from its files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from emvfm.segmentation.checkpoints import load_run

CHOICES: list[dict[str, Any]] = [
    {"head": "linear", "sampling": "balanced", "data": ("a", "b")},
    {"head": "dpt", "loss": "dice+boundary"},
    {"head": "fpn", "sampling": "foreground"},
    {"head": "detail", "loss": "focal", "class_weights": (1.0, 3.0)},
    {"head": "unet", "warp": 1.0, "token_dropout": 0.5, "views": 2},
    {"backbone": "unet", "layers": None, "untrained": False, "init": "timm", "unet_width": 8, "unet_depth": 2,
     "warp": 1.0, "loss": "ce+boundary", "ema": 0.9},
]  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_a_choice_trains_and_its_run_segments(trained, workspace, fast, choice: dict[str, Any]) -> None:
    run = trained(fast(**choice))
    assert run.finished
    weights = load_file(run.checkpoints / "best.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    image = np.random.default_rng(0).integers(0, 256, size=(70, 90), dtype=np.uint8)
    found = load_run(run.path, workspace).predict(image)
    assert found.shape == (70, 90)
    assert np.isfinite(found).all()
    assert 0 <= found.min() < found.max() <= 1
