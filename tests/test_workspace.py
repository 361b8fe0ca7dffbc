from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.workspace import Workspace, atomic_folder, check_name, read_json, write_bytes, write_json


@pytest.mark.parametrize("name", ["..", ".hidden", "-x", "a/b", "a\\b", "", "a\n", "ü", "x" * 101, "a b"])
def test_names_that_could_escape_or_confuse_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a usable dataset name"):
        check_name(name, "dataset")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_bytes(tmp_path / "a.bin", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_json_is_strict_both_ways(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(CorruptError, match="not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(MissingError):
        read_json(tmp_path / "c.json")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def build(fail: bool) -> None:
        with atomic_folder(tmp_path / "d") as folder:
            (folder / "x").write_text("1")
            assert not (tmp_path / "d").exists()
            if fail:
                raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        build(fail=True)
    assert os.listdir(tmp_path) == []
    build(fail=False)
    assert (tmp_path / "d" / "x").read_text() == "1"
    with pytest.raises(UsageError, match="already exists"):
        build(fail=False)


def test_replacing_a_folder_keeps_one_of_the_two(tmp_path: Path) -> None:
    for text in ("1", "2"):
        with atomic_folder(tmp_path / "d", replace=True) as folder:
            (folder / "x").write_text(text)
    assert (tmp_path / "d" / "x").read_text() == "2"
    assert os.listdir(tmp_path) == ["d"]


def test_kill_while_writing_leaves_the_old_content(tmp_path: Path) -> None:
    file = write_bytes(tmp_path / "a.bin", b"0" * 1_000_000)
    code = (
        "import sys; from pathlib import Path; from emvfm.workspace import write_bytes\n"
        "n = 0\nprint('go', flush=True)\n"
        "while True:\n    n += 1; write_bytes(Path(sys.argv[1]), bytes([48 + n % 10]) * 1_000_000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    data = file.read_bytes()
    assert len(data) == 1_000_000
    assert len(set(data)) == 1  # one write, whole


def test_a_run_is_found_by_the_start_of_its_name(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name in ("lucchi-frozen-1", "lucchi-lora-2"):
        (workspace.runs / name).mkdir(parents=True)
        (workspace.runs / name / "config.yaml").write_text("")
    assert workspace.find_run("lucchi-l").name == "lucchi-lora-2"
    with pytest.raises(UsageError, match="several runs"):
        workspace.find_run("lucchi")
    with pytest.raises(MissingError, match="no such run"):
        workspace.find_run("vnc")


def test_the_root_is_the_option_then_the_environment_then_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMVFM_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert Workspace.find().root == tmp_path / "emvfm-workspace"
    monkeypatch.setenv("EMVFM_ROOT", str(tmp_path / "env"))
    assert Workspace.find().root == tmp_path / "env"
    assert Workspace.find(tmp_path / "option").root == tmp_path / "option"
