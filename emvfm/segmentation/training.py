"""Training a segmentation model for a fixed number of steps: its head, its adapter, its backbone, or a U-Net.

A run is named by what decides its result. A finished one is returned as it is; an unfinished one goes on
from its last checkpoint to the very same weights, because everything random and everything that moves
is in the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import nn

from emvfm.backbones.lora import adapter_parameters, inject_lora, save_adapter
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import training_views
from emvfm.datasets.audit import require_passed
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Sample
from emvfm.errors import UsageError
from emvfm.extraction.pipeline import embed_dataset, identity_of
from emvfm.provenance import peak_memory_mib
from emvfm.segmentation.augmentation_options import Augmentation
from emvfm.segmentation.batches import Batches, ImageCrops, TokenCrops
from emvfm.segmentation.checkpoints import load_head
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.cropping import Cropping
from emvfm.segmentation.ema import MovingAverage
from emvfm.segmentation.fusion import unfused
from emvfm.segmentation.heads import count_parameters
from emvfm.segmentation.history import Step, read_steps
from emvfm.segmentation.loop import Loop
from emvfm.segmentation.losses import build_loss
from emvfm.segmentation.model import SegmentationModel, build_model, open_backbone, preprocess_of
from emvfm.segmentation.parts import Parts, check_validation, part
from emvfm.segmentation.progress import TrainingProgress
from emvfm.segmentation.recipe import adaptation_name, adaptation_of, deviations, resolved
from emvfm.segmentation.runs import RunFolder, ensure_run, run_identity
from emvfm.segmentation.samplers import Sampler
from emvfm.segmentation.scale_check import trained_pixel_sizes
from emvfm.segmentation.schedule import layerwise_groups
from emvfm.segmentation.slices import Slices
from emvfm.segmentation.state import TrainingState
from emvfm.segmentation.tensorboard import Board, require_tensorboard
from emvfm.segmentation.validation import Validation
from emvfm.workspace import Workspace, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Draw", "train"]

#: Makes a PNG of the learning curve from the steps, the rows of the history, and the kept step.
Draw = Callable[[Sequence[Step], Sequence[dict[str, Any]], int], bytes]


@dataclass(frozen=True)
class _Training:
    """What all parts of one training need to know."""

    config: TrainConfig
    parts: Sequence[Parts]
    model: SegmentationModel
    workspace: Workspace
    force: bool
    console: Console | None

    @property
    def train_slices(self) -> int:
        return sum(len(p.train) for p in self.parts)


def train(
    config: TrainConfig,
    workspace: Workspace,
    *,
    force: bool = False,
    draw: Draw | None = None,
    console: Console | None = None,
) -> RunFolder:
    """Train what `config` says and return its run; a finished run of the same identity is returned as it is.

    Parameters
    ----------
    force
        Train on data that the audit refused.
    draw
        Makes the learning curve for the run's figures.

    Raises
    ------
    RefusedError
        The audit refused a dataset and `force` is false.
    UsageError
        Nothing to train on, options that exclude each other, or another process trains this very run.
    MissingError
        Weights, or TensorBoard if asked for, are not there.
    """
    resolved(config, 1)  # contradictions are told before anything is read
    datasets = [open_dataset(workspace, name) for name in config.data]
    for dataset in datasets:
        require_passed(dataset, force=force)
    validation = resolved(config, 1).validation
    parts = [part(dataset, validation, config.slices) for dataset in datasets]
    config = resolved(config, sum(len(p.train) for p in parts))
    check_validation(parts, config)
    if config.tensorboard:
        require_tensorboard()
    backbone = open_backbone(config, workspace)
    with torch.random.fork_rng(devices=[]):  # its first values are drawn anew, from the seed
        model = build_model(config, backbone)
    store_key = "none" if backbone is None else identity_of(backbone, config).key
    identity = run_identity(config, datasets, store_key, model.multiple)
    facts: dict[str, Any] = {
        "backbone": model.label,
        "weights": None if backbone is None else backbone.weights_digest,
        "adaptation": adaptation_name(config),
        "pixel_sizes_nm": trained_pixel_sizes([p.both for p in parts]),
    }
    if config.protocol != "none":
        differences = deviations(config, sum(len(p.train) for p in parts))
        facts["protocol"] = {"name": config.protocol, "deviations": differences}
    run = ensure_run(workspace, config, datasets, identity, facts)
    if run.finished:
        return run
    training = _Training(config, parts, model, workspace, force, console)
    try:
        with FileLock(run.path / ".lock", blocking=False), torch.random.fork_rng(devices=[]):
            if not run.finished:
                _train(training, run, draw)
    except Timeout:
        raise UsageError("another process trains this run", where=run.path, todo="wait for it") from None
    return run


def _train(training: _Training, run: RunFolder, draw: Draw | None) -> None:
    config, model = training.config, training.model
    start = time.perf_counter()
    batches, judged = _data(training)
    extraction_seconds = time.perf_counter() - start
    torch.manual_seed(config.seed)
    model.head.apply(_reset)
    adapted, groups = _adapt(training)
    model.head.to(model.device)
    groups.append(
        {
            "params": list(model.head.parameters()),
            "highest": config.warm_lr if _starts_warm(config) else config.lr,
            "weight_decay": config.weight_decay,
        }
    )
    trained = [*adapted, *((f"head.{name}", p) for name, p in model.head.named_parameters())]
    state = TrainingState(
        head=model.head,
        adapted=adapted,
        optimiser=torch.optim.AdamW(groups, lr=config.lr),
        sampler=_sampler(config, batches),
        rng=np.random.Generator(np.random.PCG64([config.seed, 1])),
        ema=MovingAverage(trained, config.ema) if config.ema else None,
    )
    loss = build_loss(config.loss, class_weights=config.class_weights)
    validate = Validation(model, judged, loss)
    loop = Loop(config, run, model, batches, loss, validate, lambda: _keep(run, model, config))
    state.restore(run.checkpoints / "state.pt")
    board = Board(run.path / "tensorboard" if config.tensorboard else None, state.step)
    watch = TrainingProgress(training.console, config.steps or 0, state.step, state.seconds)
    with board, watch:
        loop(state, watch, board)
    run.update_metrics(
        "train",
        {
            "best_val_iou": _best_iou(state),
            "best_step": state.best_step,
            "steps": state.step,
            "train_slices": sum(batches.n_per_source),
            "val_slices": len(validate),
            "seconds": round(state.seconds, 2),
            "extraction_seconds": round(extraction_seconds, 2),
            "peak_memory_mib": peak_memory_mib(),
            "head_parameters": count_parameters(model.head),
            "adapter_parameters": sum(p.numel() for _, p in adapted),
            "last_val_iou": state.history[-1]["val_iou"],
        },
    )
    if draw is not None:
        curve = draw(read_steps(run.steps_path), state.history, state.best_step)
        write_bytes(run.path / "figures" / "learning-curve.png", curve)
    run.set_state("finished")
    (run.checkpoints / "state.pt").unlink(missing_ok=True)


def _best_iou(state: TrainingState) -> float | None:
    """Return the validation IoU of the kept step."""
    return next(row["val_iou"] for row in state.history if row["step"] == state.best_step)


def _cropping(config: TrainConfig) -> Cropping:
    strengths = {field.name: getattr(config, field.name) for field in fields(Augmentation)}
    assert config.crop is not None
    return Cropping(config.crop, config.foreground_crops, Augmentation(**strengths))


def _sampler(config: TrainConfig, batches: Batches) -> Sampler:
    shares = batches.foreground() if config.sampling == "foreground" else None
    return Sampler(batches.n_per_source, config.sampling, config.seed, foreground=shares)


def _data(training: _Training) -> tuple[Batches, list[Slices]]:
    """Return where batches come from, and the slices that judge, with all tokens stored that either needs."""
    config, model, workspace, console = (
        *(training.config, training.model),
        *(training.workspace, training.console),
    )
    preprocess = preprocess_of(config, model)
    if adaptation_of(config) != "frozen":
        judged = [Slices(model, preprocess, p.val, p.val.samples) for p in training.parts]
        return ImageCrops([p.train for p in training.parts], preprocess, _cropping(config)), judged
    backbone = model.backbone
    assert backbone is not None
    views = training_views(config.views, _native_patch(preprocess, training.parts[0].both.samples[0]))
    shown, judged = [], []
    for p in training.parts:
        plain = embed_dataset(p.both, backbone, config, workspace, console=console)
        ids = {sample.id for sample in p.train.samples}
        others = [
            embed_dataset(p.train, backbone, config, workspace, view=view, console=console)
            for view in views[1:]
        ]
        shown.append([plain.where(lambda s, ids=ids: s.id in ids), *others])  # type: ignore[misc]
        kept = plain.where(lambda s, ids=ids: s.id not in ids)  # type: ignore[misc]
        judged.append(Slices(model, preprocess, kept.dataset, kept.samples, kept))
    seen = preprocess if model.sees_pixels else None
    return TokenCrops(shown, _cropping(config), views, seen), judged


def _native_patch(preprocess: Preprocess, sample: Sample) -> int:
    """Return the side of a patch in pixels of the image: views move the patch grid by half of that."""
    scaled = preprocess.at(sample.pixel_size_nm).scaled((sample.height, sample.width))
    return max(2, round(preprocess.patch * sample.height / scaled[0]))


def _starts_warm(config: TrainConfig) -> bool:
    return config.warm_start and adaptation_of(config) in ("lora", "full")


def _adapt(training: _Training) -> tuple[list[tuple[str, nn.Parameter]], list[dict[str, Any]]]:
    """Make of the backbone what is to be trained; return its parameters by name, and in the optimiser's groups."""
    config, model = training.config, training.model
    backbone, adaptation = model.backbone, adaptation_of(config)
    if backbone is None or adaptation == "frozen":
        return [], []
    if _starts_warm(config):
        frozen = replace(config, lora=False, full=False, steps=config.head_steps, batch=None)
        warm = train(frozen, training.workspace, force=training.force, console=training.console)
        load_head(model.head, warm.checkpoints / "best.safetensors")
    if adaptation == "lora":
        plain = unfused(backbone)
        inject_lora(plain, config, seed=config.seed)
        backbone.adapter = plain.adapter
        backbone.module.train(config.lora_dropout > 0)
        adapted = adapter_parameters(backbone.module)
        parameters = [p for _, p in adapted]
        group = {"params": parameters, "highest": config.lora_lr, "weight_decay": config.lora_weight_decay}
        return adapted, [group]
    backbone.module.requires_grad_(True)
    prefix, _ = backbone.library.blocks(backbone.module)
    adapted = list(backbone.module.named_parameters())
    groups = layerwise_groups(
        adapted,
        prefix,
        backbone.depth,
        rate=config.full_lr,
        decay=config.layer_decay,
        weight_decay=config.weight_decay,
    )
    return adapted, groups


def _keep(run: RunFolder, model: SegmentationModel, config: TrainConfig) -> None:
    """Write the model as the run's result; the head last, for it is what a result is known by."""
    if config.lora:
        assert model.backbone is not None
        save_adapter(unfused(model.backbone), run.checkpoints / "adapter", replace=True)
    if config.full:
        assert model.backbone is not None
        write_bytes(run.checkpoints / "backbone.safetensors", _tensors(model.backbone.module))
    write_bytes(run.checkpoints / "best.safetensors", _tensors(model.head))


def _tensors(module: nn.Module) -> bytes:
    return save({name: t.detach().cpu().contiguous().clone() for name, t in module.state_dict().items()})


def _reset(module: nn.Module) -> None:
    """Draw a module's first values anew, so that they depend on the seed alone."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
