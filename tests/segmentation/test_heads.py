"""Shapes, parameter counts and training behaviour of the heads."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from emvfm.errors import UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.heads import DEFAULT_HEAD, HEADS, build_head, count_parameters, logits_at
from emvfm.segmentation.heads.dpt import layers_of_levels

STRIDES = {"linear": 1, "deconv": 4, "deconv-reference": 16, "dpt": 4, "fpn": 4}


def test_every_head_is_known_and_the_default_is_one_of_them() -> None:
    assert set(STRIDES) <= set(HEADS)
    assert DEFAULT_HEAD in HEADS


@pytest.mark.parametrize("name", STRIDES)
@pytest.mark.parametrize("classes", [2, 3])
def test_logits_have_the_classes_and_the_stride_of_the_head(name: str, classes: int) -> None:
    logits = build_head(name, 24, classes=classes)(torch.randn(2, 24, 3, 5))
    assert logits.shape == (2, classes, 3 * STRIDES[name], 5 * STRIDES[name])
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", HEADS)
def test_heads_say_whether_they_see_pixels_and_ignore_them_otherwise(name: str) -> None:
    head = build_head(name, 16, layers=2, patch=4).eval()
    tokens, pixels = torch.randn(1, 16, 3, 5), torch.randn(1, 3, 12, 20)
    if not head.sees_pixels:
        assert torch.equal(head(tokens, pixels), head(tokens))
    assert logits_at(head, tokens, (12, 20), pixels).shape == (1, 2, 12, 20)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [(37, 61), (48, 80), (5, 7)])
def test_logits_at_reach_any_size(name: str, size: tuple[int, int]) -> None:
    head = build_head(name, 16).eval()
    pixels = torch.randn(1, 3, 48, 80) if head.sees_pixels else None
    assert logits_at(head, torch.randn(1, 16, 3, 5), size, pixels).shape == (1, 2, *size)


def test_logits_at_is_the_bilinear_interpolation_between_pixel_centres() -> None:
    row = torch.tensor([0.0, 1.0, 4.0])
    tokens = row.expand(1, 1, 1, 3)
    got = logits_at(nn.Identity(), tokens, (1, 6))[0, 0, 0]
    # Centres of the fine pixels lie at (i + 0.5) / 2 - 0.5 coarse pixels, clamped at the border.
    assert torch.allclose(got, torch.tensor([0.0, 0.25, 0.75, 1.75, 3.25, 4.0]))


@pytest.mark.parametrize(("channels", "parameters"), [(384, 3_828_866), (768, 4_025_474), (1024, 4_156_546)])
def test_the_reference_head_has_the_parameters_of_the_reference(channels: int, parameters: int) -> None:
    assert count_parameters(build_head("deconv-reference", channels)) == parameters


def test_the_parameters_of_the_linear_head_are_norm_weights_and_biases() -> None:
    assert count_parameters(build_head("linear", 100, classes=3)) == 2 * 100 + 3 * 100 + 3


def test_the_parameters_of_the_deconv_head_follow_from_its_layers() -> None:
    def norm(width: int) -> int:
        return 2 * width

    def convolution(inside: int, outside: int, side: int) -> int:
        return inside * outside * side**2 + outside

    want = convolution(200, 96, 1) + norm(96) + 2 * (convolution(96, 96, 3) + norm(96))
    for inside, outside in ((96, 48), (48, 32)):
        want += convolution(inside, outside, 2) + convolution(outside, outside, 3) + 2 * norm(outside)
    assert count_parameters(build_head("deconv", 200)) == want + convolution(32, 2, 1)


def test_frozen_parameters_are_not_counted() -> None:
    head = build_head("linear", 10)
    head.requires_grad_(False)
    assert count_parameters(head) == 0


@pytest.mark.parametrize("name", ["deconv", "dpt", "fpn"])
@pytest.mark.parametrize("width", [1, 3, 20, 33, 96])
def test_any_width_fits_the_group_norms(name: str, width: int) -> None:
    assert build_head(name, 7, width=width)(torch.randn(2, 7, 2, 2)).shape == (2, 2, 8, 8)


@pytest.mark.parametrize("layers", range(1, 14))
def test_no_layer_and_no_level_of_the_dpt_head_is_left_without(layers: int) -> None:
    levels = layers_of_levels(layers)
    assert len(levels) == 4
    assert all(len(level) >= 1 for level in levels)
    assert sorted({layer for level in levels for layer in level}) == list(range(layers))
    assert [level[0] for level in levels] == sorted(level[0] for level in levels)


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 6])
def test_the_dpt_head_uses_every_layer_and_sends_the_last_ones_farthest(layers: int) -> None:
    torch.manual_seed(0)
    head = build_head("dpt", 8 * layers, layers=layers, width=32).eval()
    tokens = torch.randn(1, 8 * layers, 9, 7, requires_grad=True)
    gradient = torch.autograd.grad(head(tokens)[0, 1, 18, 14], tokens)[0]
    assert head(tokens).shape == (1, 2, 36, 28)
    seen = gradient.abs().reshape(layers, 8, -1).sum((1, 2))
    assert (seen > 0).all()


@pytest.mark.parametrize("name", ["dpt", "fpn"])
@pytest.mark.parametrize("classes", [2, 5])
def test_heads_over_levels_stay_light(name: str, classes: int) -> None:
    head = build_head(name, 4 * 384, layers=4, width=96, classes=classes)
    assert count_parameters(head) < 1_500_000


@pytest.mark.parametrize("name", ["dpt", "fpn"])
def test_heads_over_levels_answer_for_a_single_token(name: str) -> None:
    assert build_head(name, 16, layers=2, width=16)(torch.randn(1, 16, 1, 1)).shape == (1, 2, 4, 4)


def test_the_linear_head_treats_each_token_alone_and_ignores_its_scale() -> None:
    head = build_head("linear", 12).eval()
    tokens = torch.randn(1, 12, 4, 4)
    changed = tokens.clone()
    changed[..., 0, 0] = 100 * torch.randn(1, 12)
    before, after = head(tokens), head(changed)
    assert torch.equal(before[..., 1:, :], after[..., 1:, :])
    assert not torch.allclose(before[..., 0, 0], after[..., 0, 0])
    assert torch.allclose(head(tokens * 50), before, atol=1e-3)


def test_the_deconv_head_sees_the_neighbours_of_a_token() -> None:
    head = build_head("deconv", 12).eval()
    tokens = torch.randn(1, 12, 7, 7)
    gradient = torch.autograd.grad(head(tokens.requires_grad_())[0, 1, 12, 12], tokens)[0]
    assert (gradient[0, :, 1, 3] != 0).any()  # pixel 12 lies in token 3; token 1 is two away


@pytest.mark.parametrize("name", ["linear", "deconv", "dpt", "fpn"])
def test_dropout_acts_in_training_only(name: str) -> None:
    torch.manual_seed(0)
    head, tokens = build_head(name, 32, dropout=0.5), torch.randn(1, 32, 4, 4)
    assert not torch.equal(head(tokens), head(tokens))
    head.eval()
    assert torch.equal(head(tokens), head(tokens))


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_gets_a_gradient_and_a_simple_mask_is_learnt(name: str) -> None:
    torch.manual_seed(0)
    tokens = torch.randn(2, 8, 4, 4)
    target = (tokens[:, 0] > 0).long().repeat_interleave(16, 1).repeat_interleave(16, 2)
    head = build_head(name, 8, width=32, dropout=0.0)
    pixels = torch.randn(2, 3, 64, 64) if head.sees_pixels else None
    optimiser = torch.optim.Adam(head.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(logits_at(head, tokens, (64, 64), pixels), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert losses[-1] < 0.7 * losses[0]


def test_unknown_heads_and_numbers_out_of_range_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"'mask2former'.*linear"):
        build_head("mask2former", 8)
    for wrong in (
        {"channels": 0},
        {"layers": 0},
        {"layers": 3},
        {"patch": 0},
        {"width": 0},
        {"classes": 1},
        {"dropout": 1.0},
        {"dropout": -0.1},
    ):
        with pytest.raises(UsageError):
            build_head("deconv", **{"channels": 8, **wrong})


def test_the_option_offers_what_there_is() -> None:
    assert set(get_args(get_type_hints(TrainConfig)["head"])) == set(HEADS)
