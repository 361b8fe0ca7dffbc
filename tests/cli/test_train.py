"""``emvfm train`` from the command line: what it prints, what it repeats, and how it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.manifest import load_dataset, save_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.segmentation.batches import TokenCrops
from emvfm.workspace import Workspace

OPTIONS = (
    *("--backbone", "timm:test_vit", "--untrained", "--init", "kaiming", "--layers", "0", "--layers", "1"),
    *("--device", "cpu", "--precision", "float32", "--head", "linear", "--loss", "tversky"),
    *(
        "--steps",
        "4",
        "--batch",
        "2",
        "--crop",
        "48",
        "--lr",
        "0.02",
        "--warmup",
        "1",
        "--evaluate-every",
        "2",
    ),
)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("composed")
    write_phantom(root / "a", "a", 12, 96, seed=3)
    workspace = Workspace(root / "workspace")
    compose("a", [root / "a"], workspace, ComposeOptions(link="copy"))
    return workspace.datasets


@pytest.fixture
def workspace(composed: Path, tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(composed, workspace.datasets)
    return workspace


@pytest.fixture
def train(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm train`` in the workspace of the test."""
    return lambda *arguments: CliRunner().invoke(
        app, ["train", "--root", str(workspace.root), *map(str, arguments)]
    )


def _refused(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.strip()  # a progress bar that was taken away leaves an empty line
    assert line.startswith("emvfm: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


def _interrupt_at(n: int, patch: pytest.MonkeyPatch) -> list[int]:
    """Interrupt when the n-th batch is drawn; the list grows by one a batch."""
    draw, drawn = TokenCrops.batch, []

    def batch(self, picks, rng):
        drawn.append(1)
        if len(drawn) == n:
            raise KeyboardInterrupt
        return draw(self, picks, rng)

    patch.setattr(TokenCrops, "batch", batch)
    return drawn


def test_the_text_tells_the_run_its_score_and_what_comes_next(train, workspace) -> None:
    result = train("--data", "a", *OPTIONS)
    assert result.exit_code == 0, result.output
    (folder,) = workspace.runs.iterdir()
    metrics = json.loads((folder / "metrics.json").read_text())["train"]
    first, second, third, fourth = result.stdout.splitlines()
    assert first == folder.name
    assert "untrained" in second
    assert "frozen; 7 training slices, 4 steps" in second
    assert third.startswith(
        f"validation IoU {metrics['best_val_iou']:.3f} at step {metrics['best_step']} (on 1 slices"
    )
    assert third.endswith("not a test score)")
    following = fourth.removeprefix("next: emvfm ").split()
    result = CliRunner().invoke(app, [*following, "--root", str(workspace.root), "--no-overlays"])
    assert result.exit_code == 0, result.output


def test_json_is_one_object_and_the_same_again_for_a_finished_run(train, workspace) -> None:
    result = train("--data", "a", *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    value = json.loads(result.stdout)
    (folder,) = workspace.runs.iterdir()
    assert value["run"] == folder.name
    assert Path(value["folder"]) == folder
    assert value["adaptation"] == "frozen"
    assert value["data"][0]["audit"] == "passed"
    assert value["metrics"]["steps"] == 4
    assert train("--data", "a", *OPTIONS, "--json").stdout == result.stdout


def test_lora_from_the_command_line(train) -> None:
    result = train("--data", "a", *OPTIONS, "--lora", "--lora-rank", "2", "--no-warm-start", "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["adaptation"] == "LoRA r2"
    assert value["metrics"]["adapter_parameters"] > 0
    assert "-lora-" in value["run"]
    text = train("--data", "a", *OPTIONS, "--lora", "--lora-rank", "2", "--no-warm-start").stdout
    assert text.splitlines()[-1].strip().startswith(f"emvfm backbones export {value['run']} --to ")


def test_the_configuration_of_a_run_repeats_it(train, workspace, monkeypatch) -> None:
    run = json.loads(train("--data", "a", *OPTIONS, "--seed", "3", "--json").stdout)["run"]
    config = workspace.runs / run / "config.yaml"
    drawn, draw = [], TokenCrops.batch
    monkeypatch.setattr(TokenCrops, "batch", lambda *a: (drawn.append(1), draw(*a))[1])
    result = train("--config", config, "--json")
    assert json.loads(result.stdout)["run"] == run
    assert not drawn
    changed = [
        json.loads(train("--config", config, *more, "--json").stdout)["run"]
        for more in (("--seed", "4"), ("--set", "steps=3"), ("--steps", "3"))
    ]
    assert changed[1] == changed[2]
    assert len({run, *changed}) == 3
    assert len(drawn) == 4 + 3


def test_an_interrupted_call_says_so_and_the_same_command_goes_on(train, workspace, monkeypatch) -> None:
    drawn = _interrupt_at(4, monkeypatch)
    _refused(train("--data", "a", *OPTIONS, "--json"), 130, "interrupted", "goes on from there")
    result = train("--data", "a", *OPTIONS, "--json")
    assert result.exit_code == 0, result.output
    assert len(drawn) == 4 + 2  # steps 1 and 2 were kept
    assert [path.name for path in workspace.runs.iterdir()] == [json.loads(result.stdout)["run"]]


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ((), 2, ("--data", "no data")),
        (("--data", "b"), 3, ("b: no such dataset", "one of a")),
        (("--data", "a:test"), 2, ("train split",)),
        (("--data", "a:nonsense"), 2, ("no such split", "nonsense")),
        (("--data", "a", "--steps", "0"), 2, ("steps", "greater than 0")),
        (("--data", "a", "--dropout", "1"), 2, ("dropout", "less than 1")),
        (("--data", "a", "--set", "stepz=3"), 2, ("stepz: unknown key", "did you mean steps?")),
        (("--data", "a", "--set", "steps"), 2, ("not key=value",)),
        (("--data", "a", "--set", "weight_decay=many"), 2, ("weight_decay", "'many'")),
        (("--data", "a", "--config", "nowhere.yaml"), 3, ("nowhere.yaml",)),
        (("--data", "a", "--backbone", "nonsense"), 3, ("nonsense",)),
        (("--data", "a", "--adapter", "x"), 2, ("--adapter",)),
        (("--data", "a", "--lr", "1e30"), 1, ("loss is not finite", "lower --lr")),
    ],
)
def test_errors_are_one_line_with_their_exit_code(train, arguments, code: int, parts) -> None:
    _refused(train(*OPTIONS, *arguments), code, *parts)
    _refused(train(*OPTIONS, "--json", *arguments), code, *parts)


def test_values_that_no_option_has_are_refused_by_the_parser(train) -> None:
    for wrong in (("--head", "huge"), ("--loss", "l2"), ("--no-such-option",), ("--steps", "many")):
        result = train("--data", "a", *OPTIONS, *wrong)
        assert result.exit_code == 2
        assert wrong[0] in result.stderr


def test_all_mistakes_of_a_configuration_file_are_told_at_once(train, tmp_path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"data": ["a"], "learning_rate": 1, "widht": 3, "batch": -1}))
    parts = ("learning_rate: unknown key", "widht: unknown key", "did you mean width?", "batch")
    _refused(train("--config", path), 2, "config.yaml", *parts)
    path.write_text("- a\n- b\n")
    _refused(train("--config", path), 2, "config.yaml", "not a mapping")
    path.write_text("data: [a\n")
    _refused(train("--config", path), 2, "config.yaml", "not valid YAML")


def test_data_that_the_audit_refused_needs_force(train, workspace) -> None:
    dataset = load_dataset(workspace.datasets / "a")
    save_dataset(replace(dataset, meta={**dataset.meta, "audit": "refused"}))
    _refused(train("--data", "a", *OPTIONS), 4, "has not passed its audit", "--force")
    assert not workspace.runs.exists()
    result = train("--data", "a", *OPTIONS, "--force", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["data"][0]["audit"] == "refused"


def test_a_damaged_checkpoint_is_an_error_that_names_it(train, workspace, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        _interrupt_at(4, patch)
        assert train("--data", "a", *OPTIONS).exit_code == 130
    (path,) = workspace.runs.glob("*/checkpoints/state.pt")
    path.write_bytes(path.read_bytes()[:1000])
    _refused(train("--data", "a", *OPTIONS), 1, "state.pt", "damaged checkpoint", "remove it")
