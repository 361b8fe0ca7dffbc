"""The page of audits: put together from answers, in parts that go on where they were."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _import_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _parts(root: Path, **options: Any) -> Any:
    return importlib.import_module("benchmarks.parts").StudyInParts(root, root / "ws", 1, {}, **options)


def test_a_command_runs_once_and_its_answer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _parts(tmp_path)
    code, said, _ = first.call("data", "list")
    assert code == 0
    again = _parts(tmp_path, minutes=-1)  # nothing new is begun
    monkeypatch.setattr(type(again), "_ask", lambda *_: pytest.fail("asked again"))
    assert again.call("data", "list")[1] == said
    with pytest.raises(SystemExit) as stopped:
        again.call("data", "list", "--debug")
    assert stopped.value.code == importlib.import_module("benchmarks.parts").UNFINISHED


def test_a_command_that_fails_is_not_kept(tmp_path: Path) -> None:
    study = _parts(tmp_path)
    with pytest.raises(SystemExit, match="exit code 3"):
        study.call("data", "show", "nothing")
    assert not (tmp_path / "ws" / "answers").exists()


def test_an_answer_whose_folder_is_gone_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, asked = _parts(tmp_path), []

    def ask(_: Any, arguments: tuple[str, ...], allowed: tuple[int, ...]) -> tuple[int, dict[str, Any], str]:
        asked.append(arguments)
        (tmp_path / "run").mkdir()
        return 0, {"folder": str(tmp_path / "run")}, ""

    monkeypatch.setattr(type(study), "_ask", ask)
    study.call("x")
    study.call("x")
    (tmp_path / "run").rmdir()
    study.call("x")
    assert asked == [("x",), ("x",)]


class _Answers:
    """Stands for the commands: runs whose scores follow from their names."""

    def __init__(self, root: Path) -> None:
        self.shared, self.root, self.asked = root, root, []

    def dataset(self, name: str) -> Path:
        return self.root / name

    def call(self, *words: str) -> tuple[int, dict[str, Any], str]:
        self.asked.append(words)
        if words[0] == "train":
            return 0, {"run": f"run-{len(self.asked)}"}, ""
        if words[0] == "eval":
            return 0, {"results": [{"images": [{"tp": 5, "fp": 2, "fn": 1}]}]}, ""
        if words[:2] == ("bench", "audit"):
            return 0, self._audit(words[2:]), ""
        return 0, {}, ""

    def _audit(self, named: tuple[str, ...]) -> dict[str, Any]:
        folder = self.root / "audit"
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "figures" / "verdicts.png").write_bytes(b"png")
        names = [name.partition(":")[0] for name in named]
        score = {"value": 0.6, "low": 0.5, "high": 0.7, "n": 7}
        runs = [
            {
                "name": n + (f", mean of {names.count(n)} seeds" if names.count(n) > 1 else ""),
                "role": "x",
                "score": score,
            }
            for n in dict.fromkeys(names)
        ]
        verdict = {
            "trained": runs[0]["name"], "rival": runs[1]["name"], "role": "untrained", "choice": "", "p_value": 0.02,
            "estimate": {**score, "value": 0.1}, "says": "a beats b here",
        }  # fmt: skip
        return {"folder": str(folder), "runs": runs, "verdicts": [verdict]}


def test_the_page_has_a_table_a_dataset_and_corrects_over_it(tmp_path: Path) -> None:
    results = importlib.import_module("benchmarks.audit_results")
    study = _Answers(tmp_path)
    results.write(study, tmp_path / "docs" / "results-audit.md")
    text = (tmp_path / "docs" / "results-audit.md").read_text()
    assert "## Lucchi (EPFL labels)" in text
    assert "## VNC" in text
    assert "| 0.020 | 0.040 |" in text  # two audits of a dataset are corrected together
    assert "0.625 ± 0.000" in text
    assert (tmp_path / "docs" / "images" / "audit-vnc-vit-s.png").is_file()
    audits = [words for words in study.asked if words[:2] == ("bench", "audit")]
    assert len(audits) == 4
    assert all(name.count(",") == 4 for name in audits[2][2:])  # five folds of VNC
    assert sum(name.startswith("ViT-Ti untrained:") for name in audits[0]) == 3


def test_a_reduced_page_says_so(tmp_path: Path) -> None:
    results = importlib.import_module("benchmarks.audit_results")
    results.write(_Answers(tmp_path), tmp_path / "page.md", only="lucchi", reduced=True)
    text = (tmp_path / "page.md").read_text()
    assert "--only lucchi --reduced`" in text
    assert "**Reduced**" in text
    assert "## VNC" not in text


def test_the_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = importlib.import_module("benchmarks.audit_results")
    monkeypatch.setattr(sys, "argv", ["audit_results", "--help"])
    with pytest.raises(SystemExit) as stopped:
        results.main()
    assert stopped.value.code == 0
    assert "--minutes" in capsys.readouterr().out
