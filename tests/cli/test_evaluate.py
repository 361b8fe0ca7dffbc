"""``emvfm eval`` from the command line: the matrix as text and JSON, its files, and its errors."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.evaluation import PROTOCOL
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with the datasets ``a`` and ``b`` and two runs that were trained on them."""
    root = tmp_path_factory.mktemp("finished")
    workspace = Workspace(root / "workspace")
    for name, side in (("a", 96), ("b", 120)):
        write_phantom(root / name, name, 12, side, seed=3)
        compose(name, [root / name], workspace, ComposeOptions(domain=(name,), link="copy"))
    for data in (("a",), ("a", "b")):
        train(
            TrainConfig(
                data=data, backbone="timm:test_vit", untrained=True, init="kaiming", layers=(0, 1),
                precision="float32", device="cpu", head="linear", loss="tversky", steps=4, batch=2, crop=48,
                lr=0.02, warmup=1, evaluate_every=2,
            ),
            workspace,
        )  # fmt: skip
    return workspace


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(finished.root, tmp_path / "workspace")))


@pytest.fixture
def runs(workspace: Workspace) -> list[str]:
    """Names of the runs: trained on ``a``, trained on both."""
    return sorted((path.name for path in workspace.runs.iterdir()), key=lambda name: "+" in name)


