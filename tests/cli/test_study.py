"""``emvfm study`` and ``emvfm report`` from the command line, on stand-ins."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.studies.grid import runner

VALUE = {
    "name": "small",
    "question": "Does a second dataset cost anything?",
    "rule": {
        "subject": "training on both", "claim": "not-lower", "margin": 0.5, "shown": "no collapse",
        "refuted": "collapse", "compare": [{"first": {"train": "both"}, "second": {"train": "a"}, "test": "a"}],
    },
    "data": {"a": {"from": "one", "val": 0}, "b": {"from": "two", "val": 0}},
    "train": {"backbone": "dinov2_vits14", "head": "linear"},
    "grid": {"train": {"a": ["a"], "both": ["a", "b"]}},
    "tests": ["a", "b"],
    "seeds": [0, 1],
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "small.yaml").write_text(yaml.safe_dump(VALUE, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Callable[..., Result]:
    """Call ``emvfm`` in the workspace of the module."""
    return lambda *given: CliRunner().invoke(app, [*map(str, given), "--root", str(place / "workspace")])


@pytest.fixture(scope="module")
def file(place: Path, call) -> Path:
    """The study, once it has run on stand-ins."""
    result = call("study", "run", place / "small.yaml", "--stand-in")
    assert result.exit_code == 0, result.output
    assert "4 of 4 runs are finished, 0 failed" in result.stdout
    assert result.stderr.count("IoU") == 4
    return place / "small.yaml"


def test_a_dry_run_writes_nothing_and_tells_what_is_needed(tmp_path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(VALUE))
    root = tmp_path / "workspace"
    text = CliRunner().invoke(app, ["study", "run", str(path), "--dry-run", "--root", str(root)])
    assert text.exit_code == 0, text.output
    for part in (
        "Does a second dataset cost anything?",
        "Claim: ",
        "dinov2_vits14",
        "MISSING",
        "4 runs",
        "both",
    ):
        assert part in text.stdout
    found = CliRunner().invoke(app, ["study", "run", str(path), "--dry-run", "--json", "--root", str(root)])
    value = json.loads(found.stdout)
    assert (value["places"], value["runs"], value["missing"], value["stores"]) == (4, 4, 4, 1)
    assert value["weights"][0]["there"] is False
    assert all(each["seconds"] > 0 for each in value["plan"])
    assert not root.exists()


def test_what_is_finished_is_not_done_again(file, call, monkeypatch) -> None:
    monkeypatch.setattr(runner, "train", lambda *a, **k: pytest.fail("trained again"))
    value = json.loads(call("study", "run", file, "--stand-in", "--json").stdout)
    assert (value["runs"], value["finished"], value["failed"]) == (4, 4, [])
    value = json.loads(call("study", "status", file, "--stand-in", "--json").stdout)
    assert value["counts"] == {"finished": 4, "at work": 0, "failed": 0, "waiting": 0}
    assert "4 finished" in call("study", "status", file, "--stand-in").stdout


def test_a_failed_run_is_told_and_ends_with_one(place, call, monkeypatch) -> None:
    def fail(*arguments, **options):
        raise RuntimeError("no such luck")

    other = place / "other.yaml"
    other.write_text(yaml.safe_dump({**VALUE, "name": "other", "seeds": [7]}))
    monkeypatch.setattr(runner, "train", fail)
    result = call("study", "run", other, "--stand-in")
    assert result.exit_code == 1
    assert "2 failed" in result.stdout
    assert "failed: no such luck" in result.stderr
    value = json.loads(call("study", "status", other, "--stand-in", "--json").stdout)
    assert value["counts"]["failed"] == 2
    result = call("study", "summarize", other, "--stand-in")
    assert result.exit_code == 2
    assert "no run is finished" in result.stderr


def test_summaries_are_tables_of_the_study_and_of_the_reference(file, call, tmp_path) -> None:
    result = call("study", "summarize", file, "--stand-in", "--to", tmp_path, "--json")
    value = json.loads(result.stdout)
    assert "Training on both" in value["answer"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "comparisons.csv", "runs.csv", "summary.csv", "summary.md", "summary.tex",
    ]  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert len(rows) == 2 * 2 * 2
    for arm in csv.DictReader((tmp_path / "summary.csv").open()):
        own = [float(r["iou"]) for r in rows if (r["train"], r["test"]) == (arm["train"], arm["test"])]
        assert float(arm["mean"]) == pytest.approx(sum(own) / 2)
    assert (
        call("study", "summarize", file, "--stand-in", "--preset", "reference", "--to", tmp_path).exit_code
        == 0
    )
    assert len(list(csv.DictReader((tmp_path / "run_metrics.csv").open()))) == 8


def test_figures_and_page_are_files(file, call, tmp_path) -> None:
    value = json.loads(call("study", "plot", file, "--stand-in", "--to", tmp_path, "--json").stdout)
    assert value["figures"] == [
        "bars.png",
        "differences.png",
        "pairs.png",
        "matrix.png",
        "learning-curves.png",
    ]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in value["figures"])
    out = tmp_path / "page.html"
    value = json.loads(call("report", file, "--stand-in", "--out", out, "--json").stdout)
    assert value["bytes"] == out.stat().st_size
    assert VALUE["question"] in out.read_text()
    shown = out.read_text().count("data:image/jpeg")
    assert shown
    assert call("report", file, "--stand-in", "--out", out, "--no-overlays").exit_code == 0
    assert VALUE["question"] in out.read_text()
    assert "data:image/jpeg" not in out.read_text()


def test_runs_have_a_page_without_a_verdict(file, call, place, tmp_path) -> None:
    folders = sorted((place / "workspace" / "stand-in" / "runs").iterdir())[:2]
    out = tmp_path / "runs.html"
    result = call("report", *folders, "--out", out)
    assert result.exit_code == 0, result.output
    page = out.read_text()
    assert "belong to no study" in page
    assert all(folder.name in page for folder in folders)
    result = call("report", file, folders[0])
    assert result.exit_code == 2
    assert "one study, or runs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("study", "run", "nowhere.yaml"), 3, "no such study"),
        (("study", "run", "FILE", "--only", "seed=9"), 2, "no such value"),
        (("study", "summarize", "FILE"), 2, "no run is finished"),
        (("report", "FILE"), 2, "no run is finished"),
        (("report", "no-such-run"), 3, "no such run"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(file, call, arguments, code: int, part: str) -> None:
    result = call(*(file if each == "FILE" else each for each in arguments))
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert part in result.stderr
    assert "\n" not in result.stderr.strip()
