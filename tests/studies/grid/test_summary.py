"""Summing up: what the rule says, what is compared with what, and the tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from emvfm.segmentation.cells import Cell, ImageScore
from emvfm.segmentation.comparison import paired_difference
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.intervals import Estimate
from emvfm.segmentation.metrics import Counts
from emvfm.segmentation.runs import RunFolder
from emvfm.studies.grid.answers import answer, claim_text, sentence
from emvfm.studies.grid.exports import (
    arm_rows,
    comparison_rows,
    latex,
    markdown,
    reference_runs,
    reference_summary,
)
from emvfm.studies.grid.reading import parse_study
from emvfm.studies.grid.results import Row
from emvfm.studies.grid.summary import judged, summarize

N = 8


class _Run(RunFolder):
    """A run without a folder."""

    config: ClassVar[TrainConfig] = TrainConfig(data=("a",), backbone="dinov2_vits14", batch=4, steps=60)
    metrics: ClassVar[dict[str, Any]] = {
        "train": {"best_step": 60, "steps": 60, "train_slices": 24, "seconds": 3.0}
    }

    def history(self):
        return [{"step": 60, "val_loss": 0.25}]


def _row(train: str, head: str, seed: int, test: str, quality: float) -> Row:
    """Return a run that finds a share `quality` of each slice's foreground, a little more or less by the slice."""
    rng = np.random.default_rng([seed, *map(ord, test)])
    images = []
    for i in range(N):
        found = int(np.clip(quality + rng.normal(0, 0.02), 0, 1) * 1000)
        images.append(ImageScore(str(i), test, Counts(found, 100, 1000 - found, 5000), i // 2))
    total = sum((image.counts for image in images), Counts())

    def estimate(value: float) -> Estimate:
        return Estimate(value, value - 0.1, value + 0.1, 0.95, "made up", N)

    cell = Cell(
        run="r", train=train, adaptation="frozen", backbone="vit", test=f"{test}:test", seed=seed,
        iou=estimate(total.iou), dice=estimate(total.dice), iou_per_image=total.iou, per_source={},
        images=tuple(images),
    )  # fmt: skip
    return Row({"train": train, "head": head}, seed, test, _Run(Path(f"{train}-{head}-{seed}")), cell)


@pytest.fixture
def spec(value):
    return parse_study(value, "study")


def _rows(both: float = 0.8, alone: float = 0.8, seeds=(0, 1, 2)) -> list[Row]:
    return [
        _row(train, head, seed, test, quality + 0.01 * seed)
        for train, quality in (("a", alone), ("both", both))
        for head in ("linear", "deconv")
        for seed in seeds
        for test in ("a", "b")
    ]


@pytest.mark.parametrize(
    ("claim", "low", "high", "outcome"),
    [
        ("not-lower", -0.04, 0.2, "shown"), ("not-lower", -0.2, -0.06, "refuted"), ("not-lower", -0.06, 0, "undecided"),
        ("lower", -0.2, -0.06, "shown"), ("lower", -0.04, 0.2, "refuted"), ("lower", -0.06, -0.04, "undecided"),
        ("higher", 0.06, 0.2, "shown"), ("higher", -0.2, 0.04, "refuted"), ("higher", 0.04, 0.06, "undecided"),
        ("same", -0.04, 0.04, "shown"), ("same", 0.06, 0.07, "refuted"), ("same", -0.06, 0.04, "undecided"),
        ("same", None, None, "undecided"),
    ],
)  # fmt: skip
def test_the_whole_interval_decides(spec, claim, low, high, outcome) -> None:
    from dataclasses import replace

    assert judged(replace(spec.rule, claim=claim), low, high) == outcome


def test_comparisons_are_those_of_the_library_in_each_place_of_the_rest(spec) -> None:
    rows = _rows(both=0.7)
    summary = summarize(rows, spec, 12, 12)
    assert [dict(c.at) for c in summary.compared] == [{"head": "linear"}, {"head": "deconv"}]
    found = summary.compared[0]
    sides = [
        [r.counts for r in rows if r.labels == {"train": t, "head": "linear"} and r.test == "a"]
        for t in ("both", "a")
    ]
    expected = paired_difference(*sides, [i // 2 for i in range(N)], samples=spec.evaluate.samples)
    assert found.difference == expected
    assert found.difference.value == pytest.approx(np.mean([x - y for x, y in found.values]))
    assert found.seeds == (0, 1, 2)
    assert found.p_seeds == pytest.approx(0.25)
    assert found.p_corrected == pytest.approx(min(1.0, 2 * found.p_value))
    assert found.outcome == "refuted"
    assert summary.outcome == "refuted"


def test_means_have_both_intervals_and_their_numbers(spec) -> None:
    summary = summarize(_rows(), spec, 12, 12)
    assert len(summary.arms) == 2 * 2 * 2
    arm = summary.arms[0]
    assert arm.over_both.value == pytest.approx(arm.over_seeds.mean)
    assert arm.over_seeds.sd == pytest.approx(np.std(arm.values, ddof=1))
    assert (arm.over_seeds.n, arm.over_both.n, arm.blocks) == (3, N, 4)


def test_only_shared_seeds_are_compared(spec) -> None:
    rows = [row for row in _rows() if not (row.labels["train"] == "both" and row.seed == 0)]
    assert {c.seeds for c in summarize(rows, spec, 10, 12).compared} == {(1, 2)}
    alone = [row for row in rows if row.labels["train"] == "a"]
    summary = summarize(alone, spec, 6, 12)
    assert summary.outcome == "undecided"
    assert (
        answer(summary)
        == "No answer yet: no comparison of the rule has both its sides (6 of 12 runs so far)."
    )


def test_the_answer_is_a_sentence(spec, value) -> None:
    value["grid"]["head"] = ["linear"]
    one = parse_study(value, "study")
    rows = [row for row in _rows(both=0.7) if row.labels["head"] == "linear"]
    text = answer(summarize(rows, one, 6, 6))
    assert text.startswith("Linear: training on both costs 0.0")
    assert text.endswith("(both against a): collapse.")
    assert "95 % interval 0.0" in text
    whole = answer(summarize(_rows(both=0.8), spec, 12, 12))
    assert whole.startswith("No collapse in all 2 comparisons; differences of IoU from ")
    assert "does not cost 0.05 IoU or more" in claim_text(spec.rule)


def test_a_cost_and_its_interval_have_one_sign(spec) -> None:
    found = summarize(_rows(both=0.7), spec, 12, 12).compared[0]
    text = sentence(spec.rule, found)
    low, high = found.difference.low, found.difference.high
    assert f"costs {-found.difference.value:.3f}" in text
    assert f"interval {-high:.3f} to {-low:.3f}" in text


def test_tables_hold_what_was_found(spec) -> None:
    summary = summarize(_rows(), spec, 12, 12)
    assert [row["mean"] for row in arm_rows(summary.arms)] == [a.over_seeds.mean for a in summary.arms]
    assert {row["outcome"] for row in comparison_rows(summary.compared)} == {"shown"}
    lines = markdown(summary, ["Said."]).splitlines()
    assert lines[0] == "Said."
    assert len({line.count("|") for line in lines[2 : 2 + 10]}) == 1
    assert sum(line.startswith("| a |") for line in lines) == 4
    text = latex(summary)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"95 \%" in text
    assert "−" not in text
    json.dumps(summary.to_json(), allow_nan=False)


def test_the_reference_has_its_columns_and_sample_deviations() -> None:
    rows = [row for row in _rows() if row.labels["head"] == "linear" and row.test == "a"]
    runs = reference_runs(rows)
    assert list(runs[0]) == [
        "run_dir",
        "rel_run_dir",
        "experiment_id",
        "task_type",
        "use_lora",
        "full_finetune",
        "training_mode",
        "backbone_name",
        "backbone_variant",
        "dino_size",
        "replicate",
        "seed",
        "loss",
        "dataset_type",
        "pair_mode",
        "mean_dice",
        "mean_iou",
        "foreground_dice",
        "foreground_iou",
        "best_val_loss",
        "best_epoch",
    ]
    assert [run["replicate"] for run in runs] == [1, 2, 3, 1, 2, 3]
    assert (runs[0]["dino_size"], runs[0]["best_val_loss"], runs[0]["best_epoch"]) == ("small", 0.25, 10)
    total = sum(rows[0].counts, Counts())
    background = total.tn / (total.tn + total.fp + total.fn)
    assert runs[0]["mean_iou"] == pytest.approx((total.iou + background) / 2)
    (table,) = reference_summary(runs)
    assert list(table)[:7] == (
        ["dataset_type", "task_type", "use_lora", "full_finetune", "training_mode", "dino_size", "num_runs"]
    )
    values = [run["foreground_iou"] for run in runs]
    assert table["foreground_iou_std"] == pytest.approx(np.std(values, ddof=1))
    assert table["num_runs"] == 6
    from emvfm.segmentation.evaluation_files import csv_text

    assert len(list(csv.DictReader(io.StringIO(csv_text(runs, list(runs[0])))))) == 6
