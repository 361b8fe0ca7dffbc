"""Carrying a study out: what is missing is done once, failures are kept, and death costs nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from emvfm.errors import UsageError
from emvfm.studies.grid import runner
from emvfm.studies.grid.exports import run_rows
from emvfm.studies.grid.options import StudyOptions
from emvfm.studies.grid.results import gather
from emvfm.studies.grid.runner import Progress, open_study, run_study
from emvfm.studies.grid.summary import summary_of
from emvfm.workspace import Workspace

STAND_IN = StudyOptions(stand_in=True)


@pytest.fixture
def small(value, write):
    """A study of four runs."""
    value["grid"]["head"] = ["linear"]
    return write(value)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def test_a_study_runs_once_and_goes_on_where_it_stopped(small, workspace, monkeypatch) -> None:
    said: list[Progress] = []
    part = StudyOptions(stand_in=True, only=("train=a",))
    study = run_study(small, workspace, part, say=said.append)
    assert [each.record.name for each in said] == ["a, linear, seed 0", "a, linear, seed 1"]
    assert said[-1].line.startswith("[2/2] a, linear, seed 1: IoU ")
    assert not study.missing
    whole = open_study(small, workspace, STAND_IN)
    assert [run.name for run in whole.missing] == ["both, linear, seed 0", "both, linear, seed 1"]

    failing = runner.train

    def fail_once(config, *arguments, **options):
        if config.seed == 1:
            raise UsageError("the disk\nis full")
        return failing(config, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", fail_once)
        broken = run_study(small, workspace, STAND_IN, say=said.append)
    assert [run.name for run in broken.missing] == ["both, linear, seed 1"]
    last = broken.folder.last(broken.missing[0])
    assert (last.state, last.error) == ("failed", "the disk is full")
    assert said[-1].line.endswith("failed: the disk is full")
    assert summary_of(broken, gather(broken)).done == 3

    done = run_study(small, workspace, STAND_IN, say=said.append)
    assert not done.missing
    assert len(said) == 2 + 2 + 1
    run_study(small, workspace, STAND_IN, say=said.append)
    assert len(said) == 5
    summary = summary_of(done, gather(done))
    assert (summary.done, summary.total, len(summary.compared)) == (4, 4, 1)
    assert summary.compared[0].seeds == (0, 1)

    # what was stated is kept, and a rule that is changed afterwards is kept beside it
    (stated,) = done.folder.registrations()
    assert stated["finished_runs"] == 0
    assert stated["rule"]["margin"] == 0.05
    small.write_text(small.read_text().replace("margin: 0.05", "margin: 0.5"))
    changed = run_study(small, workspace, STAND_IN)
    first, second = changed.folder.registrations()
    assert first == stated
    assert (second["rule"]["margin"], second["finished_runs"]) == (0.5, 4)

    # a run that is gone is missing again
    from shutil import rmtree

    rmtree(changed.folder.run(changed.folder.last(changed.plan.runs[0])).path)
    assert [run.name for run in changed.missing] == ["a, linear, seed 0"]


def test_what_somebody_else_has_claimed_is_left_to_them(small, workspace) -> None:
    study = open_study(small, workspace, STAND_IN)
    run = study.plan.runs[0]
    assert not study.folder.claimed(run)
    with study.folder.claim([run.key]) as mine:
        assert mine
        assert study.folder.claimed(run)
        with study.folder.claim(["other", run.key]) as also:
            assert not also
        with study.folder.claim(["other"]) as free:  # given back with the rest
            assert free
    assert not study.folder.claimed(run)


def test_datasets_of_another_recipe_are_not_taken(small, value, write, workspace) -> None:
    run_study(small, workspace, StudyOptions(stand_in=True, only=("train=a", "seed=0")))
    value["data"]["a"]["seed"] = 5
    other = write(value, "other.yaml")
    with pytest.raises(UsageError, match="composed otherwise"):
        run_study(other, workspace, StudyOptions(stand_in=True, only=("train=a", "seed=0")))


#: One process that only imports, and forks others: they run the study, are killed, and share the rest.
_CRASHES = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import timm
from emvfm.studies.grid.runner import run_study
from emvfm.studies.grid.options import StudyOptions
from emvfm.workspace import Workspace
file, clean, crashed = map(Path, sys.argv[1:])
options = StudyOptions(stand_in=True)
def start(root):
    child = os.fork()
    if child == 0:
        try:
            run_study(file, Workspace(root), options)
        except BaseException as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\\n")
            os._exit(1)
        os._exit(0)
    return child
since = time.monotonic()
assert os.waitpid(start(clean), 0)[1] == 0
whole = time.monotonic() - since
rng, kills = random.Random(4), 0
for _ in range(3):
    child = start(crashed)
    time.sleep(rng.uniform(0.1, 0.6) * whole)
    os.kill(child, signal.SIGKILL)
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
both = [start(crashed), start(crashed)]
print(json.dumps({"kills": kills, "exits": [os.waitpid(child, 0)[1] for child in both]}))
"""


def test_a_study_that_is_killed_and_shared_sums_up_as_a_clean_one(small, tmp_path) -> None:
    roots = [tmp_path / "clean", tmp_path / "crashed"]
    done = subprocess.run(
        [sys.executable, "-c", _CRASHES, small, *roots], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["exits"] == [0, 0], done.stderr
    assert found["kills"] >= 1
    tables, summaries = [], []
    for root in roots:
        study = open_study(small, Workspace(root), STAND_IN)
        assert not study.missing
        rows = gather(study)
        tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in run_rows(rows)])
        summaries.append(summary_of(study, rows).to_json())
    assert tables[0] == tables[1]
    assert summaries[0] == summaries[1]
