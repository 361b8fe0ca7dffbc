"""Vision transformers of timm: the classes VisionTransformer (DINOv2 and most others) and Eva (DINOv3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emvfm.backbones.open_layers import open_layers
from emvfm.backbones.registry import SPECS, BackboneSpec
from emvfm.errors import MissingError, UsageError

__all__ = ["TimmLibrary", "derive_spec"]

_RESAMPLED = ("patch_embed.proj.weight", "pos_embed")


def _fits(state: dict[str, Tensor], key: str, module: nn.Module) -> bool:
    """Return whether a tensor of a file fits as it is, the conversion of register models considered."""
    ours = module.state_dict().get(key)
    if ours is None:
        return True
    shape = list(state[key].shape)
    if key == "pos_embed" and "register_tokens" in state:
        shape[1] -= 1  # facebookresearch keeps the class token's position, timm adds it to the token
    return shape == list(ours.shape)


class TimmLibrary:
    """How timm builds, names and runs a vision transformer."""

    def build(self, spec: BackboneSpec) -> nn.Module:
        """Return the model without a head, for images of any size."""
        import timm

        module: nn.Module = timm.create_model(
            spec.model, pretrained=False, num_classes=0, dynamic_img_size=True, **dict(spec.overrides)
        )
        return module

    def convert(self, state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of a file under timm's names.

        timm's own conversion knows the names of facebookresearch/dinov2 and dinov3. It would also
        resample patch and position embeddings that do not fit: those keep their shapes here, so that
        a file of another architecture is refused instead. Kernels of three colours are added up for a
        model with a single channel.
        """
        from timm.models import eva, vision_transformer

        kernel, ours = state.get("patch_embed.proj.weight"), module.state_dict()["patch_embed.proj.weight"]
        if kernel is not None and kernel.ndim == 4 and kernel.shape[1] == 3 and ours.shape[1] == 1:
            state = {**state, "patch_embed.proj.weight": kernel.sum(dim=1, keepdim=True)}
        convert = (
            eva.checkpoint_filter_fn
            if isinstance(module, eva.Eva)
            else vision_transformer.checkpoint_filter_fn
        )
        unfit = {key: state[key] for key in _RESAMPLED if key in state and not _fits(state, key, module)}
        converted = convert({key: tensor for key, tensor in state.items() if key not in unfit}, module)
        return {**converted, **unfit}

    def layer_tokens(self, module: nn.Module, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return ``(B, P + h w, D)`` normed tokens for each of the ascending `layers`, in one pass."""
        found = module.forward_intermediates(  # type: ignore[operator]
            images,
            indices=list(layers),
            return_prefix_tokens=True,
            norm=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        # Models without prefix tokens give bare patch tokens instead of pairs.
        return [torch.cat([item[1], item[0]], dim=1) if isinstance(item, tuple) else item for item in found]

    def own_tokens(self, module: nn.Module, images: Tensor) -> Tensor:
        """Return what timm's own ``forward_features`` gives."""
        tokens: Tensor = module.forward_features(images)  # type: ignore[operator]
        return tokens

    def open_for_adapters(self, module: nn.Module) -> None:
        """Fold the separate query and value biases of some Eva models into the linear layer."""
        open_layers(module)

    def blocks(self, module: nn.Module) -> tuple[str, nn.ModuleList]:
        """Return the name and the list of the transformer's blocks."""
        return "blocks", module.blocks  # type: ignore[return-value]


def _lora_modules(block: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    linear = [name for name, module in block.named_modules() if isinstance(module, nn.Linear)]
    return (
        tuple(name for name in linear if name.startswith("attn.")),
        tuple(name for name in linear if name.startswith("mlp.")),
    )


def _refuse(name: str, got: str) -> UsageError:
    return UsageError(
        "not a plain vision transformer", where=f"timm:{name}", got=got, expected="a ViT, DeiT or EVA model"
    )


def derive_spec(name: str) -> BackboneSpec | None:
    """Return the row of any ViT of timm, from its configuration alone; None if timm has no such model.

    Raises
    ------
    MissingError
        timm has the model, but no such tag of it.
    UsageError
        The model exists but is not a plain vision transformer.
    """
    import timm
    from timm.models import get_pretrained_cfg
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        return None
    if tag and tag not in (tags := [t.partition(".")[2] for t in timm.list_pretrained(architecture + ".*")]):
        raise MissingError(
            "timm has no such tag of this model",
            where=f"timm:{name}",
            got=repr(tag),
            expected="one of " + ", ".join(tags) if tags else "no tag",
        )
    config: Any = get_pretrained_cfg(name)
    tag = tag or (config.tag if config is not None else "") or ""
    for row in SPECS:
        if row.library == "timm" and (row.model, row.tag) == (architecture, tag):
            return row
    try:
        with torch.device("meta"):
            module = timm.create_model(architecture, pretrained=False, num_classes=0, dynamic_img_size=True)
    except (TypeError, NotImplementedError, RuntimeError, AssertionError) as error:
        raise _refuse(name, type(error).__name__ + ": " + str(error)[:120]) from None
    if not isinstance(module, (VisionTransformer, Eva)):
        raise _refuse(name, type(module).__name__)
    kernel = getattr(module.patch_embed, "proj", None)
    square = (
        isinstance(kernel, nn.Conv2d) and kernel.stride == kernel.kernel_size and len({*kernel.stride}) == 1
    )
    if not isinstance(kernel, nn.Conv2d) or not square or kernel.in_channels != 3:
        raise _refuse(name, "patches that overlap, are not square or come from another network")
    attention, mlp = _lora_modules(module.blocks[0])
    has_cls = module.cls_token is not None
    licence = (getattr(config, "license", None) or "unknown") if config is not None else "none (no weights)"
    return BackboneSpec(
        name=f"timm:{architecture}" + (f".{tag}" if tag else ""),
        family="timm",
        variant=architecture + (f" ({tag})" if tag else ""),
        library="timm",
        model=architecture,
        tag=tag,
        patch=kernel.stride[0],
        width=module.embed_dim,
        depth=len(module.blocks),
        heads=module.blocks[0].attn.num_heads,
        has_cls=has_cls,
        registers=module.num_prefix_tokens - int(has_cls),
        native=module.patch_embed.img_size[0],
        mean=tuple(config.mean) if config is not None else (0.5, 0.5, 0.5),
        std=tuple(config.std) if config is not None else (0.5, 0.5, 0.5),
        licence=licence,
        licence_url=f"https://huggingface.co/{config.hf_hub_id}"
        if config is not None and config.hf_hub_id
        else "",
        hub=(config.hf_hub_id or "") if config is not None else "",
        files=("model.safetensors", "pytorch_model.bin"),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        lora_attention=attention,
        lora_mlp=mlp,
    )
