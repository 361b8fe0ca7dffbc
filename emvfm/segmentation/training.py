"""Training a segmentation head, with the backbone frozen or adapted by LoRA, for a fixed number of steps.

A run is named by what decides its result. A finished one is returned as it is; an unfinished one goes on
from its last checkpoint to the very same weights, because everything random and everything that moves
is in the checkpoint.
"""

from __future__ import annotations

import math
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save
from torch import nn

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.lora import adapter_parameters, inject_lora, save_adapter
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import View, training_views
from emvfm.datasets.audit import require_passed
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Dataset
from emvfm.datasets.masks import read_mask
from emvfm.errors import EmvfmError, UsageError
from emvfm.extraction.pipeline import embed_dataset, identity_of
from emvfm.segmentation.batches import Batches, ImageCrops, TokenCrops
from emvfm.segmentation.checkpoints import load_head
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.heads import count_parameters
from emvfm.segmentation.losses import build_loss
from emvfm.segmentation.metrics import Counts, count, pooled
from emvfm.segmentation.model import SegmentationModel, build_model
from emvfm.segmentation.runs import RunFolder, ensure_run, run_identity
from emvfm.segmentation.samplers import Sampler
from emvfm.segmentation.slices import Slices
from emvfm.segmentation.state import TrainingState
from emvfm.store.view import Embeddings
from emvfm.workspace import Workspace, write_bytes

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["train"]


def resolved(config: TrainConfig) -> TrainConfig:
    """Return `config` with the defaults that depend on the adaptation filled in."""
    steps, batch = (200, 2) if config.lora else (600, 4)
    if not config.data:
        raise UsageError("no data to train on", where="--data", expected="the name of a dataset")
    if config.adapter is not None:
        raise UsageError(
            "training starts from a backbone without adapter", where="--adapter", got=config.adapter
        )
    weights = None if config.weights is None else config.weights.expanduser().absolute()
    return replace(config, steps=config.steps or steps, batch=config.batch or batch, weights=weights)


def _rate(step: int, steps: int, warmup: int) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass
class _Validation:
    """Pooled foreground IoU of the validation slices at native size."""

    model: SegmentationModel
    sources: Sequence[Slices]

    def __len__(self) -> int:
        """Return the number of validation slices."""
        return sum(map(len, self.sources))

    def __call__(self) -> float:
        counts: list[Counts] = []
        backbone = self.model.backbone
        assert backbone is not None
        adapting = backbone.module.training  # dropout of the adapter
        backbone.module.eval()
        self.model.train(False)
        for slices in self.sources:
            for i, sample in enumerate(slices.samples):
                path = slices.dataset.mask_path(sample)
                assert path is not None
                logits = slices.logits(i)[0]
                counts.append(count((logits[1] > logits[0]).cpu().numpy(), read_mask(path)))
        self.model.train(True)
        backbone.module.train(adapting)
        return pooled(counts).iou


