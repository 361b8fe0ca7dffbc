"""Every row of the table against the library's own configuration of the model."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from emvfm.backbones.loading import build_on_meta, library_of
from emvfm.backbones.lora import block_targets
from emvfm.backbones.registry import ALIASES, SPECS, BackboneSpec, find_spec
from emvfm.errors import MissingError, UsageError


def _names(library: str) -> list[BackboneSpec]:
    return [spec for spec in SPECS if spec.library == library]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_row_is_what_the_library_builds(spec: BackboneSpec) -> None:
    module = build_on_meta(spec)
    library = library_of(spec)
    _, blocks = library.blocks(module)
    assert sum(p.numel() for p in module.parameters()) == spec.parameters
    assert len(blocks) == spec.depth
    with torch.no_grad():
        images = torch.empty(2, 3, 2 * spec.patch, 3 * spec.patch, device="meta")
        tokens = library.layer_tokens(module, images, [0, spec.depth - 1])
    assert [t.shape for t in tokens] == [(2, spec.prefix + 6, spec.width)] * 2
    heads = getattr(blocks[0].attn, "num_heads", None)
    assert heads == spec.heads


@pytest.mark.parametrize("spec", _names("timm"), ids=lambda s: s.name)
def test_row_agrees_with_timms_configuration(spec: BackboneSpec) -> None:
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(f"{spec.model}.{spec.tag}", allow_unregistered=False)
    module = build_on_meta(spec)
    assert config.hf_hub_id == spec.hub
    assert (tuple(config.mean), tuple(config.std)) == (spec.mean, spec.std)
    assert config.input_size == (3, spec.native, spec.native)
    assert config.license == {"Apache-2.0": "apache-2.0", "DINOv3 License": "dinov3-license"}[spec.licence]
    assert (module.cls_token is not None) == spec.has_cls
    assert module.num_prefix_tokens == spec.prefix
    assert isinstance(module.norm, nn.LayerNorm)  # "final norm applied" would mean nothing without one
    assert "qkvb" not in spec.model


@pytest.mark.parametrize("spec", _names("open_clip"), ids=lambda s: s.name)
def test_row_agrees_with_open_clips_configuration(spec: BackboneSpec) -> None:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    model = open_clip.get_model_config(spec.model)
    weights = get_pretrained_cfg(spec.model.removesuffix("-quickgelu"), spec.tag)
    assert weights, f"{spec.tag} is no tag of {spec.model}"
    assert weights["hf_hub"].rstrip("/") == spec.hub
    assert (tuple(weights["mean"]), tuple(weights["std"])) == (spec.mean, spec.std)
    # The activation the weights were trained with, else the features are silently different ones.
    assert bool(weights.get("quick_gelu")) == bool(model.get("quick_gelu"))
    assert model["vision_cfg"]["image_size"] == spec.native
    assert build_on_meta(spec).grid_size == (spec.native // spec.patch,) * 2


@pytest.mark.parametrize(
    ("name", "trainable"),
    [  # the reference's own counts, rank 16 on all blocks
        ("dinov2_vits14_reg", 442_368),
        ("dinov3_vits16", 442_368),
        ("dinov2_vitb14", 884_736),
        ("dinov3_vitl16", 2_359_296),
        ("openclip_vitl14_laion2b", 2_359_296),
        ("openclip_vith14_laion2b", 3_932_160),
        ("dinov2_vitg14", 5_898_240),
    ],
)
def test_lora_parameters_are_the_published_ones(name: str, trainable: int) -> None:
    spec = find_spec(name)
    module = build_on_meta(spec)
    library = library_of(spec)
    library.open_for_adapters(module)
    prefix, _ = library.blocks(module)
    names = [f"{prefix}.{i}.{t}" for i in range(spec.depth) for t in block_targets(spec, ["attention"])]
    linear = [module.get_submodule(name) for name in names]
    assert sum(16 * (part.in_features + part.out_features) for part in linear) == trainable


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_lora_targets_are_all_linear_layers_of_a_block(spec: BackboneSpec) -> None:
    module = build_on_meta(spec)
    library = library_of(spec)
    library.open_for_adapters(module)
    _, blocks = library.blocks(module)
    linear = {name for name, part in blocks[0].named_modules() if isinstance(part, nn.Linear)}
    assert set(block_targets(spec, ["attention+mlp"])) == linear


def test_names_are_unique_and_aliases_lead_to_rows() -> None:
    names = [spec.name for spec in SPECS]
    assert len(set(names)) == len(names)
    assert {find_spec(alias).name for alias in ALIASES} <= set(names)


def test_identity_is_plain_json_and_separates_rows() -> None:
    from emvfm.provenance import canonical_json

    plain = [
        canonical_json(s.identity()) for s in SPECS if s.library == "timm" and not s.name.endswith("_sat")
    ]
    assert len(set(plain)) == len(plain)
    resized = dataclasses.replace(SPECS[0], overrides=(("depth", 2),))
    assert canonical_json(resized.identity()) != canonical_json(SPECS[0].identity())


def test_any_vit_of_timm_by_name() -> None:
    spec = find_spec("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert spec == find_spec("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert (spec.patch, spec.width, spec.depth, spec.heads, spec.native) == (16, 192, 12, 3, 224)
    assert (spec.mean, spec.licence, spec.prefix) == ((0.5, 0.5, 0.5), "apache-2.0", 1)
    assert spec.hub == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert spec.lora_attention == ("attn.qkv", "attn.proj")
    assert spec.stem == "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


def test_timm_name_of_a_row_is_that_row() -> None:
    assert find_spec("timm:vit_small_patch14_dinov2.lvd142m") is find_spec("dinov2")


def test_a_vit_without_class_token_says_so() -> None:
    spec = find_spec("timm:vit_base_patch16_siglip_224")
    assert (spec.has_cls, spec.registers) == (False, 0)


def test_any_native_tower_of_open_clip_by_model_and_tag() -> None:
    spec = find_spec("openclip:ViT-B-16/dfn2b")
    assert spec.model == "ViT-B-16-quickgelu"  # dfn2b was trained with QuickGELU
    assert find_spec("openclip:ViT-B-16/laion2b_s34b_b88k") is find_spec("openclip")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("dinov2_vits15", MissingError, "dinov2_vits14"),
        ("nonsense", MissingError, "backbones list"),
        ("timm:vit_tiny_patch16_224.no_such_tag", MissingError, "augreg_in21k"),
        ("timm:resnet18", UsageError, "not a plain vision transformer"),
        ("timm:vit_base_r50_s16_224", UsageError, "not a plain vision transformer"),
        ("openclip:ViT-L-14/laion2b_s32b_b79k", MissingError, "laion2b_s32b_b82k"),
        ("openclip:RN50/openai", UsageError, "not a native vision transformer"),
        ("openclip:nope/openai", MissingError, "no such model"),
    ],
)
def test_a_wrong_name_is_told_apart(name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        find_spec(name)
