"""Tokens against each library's own forward; cls, registers and patches told apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emvfm.backbones.backbone import Backbone, evenly_spaced
from emvfm.backbones.loading import load_spec
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.registry import BackboneSpec, find_spec
from emvfm.errors import UsageError
from emvfm.workspace import Workspace

Tiny = Callable[[str], BackboneSpec]
UNTRAINED = BackboneOptions(untrained=True, init="trunc_normal", precision="float32", device="cpu")


def _images(backbone: Backbone, rows: int, columns: int, batch: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows * 100 + columns)
    return torch.randn(batch, 3, rows * backbone.patch, columns * backbone.patch, generator=generator)


def _native(backbone: Backbone) -> torch.Tensor:
    n = backbone.spec.native // backbone.patch
    return _images(backbone, n, n, batch=1)


def _own(backbone: Backbone, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return backbone.library.own_tokens(backbone.module, images)


def _assert_split(backbone: Backbone, images: torch.Tensor, own: torch.Tensor, tolerance: float) -> None:
    """Compare every kind of token with its place in the library's own sequence."""
    with torch.no_grad():
        tokens = backbone.tokens(images, [backbone.depth - 1])
    h, w = (side // backbone.patch for side in images.shape[2:])
    registers = backbone.spec.registers
    assert tokens.patches.shape == (len(images), 1, h, w, backbone.width)
    assert tokens.cls.shape == (len(images), 1, backbone.width)
    assert tokens.registers.shape == (len(images), 1, registers, backbone.width)
    torch.testing.assert_close(tokens.cls[:, 0], own[:, 0], atol=tolerance, rtol=0)
    torch.testing.assert_close(tokens.registers[:, 0], own[:, 1 : 1 + registers], atol=tolerance, rtol=0)
    patches = own[:, 1 + registers :].unflatten(1, (h, w))
    torch.testing.assert_close(tokens.patches[:, 0], patches, atol=tolerance, rtol=0)


def test_tokens_are_the_librarys_own_at_native_size(any_spec: BackboneSpec, workspace: Workspace) -> None:
    backbone = load_spec(any_spec, UNTRAINED, workspace)
    images = _native(backbone)
    _assert_split(backbone, images, _own(backbone, images), 1e-5)


def test_tokens_are_timms_own_at_other_sizes(tiny: Tiny, workspace: Workspace) -> None:
    for kind in ("vit", "dinov2_reg", "dinov3"):
        backbone = load_spec(tiny(kind), UNTRAINED, workspace)
        images = _images(backbone, 3, 7)
        _assert_split(backbone, images, _own(backbone, images), 1e-5)


def test_an_open_clip_tower_built_for_another_size_gives_the_same_tokens(
    tiny: Tiny, workspace: Workspace
) -> None:
    """The oracle of the interpolated positions: open_clip's own resizing at load."""
    from open_clip.model import resize_pos_embed

    spec = tiny("openclip")
    small = load_spec(spec, UNTRAINED, workspace)
    bigger = replace(spec, overrides=tuple(sorted({**dict(spec.overrides), "image_size": 96}.items())))
    big = load_spec(bigger, UNTRAINED, workspace)
    state = {f"visual.{key}": value for key, value in small.module.state_dict().items()}
    resize_pos_embed(state, torch.nn.ModuleDict({"visual": big.module}))
    big.module.load_state_dict({key.removeprefix("visual."): value for key, value in state.items()})
    images = _images(small, 6, 6)
    _assert_split(small, images, _own(big, images), 1e-5)
    assert small.module.positional_embedding.shape == (17, 64)  # untouched by the other size


def test_gradients_reach_interpolated_positions(tiny: Tiny, workspace: Workspace) -> None:
    for kind, name in (("openclip", "positional_embedding"), ("dinov2", "pos_embed")):
        backbone = load_spec(tiny(kind), UNTRAINED, workspace)
        backbone.module.requires_grad_(True)
        backbone.tokens(_images(backbone, 3, 5)).patches.square().sum().backward()
        gradient = backbone.module.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().max() > 0


def test_layers_come_in_the_order_asked_each_through_the_final_norm(
    any_spec: BackboneSpec, workspace: Workspace
) -> None:
    backbone = load_spec(any_spec, UNTRAINED, workspace)
    images = _images(backbone, 3, 4)
    with torch.no_grad():
        mixed = backbone.tokens(images, [2, 0])
        alone = [backbone.tokens(images, [layer]) for layer in (2, 0)]
    for part in ("cls", "patches", "registers"):
        expected = torch.cat([getattr(tokens, part) for tokens in alone], dim=1)
        torch.testing.assert_close(getattr(mixed, part), expected)
    # An untrained final norm is the identity after normalisation: every token has mean 0, variance 1.
    patches = mixed.patches
    torch.testing.assert_close(patches.mean(-1), torch.zeros_like(patches[..., 0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        patches.var(-1, correction=0), torch.ones_like(patches[..., 0]), atol=2e-2, rtol=0
    )


@pytest.mark.parametrize("kind", ["vit", "dinov3", "openclip"])
def test_one_forward_pass_an_image(tiny: Tiny, workspace: Workspace, kind: str) -> None:
    backbone = load_spec(tiny(kind), UNTRAINED, workspace)
    _, blocks = backbone.library.blocks(backbone.module)
    calls: list[int] = []
    for block in blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    backbone.tokens(_images(backbone, 2, 2), [0, 2, 1])
    assert len(calls) == 3
    calls.clear()
    backbone.tokens(_images(backbone, 2, 2), [0])
    assert len(calls) == 1  # blocks after the last layer asked for are left out


def test_images_of_a_batch_do_not_mix(any_spec: BackboneSpec, workspace: Workspace) -> None:
    backbone = load_spec(any_spec, UNTRAINED, workspace)
    images = _images(backbone, 2, 3, batch=3)
    with torch.no_grad():
        together = backbone.tokens(images).patches
        alone = torch.cat([backbone.tokens(image[None]).patches for image in images])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)


def test_patches_lie_row_by_row(tiny: Tiny, workspace: Workspace) -> None:
    """A change in one patch of the image changes that token of the first block most."""
    for kind in ("dinov2_reg", "dinov3", "openclip"):
        backbone = load_spec(tiny(kind), UNTRAINED, workspace)
        images = _images(backbone, 3, 5, batch=1)
        changed = images.clone()
        p = backbone.patch
        changed[:, :, p : 2 * p, 3 * p : 4 * p] += 3.0
        with torch.no_grad():
            difference = backbone.tokens(changed, [0]).patches - backbone.tokens(images, [0]).patches
        strongest = int(difference[0, 0].norm(dim=-1).argmax())
        assert divmod(strongest, 5) == (1, 3)


def test_without_class_token_cls_is_the_mean_of_the_patches(workspace: Workspace) -> None:
    spec = find_spec("timm:vit_medium_patch16_gap_240")
    spec = replace(
        spec, width=64, depth=2, heads=2, overrides=(("depth", 2), ("embed_dim", 64), ("num_heads", 2))
    )
    backbone = load_spec(spec, UNTRAINED, workspace)
    tokens = backbone.tokens(_images(backbone, 2, 3), [1])
    torch.testing.assert_close(tokens.cls, tokens.patches.flatten(2, 3).mean(2))


def test_bfloat16_is_close_and_returns_float32(any_spec: BackboneSpec, workspace: Workspace) -> None:
    exact = load_spec(any_spec, UNTRAINED, workspace)
    rough = load_spec(any_spec, replace(UNTRAINED, precision="bfloat16"), workspace)
    images = _images(exact, 3, 3)
    with torch.no_grad():
        a, b = exact.tokens(images).patches, rough.tokens(images).patches
    assert b.dtype == torch.float32
    assert 0 < float((a - b).norm() / a.norm()) < 0.05
    assert {p.dtype for p in rough.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 8, 8), "multiples of 16"),
        ((1, 3, 40, 64), "multiples of 16"),
        ((3, 32, 32), "batch of images"),
        ((1, 1, 32, 32), "batch of images"),
    ],
)
def test_a_wrong_image_is_refused(
    tiny: Tiny, workspace: Workspace, shape: tuple[int, ...], words: str
) -> None:
    backbone = load_spec(tiny("dinov3"), UNTRAINED, workspace)
    with pytest.raises(UsageError, match=words):
        backbone.tokens(torch.zeros(shape))


