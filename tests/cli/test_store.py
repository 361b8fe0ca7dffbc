"""``emvfm store``: a listing a person can read, damage that is mended, pruning, and export."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
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


def _damage(path: Path) -> bytes:
    """Flip a bit and return the whole content."""
    whole = path.read_bytes()
    path.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    return whole


def test_damage_is_named_and_only_that_is_computed_again(root) -> None:
    assert _run(root, "store", "verify").exit_code == 0
    shard = _shards(root)[0]
    whole = _damage(shard)
    found = _run(root, "store", "verify")
    assert found.exit_code == 1
    assert "has changed" in found.stdout
    assert "--repair" in found.stdout
    repaired = _run(root, "store", "verify", "--repair", "--json")
    assert repaired.exit_code == 0
    (entry,) = json.loads(repaired.stdout)["stores"].values()
    assert list(entry["problems"]) == ["6x6/000000"]
    assert (entry["withdrawn"], entry["computed"], entry["left"]) == (12, 12, None)
    assert shard.read_bytes() == whole
    assert _run(root, "store", "verify").exit_code == 0


def test_stores_of_views_tiles_and_scales_are_mended_too(root) -> None:
    tiled = ("--layers", "1", "--tile", "48", "--tile-overlap", "16")
    for options in (tiled, ("--input-size", "x0.5", "--dtype", "float32")):
        assert _run(root, "embed", "a", *BACKBONE, *options).exit_code == 0
    assert _run(root, "train", "--data", "a", *BACKBONE, "--steps", "1", "--views", "3").exit_code == 0
    contents = {shard: _damage(shard) for shard in _shards(root)}
    assert len({shard.relative_to(root).parts[1] for shard in contents}) == 5
    mended = _run(root, "store", "verify", "--repair")
    assert mended.exit_code == 0, mended.stdout
    assert {shard: shard.read_bytes() for shard in contents} == contents


def test_what_cannot_be_mended_is_withdrawn_and_said(root) -> None:
    shard = _shards(root)[0]
    whole = _damage(shard)
    (root / "datasets" / "a").rename(root / "elsewhere")
    repaired = _run(root, "store", "verify", "--repair")
    assert repaired.exit_code == 1
    assert "12 images are in no dataset of the workspace" in repaired.stdout
    assert _run(root, "embed", str(root / "elsewhere"), *BACKBONE).exit_code == 0
    assert shard.read_bytes() == whole


def test_a_key_may_be_cut_short_and_an_unknown_one_is_missing(root) -> None:
    (key,) = (p.parent.name for p in root.glob("store/*/zarr.json"))
    assert list(json.loads(_run(root, "store", "verify", key[:6], "--json").stdout)["stores"]) == [key]
    unknown = _run(root, "store", "verify", "zzz")
    assert unknown.exit_code == 3
    assert "zzz: no such store" in unknown.stderr


def test_prune_shows_first_and_removes_with_yes(root) -> None:
    key = json.loads(_run(root, "store", "list", "--json").stdout)["stores"][0]["key"]
    assert "nothing to remove" in _run(root, "store", "prune", "--unused").stdout
    shown = _run(root, "store", "prune", key[:6])
    assert shown.exit_code == 0
    assert "nothing was removed, --yes does it" in shown.stdout
    assert "12 images" in shown.stdout
    shutil.rmtree(root / "datasets" / "a")
    found = json.loads(_run(root, "store", "prune", "--unused", "--json").stdout)
    assert [(item["kind"], Path(item["path"]).name) for item in found["leftovers"]] == [("store", key)]
    assert (root / "store" / key).is_dir()
    removed = json.loads(_run(root, "store", "prune", "--unused", "--yes", "--json").stdout)
    assert removed["removed"]
    assert removed["bytes"] == found["bytes"] > 12 * 36 * 4 * 64 * 2
    assert "no stores yet" in _run(root, "store", "list").stdout
    assert _run(root, "store", "prune", key).exit_code == 3


def test_prune_says_why_a_named_store_had_to_stay(root) -> None:
    key = json.loads(_run(root, "store", "list", "--json").stdout)["stores"][0]["key"]
    kept = _run(root, "store", "prune", key, "--unused", "--yes")
    assert kept.exit_code == 1
    assert "holds images of the dataset a" in kept.stdout
    assert (root / "store" / key).is_dir()


def test_export_writes_what_the_store_holds(root, tmp_path) -> None:
    done = _run(root, "store", "export", "a", "-o", str(tmp_path / "a.npz"), "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["rows"], said["width"], said["format"]) == (12, 64, "npz")
    assert Path(said["path"]).stat().st_size == said["bytes"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert read["embedding"].shape == (12, 64)
        test = int((read["split"] == "test").sum())
    part = ("store", "export", "a:test", "--patches", "-o", str(tmp_path / "p.npz"))
    assert f"{test * 36} patches × 64" in _run(root, *part).stdout
    with np.load(tmp_path / "p.npz", allow_pickle=False) as read:
        assert read["embedding"].shape == (test * 36, 64)
        assert np.isfinite(read["foreground"]).all()
    again = _run(root, *part)
    assert again.exit_code == 2
    assert "already exists" in again.stderr


def test_export_asks_which_store_if_several_hold_the_dataset(root, tmp_path) -> None:
    assert _run(root, "embed", "a", *BACKBONE, "--init-seed", "1").exit_code == 0
    assert _run(root, "embed", "a", "--backbone", "timm:test_vit2", *BACKBONE[2:]).exit_code == 0
    asked = _run(root, "store", "export", "a", "-o", str(tmp_path / "a.npz"))
    assert asked.exit_code == 2
    keys = [s["key"] for s in json.loads(_run(root, "store", "list", "--json").stdout)["stores"]]
    assert all(key[:12] in asked.stderr for key in keys)
    other = ("--backbone", "timm:test_vit2")
    assert _run(root, "store", "export", "a", "-o", str(tmp_path / "b.npz"), *other).exit_code == 0
    chosen = ("--store", keys[1][:8])
    said = json.loads(
        _run(root, "store", "export", "a", "-o", str(tmp_path / "c.npz"), *chosen, "--json").stdout
    )
    assert said["store"] == keys[1]


def test_export_loads_no_torch(root, tmp_path) -> None:
    code = (
        "import sys\nfrom emvfm.cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\nassert 'torch' not in sys.modules\n"
    )
    words = ("store", "export", "a", "-o", str(tmp_path / "a.npz"), "--root", str(root))
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
