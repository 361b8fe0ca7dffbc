"""Vision towers of open_clip (native ViTs; its timm-backed towers are reached through timm)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from emvfm.backbones.open_layers import open_layers
from emvfm.backbones.registry import SPECS, BackboneSpec
from emvfm.errors import MissingError, UsageError

__all__ = ["OpenClipLibrary", "derive_spec", "resized_positions"]

_VISUAL = "visual."


def resized_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return position embeddings ``(1 + h w, D)`` for a grid `new`, by antialiased bicubic interpolation.

    A function of the parameter, which is never changed, so that gradients flow and a model serves
    images of any size at once.
    """
    if old == new:
        return positions
    cls, grid = positions[:1], positions[1:]
    planes = grid.unflatten(0, old).permute(2, 0, 1)[None].float()
    resized = F.interpolate(planes, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([cls, resized[0].flatten(1).T.to(positions.dtype)])


class OpenClipLibrary:
    """How open_clip builds, names and runs a vision tower."""

    def build(self, spec: BackboneSpec) -> nn.Module:
        """Return the vision tower alone; the text tower is never built."""
        return _tower(spec.model, dict(spec.overrides))

    def convert(self, state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Return the ``visual.*`` tensors of a whole model's file, or a bare tower's as they are."""
        state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
        if any(key.startswith(_VISUAL) for key in state):
            return {k.removeprefix(_VISUAL): v for k, v in state.items() if k.startswith(_VISUAL)}
        return state

    def layer_tokens(self, module: Any, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return ``(B, 1 + h w, D)`` tokens through ``ln_post`` for each of the ascending `layers`.

        The tower's own forward is fixed to its native grid; here its parts run with positions
        interpolated for the grid at hand.
        """
        x = module.conv1(images)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        cls = module.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        positions = resized_positions(module.positional_embedding, tuple(module.grid_size), grid)
        x = torch.cat([cls, x], dim=1) + positions.to(x.dtype)
        x = module.ln_pre(module.patch_dropout(x))
        _, found = module.transformer.forward_intermediates(x, indices=list(layers), stop_early=True)
        return [module.ln_post(tokens) for tokens in found]

    def own_tokens(self, module: Any, images: Tensor) -> Tensor:
        """Return what passes ``ln_post`` in open_clip's own forward."""
        seen: list[Tensor] = []
        hook = module.ln_post.register_forward_hook(lambda part, given, output: seen.append(output))
        try:
            module(images)
        finally:
            hook.remove()
        return seen[-1]

    def open_for_adapters(self, module: Any) -> None:
        """Replace packed attention by two linear layers."""
        open_layers(module)

    def blocks(self, module: Any) -> tuple[str, nn.ModuleList]:
        """Return the name and the list of the transformer's blocks."""
        return "transformer.resblocks", module.transformer.resblocks


def _tower(model: str, overrides: dict[str, Any]) -> nn.Module:
    import open_clip
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    config = open_clip.get_model_config(model)
    if config is None:
        raise MissingError("open_clip has no such model", where=model)
    vision = {**config["vision_cfg"], **{k: v for k, v in overrides.items() if k != "embed_dim"}}
    if (
        vision.get("timm_model_name")
        or isinstance(vision.get("layers"), list)
        or vision.get("attentional_pool")
    ):
        raise UsageError(
            "not a native vision transformer of open_clip",
            where=model,
            todo="timm:NAME serves the models that open_clip takes from timm",
        )
    tower: nn.Module = _build_vision_tower(
        overrides.get("embed_dim", config["embed_dim"]),
        CLIPVisionCfg(**vision),
        config.get("quick_gelu", False),
    )
    return tower


def derive_spec(reference: str) -> BackboneSpec:
    """Return the row of any native ViT of open_clip, from ``MODEL/TAG``.

    The activation follows the tag: weights trained with QuickGELU get the ``-quickgelu`` model.

    Raises
    ------
    MissingError
        open_clip has no such model or no such tag.
    UsageError
        The model is no native vision transformer of open_clip.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    model, _, tag = reference.partition("/")
    if model not in open_clip.list_models():
        raise MissingError("open_clip has no such model", where=f"openclip:{reference}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    config = get_pretrained_cfg(model, tag) if tag in tags else None
    if config is None:
        raise MissingError(
            "open_clip has no such tag of this model",
            where=f"openclip:{reference}",
            got=repr(tag),
            expected="one of " + ", ".join(tags),
        )
    if config.get("quick_gelu") and not model.endswith("-quickgelu"):
        model += "-quickgelu"
    for row in SPECS:
        if row.library == "open_clip" and (row.model, row.tag) == (model, tag):
            return row
    with torch.device("meta"):
        tower: Any = _tower(model, {})
    block = tower.transformer.resblocks[0]
    hub = config["hf_hub"].rstrip("/")
    return BackboneSpec(
        name=f"openclip:{model}/{tag}",
        family="openclip",
        variant=f"{model} ({tag})",
        library="open_clip",
        model=model,
        tag=tag,
        patch=tower.patch_size[0],
        width=tower.class_embedding.shape[0],
        depth=len(tower.transformer.resblocks),
        heads=block.attn.num_heads,
        has_cls=True,
        registers=0,
        native=tower.image_size[0],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        licence="see the model's page",
        licence_url=f"https://huggingface.co/{hub}" if hub else "",
        hub=hub,
        files=("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
        parameters=sum(parameter.numel() for parameter in tower.parameters()),
        lora_attention=("attn.in_proj", "attn.out_proj"),
        lora_mlp=("mlp.c_fc", "mlp.c_proj"),
    )
