"""docs/performance-segmentation.md: LoRA beside a bare loop, a frozen head on stored tokens, memory of predictions.

``python -m benchmarks.training`` needs nothing but emvfm. Weights are random: they don't change what a step costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.document import Document
from benchmarks.large_images import write_section
from benchmarks.performance import scratch
from benchmarks.timing import paired
from emvfm.backbones.lora import adapter_parameters, inject_lora
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.extraction.pipeline import embed_dataset
from emvfm.segmentation.batches import Batches, ImageCrops, TokenCrops
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.cropping import Cropping
from emvfm.segmentation.loop import Loop
from emvfm.segmentation.losses import build_loss
from emvfm.segmentation.model import SegmentationModel, build_model, open_backbone, preprocess_of
from emvfm.segmentation.recipe import resolved
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.samplers import Sampler
from emvfm.segmentation.state import TrainingState
from emvfm.segmentation.training import train
from emvfm.segmentation.validation import Validation
from emvfm.workspace import Workspace

__all__ = ["frozen_epoch", "lora_step"]

COMMAND = "nox -s segmentation_speed"
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
    cropping = Cropping(config.crop or 0)
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
    slices = open_dataset(workspace, "a:train")
    preprocess = preprocess_of(config, model)
    stored = [[embed_dataset(slices, backbone, config, workspace)]]
    seen = preprocess if model.sees_pixels else None
    cached = TokenCrops(stored, Cropping(config.crop or 0), preprocess=seen)
    steps = -(-len(slices) // (config.batch or 4))

    def epoch(side: int | None) -> Callable[[], None]:
        batches: Batches = cached
        if side is not None:
            batches = ImageCrops([slices], preprocess, Cropping(side))
        loop, state = _loop(config, model, batches, folder)

        def run() -> None:
            for _ in range(steps):
                loop.step(state)
            _synchronise(model.device)

        return run

    result = paired({"cached": epoch(None), "crops": epoch(config.crop or 0), "whole": epoch(0)}, rounds)
    ratios = {name: result.ratio(name, "cached") for name in ("crops", "whole")}
    return {
        "seconds": {name: result.median(name) for name in ("cached", "crops", "whole")},
        "ratio": {
            name: dict(zip(("median", "lowest", "highest"), r, strict=True)) for name, r in ratios.items()
        },
        "slices": len(slices),
        "n": rounds,
    }


def costs(page: Document, rounds: int, backbone: str, crop: int) -> None:
    """Write what steps and epochs cost."""
    config = TrainConfig(data=("a",), backbone=backbone, untrained=True, crop=crop, head="deconv", warp=0.0)
    with scratch() as folder:
        lora = lora_step(replace(config, amp=False), folder, rounds)
    ratio = lora["ratio"]
    rows = [
        ["LoRA step, bare loop", lora["seconds"]["bare"], 1, "", ""],
        ["LoRA step, emvfm", lora["seconds"]["emvfm"], ratio["median"], _spread(ratio), "≤ 1.15"],
    ]
    for head in ("deconv", "detail"):
        with scratch() as folder:
            epoch = frozen_epoch(replace(config, head=head), folder, rounds)
        rows.append([f"epoch of `{head}` on stored tokens", epoch["seconds"]["cached"], 1, "", ""])
        for name, what, bar in (("whole", "whole slices", "≥ 20"), ("crops", "the same crops", "")):
            ratio = epoch["ratio"][name]
            what = f"through the backbone, {what}"
            rows.append([what, epoch["seconds"][name], ratio["median"], _spread(ratio), bar])
    page.section(
        "Training",
        f"{backbone} with random weights, which cost what trained ones do; crops of {crop} px, {rounds} paired rounds. A "
        "LoRA step with the deconv head beside a bare PyTorch loop that has its tensors ready; an epoch over "
        f"{epoch['slices']} slices of {_SIDE} px of a head on stored tokens beside one that runs the backbone on each whole "
        "slice, as the reference does, and on the same crops, with the head in either. `deconv` sees tokens alone; `detail` "
        "sees the pixels too and is itself most of an epoch.",
    )
    page.table(["what", "seconds", "times", "rounds", "expected"], rows)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['lowest']:.2f} – {ratio['highest']:.2f}"


_PREDICT = """
import json, sys, time
from emvfm.cli.app import main
from emvfm.provenance import peak_memory_mib
start = time.perf_counter()
try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
print(json.dumps([peak_memory_mib(), time.perf_counter() - start]), file=sys.stderr)
"""


def prediction(page: Document, sides: Sequence[int]) -> None:
    """Write the peak memory of ``emvfm predict`` on square images, each in a process of its own."""
    rows = []
    with scratch() as folder:
        workspace = _workspace(folder)
        options = {
            "data": ("a",),
            "backbone": "timm:test_vit",
            "untrained": True,
            "head": "deconv",
            "views": 1,
        }
        run = train(TrainConfig(**options, steps=2, warmup=0), workspace)  # type: ignore[arg-type]
        for side in sides:
            write_section(folder / f"{side}.tif", side)
            asked = [
                "predict",
                run.path.name,
                str(folder / f"{side}.tif"),
                "--out",
                str(folder / f"{side}.ome.zarr"),
            ]
            done = subprocess.run(
                [sys.executable, "-c", _PREDICT, *asked, "--what", "probability", "--root", str(workspace.root), "--json"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            peak, seconds = json.loads(done.stderr.splitlines()[-1])
            rows.append(
                [f"{side} × {side}", f"{side * side * 4 / 2**20:.0f}", f"{peak:.0f}", f"{seconds:.0f}"]
            )
    page.section(
        "Prediction",
        "`emvfm predict` of probabilities (float32) from a tiled TIFF into OME-Zarr with a tiny ViT, windows and overlap as "
        "by default. Peak resident memory of the whole process, libraries and model included; expected: less than 3 GiB "
        "beyond the model for 16 384 × 16 384.",
    )
    page.table(["image, px", "output, MiB", "peak memory, MiB", "s"], rows)


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.training", description=__doc__)
    parser.add_argument("--backbone", default="dinov2", help="whose steps are timed")
    parser.add_argument("--crop", type=int, default=224, help="side of a crop in px")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[2048, 16384], help="images that are predicted on"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of performance-segmentation.md"
    )
    given = parser.parse_args()
    page = Document(
        "Performance: segmentation",
        COMMAND,
        "Candidates take turns within one run; weights and images are random.",
    )
    costs(page, given.rounds, given.backbone, given.crop)
    prediction(page, given.sides)
    page.write(given.out / "performance-segmentation.md")


if __name__ == "__main__":
    main()
