"""Figures of expression and audits draw what they are given, and refuse nothing to draw."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emvfm.report.expression_figures import expression_maps, gene_correlations, model_scores, verdict_bars

RNG = np.random.default_rng(0)


def _model(value: float | None, **changed: Any) -> dict[str, Any]:
    given = {"name": "a model of $ome length" * 4, "kind": "backbone", "value": value, "low": 0.1, "high": 0.3,
             "folds": [0.1, None, 0.3]}  # fmt: skip
    return {**given, **changed}


def _map(n: int) -> dict[str, Any]:
    values = RNG.normal(size=(4, n))
    names = ("x", "y", "measured", "predicted")
    return {"section": "s", "gene": "G", "pearson": 0.2, **dict(zip(names, values, strict=True))}


VERDICT = {
    "trained": "a",
    "rival": "b",
    "role": "untrained",
    "kind": "untrained",
    "value": 0.1,
    "low": 0.0,
    "high": 0.2,
}
DRAWN: list[Callable[[], bytes]] = [
    lambda: model_scores(
        [{"title": "ridge", "models": [_model(0.2), _model(np.nan, low=None, folds=[None])]}], ["f"], "r"
    ),
    lambda: gene_correlations(
        "m", {"A": 0.4, "B": -0.1}, [{"name": "o", "kind": "pixel", "genes": {"A": 0.2}}]
    ),
    lambda: gene_correlations(
        "a model of $ome length" * 4,
        {f"g{i}": i / 200 for i in range(120)},
        [
            {"name": "other", "kind": kind, "genes": {f"g{i}": 0.3 for i in range(90)}}
            for kind in ("mean", "x")
        ],
    ),
    lambda: expression_maps([_map(30), {**_map(9000), "pearson": np.nan}], "model"),
    lambda: expression_maps([{**_map(5), "predicted": np.ones(5)}], "model"),
    lambda: verdict_bars(
        [VERDICT, {**VERDICT, "trained": "c", "low": None, "high": None, "kind": "confound"}], "mAP"
    ),
]


@pytest.mark.parametrize("draw", DRAWN, ids=range(len(DRAWN)))
def test_a_figure_is_a_picture(draw: Callable[[], bytes]) -> None:
    data = draw()
    with Image.open(io.BytesIO(data)) as image:
        assert np.ptp(np.asarray(image.convert("L"))) > 100


@pytest.mark.parametrize("draw", [lambda: model_scores([], [], "r"), lambda: gene_correlations("m", {}, []),
                                  lambda: expression_maps([], "m"), lambda: verdict_bars([], "mAP")])  # fmt: skip
def test_nothing_to_draw_is_an_error(draw: Callable[[], bytes]) -> None:
    with pytest.raises(ValueError, match="to draw"):
        draw()
