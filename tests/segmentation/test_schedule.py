"""The learning rate over the steps, and over the depth of timm's and OpenCLIP's transformers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from emvfm.errors import UsageError
from emvfm.segmentation.schedule import layerwise_groups, level_of, rate_factor, without_decay

OPEN_CLIP = ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight")


def test_the_rate_warms_up_linearly_and_ends_at_zero() -> None:
    rates = [rate_factor(step, 1000, 100) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert all(rate > 0 for rate in rates)
    assert rates[:90] == sorted(rates[:90])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[49] == pytest.approx(0.5, abs=0.01)
    assert rates[500] == pytest.approx(0.5)
    assert rates[-1] < 1e-5
    assert max(rates) > 0.97


def test_the_rate_after_warm_up_is_that_of_torch() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50)
    for step in range(50):
        assert rate_factor(step, 50, 0) == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-9)
        optimiser.step()
        schedule.step()


def test_no_warm_up_starts_at_the_top_and_one_step_is_enough() -> None:
    assert rate_factor(0, 10, 0) == 1.0
    assert rate_factor(0, 1, 0) == 1.0
    assert rate_factor(0, 1, 50) == pytest.approx(1 / 50)


def test_a_constant_rate_warms_up_and_stays() -> None:
    rates = [rate_factor(step, 20, 4, "constant") for step in range(20)]
    assert rates == [0.25, 0.5, 0.75] + [1.0] * 17


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return timm.create_model("test_vit", pretrained=False)


def _groups(module: nn.Module, **options: float) -> list[dict]:
    numbers = {"rate": 1e-3, "decay": 0.5, "weight_decay": 0.05, **options}
    return layerwise_groups(module.named_parameters(), "blocks", len(module.blocks), **numbers)


def test_every_parameter_has_one_group_and_the_rate_of_its_depth(vit: nn.Module) -> None:
    groups, depth = _groups(vit), len(vit.blocks)
    found = {id(p): group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(vit.parameters()))
    for name, parameter in vit.named_parameters():
        level = level_of(name, "blocks", depth)
        group = found[id(parameter)]
        assert group["highest"] == pytest.approx(1e-3 * 0.5 ** (depth - level))
        assert group["weight_decay"] == (0.0 if without_decay(name, parameter) else 0.05)
    assert level_of("patch_embed.proj.weight", "blocks", depth) == 0
    assert found[id(vit.pos_embed)]["weight_decay"] == found[id(vit.cls_token)]["weight_decay"] == 0.0
    assert found[id(vit.blocks[-1].mlp.fc1.weight)]["highest"] == 1e-3
    assert found[id(vit.norm.weight)] == found[id(vit.blocks[-1].norm1.weight)]
    assert found[id(vit.blocks[0].attn.qkv.weight)]["weight_decay"] == 0.05
    assert found[id(vit.blocks[0].attn.qkv.bias)]["weight_decay"] == 0.0


def test_a_decay_of_one_is_one_rate_and_frozen_parameters_are_left_out(vit: nn.Module) -> None:
    assert {group["highest"] for group in _groups(vit, decay=1.0)} == {1e-3}
    module = timm.create_model("test_vit", pretrained=False).requires_grad_(False)
    with pytest.raises(UsageError, match="trainable"):
        _groups(module)
    module.blocks[-1].requires_grad_(True)
    trained = {id(p) for group in _groups(module) for p in group["params"]}
    assert trained == {id(p) for p in module.blocks[-1].parameters()}


def test_the_order_of_groups_does_not_depend_on_that_of_the_parameters(vit: nn.Module) -> None:
    shuffled = SimpleNamespace(
        named_parameters=lambda: reversed(list(vit.named_parameters())), blocks=vit.blocks
    )
    for one, other in zip(_groups(vit), _groups(shuffled), strict=True):  # type: ignore[arg-type]
        assert one["highest"] == other["highest"]
        assert {id(p) for p in one["params"]} == {id(p) for p in other["params"]}


def test_an_optimiser_takes_the_groups(vit: nn.Module) -> None:
    optimiser = torch.optim.AdamW(_groups(vit), lr=1.0)
    assert all("highest" in group for group in optimiser.param_groups)
    assert math.isclose(max(group["highest"] for group in optimiser.param_groups), 1e-3)


def test_names_of_open_clip_have_their_levels() -> None:
    blocks = "transformer.resblocks"
    assert [level_of(name, blocks, 12) for name in OPEN_CLIP] == [0] * 4
    assert level_of(f"{blocks}.0.attn.in_proj_weight", blocks, 12) == 1
    assert level_of(f"{blocks}.11.ln_1.bias", blocks, 12) == 12
    assert level_of("ln_post.weight", blocks, 12) == level_of("proj", blocks, 12) == 12
    assert without_decay("positional_embedding", nn.Parameter(torch.zeros(5, 4)))
    assert not without_decay("conv1.weight", nn.Parameter(torch.zeros(4, 3, 2, 2)))


def test_misuse_is_a_usage_error(vit: nn.Module) -> None:
    for decay in (0.0, 1.1):
        with pytest.raises(UsageError, match="decay"):
            _groups(vit, decay=decay)
    with pytest.raises(UsageError, match="no such block"):
        level_of("blocks.12.norm1.weight", "blocks", 12)
