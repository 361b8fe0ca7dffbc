"""Runs of one recipe are one row; recipes differ by what their shared seeds and slices say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.segmentation.cells import Cell, ImageScore
from emvfm.segmentation.comparison import exchange_test, mean_of_runs, paired_difference
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.intervals import Estimate
from emvfm.segmentation.metrics import Counts, bootstrap_pooled
from emvfm.segmentation.seeds import compare_recipes, mean_over_seeds

CONFIG = EvalConfig(samples=50)
BLOCKS = [0, 0, 1, 1, 2, 2, 3]


def _cell(recipe: str, seed: int, test: str = "a:test", hit: float = 0.7, **changes: object) -> Cell:
    rng = np.random.default_rng([seed, len(recipe), len(test)])
    counts = [Counts(int(t), 100, 1000 - int(t), 5000) for t in rng.binomial(1000, hit, len(BLOCKS))]
    iou, dice = (bootstrap_pooled(counts, BLOCKS, statistic=s, samples=50) for s in ("iou", "dice"))
    images = tuple(
        ImageScore(f"s{i}", "a", c, b) for i, (c, b) in enumerate(zip(counts, BLOCKS, strict=True))
    )
    fields = {
        "run": f"{recipe}-{seed}", "train": "a", "adaptation": "frozen", "backbone": "vit", "head": recipe,
        "test": test, "seed": seed, "iou": iou, "dice": dice, "iou_per_image": 0.5, "per_source": {"a": iou},
        "images": images, "recipe": recipe * 3,
    }  # fmt: skip
    return Cell(**{**fields, **changes})  # type: ignore[arg-type]


def _counts(*cells: Cell) -> list[list[Counts]]:
    return [[image.counts for image in cell.images] for cell in cells]


def test_runs_that_differ_in_their_seed_are_averaged() -> None:
    cells = [_cell("deconv", seed) for seed in (2, 0, 1)] + [_cell("linear", 0)]
    first, second = mean_over_seeds(cells, CONFIG)
    assert (first.seeds, second.seeds) == ((0, 1, 2), (0,))
    assert first.iou == mean_of_runs(_counts(cells[1], cells[2], cells[0]), BLOCKS, samples=50)
    values = [cell.iou.value for cell in cells[:3]]
    assert first.iou.value == pytest.approx(np.mean(values))
    assert first.spread == pytest.approx(np.std(values, ddof=1))
    assert second.spread is None
    assert second.iou.value == pytest.approx(cells[3].iou.value)
    json.dumps([first.to_json(), second.to_json()], allow_nan=False)


def test_the_same_run_twice_counts_once_and_test_sets_stay_apart() -> None:
    cells = [_cell("deconv", 0), _cell("deconv", 0), _cell("deconv", 0, test="bb:test")]
    scores = mean_over_seeds(cells, CONFIG)
    assert [(s.test, s.seeds) for s in scores] == [("a:test", (0,)), ("bb:test", (0,))]


def test_recipes_differ_by_their_shared_seeds_on_the_same_slices() -> None:
    cells = [*(_cell("linear", s) for s in (0, 1, 2)), *(_cell("deconv", s, hit=0.8) for s in (1, 2, 5))]
    (got,) = compare_recipes(cells, CONFIG)
    first, second = _counts(cells[3], cells[4]), _counts(cells[1], cells[2])
    assert got.seeds == ((1, 1), (2, 2))
    assert got.difference == paired_difference(first, second, BLOCKS, samples=50)
    assert got.p_value == exchange_test(first, second, BLOCKS).p_value == got.smallest == 1 / 8
    assert "too few blocks" in got.method
    assert (got.first, got.second) == ("a, frozen, deconv", "a, frozen, linear")
    assert got.difference.low > 0
    json.dumps(got.to_json(), allow_nan=False)


def test_without_shared_seeds_runs_are_paired_in_order() -> None:
    (got,) = compare_recipes([_cell("linear", 0), _cell("deconv", 7), _cell("deconv", 9)], CONFIG)
    assert got.seeds == ((7, 0),)


def test_p_values_are_corrected_for_all_differences() -> None:
    cells = [_cell("linear", 0), _cell("deconv", 0, hit=0.9), _cell("multi", 0, hit=0.2)]
    found = compare_recipes(cells, CONFIG)
    assert [d.p_value for d in found] == [1 / 8, 1 / 8]
    assert [d.p_corrected for d in found] == [1 / 4, 1 / 4]
    assert compare_recipes(cells[:1], CONFIG) == []
    assert compare_recipes([], CONFIG) == []


def test_recipes_of_one_description_get_different_names() -> None:
    cells = [_cell("x", 0, head="deconv"), _cell("y", 0, head="deconv")]
    names = [score.name for score in mean_over_seeds(cells, CONFIG)]
    assert len(set(names)) == 2
    other = [_cell("x", 0), _cell("yy", 0, backbone="other")]
    assert [s.name for s in mean_over_seeds(other, CONFIG)] == ["a, frozen, x, vit", "a, frozen, yy, other"]


def test_runs_scored_on_other_slices_are_not_compared() -> None:
    cell = _cell("linear", 0)
    other = replace(_cell("deconv", 0), images=cell.images[:-1])
    with pytest.raises(UsageError, match="not scored on the same slices"):
        compare_recipes([cell, other], CONFIG)


def test_a_cell_survives_json() -> None:
    cell = replace(
        _cell("linear", 0), scores={"pq": Estimate(0.5, 0.4, 0.6, 0.95, "m", 7)}, chosen_on="3 slices",
        threshold=0.25, tta="flips", curve={"threshold": [0.0]}, reliability=({"low": 0.0, "observed": None},),
    )  # fmt: skip
    cell = replace(
        cell, images=(replace(cell.images[0], extra={"hd95_px": None, "pq": 0.5}), *cell.images[1:])
    )
    assert Cell.from_json(json.loads(json.dumps(cell.to_json(), allow_nan=False))) == cell
    assert "above 0.25 (chosen on 3 slices)" in cell.protocol
    assert "4 turned images" in cell.protocol
