"""``emvfm train``: a head on frozen embeddings, LoRA, full fine-tuning, or a U-Net from scratch."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Annotated

import typer

from emvfm.backbones.options import BackboneOptions, LoraOptions
from emvfm.cli.command import Call, command
from emvfm.segmentation.augmentation_options import Augmentation
from emvfm.segmentation.config import TrainConfig

__all__ = ["register"]

_PANELS = {
    "What is trained on what": (
        *("data", "slices", "protocol", "backbone", "lora", "full", "head", "width", "dropout"),
        *("unet_width", "unet_depth"),
    ),
    "Resolution and views": ("scale", "input_size", "pixel_size", "fuse", "views", "crop"),
    "Training": (
        *("loss", "class_weights", "sampling", "foreground_crops", "steps", "batch", "accumulate"),
        *("lr", "lora_lr", "full_lr", "layer_decay", "schedule", "warmup", "weight_decay"),
        *("lora_weight_decay", "clip", "ema", "amp", "warm_start", "head_steps", "warm_lr"),
    ),
    "Validation": ("validation", "evaluate_every", "select", "early_stop", "tensorboard"),
    "Augmentation": tuple(field.name for field in fields(Augmentation)),
    "LoRA": tuple(field.name for field in fields(LoraOptions)),
    "Backbone": tuple(
        field.name
        for field in fields(BackboneOptions)
        if field.name not in ("backbone", "input_size", "pixel_size")
    ),
}


def register(app: typer.Typer) -> None:
    @command(app, "train", TrainConfig, panels=_PANELS)
    def train(
        call: Call,
        config: TrainConfig,
        force: Annotated[bool, typer.Option("--force", help="Train on data that the audit refused.")] = False,
    ) -> None:
        """Train a segmentation model; resumes by itself, and never trains the same thing twice.

        A head on a frozen backbone, with --lora or --full the backbone too, or --backbone unet from scratch.
        """
        from rich.markup import escape

        from emvfm.report.training_figures import learning_curve
        from emvfm.segmentation.training import train as train_run

        run = train_run(config, call.workspace, force=force, draw=learning_curve, console=call.console)
        metrics, facts = run.metrics["train"], run.provenance
        name = facts["backbone"]
        if not name.endswith(facts["adaptation"]):
            name += f", {facts['adaptation']}"
        if metrics["val_slices"]:
            judged = (
                f"validation IoU {metrics['best_val_iou']:.3f} at step {metrics['best_step']} "
                f"(on {metrics['val_slices']} slices that also chose the step: not a test score)"
            )
        else:
            judged = "no validation slices: the last step is kept"
        text = (
            f"[bold]{escape(run.path.name)}[/]\n"
            f"{escape(name)}; {metrics['train_slices']} training slices, "
            f"{metrics['steps']} steps in {metrics['seconds']:.0f} s\n"
            f"{judged}\n"
            f"next: emvfm eval {escape(run.path.name)} --data {shlex.quote(config.data[0].split(':')[0])}"
        )
        if config.lora:
            text += f"\n      emvfm backbones export {escape(run.path.name)} --to FOLDER, for plain peft"
        call.result({"run": run.path.name, "folder": str(run.path), **facts, "metrics": metrics}, text)
