"""Baselines from the command line: in the place of a backbone, called what they are."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from emvfm.backbones.baselines.registry import FAMILIES, find_baseline, presets_of
from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.workspace import Workspace

Call = Callable[..., Result]
FAST = ("--permutations", "19", "--classifier", "linear")
PAGE = (Path(__file__).parents[2] / "docs" / "baselines.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("baselines")
    workspace = Workspace(root / "workspace")
    for name, domain, n, seed in (("a", "a", 16, 3), ("b", "b", 12, 4)):
        write_phantom(root / name, domain, n, 64, seed=seed)
        compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return workspace


@pytest.fixture(scope="module")
def call(workspace: Workspace) -> Call:
    return lambda *arguments: CliRunner().invoke(
        app, [*map(str, arguments), "--root", str(workspace.root)], env={"COLUMNS": "200"}
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "width"),
    [("pixel:intensity", 15), ("random:noise", 64), ("random:onehot=split", 4), ("structure:spacing", 11)],
)
def test_embed_takes_a_baseline(call: Call, name: str, width: int) -> None:
    found = _json(call("embed", "a", "--backbone", name, "--json"))
    assert "baseline" in found["backbone"]
    row = found["datasets"][0]
    assert (row["images"], row["layers"], row["precision"]) == (16, [0], "float32")
    assert row["width"] <= width if "onehot" in name else row["width"] == width
    assert _json(call("embed", "a", "--backbone", name, "--json"))["store"] == found["store"]


@pytest.mark.parametrize("name", ["pixel:histogram", "structure:shape"])
def test_domain_commands_take_a_baseline(call: Call, name: str) -> None:
    for command in (("fd", "--permutations", "99"), ("pca",)):
        found = _json(call("domain", command[0], "a", "b", *command[1:], "--backbone", name, "--json"))
        assert found["backbone"] == find_baseline(name).title
        metrics = json.loads((Path(found["folder"]) / "metrics.json").read_text())
        assert metrics["backbone"] == found["backbone"]


def test_the_task_is_probed_on_cells(call: Call) -> None:
    found = _json(call("domain", "probe", "a", "b", "--backbone", "pixel:intensity/8", "--json", *FAST))
    said = json.dumps(found)
    assert "pixel baseline (intensity)" in said
    assert "task" in said


def test_a_head_is_trained_on_cells_and_scored(call: Call, workspace: Workspace) -> None:
    found = _json(
        call(
            "train", "--data", "a", "--backbone", "pixel:histogram/8", "--steps", 3, "--views", 2, "--width", 8,
            "--evaluate-every", 3, "--device", "cpu", "--json",
        )
    )  # fmt: skip
    scored = call("eval", found["folder"], "--data", "a:test", "--json")
    assert scored.exit_code == 0, scored.output


def test_the_store_of_a_baseline_is_sound_and_in_use(call: Call) -> None:
    _json(call("embed", "a", "b", "--backbone", "structure:density", "--json"))
    assert call("store", "verify").exit_code == 0
    pruned = call("store", "prune")
    assert pruned.exit_code == 0, pruned.output
    assert "structure" not in pruned.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--backbone", "pixel:colour"), 3, "no such baseline"),
        (("--backbone", "random:onehot=plate"), 2, "no such fact"),
        (("--backbone", "structure:density=no.csv"), 3, "no such table"),
        (("--backbone", "pixel:all", "--untrained"), 2, "no weights"),
        (("--backbone", "pixel:all", "--layers", "1"), 2, "not a choice of layers"),
        (("--backbone", "structure:density", "--pixel-size", "5nm"), 2, "size to change"),
    ],
)
def test_refusals_are_one_line(call: Call, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = call("embed", "a", *arguments)
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line]
    assert len(lines) == 1
    assert message in lines[0]


def test_the_page_names_every_preset_and_its_width() -> None:
    for family in FAMILIES:
        for preset in presets_of(family):
            assert f"{family}:{preset}" in PAGE, preset
    for preset in presets_of("pixel"):
        width = find_baseline(f"pixel:{preset}").width
        assert f"| `pixel:{preset}` | {width} |" in PAGE


def test_commands_of_the_page_run(call: Call) -> None:
    block = PAGE.split("```sh\n", 1)[1].split("```", 1)[0]
    lines = [shlex.split(line)[1:] for line in block.splitlines()]
    assert len(lines) == 3
    for words in lines:
        ours = [{"lucchi": "a", "vnc": "b", "dinov2": "timm:test_vit"}.get(word, word) for word in words]
        extra = {"fd": ["--permutations", "99"], "probe": FAST}.get(ours[1], [])
        result = call(*ours, *extra)
        assert result.exit_code == 0, result.output
