"""Options are filled in as documented, contradictions are told, and the paper's recipe is the paper's."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from emvfm.config import resolve, to_dict
from emvfm.errors import UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.heads import HEADS, build_head
from emvfm.segmentation.recipe import (
    PIXEL_HEADS,
    adaptation_name,
    adaptation_of,
    deviations,
    resolved,
    unused,
)


def _asked(**changes: Any) -> TrainConfig:
    return TrainConfig(**{"data": ("a",), **changes})


@pytest.mark.parametrize(
    ("changes", "adaptation", "budget"),
    [
        ({}, "frozen", (600, 4, 336)),
        ({"head": "deconv"}, "frozen", (600, 4, 336)),
        ({"lora": True}, "lora", (200, 2, 336)),
        ({"lora": True, "head": "fpn"}, "lora", (200, 2, 336)),
        ({"full": True}, "full", (200, 2, 336)),
        ({"backbone": "unet"}, "scratch", (1000, 4, 336)),
        ({"backbone": "unet", "steps": 7, "batch": 3, "crop": 0}, "scratch", (7, 3, 0)),
    ],
)
def test_the_budget_follows_the_adaptation(changes: dict[str, Any], adaptation: str, budget: Any) -> None:
    config = resolved(_asked(**changes), 10)
    assert adaptation_of(config) == adaptation
    assert (config.steps, config.batch, config.crop) == budget
    alone = resolved(_asked(**{**changes, "lora": False, "full": False, "steps": None}), 10)
    assert config.head_steps == alone.steps or adaptation == "scratch"
    assert resolved(config, 10) == config


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"data": ()}, "--data"),
        ({"lora": True, "full": True}, "--full"),
        ({"backbone": "unet", "lora": True}, "--lora"),
        ({"backbone": "unet", "fuse": "shift"}, "--fuse"),
        ({"backbone": "unet", "layers": (0,)}, "--layers"),
        ({"adapter": "run"}, "--adapter"),
        ({"class_weights": (1.0, 2.0, 3.0)}, "--class-weights"),
        ({"class_weights": (1.0, 2.0), "loss": "dice"}, "counts one class"),
        ({"class_weights": (1.0, 2.0), "loss": "tversky"}, "counts one class"),
        ({"class_weights": (1.0, -2.0)}, "positive"),
        ({"scale": 2.0, "input_size": "518"}, "--scale"),
        ({"scale": 2.0, "pixel_size": "5nm"}, "--scale"),
    ],
)
def test_options_that_contradict_each_other_are_told(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(UsageError, match=part):
        resolved(_asked(**changes), 10)


def test_scale_is_another_word_for_the_input_size() -> None:
    assert resolved(_asked(scale=2.0), 1) == resolved(_asked(input_size="x2"), 1)
    assert resolved(_asked(scale=1.5), 1).input_size == "x1.5"


def test_unused_options_are_options() -> None:
    names = {field.name for field in fields(TrainConfig)}
    for changes in ({}, {"lora": True}, {"full": True}, {"backbone": "unet"}):
        assert unused(_asked(**changes)) <= names
    assert {"lora_rank", "warm_start", "gamma"} <= unused(_asked(head="deconv"))
    assert not {"steps", "loss", "seed", "head", "fuse"} & unused(_asked(lora=True))
    assert "gamma" not in unused(_asked(head="detail"))
    assert not {"warp", "gamma"} & unused(_asked(head="unet"))
    assert "warp" in unused(_asked(head="fpn"))


def test_heads_that_see_pixels_are_those_of_the_table() -> None:
    shape = {"layers": 1, "patch": 14, "width": 24}
    assert set(PIXEL_HEADS) == {name for name in HEADS if build_head(name, 8, **shape).sees_pixels}


def test_the_name_of_the_adaptation_is_honest() -> None:
    assert adaptation_name(_asked(lora=True, dora=True, lora_rank=4)) == "DoRA r4"
    assert adaptation_name(_asked(lora=True, rslora=True)) == "rsLoRA r16"
    assert adaptation_name(_asked(lora=True, lora_init="pissa")) == "LoRA r16, PiSSA"
    assert (
        adaptation_name(_asked(lora=True, lora_init="olora", fuse="scale"))
        == "LoRA r16, OLoRA, fused by scale"
    )
    assert adaptation_name(_asked(full=True)) == "fully fine-tuned"
    assert adaptation_name(_asked(fuse="shift")) == "frozen, fused by shift"
    assert adaptation_name(_asked(backbone="unet")) == "from scratch"


# arXiv 2602.08505 and its code: AdamW 5e-5, decay 1e-4, constant, clip 1, Dice with background, last layer,
# long edge 1022, no augmentation, batch 1 (2 together), 1000 epochs (80 together), patience 20 on the loss.
PAPER: dict[str, Any] = {
    "lr": 5e-5,
    "lora_lr": 5e-5,
    "weight_decay": 1e-4,
    "lora_weight_decay": 1e-4,
    "schedule": "constant",
    "warmup": 0,
    "clip": 1.0,
    "loss": "dice-background",
    "head": "deconv-reference",
    "flips": False,
    "warp": 0.0,
    "noise": 0.0,
    "views": 1,
    "crop": 0,
    "validation": "random",
    "select": "loss",
    "early_stop": 20,
    "precision": "float32",
    "warm_start": False,
    "lora_rank": 16,
    "lora_alpha": 32.0,
    "lora_targets": ("attention",),
}


@pytest.mark.parametrize(
    ("data", "backbone", "slices", "more"),
    [
        (("a",), "dinov2", 149, {"batch": 1, "steps": 149_000, "input_size": "1022", "layers": (11,)}),
        (("a", "b"), "dinov3", 165, {"batch": 2, "steps": 6640, "input_size": "1008", "layers": (11,)}),
    ],
)
def test_the_protocol_is_that_of_the_paper(data: Any, backbone: str, slices: int, more: Any) -> None:
    config = resolved(TrainConfig(data=data, backbone=backbone, protocol="paper", lora=True), slices)
    for name, value in {**PAPER, **more}.items():
        assert getattr(config, name) == value, name
    assert config.evaluate_every == -(-slices // config.batch)  # an epoch
    assert resolved(config, slices) == config
    assert resolve(TrainConfig, flags=to_dict(config)) == config
    assert deviations(config, slices)
    assert not any("steps" in line for line in deviations(config, slices))


@pytest.mark.parametrize("changes", [{"lr": 1e-3}, {"head": "linear"}, {"layers": (0,)}, {"scale": 2.0}])
def test_the_protocol_refuses_what_is_not_its_own(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="recipe of the paper"):
        resolved(_asked(protocol="paper", **changes), 10)


def test_the_budget_of_the_protocol_may_be_cut_and_is_then_told() -> None:
    config = resolved(_asked(protocol="paper", steps=30), 10)
    assert config.steps == 30
    assert any("steps 30 instead of 10000" in line for line in deviations(config, 10))
    assert any("at most 3" in line for line in deviations(replace(config, slices=3), 10))
    assert deviations(replace(config, protocol="none"), 10) == []


def test_the_paper_has_no_unet() -> None:
    with pytest.raises(UsageError, match="U-Net"):
        resolved(_asked(protocol="paper", backbone="unet"), 10)
