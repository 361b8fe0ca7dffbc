"""``emvfm domain report``: every analysis in one page that needs nothing else, and the same numbers as alone."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.phantom import write_phantom
from emvfm.report.domain_page import verdicts
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    for name in ("a", "b"):
        write_phantom(folder / name, name, 20, 96, seed=3)
        compose(name, [folder / name], Workspace(folder / "ws"))
    return folder / "ws"


def _run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["domain", *arguments, "--root", str(root)])


@pytest.mark.slow
def test_the_page_has_every_analysis_and_their_own_numbers(root: Path) -> None:
    done = _run(root, "report", "a", "b", *BACKBONE, "--permutations", "99", "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    page = html.unescape(Path(said["report"]).read_text(encoding="utf-8"))
    assert set(said["folders"]) == {"fd", "kd", "prdc", "probe", "pca", "ood"}
    for name, folder in said["folders"].items():
        alone = json.loads((Path(folder) / "metrics.json").read_text())
        assert f"emvfm domain {name} a b --config" in page
        assert next(verdicts(alone)).split("(")[0].strip() in page
    for summary in said["summary"]:
        assert summary.split("(")[0].strip() in page
    assert page.count("<img") >= 12
    assert re.search(r"(src|href)=\"https?:", page) is None
    assert "untrained" in page
    alone = _run(root, "fd", "a", "b", *BACKBONE, "--permutations", "99", "--json")
    value = json.loads(alone.stdout)["results"][0]["value"]
    assert f"{value:.3g}" in page


def test_one_dataset_has_nothing_to_be_compared_with(root: Path) -> None:
    done = _run(root, "report", "a", *BACKBONE)
    assert done.exit_code == 2
    assert "nothing to compare with" in done.stderr


def test_verdicts_are_found_wherever_they_are_each_once() -> None:
    nested = {"results": [{"verdict": "inner", "more": {"verdicts": ["x", "inner"]}}], "verdict": "outer"}
    assert list(verdicts(nested)) == ["outer", "inner", "x"]
