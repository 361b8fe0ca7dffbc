"""A run's name follows what decides its result, and its folder is made once and read back whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Dataset
from emvfm.errors import CorruptError, MissingError
from emvfm.segmentation import runs
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.runs import RunFolder, ensure_run, run_identity
from emvfm.workspace import Workspace

BASE = TrainConfig(data=("a",), steps=10, batch=2)
#: One other value of each option that decides the weights of a frozen and of a LoRA run.
HEAD: dict[str, Any] = {
    "head": "linear", "width": 7, "dropout": 0.35, "loss": "focal", "sampling": "balanced", "steps": 11,
    "batch": 3, "crop": 32, "lr": 7e-3, "weight_decay": 0.3, "warmup": 3, "evaluate_every": 9, "seed": 5,
}  # fmt: skip
LORA: dict[str, Any] = {
    "lora_rank": 3, "lora_alpha": 3.0, "lora_dropout": 0.4, "lora_targets": ("attention+mlp",),
    "lora_blocks": (0,), "dora": True, "rslora": True, "lora_init": "olora", "lora_lr": 7e-5,
    "warm_start": False,
}  # fmt: skip


@pytest.fixture
def dataset(workspace: Workspace) -> Dataset:
    return open_dataset(workspace, "a")


def _identity(config: TrainConfig, *datasets: Dataset, key: str = "store", patch: int = 16) -> str:
    return run_identity(config, datasets, key, patch)


@pytest.mark.parametrize("option", HEAD)
@pytest.mark.parametrize("lora", [False, True])
def test_what_decides_the_weights_decides_the_identity(dataset, option: str, lora: bool) -> None:
    config = replace(BASE, lora=lora)
    assert getattr(config, option) != HEAD[option]
    changed = replace(config, **{option: HEAD[option]})
    assert _identity(config, dataset) == _identity(
        replace(changed, **{option: getattr(BASE, option)}), dataset
    )
    assert _identity(config, dataset) != _identity(changed, dataset)


@pytest.mark.parametrize("option", LORA)
def test_options_of_lora_matter_to_lora_alone(dataset, option: str) -> None:
    changed = replace(BASE, **{option: LORA[option]})
    assert changed != BASE
    assert _identity(BASE, dataset) == _identity(changed, dataset)
    adapted = replace(changed, lora=True)
    assert _identity(replace(BASE, lora=True), dataset) != _identity(adapted, dataset)


def test_lora_and_frozen_are_two_runs(dataset) -> None:
    assert _identity(BASE, dataset) != _identity(replace(BASE, lora=True), dataset)


@pytest.mark.parametrize("changes", [{"device": "cuda:1"}, {"data": ("other",)}, {"weights": Path("w.pth")}])
def test_names_and_places_do_not_matter(dataset, changes: dict[str, Any]) -> None:
    renamed = replace(dataset, name="other", root=Path("elsewhere"))
    assert _identity(BASE, dataset) == _identity(replace(BASE, **changes), renamed)


def test_backbone_and_patch_matter(dataset) -> None:
    assert len({_identity(BASE, dataset, key=k, patch=p) for k in "st" for p in (14, 16)}) == 4


@pytest.mark.parametrize("field", ["image_sha256", "mask_sha256", "split", "domain", "volume", "z"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_row_that_training_reads_matters(dataset, field: str, split: str) -> None:
    k = next(i for i, s in enumerate(dataset.samples) if s.split == split)
    other = {"split": "test", "z": 77}.get(field, "0" * 64)
    samples = list(dataset.samples)
    samples[k] = replace(samples[k], **{field: other})
    changed = replace(dataset, samples=tuple(samples))
    assert _identity(BASE, dataset) != _identity(BASE, changed)


def test_test_slices_and_the_order_of_rows_do_not_matter(dataset) -> None:
    samples = [replace(s, image_sha256="0" * 64) if s.split == "test" else s for s in dataset.samples]
    assert _identity(BASE, dataset) == _identity(BASE, replace(dataset, samples=tuple(samples[::-1])))


def test_one_dataset_is_not_two(workspace, dataset) -> None:
    second = open_dataset(workspace, "b")
    assert len({_identity(BASE, *d) for d in ((dataset,), (second,), (dataset, second))}) == 3


def test_a_folder_is_made_once_and_keeps_the_options(workspace, dataset) -> None:
    config = replace(BASE, lora=True, layers=(1, 3), lora_blocks=(0, 2), weights=Path("/some/file.pth"))
    run = ensure_run(workspace, config, [dataset], "0123456789abcdef", {"backbone": "tiny"})
    assert run.path.parent == workspace.runs
    assert run.path.name.endswith("-lora-s0-0123456789")
    assert run.config == config
    assert not run.finished
    assert (run.metrics, run.history()) == ({}, [])
    facts = run.provenance
    assert facts["identity"] == "0123456789abcdef"
    assert facts["backbone"] == "tiny"
    assert facts["data"] == [{"name": "a", "digest": dataset.digest, "audit": "passed"}]
    run.set_state("finished")
    again = ensure_run(
        workspace, replace(config, seed=0), [dataset], "0123456789abcdef", {"backbone": "other"}
    )
    assert again.path == run.path
    assert again.finished
    assert again.provenance == facts
    assert [p.name for p in workspace.runs.iterdir()] == [run.path.name]


@pytest.mark.parametrize("backbone", ["timm:test_vit", "openclip:ViT-B-32/laion2b_s34b_b79k"])
@pytest.mark.parametrize("name", ["a", "../../elsewhere", ".hidden", "x" * 300, "mito [1] β"])
def test_a_run_lies_directly_under_runs_whatever_the_names(
    workspace, dataset, backbone: str, name: str
) -> None:
    config = replace(BASE, backbone=backbone)
    run = ensure_run(workspace, config, [replace(dataset, name=name)] * 3, "f" * 64, {})
    assert run.path.parent == workspace.runs
    assert not run.path.name.startswith(".")
    assert workspace.find_run(run.path.name) == run.path
    assert sorted(p.name for p in workspace.root.iterdir()) == ["datasets", "runs"]


def test_two_processes_that_start_a_run_at_once_share_its_folder(workspace, dataset, monkeypatch) -> None:
    write, others = runs.write_json, []

    def write_while_another_makes_it(path: Path, value: Any) -> Path:
        monkeypatch.setattr(runs, "write_json", write)
        others.append(ensure_run(workspace, BASE, [dataset], "e" * 64, {"backbone": "the first"}))
        return write(path, value)

    monkeypatch.setattr(runs, "write_json", write_while_another_makes_it)
    run = ensure_run(workspace, BASE, [dataset], "e" * 64, {"backbone": "the second"})
    assert others[0].path == run.path
    assert run.provenance["backbone"] == "the first"
    assert [p.name for p in workspace.runs.iterdir()] == [run.path.name]


def test_a_folder_left_without_options_is_made_anew(workspace, dataset) -> None:
    run = ensure_run(workspace, BASE, [dataset], "d" * 64, {})
    (run.path / "config.yaml").unlink()
    assert ensure_run(workspace, BASE, [dataset], "d" * 64, {}).config == BASE


def test_sections_of_the_metrics_are_replaced_one_by_one(tmp_path) -> None:
    run = RunFolder(tmp_path)
    run.update_metrics("train", {"iou": 0.5})
    run.update_metrics("eval", {"a:test": {"iou": 0.25}})
    run.update_metrics("train", {"dice": 1})
    assert json.loads((tmp_path / "metrics.json").read_text()) == run.metrics
    assert run.metrics == {"train": {"dice": 1}, "eval": {"a:test": {"iou": 0.25}}}


def test_a_history_is_read_as_written_and_never_half(tmp_path) -> None:
    run, rows = RunFolder(tmp_path), [{"step": 3, "val_iou": 0.125}, {"step": 6, "val_iou": 1.0}]
    run.write_history(rows)
    assert run.history() == rows
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 2
    run.write_history(rows[:1])
    assert run.history() == rows[:1]
    (tmp_path / "history.jsonl").write_text('{"step": 3, "val_')
    with pytest.raises(CorruptError, match=r"history\.jsonl"):
        run.history()


def test_a_state_that_is_missing_or_damaged_names_its_file(tmp_path) -> None:
    with pytest.raises(MissingError, match=r"status\.json"):
        _ = RunFolder(tmp_path).finished
    (tmp_path / "status.json").write_text("{")
    with pytest.raises(CorruptError, match=r"status\.json"):
        _ = RunFolder(tmp_path).finished