@pytest.fixture
def evaluate(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm eval`` in the workspace of the test."""
    return lambda *arguments: CliRunner().invoke(
        app, ["eval", "--root", str(workspace.root), "--samples", "100", *map(str, arguments)]
    )


def _refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.strip()  # a progress bar that was taken away leaves an empty line
    assert line.startswith("emvfm: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_json_is_the_matrix_of_runs_and_tests(evaluate, workspace, runs) -> None:
    result = evaluate(*runs, "--data", "a", "--data", "b", "--json", "--no-overlays")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    value = json.loads(result.stdout)
    assert value["protocol"] == PROTOCOL
    cells = value["results"]
    assert [(c["run"], c["test"]) for c in cells] == [(r, t) for r in runs for t in ("a:test", "b:test")]
    assert [c["train"] for c in cells] == ["a", "a", "a+b", "a+b"]
    for cell in cells:
        assert cell["n"] == len(cell["images"]) == 2
        tp, fp, fn = (sum(image[key] for image in cell["images"]) for key in ("tp", "fp", "fn"))
        assert cell["iou"]["value"] == pytest.approx(tp / (tp + fp + fn))
        assert cell["dice"]["value"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        kept = RunFolder(workspace.runs / cell["run"]).metrics
        assert kept["eval"][cell["test"]] == cell
        assert kept["train"]["steps"] == 4


def test_the_text_is_a_table_with_intervals(evaluate, runs) -> None:
    data = ("--data", "a", "--data", "b", "--no-overlays", "--level", "0.9")
    cells = json.loads(evaluate(*runs, *data, "--json").stdout)["results"]
    result = evaluate(*runs, *data)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "foreground IoU" in lines[0]
    assert lines[1].split() == ["trained", "on", "adaptation", "seed", "a:test", "b:test"]
    for line, (first, second) in zip(lines[2:4], (cells[:2], cells[2:]), strict=True):
        assert line.split()[:3] == [first["train"], "frozen", "0"]
        for estimate in (first["iou"], second["iou"]):
            assert f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" in line
    assert "untrained" in result.stdout
    assert "90%" in result.stdout


def test_several_sources_are_told_apart(evaluate, workspace, runs) -> None:
    sources = [workspace.datasets / name for name in ("a", "b")]
    compose("both", sources, workspace, ComposeOptions(link="copy"))
    result = evaluate(runs[0], "--data", "both", "--no-overlays")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    cell = RunFolder(workspace.runs / runs[0]).metrics["eval"]["both:test"]
    assert f"a {cell['per_source']['a']['value']:.3f}" in text
    assert f"mean of sources {cell['macro']:.3f}" in text


def test_a_file_gets_the_same_result(evaluate, runs, tmp_path) -> None:
    out = tmp_path / "new" / "scores.json"
    result = evaluate(runs[0], "--data", "a", "--json", "--no-overlays", "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == json.loads(result.stdout)


def test_overlays_are_pictures_in_the_folder_of_the_run(evaluate, workspace, runs) -> None:
    figures = workspace.runs / runs[0] / "figures"
    assert evaluate(runs[0], "--data", "a", "--no-overlays").exit_code == 0
    assert list(figures.iterdir()) == []
    assert evaluate(runs[0], "--data", "a", "--data", "b:val").exit_code == 0
    assert sorted(path.name for path in figures.iterdir()) == ["a-test.png", "b-val.png"]
    with Image.open(figures / "a-test.png") as picture:
        assert picture.format == "PNG"
        assert np.ptp(np.asarray(picture.convert("L"))) > 50
        assert picture.width > 96


def test_a_run_is_found_by_name_start_and_folder(evaluate, workspace, runs) -> None:
    for name in (runs[0], runs[0][:4], workspace.runs / runs[0]):
        result = evaluate(name, "--data", "a", "--json", "--no-overlays")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["results"][0]["run"] == runs[0]
    _refused(evaluate("a", "--data", "a"), 2, "several runs begin so", *runs)


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((), 2, ("--data", "no data to score on")),
        (("--data", "c"), 3, ("c: no such dataset",)),
        (("--data", "a:nonsense"), 2, ("no such split",)),
        (("--data", "a", "--level", "1.5"), 2, ("level", "less than 1")),
        (("--data", "a", "--samples", "0"), 2, ("samples", "greater than 0")),
        (("--data", "a", "--set", "sample=3"), 2, ("sample: unknown key", "did you mean samples?")),
        (("no-such-run", "--data", "a"), 3, ("no-such-run: no such run",)),
    ],
)
def test_errors_are_one_line_with_their_exit_code(evaluate, runs, arguments, code: int, parts) -> None:
    _refused(evaluate(runs[0], *arguments), code, *parts)
    _refused(evaluate(runs[0], "--json", *arguments), code, *parts)


def test_a_run_that_is_unfinished_or_damaged_is_told(evaluate, workspace, runs) -> None:
    run = RunFolder(workspace.runs / runs[0])
    head = run.checkpoints / "best.safetensors"
    head.write_bytes(head.read_bytes()[:100])
    _refused(evaluate(runs[0], "--data", "a"), 1, "best.safetensors")
    head.unlink()
    _refused(evaluate(runs[0], "--data", "a"), 3, "best.safetensors")
    run.set_state("running")
    _refused(evaluate(runs[0], "--data", "a"), 2, "not finished")
    assert "eval" not in run.metrics


def test_all_scores_tables_files_and_figures_come_from_one_call(evaluate, workspace, runs, tmp_path) -> None:
    files = ("--csv", tmp_path / "slices.csv", "--figures", tmp_path / "figures")
    full = ("--data", "a", "--data", "b", "--metrics", "full", "--no-overlays", "--smallest", "4")
    result = evaluate(*runs, *full, *files)
    assert result.exit_code == 0, result.output
    kept = RunFolder(workspace.runs / runs[0]).metrics["eval"]["a:test"]["scores"]
    for title in ("Dice", "average precision", "calibration error", "boundary F1", "PQ", "AP50"):
        assert title in result.stdout
    assert f" {kept['pq']['value']:.3f} " in result.stdout
    assert "foreground IoU minus that of: a, frozen, linear" in result.stdout
    assert "corrected by Holm" in result.stdout
    text = " ".join(result.stdout.split())
    assert f"written: {tmp_path / 'slices.csv'}, {tmp_path / 'figures'}" in text
    assert "kept in each run's folder: evaluation/ (scores of each slice)" in text
    rows = list(csv.DictReader((tmp_path / "slices.csv").open()))
    assert len(rows) == 2 * 4
    assert {row["run"] for row in rows} == set(runs)
    names = {"precision-recall.png", "reliability.png", "matrix.png", "differences.png"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names
    value = json.loads(evaluate(*runs, *full, "--json").stdout)
    assert [mean["seeds"] for mean in value["means"]] == [[0]] * 4
    assert [each["test"] for each in value["differences"]] == ["a:test", "b:test"]
    assert value["results"][0]["scores"] == kept


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("--threshold", "1.5"), 2, ("threshold", "less than 1")),
        (("--threshold", "best"), 2, ("threshold", "'validation'")),
        (("--data", "a:val", "--threshold", "validation"), 2, ("a:val", "chosen on slices that are scored")),
    ],
)
def test_options_that_make_no_sense_are_one_line(evaluate, runs, arguments, code: int, parts) -> None:
    _refused(evaluate(runs[0], "--data", "a", "--no-overlays", *arguments), code, *parts)
