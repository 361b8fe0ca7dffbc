"""A run that is loaded predicts as it was trained, and one that can't be is told apart from one that can."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.config import dump_yaml, to_dict
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.images import read_image
from emvfm.errors import CorruptError, EmvfmError, MissingError, UsageError
from emvfm.segmentation.checkpoints import load_head, load_run
from emvfm.segmentation.heads import build_head
from emvfm.workspace import read_json, write_json


@pytest.fixture(params=["frozen", "lora"])
def config(request: pytest.FixtureRequest, fast):
    return fast(lora=request.param == "lora")


@pytest.mark.parametrize("size", [(96, 96), (70, 53), (33, 90, 3)])
def test_a_loaded_run_predicts_what_backbone_adapter_and_head_predict(
    trained, workspace, config, size: tuple[int, ...]
) -> None:
    run = trained(config)
    image = np.random.default_rng(0).integers(0, 256, size=size, dtype=np.uint8)
    found = load_run(run.path, workspace).predict(image)
    assert (found.shape, found.dtype) == (size[:2], np.float32)
    assert (found >= 0).all()
    assert (found <= 1).all()

    adapter = str(run.checkpoints / "adapter") if config.lora else None
    backbone = load_backbone(replace(config, adapter=adapter), workspace)
    pixels = Preprocess.for_backbone(backbone.spec, config).prepare(image).pixels
    head = build_head("deconv", 2 * backbone.width, width=16, dropout=0.2).eval()
    head.load_state_dict(load_file(run.checkpoints / "best.safetensors"))
    with torch.no_grad():
        patches = backbone.tokens(torch.from_numpy(pixels)[None], (0, 1)).patches[0]
        maps = torch.cat([patches[0], patches[1]], dim=-1).permute(2, 0, 1)[None]
        logits = head(maps)
        scale = pixels.shape[1] // logits.shape[-2]
        logits = torch.nn.functional.interpolate(logits, scale_factor=scale, mode="bilinear")
        want = logits.softmax(1)[0, 1, : size[0], : size[1]].numpy()
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert np.ptp(found) > 1e-3


def test_loading_twice_gives_the_same_prediction_to_the_bit(trained, workspace, config) -> None:
    run = trained(config)
    image = np.random.default_rng(1).integers(0, 256, size=(64, 80), dtype=np.uint8)
    segmenter = load_run(run.path, workspace)
    first = segmenter.predict(image)
    torch.rand(3)
    np.testing.assert_array_equal(segmenter.predict(image), first)
    np.testing.assert_array_equal(load_run(run.path, workspace).predict(image), first)


def test_the_adapter_matters(trained, workspace, fast) -> None:
    run = trained(fast(lora=True, lora_lr=3e-2))
    segmenter = load_run(run.path, workspace)
    bare = replace(segmenter, model=replace(segmenter.model, backbone=load_backbone(run.config, workspace)))
    image = np.random.default_rng(1).integers(0, 256, size=(64, 80), dtype=np.uint8)
    assert np.abs(segmenter.predict(image) - bare.predict(image)).max() > 1e-3


@pytest.mark.parametrize("scale", ["native", "x0.5", "150"])
def test_stored_tokens_and_the_image_give_the_same_probability(trained, workspace, fast, scale: str) -> None:
    segmenter = load_run(trained(fast(data=("b",), input_size=scale)).path, workspace)
    dataset = open_dataset(workspace, "b:test")
    slices = segmenter.slices(dataset, workspace)
    for i, sample in enumerate(dataset.samples):
        direct = segmenter.predict(read_image(dataset.image_path(sample)))
        stored = slices.probability(i)
        assert stored.shape == direct.shape == (120, 120)
        np.testing.assert_allclose(stored, direct, atol=2e-2)  # tokens are stored as float16


def test_the_label_tells_backbone_adaptation_and_head(trained, workspace, config) -> None:
    label = load_run(trained(config).path, workspace).label
    assert "untrained" in label
    assert ("LoRA r2" if config.lora else "frozen") in label
    assert "deconv head" in label


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "another head", "another width"])
def test_a_head_that_is_damaged_or_another_is_corrupt(trained, workspace, fast, damage: str) -> None:
    run = trained(fast())
    path = run.checkpoints / "best.safetensors"
    if damage == "another head":
        shutil.copy(trained(fast(head="linear")).checkpoints / "best.safetensors", path)
    elif damage == "another width":
        shutil.copy(trained(fast(width=24)).checkpoints / "best.safetensors", path)
    else:
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": data[:-50], "text": b"not tensors at all"}[damage])
    with pytest.raises(CorruptError, match=r"best\.safetensors") as caught:
        load_run(run.path, workspace)
    assert "\n" not in str(caught.value)


def test_a_head_with_a_tensor_too_few_or_too_many_is_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    tensors = build_head("linear", 8).state_dict()
    for name, changed in (
        ("few", dict(list(tensors.items())[1:])),
        ("many", {**tensors, "extra": torch.zeros(1)}),
    ):
        save_file(changed, tmp_path / name)
        with pytest.raises(CorruptError, match=name):
            load_head(build_head("linear", 8), tmp_path / name)


def test_a_head_that_is_gone_is_missing(trained, workspace, fast) -> None:
    run = trained(fast())
    (run.checkpoints / "best.safetensors").unlink()
    with pytest.raises(MissingError, match=r"best\.safetensors"):
        load_run(run.path, workspace)


def test_an_adapter_that_is_gone_or_damaged_is_named(trained, workspace, fast) -> None:
    run = trained(fast(lora=True))
    (file,) = (run.checkpoints / "adapter").glob("*.safetensors")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptError, match="adapter"):
        load_run(run.path, workspace)
    shutil.rmtree(run.checkpoints / "adapter")
    with pytest.raises(MissingError, match="adapter"):
        load_run(run.path, workspace)


def test_the_adapter_of_another_run_is_refused(trained, workspace, fast) -> None:
    run = trained(fast(lora=True))
    other = trained(fast(lora=True, layers=(0,), backbone="timm:test_vit3", head="linear"))
    shutil.rmtree(run.checkpoints / "adapter")
    shutil.copytree(other.checkpoints / "adapter", run.checkpoints / "adapter")
    with pytest.raises(EmvfmError, match="adapter"):
        load_run(run.path, workspace)


def test_a_run_that_is_not_finished_is_a_usage_error(trained, workspace, fast) -> None:
    run = trained(fast())
    run.set_state("running")
    with pytest.raises(UsageError, match="not finished") as caught:
        load_run(run.path, workspace)
    assert "resume" in str(caught.value)


def test_a_folder_that_is_no_run_is_missing(workspace, tmp_path) -> None:
    with pytest.raises(MissingError):
        load_run(tmp_path, workspace)
    with pytest.raises(MissingError):
        load_run(tmp_path / "nowhere", workspace)


def test_other_weights_than_those_of_the_training_are_refused(trained, workspace, fast) -> None:
    run = trained(fast())
    path = run.path / "config.yaml"
    original = path.read_text()
    path.write_text(dump_yaml(to_dict(replace(run.config, init_seed=3))))
    with pytest.raises(UsageError, match="weights"):
        load_run(run.path, workspace)
    path.write_text(original)
    write_json(run.path / "provenance.json", {**read_json(run.path / "provenance.json"), "weights": "0" * 64})
    with pytest.raises(UsageError, match="weights"):
        load_run(run.path, workspace)
    path.write_text(original + "nonsense: 1\n")
    with pytest.raises(UsageError, match="nonsense"):
        load_run(run.path, workspace)
