"""Profiles of datasets and of tables, alone and joined."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emvfm.backbones.loading import load_backbone
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.manifest import save_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.errors import MissingError, UsageError
from emvfm.extraction.pipeline import embed_dataset
from emvfm.studies.profiles import (
    ProfileOptions,
    Profiles,
    join_profiles,
    open_all,
    open_layers,
    open_profiles,
)
from emvfm.workspace import Workspace

OPTIONS = ProfileOptions(
    backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1), pool="cls"
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("profiles")
    workspace = Workspace(root / "workspace")
    for name, seed in (("a", 1), ("b", 2)):
        write_phantom(root / name, "a", 4, 64, seed=seed)
        compose(name, [root / name], workspace, ComposeOptions(link="copy", split="random", val=0))
    dataset = open_dataset(workspace, "a")
    samples = tuple(
        dataclasses.replace(s, facts={"plate": f"p{i % 2}"} if i else {"well": "A1"})
        for i, s in enumerate(dataset.samples)
    )
    save_dataset(dataclasses.replace(dataset, samples=samples))
    return workspace


def test_a_dataset_gives_its_embeddings_and_facts(workspace: Workspace) -> None:
    profiles = open_profiles(workspace, "a", OPTIONS)
    dataset = open_dataset(workspace, "a")
    embeddings = embed_dataset(dataset, load_backbone(OPTIONS, workspace), OPTIONS, workspace)
    np.testing.assert_array_equal(profiles.features, embeddings.image_embeddings("cls", -1))
    assert profiles.features.dtype == np.float32
    assert profiles.ids == tuple(s.id for s in dataset.samples) == profiles.facts["id"]
    assert profiles.facts["plate"] == ("", "p1", "p0", "p1")
    assert profiles.column("WELL") == ("A1", "", "", "")
    assert set(profiles.facts) == {"plate", "well", "id", "split", "domain", "volume"}
    assert (profiles.layer, profiles.pooling, profiles.backbone) == (1, "cls", embeddings.label)
    with pytest.raises(UsageError, match="no such column"):
        profiles.column("compound")


def test_layers_and_poolings_are_the_single_profiles_of_one_store(workspace: Workspace) -> None:
    found = open_layers(workspace, "a", OPTIONS, ["mean", "mean+cls"])
    assert [(p.layer, p.pooling) for p in found] == [
        (0, "mean"),
        (0, "mean+cls"),
        (1, "mean"),
        (1, "mean+cls"),
    ]
    assert len({p.digest for p in found}) == 4
    alone = open_profiles(workspace, "a", dataclasses.replace(OPTIONS, layer=0, pool="mean+cls"))
    np.testing.assert_array_equal(found[1].features, alone.features)
    assert found[1].digest == alone.digest
    with pytest.raises(UsageError, match="no such layer"):
        open_profiles(workspace, "a", dataclasses.replace(OPTIONS, layer=2))


def test_datasets_are_joined_row_after_row(workspace: Workspace) -> None:
    both = open_all(workspace, ["a", "b"], OPTIONS)
    parts = [open_profiles(workspace, name, OPTIONS) for name in ("a", "b")]
    np.testing.assert_array_equal(both.features, np.concatenate([p.features for p in parts]))
    assert both.facts["source"] == ("a",) * 4 + ("b",) * 4
    assert both.facts["plate"] == (*parts[0].facts["plate"], "", "", "", "")
    assert len(set(both.ids)) == 8
    assert both.label == parts[0].label
    with pytest.raises(UsageError, match="not the same"):
        join_profiles([parts[0], open_profiles(workspace, "b", dataclasses.replace(OPTIONS, layer=0))])


def _table(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_tables_are_joined_by_the_names_of_their_features(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    one = _table(tmp_path / "one.csv", "x,y,Metadata_Plate\n1,2,p1\n3,4,p1\n")
    two = _table(tmp_path / "two.csv", "y,x,Metadata_Plate\n6,5,p2\n")
    both = open_all(workspace, [one, two], ProfileOptions())
    np.testing.assert_array_equal(both.features, [[1, 2], [3, 4], [5, 6]])
    assert both.facts["Plate"] == ("p1", "p1", "p2")
    assert both.label == "one.csv, two.csv"
    other = _table(tmp_path / "other.csv", "x,z\n1,2\n")
    with pytest.raises(UsageError, match="only one has y"):
        open_all(workspace, [one, other], ProfileOptions())
    with pytest.raises(UsageError, match="nothing to open"):
        open_all(workspace, [], ProfileOptions())
    with pytest.raises(MissingError, match="no such table"):
        open_profiles(workspace, str(tmp_path / "gone.csv"), ProfileOptions())


def test_the_digest_follows_content_and_options_not_the_name(tmp_path: Path) -> None:
    workspace, text = Workspace(tmp_path), "id,x,y\na,1,2\nb,3,4\n"
    one = open_profiles(workspace, _table(tmp_path / "one.csv", text), ProfileOptions())
    two = open_profiles(workspace, _table(tmp_path / "two.csv", text), ProfileOptions())
    assert one.digest == two.digest
    assert one.ids == ("a", "b")
    changed = open_profiles(workspace, _table(tmp_path / "two.csv", text.replace("4", "5")), ProfileOptions())
    assert changed.digest != one.digest
    fewer = open_profiles(workspace, str(tmp_path / "one.csv"), ProfileOptions(fact_columns=("x",)))
    assert fewer.digest != one.digest
    assert fewer.columns == ("y",)


def test_rows_can_be_taken_in_any_order() -> None:
    profiles = Profiles(
        np.eye(3, dtype=np.float32), {"a": ("x", "y", "z")}, ("1", "2", "3"), "n", "b", None, "", "d"
    )
    part = profiles.take([2, 0])
    assert (part.ids, part.facts["a"], part.features[0].tolist()) == (("3", "1"), ("z", "x"), [0, 0, 1])
    assert part.digest != profiles.digest
    assert profiles.take(np.array([True, True, True])) is profiles
    assert profiles.take(np.array([False, True, True])).ids == ("2", "3")


def test_importing_the_options_loads_no_arrays() -> None:
    code = "import sys, emvfm.studies.profiles; sys.exit(any(m in sys.modules for m in ('numpy', 'torch', 'zarr')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
