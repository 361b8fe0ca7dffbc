"""The options of ``emvfm train`` and ``emvfm eval``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.backbones.options import BackboneOptions, LoraOptions
from emvfm.config import Doc
from emvfm.segmentation.evaluation_options import EvalConfig

__all__ = ["EvalConfig", "TrainConfig"]


@dataclass(frozen=True)
class TrainConfig(LoraOptions, BackboneOptions):
    """What is trained on what; defaults were found on validation slices of Lucchi and VNC."""

    data: Annotated[tuple[str, ...], Doc("Dataset to train on; repeat it to train on several together.")] = ()
    lora: Annotated[bool, Doc("Adapt the backbone with LoRA instead of keeping it frozen.")] = False
    head: Annotated[Literal["deconv", "linear", "deconv-reference"], Doc("Segmentation head.")] = "deconv"
    width: Annotated[int, Gt(0), Doc("Channels of the deconv head.")] = 96
    dropout: Annotated[float, Ge(0), Lt(1), Doc("Channel dropout in the head.")] = 0.2
    views: Annotated[
        int,
        Ge(1),
        Le(8),
        Doc("Views of each training slice (turned, patch grid moved) that a frozen backbone embeds once."),
    ] = 4
    loss: Annotated[Literal["ce", "dice", "dice-background", "ce+dice", "tversky", "focal"], Doc("Loss.")] = (
        "ce+dice"
    )
    sampling: Annotated[
        Literal["plain", "balanced"], Doc("plain: every slice alike; balanced: every dataset alike.")
    ] = "plain"
    steps: Annotated[
        int | None, Gt(0), Doc("Optimiser steps; without it 600 for a frozen backbone, 200 for LoRA.")
    ] = None
    batch: Annotated[int | None, Gt(0), Doc("Crops a step; without it 4 frozen, 2 for LoRA.")] = None
    crop: Annotated[int, Gt(0), Doc("Side of a training crop in pixels of the model's input.")] = 448
    lr: Annotated[float, Gt(0), Doc("Highest learning rate of the head.")] = 2e-3
    lora_lr: Annotated[float, Gt(0), Doc("Highest learning rate of the adapter.")] = 5e-4
    weight_decay: Annotated[float, Ge(0), Doc("Weight decay of AdamW.")] = 1e-2
    warmup: Annotated[int, Ge(0), Doc("Steps of linear warm-up before the cosine.")] = 50
    evaluate_every: Annotated[int, Gt(0), Doc("Steps between validations, each with a checkpoint.")] = 100
    warm_start: Annotated[
        bool, Doc("Begin LoRA with the head trained on the frozen backbone (arXiv 2202.10054).")
    ] = True
    head_steps: Annotated[int, Gt(0), Doc("Steps of that head; its other options are those given here.")] = (
        600
    )
    seed: int = 0
