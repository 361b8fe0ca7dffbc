"""Figures of representations: every one is a readable PNG, also of a single thing and of undefined values."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from emvfm.report import representation_figures as figures


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        picture.load()
        assert np.asarray(picture.convert("L")).std() > 3
        return picture.size


@pytest.mark.parametrize("n", [1, 12, 300])
def test_groups(n: int) -> None:
    values = np.linspace(0.1, 1, n)
    rows = [
        {"group": f"g{i}" * 20, "value": v, "low": None if i else v, "high": v, "n": 3, "expected": 0.1,
         "p": 1 - v, "q": None if i == 1 else 1 - v}
        for i, v in enumerate(values.tolist())
    ]  # fmt: skip
    wide, high = size(figures.group_precisions(rows, {"value": 0.5, "expected": 0.1}, "compound", 0.05))
    assert wide > high
    size(figures.group_bars(rows[:12], 0.05))


def test_recall_odds_and_layers() -> None:
    rows = [
        {"source": s, "share": share, "n": 10, "left": 0.1, "right": 0.3, "low": None, "high": None}
        for s in ("a", "b") for share in (0.1, 0.2)
    ]  # fmt: skip
    size(figures.recall_bars(rows))
    size(
        figures.odds_figure(
            [{"share": 0.01, "odds": [1.0, 2.0, 9.0], "value": 1, "low": None, "high": None, "expected": 0.2}]
        )
    )
    line = [{"layer": i, "value": i / 9, "low": None, "high": None, "chosen": int(i == 2)} for i in range(4)]
    size(figures.layer_lines({"mean": line, "cls": line}, {"value": None}, None, "mAP"))


@pytest.mark.parametrize("k", [2, 9, 20])
def test_the_order_of_a_map_is_that_of_its_tree(k: int) -> None:
    values = np.eye(k)
    values[0, 1] = values[1, 0] = np.nan
    size(figures.similarity_map(values, [f"representation {i}" for i in range(k)], "cka"))


def test_geometry() -> None:
    panels = [{"measure": m, "values": [(1.0, None, None), (2.0, 1.5, 2.5)]} for m in "abcdef"]
    size(figures.geometry_figure(["one", "two"], panels))
