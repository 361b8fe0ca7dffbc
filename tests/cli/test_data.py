from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli import completion
from emvfm.cli.data import register

app = typer.Typer()
register(app)


class _Report:
    verdict, errors = "passed", ()

    def to_json(self) -> dict:
        return {
            "verdict": self.verdict,
            "findings": [{"severity": "warning", "message": "slices [far] apart"}],
        }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call ``emvfm data …`` in an empty workspace with an audit that passes."""
    fake = types.ModuleType("emvfm.datasets.audit")
    vars(fake).update(
        audit_dataset=lambda dataset, seed=0: _Report(),
        write_contact_sheet=lambda dataset, path, flagged=(): path.write_bytes(b""),
    )
    monkeypatch.setitem(sys.modules, "emvfm.datasets.audit", fake)
    monkeypatch.setenv("EMVFM_ROOT", str(tmp_path / "ws"))
    return lambda *arguments: CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path) -> Path:
    for part, seed in (("Train", 1), ("Test", 2)):
        for kind in ("In", "Out"):
            (tmp_path / "src" / f"{part}_{kind}").mkdir(parents=True)
        for n in range(12):
            image = np.random.default_rng((seed, n)).integers(0, 256, (20, 24), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "src" / f"{part}_In" / f"mask{n:04d}.png")
            mask = np.zeros((20, 24), bool)
            mask[3:9, n : n + 6] = True
            Image.fromarray(mask).save(tmp_path / "src" / f"{part}_Out" / f"{n}.png")
    return tmp_path / "src"


def test_compose_list_and_show(run, folder):
    result = run("compose", "lucchi", "--from", folder)
    assert result.exit_code == 0, result.output
    for text in ("mask0001.png ↔ 1.png", "audit", "passed", "lucchi", "slices [far] apart"):
        assert text in result.output
    listed = run("list")
    assert "lucchi" in listed.output
    shown = run("show", "lucchi:test")
    assert shown.exit_code == 0
    assert "Casser" in shown.output
    assert run("show", "lucchi", "--verify").exit_code == 0
    (folder / "Test_In" / "mask0003.png").write_bytes(b"edited in place")
    assert "file was changed" in run("show", "lucchi", "--verify").stderr


def test_json_is_one_object(run, folder):
    made = json.loads(run("compose", "lucchi", "--from", folder, "--json").stdout)
    assert made["samples"] == 24
    assert made["counts"]["lucchi"]["test"] == 12
    assert made["audit"] == "passed"
    assert made["sources"][0]["pairing"]["examples"][0] == ["mask0001.png", "1.png"]
    listed = json.loads(run("list", "--json").stdout)
    assert [d["name"] for d in listed["datasets"]] == ["lucchi"]
    assert json.loads(run("show", "lucchi", "--json").stdout)["digest"] == made["digest"]


def test_options_reach_the_dataset(run, folder, tmp_path):
    result = run(
        "compose", "d", "--from", folder, "--split", "block", "--val", "0.2", "--test", "0.25",
        "--gap", "2", "--domain", "mine", "--pixel-size", "7.5", "--pairing", "shift:2",
        "--link", "copy", "--seed", "4", "--json",
    )  # fmt: skip
    made = json.loads(result.stdout)
    assert made["split"] == {"seed": 4, "val": 0.2, "scheme": "block", "test": 0.25, "gap": 2}
    assert made["pairing"] == "shift:2"
    assert list(made["counts"]) == ["mine"]
    (tmp_path / "c.yaml").write_text("split: random\nval: 0\n")
    made = json.loads(run("compose", "e", "--from", folder, "--config", tmp_path / "c.yaml", "--json").stdout)
    assert made["split"]["scheme"] == "random"
    assert made["counts"]["lucchi"]["val"] == 0


def test_merging_by_names(run, folder):
    run("compose", "a", "--from", folder)
    run("compose", "b", "--from", folder, "--domain", "other", "--split", "block")
    made = json.loads(run("compose", "both", "--from", "a", "--from", "b", "--json").stdout)
    assert list(made["counts"]) == ["lucchi", "other"]


def test_audit_and_phantom_are_in_the_same_group(run):
    output = run("--help").output
    assert all(name in output for name in ("compose", "fetch", "list", "show", "audit", "phantom"))


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "lucci"), 3, "no such dataset"),
        (("compose", "d", "--from", "nowhere"), 3, "no such source"),
        (("compose", "d"), 2, "nothing to compose"),
        (("compose", "d", "--from", "SRC", "--pairing", "sorted"), 2, "unknown pairing rule"),
        (("compose", "d", "--from", "SRC", "--val", "1.5"), 2, "val"),
        (("compose", "d", "--from", "SRC", "--gap", "20"), 4, "too short"),
        (("fetch", "epfl"), 3, "lucchi++, vnc, kasthuri++"),
        (("compose", "../d", "--from", "SRC"), 2, "not a usable dataset name"),
    ],
)
def test_errors_are_one_line_with_their_code(run, folder, arguments, code, text):
    result = run(*(folder if a == "SRC" else a for a in arguments))
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_damaged_and_unpaired_files(run, folder):
    (folder / "Train_Out" / "5.png").unlink()
    result = run("compose", "d", "--from", folder)
    assert result.exit_code == 4
    assert "mask0005.png" in result.stderr
    (folder / "Train_Out" / "5.png").write_bytes(b"")
    result = run("compose", "d", "--from", folder)
    assert result.exit_code == 1
    assert "5.png: empty file" in result.stderr


def test_list_shows_a_damaged_dataset_and_goes_on(run, folder, tmp_path):
    assert "data compose" in run("list").output
    run("compose", "a", "--from", folder)
    run("compose", "b", "--from", folder)
    (tmp_path / "ws" / "datasets" / "a" / "manifest.csv").write_text("id\n1\n")
    result = run("list")
    assert result.exit_code == 0
    assert "manifest" in result.output
    assert "numbers" in result.output


def test_fetch_without_names_lists_sources_with_licences(run):
    result = run("fetch")
    assert "CC BY-NC-SA 3.0" in result.output
    assert [s["name"] for s in json.loads(run("fetch", "--json").stdout)["sources"]] == [
        "lucchi++",
        "vnc",
        "kasthuri++",
    ]


def test_names_complete(run, folder, tmp_path, monkeypatch):
    run("compose", "lucchi", "--from", folder)
    run("compose", "lucchi-block", "--from", folder, "--split", "block")
    context = types.SimpleNamespace(params={})
    assert completion.complete_dataset(context, "lu") == ["lucchi", "lucchi-block"]
    assert completion.complete_dataset(context, "x") == []
    assert completion.complete_dataset(types.SimpleNamespace(params={"root": tmp_path / "none"}), "") == []
    run_folder = tmp_path / "ws" / "runs" / "dinov2-1"
    run_folder.mkdir(parents=True)
    (run_folder / "config.yaml").touch()
    assert completion.complete_run(context, "") == ["dinov2-1"]
    assert completion.complete_source("v") == ["vnc"]


def test_the_module_is_light():
    heavy = ("torch", "numpy", "pydantic", "PIL", "tifffile", "scipy", "pooch")
    code = f"import sys, emvfm.cli.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
