"""``emvfm embed`` fills the store once, says what it did, and fails in one line with the right code."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from click.testing import Result
from typer.testing import CliRunner

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace

Run = Callable[..., Result]
TINY = ("--backbone", "timm:test_vit", "--untrained", "--precision", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("composed")
    for name, side in (("a", 64), ("b", 72)):
        write_phantom(root / name, name, 12, side, seed=3)
        compose(name, [root / name], Workspace(root), ComposeOptions(domain=(name,), link="copy"))
    return root / "datasets"


@pytest.fixture
def workspace(composed: Path, tmp_path: Path) -> Workspace:
    """A workspace of the test's own with the datasets ``a`` and ``b``, of 12 images each."""
    shutil.copytree(composed, tmp_path / "datasets")
    return Workspace(tmp_path)


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """Call ``emvfm embed`` with the tiny backbone, unless a test names another."""

    def run(*arguments: object, model: tuple[str, ...] = TINY) -> Result:
        return CliRunner().invoke(
            app,
            ["embed", *map(str, arguments), *model, "--root", str(workspace.root)],
            env={"COLUMNS": "200"},
        )

    return run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of each forward pass of any backbone."""
    seen: list[int] = []
    tokens = Backbone.tokens

    def counted(self: Backbone, images: torch.Tensor, layers: Any = None) -> Tokens:
        seen.append(len(images))
        return tokens(self, images, layers)

    monkeypatch.setattr(Backbone, "tokens", counted)
    return seen


def test_it_says_what_is_in_the_store_and_where(run: Run, workspace: Workspace) -> None:
    result = run("a", "b")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["a", "12", "0,", "2,", "3,", "5", "64", "float32"] in [line[:-1] for line in lines]
    assert ["b", "12"] in [line[:2] for line in lines]
    (folder,) = (p for p in workspace.store.iterdir() if p.is_dir())
    assert "test_vit, untrained (timm init, seed 0)" in result.stdout
    assert folder.name in result.stdout.replace("\n", "")


def test_json_is_one_object_that_leads_to_the_numbers(run: Run, workspace: Workspace) -> None:
    result = run("a", "b", "--json", "--layers", 5, "--layers", 1, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    found = json.loads(result.stdout)
    facts = {key: value for key, value in found["datasets"][0].items() if key != "seconds"}
    assert facts == {"dataset": "a", "images": 12, "layers": [5, 1], "width": 64, "precision": "float32"}
    assert [row["dataset"] for row in found["datasets"]] == ["a", "b"]
    group = zarr.open(found["store"], mode="r")
    patches = group["grids/4x4/patches"]
    assert patches.dtype == np.float32
    assert patches.shape[1:] == (2, 4, 4, 64)
    images = {image for image in group["grids/4x4/image"][:] if image}
    files = (workspace.datasets / "a").glob("*/images/*.png")
    assert images == {sha256_file(path) for path in files}
    assert {image for image in group["grids/5x5/image"][:] if image}.isdisjoint(images)  # b: 72 px


def test_the_second_time_computes_nothing(run: Run, passes: list[int]) -> None:
    first = json.loads(run("a", "--json").stdout)
    assert sum(passes) == 12
    second = run("a", "--json")
    assert second.exit_code == 0
    assert sum(passes) == 12
    assert json.loads(second.stdout)["store"] == first["store"]
    run("b", "a")
    assert sum(passes) == 24


def test_another_model_has_another_store(run: Run, passes: list[int]) -> None:
    stores = {
        json.loads(run("a", "--json", *more).stdout)["store"]
        for more in (
            (),
            ("--init-seed", 1),
            ("--layers", 2),
            ("--input-size", "x0.5"),
            ("--dtype", "float32"),
        )
    }
    assert len(stores) == 5
    assert sum(passes) == 5 * 12


def test_a_part_of_a_dataset_is_a_part_of_the_work(run: Run, passes: list[int]) -> None:
    part = json.loads(run("a:train", "--json").stdout)["datasets"][0]["images"]
    assert 0 < part < 12
    assert sum(passes) == part
    run("a")
    assert sum(passes) == 12


def test_a_batch_size_changes_the_passes_and_not_the_store(run: Run, passes: list[int]) -> None:
    one = json.loads(run("a", "--json", "--batch-size", 5).stdout)
    assert passes == [5, 5, 2]
    assert json.loads(run("a", "--json").stdout)["store"] == one["store"]
    assert passes == [5, 5, 2]


@pytest.mark.parametrize("json_", [(), ("--json",)])
def test_an_unknown_dataset_is_missing(run: Run, json_: tuple[str, ...], passes: list[int]) -> None:
    result = run("a", "nowhere", *json_)
    assert result.exit_code == 3
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("emvfm: ")
    assert "nowhere" in line
    assert passes == []  # the first dataset is not embedded before the second is known


def test_an_unknown_backbone_and_absent_weights_are_told(run: Run) -> None:
    result = run("a", model=("--backbone", "nosuchmodel"))
    assert result.exit_code == 3
    assert "nosuchmodel" in result.stderr
    result = run("a", model=("--backbone", "timm:test_vit", "--weights", "/nowhere/weights.safetensors"))
    assert result.exit_code == 3
    assert "weights.safetensors" in result.stderr


@pytest.mark.parametrize(
    "wrong", [("--batch-size", "0"), ("--dtype", "float64"), ("--layers", "6"), ("--input-size", "huge")]
)
def test_a_wrong_option_is_a_usage_error(run: Run, wrong: tuple[str, str], passes: list[int]) -> None:
    result = run("a", *wrong)
    assert result.exit_code == 2, result.output
    assert "internal error" not in result.output
    assert passes == []


def test_a_changed_image_is_one_line(run: Run, workspace: Workspace) -> None:
    path = next((workspace.datasets / "a").glob("*/images/*.png"))
    path.write_bytes(path.read_bytes()[:-20])
    result = run("a")
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert path.name in line
    assert "not the one the manifest names" in line


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, passes: list[int]
) -> None:
    from zarr.storage import LocalStore

    put = LocalStore.set

    async def full(self: LocalStore, key: str, value: Any) -> None:
        if "5x5/cls/c/" in key:
            raise OSError(errno.ENOSPC, "No space left on device", key)
        await put(self, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "set", full)
        result = run("a", "b")
    assert result.exit_code == 1
    assert "no space left" in result.stderr
    assert "internal error" not in result.stderr
    assert sum(passes) == 24
    assert run("a", "b").exit_code == 0
    assert sum(passes) == 36  # a was kept
