"""Every way of training gives a run that is loaded, judged and used by one and the same model."""

from __future__ import annotations

import builtins
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from emvfm.backbones.loading import load_backbone
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.images import read_image
from emvfm.datasets.masks import read_mask
from emvfm.errors import MissingError, UsageError
from emvfm.segmentation import recipe, training
from emvfm.segmentation.checkpoints import load_run
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.fusion import FUSIONS
from emvfm.segmentation.heads import HEADS
from emvfm.segmentation.losses import LOSSES
from emvfm.segmentation.metrics import count, pooled
from emvfm.segmentation.parts import part
from emvfm.segmentation.samplers import SCHEMES
from emvfm.segmentation.slices import logits_in_windows
from emvfm.segmentation.training import train

UNET = {"backbone": "unet", "untrained": False, "layers": None, "unet_width": 4, "unet_depth": 2}
MODES: dict[str, dict[str, Any]] = {
    "frozen": {},
    "detail": {"head": "detail", "views": 2},
    "LoRA, detail": {"lora": True, "head": "detail"},
    "full": {"full": True, "full_lr": 1e-3, "ema": 0.5},
    "unet": UNET,
    "unet, scaled": {**UNET, "scale": 0.7},
    "fused": {"fuse": "shift", "head": "linear"},
    "LoRA, fused": {"lora": True, "fuse": "scale"},
    "full, fused": {"full": True, "fuse": "shift", "head": "linear"},
}


def test_the_choices_are_those_of_the_tables() -> None:
    hints = get_type_hints(TrainConfig)
    for name, table in (("head", HEADS), ("loss", LOSSES), ("sampling", SCHEMES), ("fuse", FUSIONS)):
        assert set(get_args(hints[name])) == set(table), name


@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_the_model_that_was_judged(workspace, fast, mode: str) -> None:
    config = fast(**{"steps": 3, "evaluate_every": 3, "data": ("b",), **MODES[mode]})
    run = train(config, workspace)
    segmenter, dataset = load_run(run.path, workspace), open_dataset(workspace, "b:val")
    slices = segmenter.slices(dataset, workspace)
    assert [s.id for s in slices.samples] == [s.id for s in dataset.samples]
    counts = []
    for i, sample in enumerate(dataset.samples):
        image, probability = read_image(dataset.image_path(sample)), slices.probability(i)
        assert (probability.shape, probability.dtype) == ((120, 120), np.float32)
        np.testing.assert_allclose(probability, segmenter.predict(image), atol=2e-2)  # stored as float16
        counts.append(count(probability > 0.5, read_mask(dataset.mask_path(sample))))
    assert pooled(counts).iou == pytest.approx(run.metrics["train"]["best_val_iou"], abs=1e-2)


@pytest.mark.parametrize("mode", ["detail", "unet", "fused"])
def test_a_window_gives_what_the_whole_input_gives(workspace, fast, mode: str) -> None:
    config = fast(**{"steps": 1, "evaluate_every": 1, **MODES[mode]})
    segmenter = load_run(train(config, workspace).path, workspace)
    dataset = open_dataset(workspace, "a:val")
    image = read_image(dataset.image_path(dataset.samples[0]))
    pixels = torch.from_numpy(segmenter.preprocess.prepare(image).pixels)[None]
    assert pixels.shape[-1] % segmenter.multiple == 0
    found = segmenter.window_probability(pixels.repeat(2, 1, 1, 1))
    assert (found.shape, found.dtype) == ((2, 96, 96), torch.float32)
    for one in found:
        np.testing.assert_allclose(one.numpy(), segmenter.predict(image), atol=1e-5)


def test_full_training_moves_every_block_and_needs_no_pretrained_weights_later(workspace, fast) -> None:
    config = fast(full=True, full_lr=1e-2, steps=2, layers=None)
    run = train(config, workspace)
    tuned = load_file(run.checkpoints / "backbone.safetensors")
    start = load_backbone(config, workspace)
    before = start.module.state_dict()
    assert set(tuned) == set(before)
    moved = {name for name, tensor in tuned.items() if not torch.equal(tensor, before[name])}
    for block in range(start.depth):
        assert any(name.startswith(f"blocks.{block}.") for name in moved)
    segmenter = load_run(run.path, workspace)
    assert segmenter.model.backbone.weights_digest != start.weights_digest
    assert "fully fine-tuned" in segmenter.label
    assert run.metrics["train"]["adapter_parameters"] == sum(p.numel() for p in start.module.parameters())


def test_a_unet_is_called_what_it_is_and_needs_no_store(workspace, fast) -> None:
    run = train(fast(**UNET, steps=2), workspace)
    assert run.provenance["backbone"] == "U-Net from scratch"
    assert run.provenance["weights"] is None
    assert "unet-scratch" in run.path.name
    assert not list(workspace.store.glob("*")) if workspace.store.exists() else True
    other = train(fast(**{**UNET, "unet_width": 8}, steps=2), workspace)
    assert other.path != run.path
    same = train(fast(**UNET, steps=2, lora_rank=7, width=5), workspace)
    assert same.path == run.path


