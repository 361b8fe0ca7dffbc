"""What a training step costs: LoRA beside a bare PyTorch loop, and an epoch of a frozen head on cached tokens.

    python -m benchmarks.training [--backbone dinov2] [--crop 224] [--rounds 5]

prints the numbers as JSON. Weights are random: they don't change what a step costs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import paired
from emvfm.backbones.lora import adapter_parameters, inject_lora
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.extraction.pipeline import embed_dataset
from emvfm.segmentation.batches import Batches, Cropping, ImageCrops, TokenCrops
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.loop import Loop
from emvfm.segmentation.losses import build_loss
from emvfm.segmentation.model import SegmentationModel, build_model, open_backbone, preprocess_of
from emvfm.segmentation.recipe import resolved
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.samplers import Sampler
from emvfm.segmentation.state import TrainingState
from emvfm.segmentation.validation import Validation
from emvfm.workspace import Workspace

__all__ = ["frozen_epoch", "lora_step"]

_SLICES, _SIDE = 8, 448


def _workspace(folder: Path) -> Workspace:
    workspace = Workspace(folder / "workspace")
    write_phantom(folder / "a", "a", _SLICES, _SIDE, seed=0)
    compose("a", [folder / "a"], workspace, ComposeOptions(link="copy"))
    return workspace


def _loop(
    config: TrainConfig, model: SegmentationModel, batches: Batches, folder: Path
) -> tuple[Loop, TrainingState]:
    adapted = adapter_parameters(model.backbone.module) if config.lora else []  # type: ignore[union-attr]
    parameters = [p for _, p in adapted] + list(model.head.parameters())
    state = TrainingState(
        head=model.head,
        adapted=adapted,
        optimiser=torch.optim.AdamW([{"params": parameters, "highest": 1e-4}]),
        sampler=Sampler(batches.n_per_source),
        rng=np.random.Generator(np.random.PCG64(0)),
    )
    loss = build_loss(config.loss)
    loop = Loop(config, RunFolder(folder), model, batches, loss, Validation(model, [], loss), lambda: None)
    model.train(True)
    return loop, state


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _bare(
    config: TrainConfig, model: SegmentationModel, pixels: Tensor, targets: Tensor
) -> Callable[[], None]:
    """Return one step as a script would write it: forward, loss, backward, clip, AdamW, on ready tensors."""
    backbone = model.backbone
    assert backbone is not None
    parameters = [p for _, p in adapter_parameters(backbone.module)] + list(model.head.parameters())
    optimiser, loss_of = torch.optim.AdamW(parameters, lr=1e-4), build_loss(config.loss)
    pixels, targets = pixels.to(model.device), targets.to(model.device)

    def step() -> None:
        with backbone.autocast():
            found = backbone.module.forward_intermediates(  # type: ignore[operator]
                pixels, indices=list(model.layers), norm=True, output_fmt="NCHW", intermediates_only=True
            )
        logits = nn.functional.interpolate(
            model.head(torch.cat(found, dim=1).float()), size=targets.shape[-2:], mode="bilinear"
        )
        loss = loss_of(logits, targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        float(loss.detach())

    return step


def lora_step(config: TrainConfig, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure a LoRA step of the trainer against a bare loop on tensors that are ready."""
    workspace = _workspace(folder)
    config = resolved(replace(config, lora=True), _SLICES)
    backbone = open_backbone(config, workspace)
    assert backbone is not None
    inject_lora(backbone, config)
    model = build_model(config, backbone)
    model.head.to(model.device)
    cropping = Cropping(config.crop)
    crops = ImageCrops([open_dataset(workspace, "a:train")], preprocess_of(config, model), cropping)
    loop, state = _loop(config, model, crops, folder)
    batch = crops.batch(state.sampler.draw(config.batch or 2), state.rng)
    assert batch.pixels is not None
    bare = _bare(config, model, batch.pixels, batch.targets)

    def timed(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            step()
            _synchronise(model.device)

        return run

    result = paired({"emvfm": timed(lambda: loop.step(state)), "bare": timed(bare)}, rounds)
    ratio, low, high = result.ratio("emvfm", "bare")
    return {
        "seconds": {name: result.median(name) for name in ("emvfm", "bare")},
        "ratio": {"median": ratio, "lowest": low, "highest": high},
        "n": rounds,
    }


def frozen_epoch(config: TrainConfig, folder: Path, rounds: int) -> dict[str, Any]:
    """Measure an epoch on cached tokens against one that runs the backbone on crops, and on whole slices."""
    workspace = _workspace(folder)
    config = resolved(replace(config, lora=False), _SLICES)
    backbone = open_backbone(config, workspace)
    assert backbone is not None
    model = build_model(config, backbone)
    model.head.to(model.device)
    train = open_dataset(workspace, "a:train")
    cached = TokenCrops([[embed_dataset(train, backbone, config, workspace)]], Cropping(config.crop))
    steps = -(-len(train) // (config.batch or 4))

    def epoch(side: int | None) -> Callable[[], None]:
        batches: Batches = cached
        if side is not None:
            batches = ImageCrops([train], preprocess_of(config, model), Cropping(side))
        loop, state = _loop(config, model, batches, folder)

        def run() -> None:
            for _ in range(steps):
                loop.step(state)
            _synchronise(model.device)

        return run

    result = paired({"cached": epoch(None), "crops": epoch(config.crop), "whole": epoch(0)}, rounds)
    ratios = {name: result.ratio(name, "cached") for name in ("crops", "whole")}
    return {
        "seconds": {name: result.median(name) for name in ("cached", "crops", "whole")},
        "ratio": {
            name: dict(zip(("median", "lowest", "highest"), r, strict=True)) for name, r in ratios.items()
        },
        "slices": len(train),
        "n": rounds,
    }


def main() -> None:
    """Measure both and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="dinov2")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--head", default="deconv")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    config = TrainConfig(
        data=("a",), backbone=given.backbone, untrained=True, crop=given.crop, head=given.head
    )
    found = {}
    for name, measure in (("lora_step", lora_step), ("frozen_epoch", frozen_epoch)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(config, Path(folder), given.rounds)
    print(json.dumps({"options": vars(given), **found}, indent=1))


if __name__ == "__main__":
    main()
