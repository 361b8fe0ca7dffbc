"""``emvfm store``: a listing a person can read, and damage that is named, withdrawn and computed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.phantom import write_phantom
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with one small dataset, embedded."""
    write_phantom(tmp_path / "a", "a", 12, 96, seed=3)
    compose("a", [tmp_path / "a"], Workspace(tmp_path / "ws"))
    assert _run(tmp_path / "ws", "embed", "a", *BACKBONE).exit_code == 0
    return tmp_path / "ws"


def _run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--root", str(root)])


def _shards(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("store/*/grids/*/patches/c/*/*/0/0/0"))


def test_the_list_says_what_made_each_store_and_how_much_it_holds(root, tmp_path) -> None:
    stores = json.loads(_run(root, "store", "list", "--json").stdout)["stores"]
    (store,) = stores
    assert (store["images"], store["dtype"], store["view"]) == (12, "float16", "plain")
    assert store["bytes"] > 12 * 36 * 4 * 64 * 2
    text = _run(root, "store", "list").stdout
    assert store["key"][:12] in text
    assert "untrained" in text
    assert "no stores yet" in _run(tmp_path / "empty", "store", "list").stdout


def test_damage_is_named_withdrawn_and_only_that_is_computed_again(root) -> None:
    assert _run(root, "store", "verify").exit_code == 0
    shard = _shards(root)[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    found = _run(root, "store", "verify")
    assert found.exit_code == 1
    assert "has changed" in found.stdout
    assert "--repair" in found.stdout
    repaired = _run(root, "store", "verify", "--repair", "--json")
    assert repaired.exit_code == 0
    ((problems),) = json.loads(repaired.stdout)["stores"].values()
    assert list(problems) == ["6x6/000000"]
    assert json.loads(_run(root, "store", "list", "--json").stdout)["stores"][0]["images"] == 0
    assert _run(root, "embed", "a", *BACKBONE).exit_code == 0
    assert shard.read_bytes() == whole
    assert _run(root, "store", "verify").exit_code == 0


def test_a_key_may_be_cut_short_and_an_unknown_one_is_missing(root) -> None:
    (key,) = (p.parent.name for p in root.glob("store/*/zarr.json"))
    assert list(json.loads(_run(root, "store", "verify", key[:6], "--json").stdout)["stores"]) == [key]
    unknown = _run(root, "store", "verify", "zzz")
    assert unknown.exit_code == 3
    assert "zzz: no such store" in unknown.stderr