def test_the_average_is_what_is_judged_and_kept(workspace, fast) -> None:
    runs = [train(fast(ema=decay, steps=4, evaluate_every=4), workspace) for decay in (0.0, 1e-9, 0.9)]
    plain, none, mean = (load_file(run.checkpoints / "best.safetensors") for run in runs)
    assert len({run.path for run in runs}) == 3
    for name, tensor in plain.items():
        torch.testing.assert_close(none[name], tensor)
    assert any(not torch.allclose(mean[name], tensor) for name, tensor in plain.items())


def test_accumulated_batches_are_one_larger_batch(workspace, fast) -> None:
    """With a loss that is a mean over crops and no dropout, four crops at once or two and two are the same."""
    changes = {"loss": "ce", "dropout": 0.0, "flips": False, "crop": 0, "steps": 3, "head": "linear"}
    whole = train(fast(**changes, batch=4), workspace)
    halves = train(fast(**changes, batch=2, accumulate=2), workspace)
    first, second = (load_file(run.checkpoints / "best.safetensors") for run in (whole, halves))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_random_tenth_is_of_train_and_val_and_the_same_each_time(workspace) -> None:
    dataset = open_dataset(workspace, "a")
    parts, again = part(dataset, "random"), part(dataset, "random")
    assert [s.id for s in parts.val.samples] == [s.id for s in again.val.samples]
    assert (len(parts.train), len(parts.val)) == (7, 1)
    assert {s.split for s in parts.both.samples} == {"train", "val"}
    ids = {s.id for s in parts.train.samples} | {s.id for s in parts.val.samples}
    assert ids == {s.id for s in parts.both.samples}


def test_early_stop_without_validation_slices_is_a_usage_error(workspace, fast) -> None:
    for changes in ({"early_stop": 3}, {"select": "loss"}):
        with pytest.raises(UsageError, match="no validation slices"):
            train(fast(data=("a:train",), **changes), workspace)


def test_a_run_by_the_paper_says_what_differs(workspace, monkeypatch) -> None:
    monkeypatch.setattr(recipe, "_LONG_EDGE", 111)  # the real one takes minutes
    config = TrainConfig(
        data=("a",),
        backbone="timm:test_vit",
        untrained=True,
        device="cpu",
        protocol="paper",
        steps=1,
        evaluate_every=1,
        early_stop=1,
    )
    run = train(config, workspace)
    assert run.config.input_size == "96"  # whole patches of 16 px
    facts = run.provenance["protocol"]
    assert facts["name"] == "paper"
    assert any(line.startswith("steps 1 instead of 7000") for line in facts["deviations"])
    assert run.config.protocol == "paper"
    assert run.metrics["train"]["val_slices"] == 1


def test_tensorboard_that_is_not_installed_is_said_before_anything_is_done(
    workspace, fast, monkeypatch
) -> None:
    load = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingError, match=r"emvfm\[tensorboard\]"):
        train(fast(tensorboard=True), workspace)
    assert not list(workspace.runs.glob("*"))


def test_progress_is_lines_in_a_pipe_and_a_table_in_a_terminal(workspace, fast) -> None:
    pipe = Console(record=True, force_terminal=False, width=100, quiet=False, file=None, stderr=True)
    train(fast(steps=4, evaluate_every=2), workspace, console=pipe)
    lines = [line for line in pipe.export_text().splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["2/4", "4/4"]
    for part_ in ("loss", "validation IoU", "images/s", "left"):
        assert part_ in lines[0]
    from emvfm.segmentation.history import Step
    from emvfm.segmentation.progress import TrainingProgress, clock

    terminal = Console(record=True, force_terminal=True, width=100, stderr=True)
    with TrainingProgress(terminal, 10, 2, 5.0) as progress:
        progress.stepped(Step(3, 0.5, 0.7, 1e-3, 7.0, 3.0))
        progress.validated(
            {"step": 3, "train_loss": 0.7, "val_iou": 0.5, "images_per_second": 3.0, "seconds": 7.0}
        )
        terminal.print(progress._table())
    text = terminal.export_text()
    assert "best 0.500" in text
    assert "0:14" in text  # seven steps of two seconds
    assert clock(3723) == "1:02:03"


@pytest.mark.parametrize(("side", "overlap"), [(48, 16), (64, 32), (160, 0)])
def test_windows_of_a_local_network_are_the_whole(workspace, fast, side: int, overlap: int) -> None:
    config = fast(**UNET, steps=1, evaluate_every=1, tile=side, tile_overlap=overlap)
    segmenter = load_run(train(config, workspace).path, workspace)
    local = torch.nn.Conv2d(3, 2, 1)
    model = replace(segmenter.model, head=local)
    pixels = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = logits_in_windows(model, pixels, segmenter.preprocess).softmax(1)
        want = local(pixels).softmax(1)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("input_size", "half"), [("native", 8), ("x2", 4), ("x0.5", 16), ("48", 16)])
def test_views_move_the_patch_grid_by_half_a_patch_of_the_input(
    workspace, fast, monkeypatch, input_size: str, half: int
) -> None:
    """96 px of image; at twice the size half a patch of the input is a quarter of its pixels in the image."""
    seen = []
    embed = training.embed_dataset

    def remember(*arguments: Any, **options: Any) -> Any:
        seen.append(options.get("view"))
        return embed(*arguments, **options)

    monkeypatch.setattr(training, "embed_dataset", remember)
    train(fast(input_size=input_size, views=2, steps=1, crop=16), workspace)
    assert [view.skipped for view in seen if view is not None] == [(half, half)]
