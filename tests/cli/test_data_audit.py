"""``data audit`` and ``data phantom`` from the command line: tables, files, exit codes."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from emvfm.cli import data_audit
from emvfm.datasets.compose import compose
from emvfm.datasets.manifest import load_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.workspace import Workspace, read_json


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()
    app.callback()(lambda: None)
    data_audit.register(app)
    return app


@pytest.fixture
def workspace(tmp_path):
    write_phantom(tmp_path / "p", "a", 14, 128, seed=3)
    workspace = Workspace(tmp_path / "ws")
    folders = {"images": tmp_path / "p/images", "masks": tmp_path / "p/masks", "pixel_size": 5.0}
    compose("good", [], workspace, ComposeOptions(**folders))
    compose("bad", [], workspace, ComposeOptions(**folders, pairing="shift:3", force=True))
    return workspace


def _run(app, *arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_good_dataset_passes(app, workspace):
    result = _run(app, "audit", "good", "--root", workspace.root)
    assert result.exit_code == 0, result.output
    assert "passed: masks fit their own slices" in result.output.replace("\n", " ")
    dataset = load_dataset(workspace.datasets / "good")
    assert dataset.meta["audit"] == "passed"
    assert read_json(dataset.root / "audit.json")["verdict"] == "passed"
    assert (dataset.root / "contact_sheet.png").stat().st_size > 1000


def test_a_bad_one_is_refused_with_exit_code_4_unless_forced(app, workspace):
    result = _run(app, "audit", "good", "bad", "--root", workspace.root, "--json")
    assert result.exit_code == 4
    value = json.loads(result.stdout)
    assert value["refused"] == ["bad"]
    assert [a["verdict"] for a in value["audits"]] == ["passed", "refused"]
    assert load_dataset(workspace.datasets / "bad").meta["audit"] == "refused"

    result = _run(app, "audit", "bad", "--root", workspace.root, "--force")
    assert result.exit_code == 0
    assert "masks fit other slices better than their own" in result.output.replace("\n", " ")
    assert load_dataset(workspace.datasets / "bad").meta["audit"] == "forced"
    assert read_json(workspace.datasets / "bad" / "audit.json")["recorded"] == "forced"


def test_unknown_dataset_and_split_references(app, workspace):
    assert _run(app, "audit", "goood", "--root", workspace.root).exit_code == 3
    assert _run(app, "audit", "good:train", "--root", workspace.root).exit_code == 2


def test_phantom_writes_a_stack_once(app, tmp_path):
    result = _run(
        app, "phantom", tmp_path / "x", "--domain", "b", "--slices", 2, "--size", 64, "--seed", 4, "--json"
    )
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert (value["domain"], value["n_slices"], value["size_px"], value["seed"]) == ("b", 2, 64, 4)
    assert len(list((tmp_path / "x" / "masks").iterdir())) == 2
    assert _run(app, "phantom", tmp_path / "x").exit_code == 2
    assert _run(app, "phantom", tmp_path / "y", "--domain", "c").exit_code == 2
