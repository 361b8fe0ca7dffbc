from __future__ import annotations

from pathlib import Path

import pytest

from emvfm.datasets.catalog import list_datasets, open_dataset, parse_reference
from emvfm.datasets.manifest import Dataset, Sample, save_dataset
from emvfm.errors import MissingError, UsageError
from emvfm.workspace import Workspace


def _dataset(root: Path, name: str, splits=("train", "train", "test")) -> Dataset:
    samples = tuple(
        Sample(f"s{n}", f"{split}/images/{n}.png", None, split, "d", "v", n, 4, 5, None, "0" * 64, None)
        for n, split in enumerate(splits)
    )
    return save_dataset(Dataset(name, root, samples))


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    workspace = Workspace(tmp_path / "ws")
    for name in ("vnc", "lucchi"):
        _dataset(workspace.datasets / name, name)
    (workspace.datasets / ".vnc.refused").mkdir()
    (workspace.datasets / "unfinished").mkdir()
    return workspace


def test_listing_is_sorted_and_shows_whole_datasets_only(workspace, tmp_path):
    assert list_datasets(workspace) == ("lucchi", "vnc")
    assert list_datasets(Workspace(tmp_path / "none")) == ()


def test_a_name_a_path_and_their_splits(workspace):
    assert len(open_dataset(workspace, "vnc")) == 3
    assert {s.split for s in open_dataset(workspace, "vnc:test").samples} == {"test"}
    assert len(open_dataset(workspace, "vnc:train,test")) == 3
    path = workspace.datasets / "lucchi"
    assert open_dataset(workspace, str(path)).name == "lucchi"
    assert len(open_dataset(workspace, f"{path}:train")) == 2


def test_unknown_names_list_the_known_and_suggest(workspace):
    with pytest.raises(MissingError, match=r"one of lucchi, vnc.*did you mean lucchi\?") as caught:
        open_dataset(workspace, "luchi")
    assert caught.value.exit_code == 3
    with pytest.raises(MissingError, match="data compose"):
        open_dataset(workspace, "zebrafish")
    with pytest.raises(MissingError):
        open_dataset(workspace, "")


def test_unknown_and_empty_splits(workspace):
    with pytest.raises(UsageError, match="train, val, test, gap"):
        open_dataset(workspace, "vnc:validation")
    with pytest.raises(MissingError, match="test or train"):
        open_dataset(workspace, "vnc:val")


def test_a_colon_in_a_path_is_part_of_the_path(tmp_path):
    workspace = Workspace(tmp_path / "ws")
    _dataset(tmp_path / "run:1" / "data", "d")
    assert len(open_dataset(workspace, str(tmp_path / "run:1" / "data"))) == 3
    assert parse_reference("/x:y/z") == ("/x:y/z", ())
    assert parse_reference("a:train,val") == ("a", ("train", "val"))
