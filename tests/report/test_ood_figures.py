"""Figures of outlier scores: readable PNG, deterministic, whatever the sizes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report import ood_figures

RNG = np.random.default_rng(0)
NAMES = ["Mahalanobis (Ledoit-Wolf)", "relative Mahalanobis", "kNN distance", "$odd_name$"]


def _scores(shift: float, n: int = 60) -> np.ndarray:
    return RNG.normal(size=n) * 2 + 20 + shift


PANELS = [
    {
        "title": name, "fit": _scores(-3, 120), "test": _scores(0), "promised": 0.05, "threshold": 23.5,
        "outside": {"vnc": _scores(8, 20), "kasthuri": _scores(3, 80)},
    }
    for name in NAMES
]  # fmt: skip
CURVES = [
    {
        "title": f"lucchi against {name}",
        "curves": {n: (_scores(0), _scores(k + 1)) for k, n in enumerate(NAMES)},
    }
    for name in ("vnc", "kasthuri")
]
ROWS = [
    {"label": label, "set": name, "value": v, "low": None if v > 0.97 else v - 0.1, "high": min(1, v + 0.05)}
    for k, label in enumerate(NAMES)
    for name, v in (("vnc", 0.99 - 0.03 * k), ("kasthuri", 0.8 - 0.1 * k))
]
LAYERS = [
    {
        "title": f"lucchi against {name}",
        "layers": list(range(12)),
        "lines": {label: np.linspace(0.5, 0.9 - 0.05 * k, 12) for k, label in enumerate(NAMES)},
    }
    for name in ("vnc", "kasthuri")
]


def _item(seed: int, title: str) -> tuple:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:150, :200] / 20
    image = (128 + 60 * np.sin(x + seed) * np.cos(y) + 20 * rng.normal(size=x.shape)).clip(0, 255)
    scores = 20 + 8 * np.exp(-((np.mgrid[:10, :13] - 5) ** 2).sum(0) / 9) + rng.normal(size=(10, 13))
    scores[-1] = np.nan
    return image.astype(np.uint8), scores, (9.4, 12.5), title


MAPS = [
    {"label": label, "items": [_item(k, f"z{k:04d}, {30.2 - k:.1f}") for k in range(n)]}
    for label, n in (("most outlying", 4), ("least outlying", 3))
]
RUNS = [
    {
        "label": name, "inside": _scores(0) / 23, "outside": _scores(4 + k, 90) / 23,
        "inside_rate": 0.05, "outside_rate": 0.4 + 0.2 * k,
    }
    for k, name in enumerate(["dinov2-base", "dinov3-base + LoRA", "untrained"])
]  # fmt: skip
CALLS = {
    "distributions": lambda: ood_figures.score_distributions(PANELS),
    "one distribution": lambda: ood_figures.score_distributions(
        [{**PANELS[0], "fit": [], "outside": {"b": [1]}}]
    ),
    "roc": lambda: ood_figures.outlier_roc(CURVES),
    "one roc": lambda: ood_figures.outlier_roc([{"title": "a", "curves": {"x": ([0.0], [0.0, 1.0])}}]),
    "scores": lambda: ood_figures.auroc_by_score(ROWS),
    "layers": lambda: ood_figures.auroc_by_layer(LAYERS),
    "maps": lambda: ood_figures.outlier_heat_maps(MAPS, "Mahalanobis distance of a patch"),
    "one map": lambda: ood_figures.outlier_heat_maps(
        [{"label": "most", "items": [(np.zeros((40, 50, 3), np.uint8), np.ones((3, 4)), (3, 4), "t")]}], "m"
    ),
    "runs": lambda: ood_figures.outlier_runs(RUNS),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_figure_is_a_readable_png_and_the_same_each_time(name) -> None:
    drawn = CALLS[name]()
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB")).astype(float)
    assert min(pixels.shape[:2]) >= 150
    assert pixels.std() > 5
    assert CALLS[name]() == drawn


@pytest.mark.parametrize(
    "call",
    [
        lambda: ood_figures.score_distributions([]),
        lambda: ood_figures.outlier_roc([]),
        lambda: ood_figures.auroc_by_score([]),
        lambda: ood_figures.auroc_by_layer([]),
        lambda: ood_figures.outlier_heat_maps([{"label": "a", "items": []}], "m"),
        lambda: ood_figures.outlier_runs([]),
    ],
)
def test_nothing_to_draw_is_an_error(call) -> None:
    with pytest.raises(ValueError, match="to draw"):
        call()
