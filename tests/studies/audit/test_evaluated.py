"""Trainings that were really evaluated, read by the audit: the same IoU, by slices, folds and seeds."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.errors import EmvfmError, RefusedError, UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.training import train
from emvfm.studies.audit.reading import read_runs
from emvfm.studies.audit.scored import draw_units
from emvfm.studies.audit.verdicts import audit_runs
from emvfm.workspace import Workspace

_VIT: dict[str, Any] = {"backbone": "timm:test_vit", "untrained": True, "init": "kaiming", "layers": (0, 1)}
_PIXELS: dict[str, Any] = {"backbone": "pixel:intensity"}


@dataclass(frozen=True)
class Evaluated:
    """A workspace with evaluated runs, and what ``emvfm eval`` said of each."""

    workspace: Workspace
    said: dict[str, dict[str, Any]]
    names: dict[tuple[str, str, int], str]

    def name(self, model: str, data: str, seed: int = 0) -> str:
        return self.names[model, data, seed]

    def counts(self, run: str) -> np.ndarray:
        return np.array([[image[key] for key in ("tp", "fp", "fn")] for image in self.said[run]["images"]])


def _invoke(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    root = tmp_path_factory.mktemp("evaluated")
    workspace = Workspace(root / "workspace")
    write_phantom(root / "a", "a", 16, 96, seed=3)
    names, said = {}, {}
    for seed in (0, 1):  # two folds of one stack
        compose(f"fold{seed}", [root / "a"], workspace, ComposeOptions(domain=("a",), link="copy", seed=seed))
    trainings = [("vit", _VIT, fold, seed) for fold in ("fold0", "fold1") for seed in (0, 1)]
    trainings += [("pixels", _PIXELS, fold, 0) for fold in ("fold0", "fold1")]
    for model, options, data, seed in trainings:
        config = TrainConfig(
            data=(data,), **options, precision="float32", device="cpu", head="linear", loss="tversky", steps=6,
            batch=2, crop=48, lr=0.02, warmup=1, evaluate_every=3, views=1, seed=seed,
        )  # fmt: skip
        run = train(config, workspace).path.name
        found = _invoke(
            "eval", run, "--data", data, "--no-overlays", "--samples", "50", "--root", str(workspace.root)
        )
        names[model, data, seed], said[run] = run, found["results"][0]
    return Evaluated(workspace, said, names)


def test_a_run_has_the_iou_that_eval_said_and_its_blocks(finished: Evaluated) -> None:
    run = finished.name("vit", "fold0")
    (one,) = read_runs(finished.workspace, [run])
    drawn = draw_units(one, samples=20)
    assert one.replicate(drawn, one.defined)[0] == pytest.approx(finished.said[run]["iou"]["value"])
    assert len(one.units) == len({image["block"] for image in finished.said[run]["images"]})
    assert one.role == "untrained"


def test_the_command_says_the_difference_of_evaluated_runs(finished: Evaluated) -> None:
    vit, pixels = finished.name("vit", "fold0"), finished.name("pixels", "fold0")
    found = _invoke(
        "bench", "audit", f"net:{vit}", f"pixels:{pixels}", "--role", "net=trained", "--samples", "200",
        "--root", str(finished.workspace.root),
    )  # fmt: skip
    (verdict,) = found["verdicts"]
    expected = finished.said[vit]["iou"]["value"] - finished.said[pixels]["iou"]["value"]
    assert verdict["estimate"]["value"] == pytest.approx(expected)
    assert (verdict["trained"], verdict["rival"], verdict["role"]) == ("net", "pixels", "baseline")


def test_folds_are_joined_slice_by_slice(finished: Evaluated) -> None:
    folds = [finished.name("vit", fold) for fold in ("fold0", "fold1")]
    (one,) = read_runs(finished.workspace, [f"net:{','.join(folds)}"])
    tp, fp, fn = sum(finished.counts(run).sum(axis=0) for run in folds)
    drawn = draw_units(one, samples=20)
    assert one.replicate(drawn, one.defined)[0] == pytest.approx(tp / (tp + fp + fn))
    alone = [read_runs(finished.workspace, [run])[0] for run in folds]
    assert len(one.units) == sum(len(each.units) for each in alone)


def test_many_folds_make_a_long_reference(finished: Evaluated) -> None:
    with pytest.raises(EmvfmError, match="no such run"):
        read_runs(finished.workspace, ["net:" + ",".join(f"run{i:0100d}" for i in range(5))])


def test_folds_in_another_order_are_not_paired(finished: Evaluated) -> None:
    both = [
        ",".join(finished.name(model, f"fold{i}") for i in order)
        for model, order in (("vit", (0, 1)), ("pixels", (1, 0)))
    ]
    runs = read_runs(finished.workspace, [f"net:{both[0]}", f"pixels:{both[1]}"], ["net=trained"])
    with pytest.raises(RefusedError, match="not the same rows"):
        audit_runs(runs, samples=100)


def test_runs_of_one_name_are_seeds_and_their_mean_is_taken(finished: Evaluated) -> None:
    seeds = [",".join(finished.name("vit", fold, seed) for fold in ("fold0", "fold1")) for seed in (0, 1)]
    alone = [read_runs(finished.workspace, [f"net:{runs}"])[0] for runs in seeds]
    (both,) = read_runs(finished.workspace, [f"net:{runs}" for runs in seeds], ["net=trained"])
    assert (both.name, both.role) == ("net, mean of 2 seeds", "trained")
    drawn = draw_units(both, samples=30, seed=1)
    means = np.mean([one.replicate(drawn, one.defined) for one in alone], axis=0)
    assert both.replicate(drawn, both.defined) == pytest.approx(means, nan_ok=True)
    assert both.digest not in {one.digest for one in alone}


@pytest.mark.parametrize(
    ("references", "error", "said"),
    [
        (("net:{a},{a}",), RefusedError, "tested twice"),
        (("net:{a},{p}",), UsageError, "unlike models"),
        (("net:{a}", "net:{p}"), UsageError, "not the same role"),
        (("net:{a}", "net:{b}"), UsageError, "not the same rows"),
        (("net:{a}", "net:{a}"), UsageError, "named twice"),
        (("net:{a},none",), EmvfmError, "no such run"),
    ],
)
def test_what_can_not_be_joined_is_refused_in_one_line(
    finished: Evaluated, references: tuple[str, ...], error: type[EmvfmError], said: str
) -> None:
    runs = {
        "a": finished.name("vit", "fold0"),
        "b": finished.name("vit", "fold1"),
        "p": finished.name("pixels", "fold0"),
    }
    with pytest.raises(error, match=said) as caught:
        read_runs(finished.workspace, [reference.format(**runs) for reference in references])
    assert "\n" not in str(caught.value)


def test_only_evaluated_trainings_are_joined(finished: Evaluated, tmp_path: Path) -> None:
    run = finished.name("vit", "fold0")
    copy = shutil.copytree(finished.workspace.runs / run, tmp_path / "copy")
    shutil.rmtree(copy / "evaluation")
    with pytest.raises(UsageError, match="emvfm eval"):
        read_runs(finished.workspace, [f"net:{run},{copy}"])


def test_another_way_of_predicting_is_named_as_eval_names_it(finished: Evaluated, tmp_path: Path) -> None:
    folder = shutil.copytree(finished.workspace.runs / finished.name("vit", "fold0"), tmp_path / "run")
    first = folder / "evaluation" / "fold0-test-slices.csv"
    shutil.copyfile(first, first.with_name("fold0-test-tta-flips-slices.csv"))
    with pytest.raises(EmvfmError, match="--test"):
        read_runs(finished.workspace, [str(folder)])
    for test in ("fold0", "fold0:test", "fold0:test (tta flips)"):
        assert len(read_runs(finished.workspace, [str(folder)], test=test)) == 1
