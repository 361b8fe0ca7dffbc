"""``emvfm doctor``: what it looks at, what it says of a broken machine, and its exit code."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from emvfm.backbones import precision
from emvfm.cli.app import app
from emvfm.cli.doctor import Check, diagnose
from emvfm.workspace import Workspace

SUBJECTS = ["python", "packages", "torch and torchvision", "device", "bfloat16", "workspace", "weights"]


@pytest.fixture(autouse=True)
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Look at a hub cache of the test's own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def _doctor(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", "--root", str(root), *arguments])


def _checks(root: Path) -> dict[str, Check]:
    return {check.subject: check for check in diagnose(Workspace(root))}


def test_a_machine_that_runs_the_tests_is_well(tmp_path: Path) -> None:
    result = _doctor(tmp_path / "ws")
    assert result.exit_code == 0, result.output
    assert "everything needed is here" in result.stdout
    assert result.stderr == ""
    assert all(subject in result.stdout for subject in SUBJECTS)
    assert not (tmp_path / "ws").exists()  # looking changes nothing


def test_json_is_one_strict_object_with_each_check(tmp_path: Path) -> None:
    result = _doctor(tmp_path / "ws", "--json")
    found = json.loads(result.stdout)
    assert set(found) == {"checks", "broken"}
    assert [check["subject"] for check in found["checks"]] == SUBJECTS
    assert all(set(check) == {"subject", "state", "found", "mend"} for check in found["checks"])
    assert {check["state"] for check in found["checks"]} <= {"ok", "remark"}
    assert found["broken"] == 0
    assert all(check["mend"] for check in found["checks"] if check["state"] != "ok")


def test_a_workspace_below_a_file_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = _doctor(tmp_path / "file" / "ws", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["broken"] == 1
    (broken,) = [check for check in found["checks"] if check["state"] == "broken"]
    assert broken["subject"] == "workspace"
    assert str(tmp_path / "file") in broken["found"]
    assert "--root" in broken["mend"]
    text = _doctor(tmp_path / "file" / "ws")
    assert text.exit_code == 1
    assert "1 broken" in text.stdout
    assert "everything needed" not in text.stdout
    assert _doctor(tmp_path / "file").exit_code == 2  # a file is no folder to Typer itself


def test_the_workspace_is_the_one_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMVFM_ROOT", str(tmp_path / "by-environment"))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = {check["subject"]: check["found"] for check in json.loads(result.stdout)["checks"]}
    assert found["workspace"].startswith(f"{tmp_path / 'by-environment'}, ")


def test_little_room_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 10**12 - 10**9, 10**9))
    check = _checks(tmp_path / "ws")["workspace"]
    assert check.state == "remark"
    assert "1.0 GB free" in check.found
    assert _doctor(tmp_path / "ws").exit_code == 0


def test_weights_of_the_workspace_and_of_the_hub_are_named(tmp_path: Path, empty_hub: Path) -> None:
    assert _checks(tmp_path)["weights"].state == "remark"
    assert "emvfm backbones show dinov2" in _checks(tmp_path)["weights"].mend
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.safetensors").write_bytes(b"")
    (tmp_path / "weights" / "notes.txt").write_text("")
    (empty_hub / "models--timm--vit_small").mkdir(parents=True)
    check = _checks(tmp_path)["weights"]
    assert (check.state, check.found) == ("ok", "mine.safetensors, timm/vit_small")


def test_a_missing_package_is_broken_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_peft(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_peft)
    check = _checks(tmp_path)["packages"]
    assert (check.state, check.found) == ("broken", "missing peft")
    assert _doctor(tmp_path).exit_code == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("operator torchvision::nms does not exist\nsee below"), ImportError("")]
)
def test_torchvision_built_for_another_torch_is_broken_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    importing = importlib.import_module

    def failing(name: str) -> object:
        if name == "torchvision":
            raise error
        return importing(name)

    monkeypatch.setattr(importlib, "import_module", failing)
    check = _checks(tmp_path)["torch and torchvision"]
    assert check.state == "broken"
    assert check.found == (str(error).split("\n")[0] or "ImportError")
    assert "torch torchvision" in check.mend


def test_a_check_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> str:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(precision, "choose_device", failing)
    checks = _checks(tmp_path)
    assert list(checks) == SUBJECTS
    assert checks["bfloat16"] == Check(
        "bfloat16", "broken", "RuntimeError: driver too old", "see the lines above"
    )
    assert checks["workspace"].state == "ok"


@pytest.mark.parametrize(("chosen", "state"), [("bfloat16", "ok"), ("float32", "remark")])
def test_bfloat16_is_what_auto_would_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, state: str
) -> None:
    monkeypatch.setattr(precision, "choose_precision", lambda *_: chosen)
    assert _checks(tmp_path)["bfloat16"].state == state


@pytest.mark.parametrize(
    ("gpu", "state", "words"), [(True, "ok", "Some GPU, 80 GiB"), (False, "remark", "CPU")]
)
def test_the_device_is_the_one_torch_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, state: str, words: str
) -> None:
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    properties = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(precision, "choose_device", lambda *_: torch.device("cpu"))
    check = _checks(tmp_path)["device"]
    assert check.state == state
    assert words in check.found


def test_brackets_in_a_path_are_shown_as_they_are(tmp_path: Path) -> None:
    root = tmp_path / "x[/b] [red]y"
    result = _doctor(root)
    assert result.exit_code == 0, result.output
    assert "x[/b][red]y" in "".join(result.stdout.split())
