"""The proof that an adapter lives: every one of its tensors gets a gradient from the tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.injection import adapter_parameters
from emvfm.errors import EmvfmError, UsageError

__all__ = ["check_adapter", "probe"]


def probe(backbone: Backbone) -> Tensor:
    """Return normed tokens of the last block for a small seeded image, in float32."""
    side = 3 * backbone.patch
    slots, generator = len(backbone.spec.slots), torch.Generator().manual_seed(0)
    image = torch.randn(1, slots, side, side, generator=generator)
    last = [backbone.depth - 1]
    with torch.autocast(backbone.device.type, enabled=False):
        tokens = backbone.library.layer_tokens(backbone.module, image.to(backbone.device), last)[0]
    return tokens.float()


def check_adapter(backbone: Backbone) -> int:
    """Prove that every adapter tensor gets a gradient; return how many there are.

    The B matrices are perturbed for the probe (at zero they would hide A) and put back to the bit.

    Raises
    ------
    EmvfmError
        Some tensor gets none: peft injected an adapter that the model's forward pass goes around.
    """
    named = adapter_parameters(backbone.module)
    if not named:
        raise UsageError("no adapter to check", where=backbone.label)
    parameters = [parameter for _, parameter in named]
    states = [parameter.requires_grad for parameter in parameters]
    saved = {name: parameter.detach().clone() for name, parameter in named if ".lora_B" in name}
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for name, parameter in named:
                parameter.requires_grad_(True)
                if name in saved:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.02 * noise.to(parameter.device))
        with torch.enable_grad():
            tokens = probe(backbone)
            direction = torch.randn(tokens.shape, generator=generator).to(tokens.device)
            loss = (tokens * direction).sum()
            gradients: Sequence[Tensor | None] = (
                torch.autograd.grad(loss, parameters, allow_unused=True)
                if loss.requires_grad
                else [None] * len(parameters)
            )
    finally:
        with torch.no_grad():
            for (name, parameter), state in zip(named, states, strict=True):
                if name in saved:
                    parameter.copy_(saved[name])
                parameter.requires_grad_(state)
    dead = [
        name
        for (name, _), gradient in zip(named, gradients, strict=True)
        if gradient is None or not bool(torch.isfinite(gradient).all()) or not bool(gradient.any())
    ]
    if dead:
        shown = ", ".join(dead[:4]) + (f" and {len(dead) - 4} more" if len(dead) > 4 else "")
        raise EmvfmError(
            f"{len(dead)} of {len(named)} adapter tensors get no gradient: the adapter is dead",
            where=backbone.spec.name,
            got=shown,
            todo="choose other --lora-targets, such as attention",
        )
    return len(named)