@pytest.mark.parametrize("layers", [(3,), (-1,), (0, 0), ()])
def test_a_wrong_layer_is_refused(tiny: Tiny, workspace: Workspace, layers: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="from 0 to 2"):
        load_spec(tiny("dinov2"), UNTRAINED, workspace).choose_layers(layers)


@pytest.mark.parametrize(
    ("depth", "n", "layers"),
    [(12, 4, (2, 5, 8, 11)), (24, 4, (5, 11, 17, 23)), (40, 4, (9, 19, 29, 39)), (3, 4, (0, 1, 2))],
)
def test_default_layers_are_evenly_spaced(depth: int, n: int, layers: tuple[int, ...]) -> None:
    assert evenly_spaced(depth, n) == layers


def test_gradient_checkpointing_changes_nothing(any_spec: BackboneSpec, workspace: Workspace) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = load_spec(any_spec, UNTRAINED, workspace)
        backbone.module.requires_grad_(True)
        backbone.set_grad_checkpointing(checkpointing)
        backbone.tokens(_images(backbone, 2, 2), [2]).cls.square().sum().backward()
        gradients.append([p.grad for p in backbone.module.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def _real(shared_weights: Path, kind: str) -> tuple[BackboneSpec, Path]:
    if kind == "timm":
        return (
            find_spec("vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
            shared_weights / "vit_tiny_patch16_224_augreg_in21k_ft_in1k_fp16.safetensors",
        )
    config = json.loads((shared_weights / "vit_tiny_open_clip_config.json").read_text())
    overrides = {**config["vision_cfg"], "embed_dim": config["embed_dim"]}
    spec = replace(
        find_spec("openclip"),
        width=192,
        heads=3,
        overrides=tuple(sorted(overrides.items())),
        name="tiny-clip",
    )
    return spec, shared_weights / "vit_tiny_openclip_visual_fp16.safetensors"


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_golden_tokens_of_real_weights(shared_weights: Path, workspace: Workspace, kind: str) -> None:
    """The oracle is the library's own model, built and loaded by the library alone."""
    from safetensors.torch import load_file

    spec, path = _real(shared_weights, kind)
    backbone = load_spec(spec, BackboneOptions(weights=path, precision="float32", device="cpu"), workspace)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(5))
    state = {key: value.float() for key, value in load_file(path).items()}
    with torch.no_grad():
        if kind == "timm":
            import timm

            model = timm.create_model("vit_tiny_patch16_224", num_classes=1000).eval()
            model.load_state_dict(state)
            own = model.forward_features(images)
        else:
            import open_clip

            config = json.loads((shared_weights / "vit_tiny_open_clip_config.json").read_text())
            model = open_clip.CLIP(**config, text_cfg={"layers": 1, "width": 64, "heads": 1}).eval()
            model.requires_grad_(
                False
            )  # as ours: torch takes another attention kernel for parameters that train
            model.visual.load_state_dict({k.removeprefix("visual."): v for k, v in state.items()})
            pooled, patches = model.visual(images)  # proj is the identity in this file
            own = torch.cat([pooled[:, None], patches], dim=1)
    _assert_split(backbone, images, own, 1e-5)


def test_both_layouts_of_the_same_weights_give_the_same_tokens(
    shared_weights: Path, workspace: Workspace
) -> None:
    """timm's and open_clip's copies of one ViT-Ti agree at native size, on every layer.

    At other sizes they need not: the open_clip copy carries the patch bias in its positions.
    """
    options = BackboneOptions(precision="float32", device="cpu")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(6))
    found = []
    for kind in ("timm", "open_clip"):
        spec, path = _real(shared_weights, kind)
        backbone = load_spec(spec, replace(options, weights=path), workspace)
        with torch.no_grad():
            found.append(backbone.tokens(images).patches)
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-3  # both are stored as float16
