"""The options of ``emvfm train`` and ``emvfm eval``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.backbones.options import BackboneOptions, LoraOptions
from emvfm.config import Doc
from emvfm.segmentation.augmentation_options import Augmentation
from emvfm.segmentation.evaluation_options import EvalConfig

__all__ = ["EvalConfig", "TrainConfig"]


_Head = Literal["deconv", "linear", "deconv-reference", "dpt", "fpn", "detail", "unet"]
_Loss = Literal[
    "ce", "dice", "dice-background", "ce+dice", "tversky", "focal", "ce+boundary", "dice+boundary"
]


@dataclass(frozen=True)
class TrainConfig(Augmentation, LoraOptions, BackboneOptions):
    """What is trained on what; defaults were found on validation slices of Lucchi and VNC."""

    backbone: Annotated[
        str, Doc("Name of `backbones list`, timm:NAME, openclip:MODEL/TAG, or unet: a U-Net from scratch.")
    ] = "dinov2"
    data: Annotated[tuple[str, ...], Doc("Dataset to train on; repeat it to train on several together.")] = ()
    slices: Annotated[
        int | None,
        Gt(0),
        Doc("Train on at most so many slices of each dataset, evenly spaced; without it all."),
    ] = None
    protocol: Annotated[
        Literal["none", "paper"],
        Doc("paper: the recipe of arXiv 2602.08505; fills what is at its usual value, refuses the rest."),
    ] = "none"
    lora: Annotated[bool, Doc("Adapt the backbone with LoRA instead of keeping it frozen.")] = False
    full: Annotated[bool, Doc("Train every weight of the backbone.")] = False
    scale: Annotated[
        float | None, Gt(0), Doc("Enlarge images by this before the model; --input-size xN.")
    ] = None
    fuse: Annotated[
        Literal["none", "shift", "scale"],
        Doc(
            "Tokens twice as close, from the patch grid moved by half a patch, or the image at twice the size."
        ),
    ] = "none"
    head: Annotated[_Head, Doc("Segmentation head; unet and detail also see the pixels.")] = "unet"
    width: Annotated[int | None, Gt(0), Doc("Channels in the head; without it 128 for unet, else 96.")] = None
    dropout: Annotated[
        float, Ge(0), Lt(1), Doc("Channel dropout in the head, or at a U-Net's coarsest level.")
    ] = 0.2
    token_dropout: Annotated[
        float, Ge(0), Lt(1), Doc("Chance that a head which sees pixels does without a crop's tokens.")
    ] = 0.3
    unet_width: Annotated[int, Gt(0), Doc("Channels of the first level of --backbone unet.")] = 32
    unet_depth: Annotated[int, Ge(1), Le(6), Doc("Halvings in --backbone unet.")] = 4
    views: Annotated[
        int,
        Ge(1),
        Le(8),
        Doc("Views of each training slice (turned, patch grid moved) that a frozen backbone embeds once."),
    ] = 4
    loss: Annotated[_Loss, Doc("Loss.")] = "ce+dice"
    class_weights: Annotated[
        tuple[float, ...] | None, Doc("Weight of background, then of foreground; not for dice or tversky.")
    ] = None
    sampling: Annotated[
        Literal["plain", "balanced", "foreground"],
        Doc("plain: every slice alike; balanced: every dataset; foreground: slices by their foreground."),
    ] = "plain"
    foreground_crops: Annotated[
        float, Ge(0), Le(1), Doc("Chance that a crop is laid around a pixel of foreground.")
    ] = 0.0
    validation: Annotated[
        Literal["split", "random"],
        Doc("split: the val split; random: a tenth of the train and val slices, neighbours of trained ones."),
    ] = "split"
    steps: Annotated[
        int | None,
        Gt(0),
        Doc("Optimiser steps; without it 600, 200 for LoRA or full, 1000 for a U-Net."),
    ] = None
    batch: Annotated[
        int | None,
        Gt(0),
        Doc("Crops a step; without it 4, with LoRA or full 2."),
    ] = None
    accumulate: Annotated[int, Gt(0), Doc("Batches whose gradients make one step.")] = 1
    crop: Annotated[
        int | None,
        Ge(0),
        Doc("Side of a training crop in input pixels; without it 336; 0: whole images."),
    ] = None
    lr: Annotated[float, Gt(0), Doc("Highest learning rate of the head.")] = 3e-3
    lora_lr: Annotated[float, Gt(0), Doc("Highest learning rate of the adapter.")] = 5e-4
    full_lr: Annotated[float, Gt(0), Doc("Highest learning rate of the last block in --full.")] = 5e-5
    layer_decay: Annotated[
        float, Gt(0), Le(1), Doc("Factor on the learning rate from a block to the one before in --full.")
    ] = 0.75
    schedule: Annotated[
        Literal["cosine", "constant"], Doc("Learning rate after the warm-up: to zero, or as it is.")
    ] = "cosine"
    weight_decay: Annotated[float, Ge(0), Doc("Weight decay of AdamW.")] = 1e-2
    lora_weight_decay: Annotated[float, Ge(0), Doc("Weight decay of the adapter.")] = 0.0
    warmup: Annotated[int, Ge(0), Doc("Steps of linear warm-up.")] = 50
    clip: Annotated[float, Ge(0), Doc("Largest norm of the gradient; 0: any.")] = 1.0
    amp: Annotated[bool, Doc("Compute the head in bfloat16 where the hardware has it.")] = True
    ema: Annotated[
        float, Ge(0), Lt(1), Doc("Judge and keep a moving average of the weights with this decay; 0: none.")
    ] = 0.0
    evaluate_every: Annotated[int, Gt(0), Doc("Steps between validations, each with a checkpoint.")] = 100
    select: Annotated[
        Literal["iou", "loss"], Doc("What chooses the step on validation slices: foreground IoU or the loss.")
    ] = "iou"
    early_stop: Annotated[
        int, Ge(0), Doc("Stop after this many validations without a better one; 0: never.")
    ] = 0
    warm_start: Annotated[
        bool, Doc("Begin LoRA or --full with the head trained on the frozen backbone (arXiv 2202.10054).")
    ] = True
    head_steps: Annotated[
        int | None,
        Gt(0),
        Doc(
            "Steps of that head, without it as many as it would get alone; its other options are those given here."
        ),
    ] = None
    warm_lr: Annotated[float, Gt(0), Doc("Highest learning rate of a head that begins trained.")] = 3e-4
    tensorboard: Annotated[bool, Doc("Write the run for TensorBoard, too (extra: tensorboard).")] = False
    seed: int = 0