@contextmanager
def _stop_between_steps() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into a request that the loop answers at the end of a step."""
    asked: list[int] = []
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda n, _: asked.append(n))
    except ValueError:  # not in the main thread: signals go elsewhere
        previous = {}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _progress(console: Console | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console or Console(quiet=True),
        transient=True,
    )


def _loop(
    config: TrainConfig,
    run: RunFolder,
    state: TrainingState,
    batches: Batches,
    validate: _Validation,
    console: Console | None,
) -> None:
    """Train to the last step; keeps the best head (and adapter) by validation IoU, without slices the last."""
    assert config.steps is not None
    assert config.batch is not None
    loss_of = build_loss(config.loss)
    checkpoint = run.checkpoints / "state.pt"
    state.restore(checkpoint)
    model = validate.model
    state.head.train()
    with _stop_between_steps() as asked, _progress(console) as progress:
        task = progress.add_task("training", total=config.steps, completed=state.step, state="")
        while state.step < config.steps:
            start = time.perf_counter()
            factor = _rate(state.step, config.steps, config.warmup)
            for group in state.optimiser.param_groups:
                group["lr"] = group["highest"] * factor
            tokens, targets = batches.batch(state.sampler.draw(config.batch), state.rng)
            logits = model.logits_of_tokens(tokens)
            loss = loss_of(logits, targets.to(model.device))
            if not torch.isfinite(loss):
                raise EmvfmError(
                    "the loss is not finite", where=run.path, got=f"step {state.step}", todo="lower --lr"
                )
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in state.optimiser.param_groups for p in g["params"]], 1.0)
            state.optimiser.step()
            state.losses.append(float(loss.detach()))
            state.step += 1
            state.seconds += time.perf_counter() - start
            if state.step % config.evaluate_every == 0 or state.step == config.steps:
                iou = validate() if len(validate) else None
                row = {"step": state.step, "train_loss": float(np.mean(state.losses)), "val_iou": iou}
                state.history.append({**row, "seconds": round(state.seconds, 1)})
                state.losses.clear()
                if (state.step == config.steps) if iou is None else iou > state.best_iou:
                    state.best_iou, state.best_step = iou or 0.0, state.step
                    _keep(run, model, config)
                state.save(checkpoint)
                run.write_history(state.history)
            best = f"best IoU {state.best_iou:.3f}" if state.best_step else ""
            progress.update(task, completed=state.step, state=f"loss {float(loss.detach()):.3f}  {best}")
            if asked:
                state.save(checkpoint)
                raise KeyboardInterrupt


def _keep(run: RunFolder, model: SegmentationModel, config: TrainConfig) -> None:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
    if config.lora:
        assert model.backbone is not None
        save_adapter(model.backbone, run.checkpoints / "adapter", replace=True)
    write_bytes(run.checkpoints / "best.safetensors", save(tensors))


def _open(config: TrainConfig, workspace: Workspace, force: bool) -> list[Dataset]:
    datasets = [open_dataset(workspace, name) for name in config.data]
    for dataset in datasets:
        require_passed(dataset, force=force)
        if len(dataset.split("train").annotated()) == 0:
            raise UsageError("no annotated slices in the train split", where=dataset.name)
    return datasets


def train(
    config: TrainConfig, workspace: Workspace, *, force: bool = False, console: Console | None = None
) -> RunFolder:
    """Train what `config` says and return its run; a finished run of the same identity is returned as it is.

    Parameters
    ----------
    force
        Train on data that the audit refused.

    Raises
    ------
    RefusedError
        The audit refused a dataset and `force` is false.
    UsageError
        Nothing to train on, or another process trains this very run.
    """
    config = resolved(config)
    datasets = _open(config, workspace, force)
    backbone = load_backbone(config, workspace)
    preprocess = Preprocess.for_backbone(backbone.spec, config)
    identity = run_identity(config, datasets, identity_of(backbone, config).key, backbone.patch)
    facts = {
        "backbone": backbone.label,
        "weights": backbone.weights_digest,
        "adaptation": _adaptation(config),
    }
    run = ensure_run(workspace, config, datasets, identity, facts)
    if run.finished:
        return run
    try:
        with FileLock(run.path / ".lock", blocking=False), torch.random.fork_rng(devices=[]):
            if not run.finished:
                _train(config, run, datasets, backbone, preprocess, workspace, console, force)
    except Timeout:
        raise UsageError("another process trains this run", where=run.path, todo="wait for it") from None
    return run


def _adaptation(config: TrainConfig) -> str:
    if not config.lora:
        return "frozen"
    return f"{'DoRA' if config.dora else 'LoRA'} r{config.lora_rank}"


def _train(
    config: TrainConfig,
    run: RunFolder,
    datasets: Sequence[Dataset],
    backbone: Backbone,
    preprocess: Preprocess,
    workspace: Workspace,
    console: Console | None,
    force: bool,
) -> None:
    start = time.perf_counter()
    layers = backbone.choose_layers(config.layers)
    embeddings = [
        embed_dataset(d.split("train", "val").annotated(), backbone, config, workspace, console=console)
        for d in datasets
    ]
    views = training_views(1 if config.lora else config.views, backbone.patch)
    shown = _shown(embeddings, views, backbone, config, workspace, console)
    extraction_seconds = time.perf_counter() - start
    model = build_model(config, backbone, layers)
    head = model.head
    torch.manual_seed(config.seed)
    head.apply(_reset)
    groups: list[dict[str, Any]] = []
    adapter: list[tuple[str, nn.Parameter]] = []
    if config.lora:
        if config.warm_start:
            frozen = replace(config, lora=False, steps=config.head_steps, batch=None)
            warm = train(frozen, workspace, force=force, console=console)
            load_head(head, warm.checkpoints / "best.safetensors")
        inject_lora(backbone, config, seed=config.seed)
        backbone.module.train(config.lora_dropout > 0)
        adapter = adapter_parameters(backbone.module)
        groups.append({"params": [p for _, p in adapter], "highest": config.lora_lr, "weight_decay": 0.0})
        train_sets = [d.split("train").annotated() for d in datasets]
        batches: Batches = ImageCrops(train_sets, backbone, layers, preprocess, config.crop)
    else:
        batches = TokenCrops(shown, config.crop, views)
    head.to(model.device)
    head_lr = config.lr / 4 if config.lora and config.warm_start else config.lr  # a trained head needs less
    groups.append(
        {"params": list(head.parameters()), "highest": head_lr, "weight_decay": config.weight_decay}
    )
    state = TrainingState(
        head=head,
        adapter=adapter,
        optimiser=torch.optim.AdamW(groups, lr=config.lr),
        sampler=Sampler(batches.n_per_source, config.sampling, config.seed),
        rng=np.random.Generator(np.random.PCG64([config.seed, 1])),
    )
    kept = [e.split("val") for e in embeddings]
    validate = _Validation(
        model, [Slices(model, preprocess, e.dataset, e.samples, None if config.lora else e) for e in kept]
    )
    _loop(config, run, state, batches, validate, console)
    run.update_metrics(
        "train",
        {
            "best_val_iou": state.best_iou if len(validate) else None,
            "best_step": state.best_step,
            "steps": config.steps,
            "train_slices": sum(batches.n_per_source),
            "val_slices": len(validate),
            "seconds": round(state.seconds, 2),
            "extraction_seconds": round(extraction_seconds, 2),
            "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "head_parameters": count_parameters(head),
            "adapter_parameters": sum(p.numel() for _, p in adapter),
            "last_val_iou": state.history[-1]["val_iou"],
        },
    )
    run.set_state("finished")
    (run.checkpoints / "state.pt").unlink(missing_ok=True)


def _shown(
    embeddings: Sequence[Embeddings],
    views: Sequence[View],
    backbone: Backbone,
    config: TrainConfig,
    workspace: Workspace,
    console: Console | None,
) -> list[list[Embeddings]]:
    """Return the training slices of each dataset in every view; the plain view is there already."""
    shown = []
    for plain in (e.split("train") for e in embeddings):
        slices = plain.dataset.split("train")
        others = [
            embed_dataset(slices, backbone, config, workspace, view=view, console=console)
            for view in views[1:]
        ]
        shown.append([plain, *others])
    return shown


def _reset(module: nn.Module) -> None:
    """Draw a module's first values anew, so that they depend on the seed alone."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
