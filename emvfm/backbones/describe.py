"""What can be known of a backbone without its weights: parameters, LoRA targets, cost of a forward pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from emvfm.backbones.loading import build_on_meta, library_of
from emvfm.backbones.lora import block_targets, lora_parameter_count
from emvfm.backbones.registry import BackboneSpec

__all__ = ["Description", "describe", "forward_flops"]


@dataclass(frozen=True)
class Description:
    """Facts of a spec, computed on torch's ``meta`` device.

    Attributes
    ----------
    spec
        The row of the table.
    parameters
        Parameters of the model as the library builds it.
    lora
        For ``attention`` and ``attention+mlp``: the targets within a block, and the trainable
        parameters of a plain adapter of `rank` on all blocks.
    rank
        That rank.
    side, tokens, gflops
        Side in pixels of the padded image, its tokens, and billions of floating-point operations
        (a multiplication and an addition are two) of one forward pass.
    """

    spec: BackboneSpec
    parameters: int
    lora: dict[str, dict[str, Any]]
    rank: int
    side: int
    tokens: int
    gflops: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, the spec's own fields first."""
        rest = {key: value for key, value in asdict(self).items() if key != "spec"}
        return {**asdict(self.spec), **rest, "page": self.spec.page, "title": self.spec.title}


def forward_flops(spec: BackboneSpec, side: int) -> float:
    """Return the floating-point operations of one image of `side` x `side` pixels (whole patches)."""
    from torch.utils.flop_counter import FlopCounterMode

    module = build_on_meta(spec).eval()
    images = torch.empty(1, 3, side, side, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        library_of(spec).layer_tokens(module, images, [spec.depth - 1])
    return float(counter.get_total_flops())


def describe(spec: BackboneSpec, *, image: int = 518, rank: int = 16) -> Description:
    """Return the facts of `spec` for an image of `image` pixels a side, padded to whole patches."""
    module = build_on_meta(spec)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    library = library_of(spec)
    library.open_for_adapters(module)
    prefix, blocks = library.blocks(module)
    lora = {}
    for choice in ("attention", "attention+mlp"):
        names = block_targets(spec, [choice])
        full = [f"{prefix}.{index}.{name}" for index in range(len(blocks)) for name in names]
        lora[choice] = {"targets": list(names), "trainable": lora_parameter_count(module, full, rank)}
    side = -(-image // spec.patch) * spec.patch
    tokens = spec.prefix + (side // spec.patch) ** 2
    return Description(spec, parameters, lora, rank, side, tokens, forward_flops(spec, side) / 1e9)
