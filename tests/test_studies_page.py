"""The page on studies against the program: its example is a study, its commands run, its table is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.studies.grid.plan import make_plan
from emvfm.studies.grid.reading import load_study
from tests.test_documentation import ROOT, _calls, _shell_lines

PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
CALLS = [call for line in _shell_lines(PAGE) for call in _calls(line)]


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.S)
    assert found is not None
    path = tmp_path_factory.mktemp("studies") / "example.yaml"
    path.write_text(found[1].replace("seeds: [0, 1, 2]", "seeds: [0]"), encoding="utf-8")
    return path


def test_the_example_is_a_study(example: Path) -> None:
    spec = load_study(example)
    assert len(make_plan(spec).runs) == 2
    assert spec.rule.claim == "not-lower"


def test_the_commands_run_one_after_another(example: Path) -> None:
    assert {tuple(call[:2]) for call in CALLS} >= {
        ("study", name) for name in ("run", "status", "summarize", "plot")
    }
    root = example.parent / "workspace"
    for call in CALLS:
        words = [str(example) if word.endswith(".yaml") else word for word in call]
        given = [
            word for word in words if word not in ("FOLDER", "--data-from", "--weights-from", "--jobs", "2")
        ]
        done = CliRunner().invoke(app, [*given, "--stand-in", "--root", str(root)])
        assert done.exit_code == 0, f"{' '.join(call)}: {done.output}"


def test_every_study_that_ships_is_in_the_table() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M))
    assert listed == {path.stem for path in (ROOT / "studies").glob("*.yaml")}
