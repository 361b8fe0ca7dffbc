"""What a training does, from what was asked: defaults that depend on each other, and the recipe of the paper.

Pure functions over `TrainConfig`; a configuration that contradicts itself ends here, before anything is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, Literal

from emvfm.backbones.options import BackboneOptions, LoraOptions
from emvfm.backbones.registry import find_spec
from emvfm.errors import UsageError
from emvfm.segmentation.augmentation_options import Augmentation
from emvfm.segmentation.config import TrainConfig

__all__ = [
    "PAPER_DEVIATIONS",
    "PIXEL_HEADS",
    "UNET",
    "Adaptation",
    "adaptation_name",
    "adaptation_of",
    "deviations",
    "resolved",
    "unused",
]

UNET = "unet"
#: Heads that see the image beside the tokens.
PIXEL_HEADS = ("detail", "unet")
Adaptation = Literal["frozen", "lora", "full", "scratch"]

#: Steps, crops a step, and their side, where nobody says them.
_BUDGET: dict[Adaptation, tuple[int, int, int]] = {
    "frozen": (600, 4, 336),
    "lora": (200, 2, 336),
    "full": (200, 2, 336),
    "scratch": (1000, 4, 336),
}
_EPOCHS_ALONE, _EPOCHS_TOGETHER, _PATIENCE, _LONG_EDGE = 1000, 80, 20, 1022

#: What the preset can't copy from the paper's code, or copies knowing better.
PAPER_DEVIATIONS = (
    "the short edge is padded to whole patches, which count in no loss and no score, instead of rounded down",
    "slices of different sizes are cropped to what all have; the reference pads them with background",
    "means and deviations of the input are the backbone's own; the reference takes ImageNet's for all",
    "the tenth for validation is drawn from the slices in the manifest's order",
)


def adaptation_of(config: TrainConfig) -> Adaptation:
    """Return what is trained beside the head.

    Raises
    ------
    UsageError
        LoRA and full fine-tuning at once.
    """
    if config.lora and config.full:
        raise UsageError("--lora and --full exclude each other")
    if config.backbone == UNET:
        return "scratch"
    return "lora" if config.lora else "full" if config.full else "frozen"


#: First values of an adapter that make of it another method than LoRA.
_INIT_NAMES = {
    "default": "",
    "gaussian": ", Gaussian start",
    "orthogonal": ", orthogonal start",
    "pissa": ", PiSSA",
    "pissa_niter_4": ", PiSSA by 4 iterations",
    "olora": ", OLoRA",
}


def _adapter_name(config: TrainConfig) -> str:
    kind = ("rs" if config.rslora else "") + ("DoRA" if config.dora else "LoRA")
    return f"{kind} r{config.lora_rank}{_INIT_NAMES[config.lora_init]}"


def adaptation_name(config: TrainConfig) -> str:
    """Return the adaptation as it stands in results: with the variants of LoRA, which are methods of their own."""
    names = {"frozen": "frozen", "full": "fully fine-tuned", "scratch": "from scratch"}
    name = names.get(adaptation_of(config)) or _adapter_name(config)
    return name if config.fuse == "none" else f"{name}, fused by {config.fuse}"


def _usual(name: str) -> Any:
    return next(field.default for field in fields(TrainConfig) if field.name == name)


def _given(config: TrainConfig, *names: str) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(config, name) != _usual(name)]


_OF_BACKBONE = ("weights", "untrained", "layers", "fuse", "lora", "full")


def _check(config: TrainConfig) -> None:
    if not config.data:
        raise UsageError("no data to train on", where="--data", expected="the name of a dataset")
    if config.adapter is not None:
        raise UsageError(
            "training starts from a backbone without adapter", where="--adapter", got=config.adapter
        )
    if config.backbone == UNET and (given := _given(config, *_OF_BACKBONE)):
        raise UsageError(
            "a U-Net has no backbone", where="--backbone unet", got=", ".join(given), todo="leave these out"
        )
    if config.class_weights is not None and len(config.class_weights) != 2:
        raise UsageError(
            "one weight for background and one for foreground",
            where="--class-weights",
            got=len(config.class_weights),
            expected="it twice",
        )
    from emvfm.segmentation.losses import build_loss  # loads torch

    build_loss(config.loss, class_weights=config.class_weights)
    if config.scale is not None and (config.input_size != "native" or config.pixel_size is not None):
        raise UsageError("give one of --scale, --input-size and --pixel-size", got=f"--scale {config.scale}")


_STILL = {field.name: False if field.name == "flips" else 0.0 for field in fields(Augmentation)}


def _paper(config: TrainConfig, train_slices: int) -> dict[str, Any]:
    """Return the options of the reference (arXiv 2602.08505 and its code) for this backbone and data."""
    spec = find_spec(config.backbone)
    together = len(config.data) > 1
    batch = 2 if together else 1
    epoch = -(-train_slices // batch)
    return {
        "layers": (spec.depth - 1,),
        "input_size": str(_LONG_EDGE // spec.patch * spec.patch),
        "pixel_size": None,
        "fuse": "none",
        "head": "deconv-reference",
        "loss": "dice-background",
        "class_weights": None,
        "views": 1,
        **_STILL,
        "crop": 0,
        "sampling": "plain",
        "foreground_crops": 0.0,
        "lr": 5e-5,
        "lora_lr": 5e-5,
        "full_lr": 5e-5,
        "layer_decay": 1.0,
        "weight_decay": 1e-4,
        "lora_weight_decay": 1e-4,
        "warmup": 0,
        "schedule": "constant",
        "clip": 1.0,
        "precision": "float32",
        "amp": False,
        "ema": 0.0,
        "accumulate": 1,
        "batch": batch,
        "validation": "random",
        "select": "loss",
        "warm_start": False,
        "lora_rank": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.0,
        "lora_targets": ("attention",),
        "lora_blocks": None,
        "dora": False,
        "rslora": False,
        "lora_init": "default",
        "steps": epoch * (_EPOCHS_TOGETHER if together else _EPOCHS_ALONE),
        "evaluate_every": epoch,
        "early_stop": _PATIENCE,
    }


#: The budget is no part of the recipe: a shorter run is told apart in its provenance, not refused.
_BUDGET_OPTIONS = ("steps", "evaluate_every", "early_stop")


def _by_the_paper(config: TrainConfig, train_slices: int) -> TrainConfig:
    if config.backbone == UNET:
        raise UsageError("the paper has no U-Net", where="--protocol paper", got="--backbone unet")
    recipe, contradictions, filled = _paper(config, train_slices), [], {}
    for name, value in recipe.items():
        given = getattr(config, name)
        if given in (_usual(name), value):
            filled[name] = value
        elif name not in _BUDGET_OPTIONS:
            contradictions.append(f"{name} {given!r} instead of {value!r}")
    if contradictions:
        raise UsageError(
            "this is not the recipe of the paper",
            where="--protocol paper",
            got="; ".join(contradictions),
            todo="leave these options out, or the protocol",
        )
    return replace(config, **filled)


def deviations(config: TrainConfig, train_slices: int) -> list[str]:
    """Return how a resolved run by the paper differs from it; empty for other runs."""
    if config.protocol != "paper":
        return []
    recipe = _paper(config, train_slices)
    budget = [
        f"{name} {getattr(config, name)} instead of {recipe[name]}"
        for name in _BUDGET_OPTIONS
        if getattr(config, name) != recipe[name]
    ]
    if config.slices is not None:
        budget.append(f"at most {config.slices} training slices of each dataset")
    return [*budget, *PAPER_DEVIATIONS]


def resolved(config: TrainConfig, train_slices: int) -> TrainConfig:
    """Return `config` with all that depends on other options filled in, ready to be repeated as it is.

    Parameters
    ----------
    train_slices
        Slices to train on: the paper counts in epochs.

    Raises
    ------
    UsageError
        Options contradict each other, or the protocol.
    """
    _check(config)
    adaptation = adaptation_of(config)
    steps, batch, crop = _BUDGET[adaptation]
    head_steps, *_ = _BUDGET["frozen"]
    if config.scale is not None:
        config = replace(config, input_size=f"x{config.scale:g}", scale=None)
    if config.protocol == "paper":
        config = _by_the_paper(config, train_slices)
    weights = None if config.weights is None else config.weights.expanduser().absolute()
    return replace(
        config,
        steps=config.steps or steps,
        batch=config.batch or batch,
        crop=crop if config.crop is None else config.crop,
        head_steps=config.head_steps or head_steps,
        width=config.width or (128 if config.head == "unet" else 96),
        weights=weights,
    )


_LORA = {*(field.name for field in fields(LoraOptions)), "lora_lr", "lora_weight_decay"}
_FULL = {"full_lr", "layer_decay"}
_UNET = {"unet_width", "unet_depth"}
_START = {"warm_start", "head_steps", "warm_lr"}
_MOVED = {"warp", "rotation", "zoom", "elastic"}  # with the pixels under them
_GREY = {field.name for field in fields(Augmentation)} - _MOVED - {"flips"}
_PIXELS = _MOVED | _GREY | {"token_dropout"}  # of a head beside a frozen backbone
_BACKBONE = {field.name for field in fields(BackboneOptions)} - {"backbone", "input_size", "pixel_size"}

_UNUSED: Mapping[Adaptation, set[str]] = {
    "frozen": _LORA | _FULL | _UNET | _START | _PIXELS,
    "lora": _FULL | _UNET,
    "full": _LORA | _UNET,
    "scratch": _LORA | _FULL | _START | _BACKBONE | {"head", "width", "views", "fuse", "token_dropout"},
}


def unused(config: TrainConfig) -> set[str]:
    """Return the options that don't matter to this training; runs that differ in them alone are the same."""
    dropped = set(_UNUSED[adaptation_of(config)])
    if config.backbone == UNET:
        return dropped
    return dropped - _PIXELS if config.head in PIXEL_HEADS else dropped | {"token_dropout"}
