"""The page on gene expression against the program: its commands run, one after another, as they stand there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from tests.cli.test_bench_expression import write_sections
from tests.test_documentation import ROOT, _calls, _shell_lines

PAGE = (ROOT / "docs" / "expression.md").read_text(encoding="utf-8")
CALLS = [call for line in _shell_lines(PAGE) for call in _calls(line)]
#: What makes each call a matter of a second, and changes nothing that the page is about.
VIT = {"dinov2_vits14": ("timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")}
SMALL = ["--samples", "100", "--head", "ridge", "--detected", "0", "--block", "2", "--genes", "6"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_sections(folder)
    lines = (folder / "spots.csv").read_text().splitlines()
    kept = [lines[0], *(line for line in lines if ",s1," in line)]
    (folder / "cells.csv").write_text("\n".join(kept) + "\n")
    return folder


def test_every_command_of_the_page_does_what_it_says(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("EMVFM_ROOT", str(place / "workspace"))
    named = [call[:2] for call in CALLS]
    assert (named.count(["bench", "expression"]), named.count(["bench", "layers"])) == (3, 2)
    run = ""
    for call in CALLS:
        words = [part for word in call for part in VIT.get(word, (word,))]
        if words[:2] == ["bench", "expression"] and "cells.csv" not in words:
            words += SMALL
        if words[:2] == ["bench", "layers"]:
            words += [
                "--resamples",
                "100",
                "--detected",
                "0",
                "--block",
                "2",
                "--genes",
                "6",
                "--pools",
                "mean",
            ]
        if "audit" in words:
            # The page's backbone is trained; the test has random weights, which it lets stand for trained ones.
            words = [run if word == "RUN" else word for word in words]
            record = (Path(run) / "metrics.json").read_text()
            (Path(run) / "metrics.json").write_text(
                record.replace('"kind": "untrained"', '"kind": "backbone"')
            )
            tables = Path(run) / "predictions"
            shutil.copy(tables / "1-untrained.csv", tables / "1-backbone.csv")
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{' '.join(call)}: {result.output}"
        if words[:2] == ["bench", "expression"] and "--group" in words:
            runs = (place / "workspace" / "runs").glob("bench-expression-*")
            run = str(max(runs, key=lambda path: path.stat().st_mtime))
