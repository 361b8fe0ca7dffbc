"""``emvfm demo`` from end to end with few steps: every part runs, and what it says follows its numbers."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.domain.results import compare_frechet
from emvfm.segmentation.evaluation import Cell
from emvfm.segmentation.metrics import Estimate
from emvfm.studies.demo import NAMES, DemoResult

FEW = ("--frozen-steps", "2", "--lora-steps", "1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(root: Path) -> dict:
    """The JSON of one demo."""
    done = CliRunner().invoke(app, ["demo", *FEW, "--json", "--root", str(root)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
def test_every_part_of_the_main_job_is_there(result, root) -> None:
    assert result["audits"] == dict.fromkeys(NAMES, "passed")
    cells = {(c["train"], c["adaptation"], c["test"]): c["iou"] for c in result["results"]}
    rows = [
        (NAMES[0], "frozen"),
        (NAMES[1], "frozen"),
        ("+".join(NAMES), "frozen"),
        ("+".join(NAMES), "LoRA r16"),
    ]
    assert set(cells) == {(*row, f"{name}:test") for row in rows for name in NAMES}
    for iou in cells.values():
        assert 0 <= iou["low"] <= iou["value"] <= iou["high"] <= 1
    assert result["frechet"]["p_value"] < 0.05  # the domains differ by construction
    assert result["frechet"]["ratio"] > 2
    assert len(list((root / "runs").glob("demo-*"))) == 4  # the head LoRA begins with is the frozen run's


@pytest.mark.slow
def test_it_says_that_the_backbone_is_untrained(result) -> None:
    assert not result["trained_backbone"]
    assert "untrained" in result["backbone"]
    assert "DINOv2" not in result["backbone"]


@pytest.mark.slow
def test_the_report_is_one_small_page_that_needs_no_network(result) -> None:
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert len(page) < 10e6
    assert html.escape(result["verdict"]) in page
    assert "says nothing about DINOv2" in page or "say nothing about DINOv2" in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)
    assert page.count("<img") >= 5


@pytest.mark.slow
def test_a_second_call_repeats_the_numbers_in_words_and_trains_nothing(result, root) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.glob("runs/*/checkpoints/*.safetensors")}
    again = CliRunner().invoke(app, ["demo", *FEW, "--root", str(root)])
    assert again.exit_code == 0, again.output
    assert {p: p.stat().st_mtime_ns for p in before} == before
    said = " ".join(again.stdout.split())
    assert "untrained" in said
    assert "report.html" in said
    first = result["results"][0]["iou"]
    assert f"{first['value']:.2f} [{first['low']:.2f}, {first['high']:.2f}]" in said


def _cell(trained_on: str, test: str, iou: float) -> Cell:
    estimate = Estimate(iou, None, None, 0.95, "", 1)
    return Cell("run", trained_on, "frozen", "", f"{test}:test", 0, estimate, estimate, iou, {}, ())


def test_models_that_learnt_nothing_are_not_compared() -> None:
    a, b = NAMES
    pairs = ((a, a), (a, b), (b, a), (b, b), (f"{a}+{b}", a), (f"{a}+{b}", b))
    distance = compare_frechet(NAMES, [[0.0], [1.0]], [[0.0], [1.0]], [0, 1], [0, 1], permutations=99)
    cells = tuple(_cell(trained_on, test, 0.06) for trained_on, test in pairs)
    verdict = DemoResult("x", False, {}, cells, distance, 0.0, Path("report.html")).verdict
    assert verdict.startswith("Nothing to compare")
    assert f"0.06 on {a} and 0.06 on {b}" in verdict


@pytest.mark.parametrize(("both", "serves"), [((0.7, 0.6), True), ((0.66, 0.56), True), ((0.7, 0.5), False)])
def test_one_model_serves_both_unless_it_loses_five_points_on_either(both, serves: bool) -> None:
    a, b = NAMES
    cells = (
        _cell(a, a, 0.7), _cell(a, b, 0.1), _cell(b, a, 0.2), _cell(b, b, 0.6),
        _cell(f"{a}+{b}", a, both[0]), _cell(f"{a}+{b}", b, both[1]),
    )  # fmt: skip
    distance = compare_frechet(NAMES, [[0.0], [1.0]], [[0.0], [1.0]], [0, 1], [0, 1], permutations=99)
    result = DemoResult("x", False, {}, cells, distance, 0.0, Path("report.html"))
    assert ("does not serve both" not in result.verdict) == serves
    assert f"on {a} it scores {both[0]:.2f}, its own model 0.70, the other's 0.20" in result.verdict
    assert replace(result, cells=cells[::-1]).verdict == result.verdict
