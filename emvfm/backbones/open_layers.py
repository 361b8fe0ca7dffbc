"""Linear layers in place of attention weights that a forward pass reads by itself, so that adapters live.

`torch.nn.MultiheadAttention` (open_clip) and the separate biases of some Eva models (timm) go around
``forward`` of the layers that hold their weights, and with it around any adapter there. `open_layers`
changes no number. This file needs torch alone: an exported adapter that needs it carries a copy.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

__all__ = ["SelfAttention", "is_opened", "open_layers"]


class SelfAttention(nn.Module):
    """What `torch.nn.MultiheadAttention` computes, with linear layers that an adapter can wrap.

    torch's own module reads its weights and goes around ``out_proj.forward``. So LoRA on ``out_proj`` is
    dead, and peft's LoRA on the whole module writes into the base weights at every step, which drift, has
    neither dropout nor DoRA, and (peft 0.21.2, measured) adds the update of ``out_proj`` twice.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    @classmethod
    def from_packed(cls, packed: nn.MultiheadAttention) -> SelfAttention:
        """Return the same attention with the same parameters (not copies).

        Raises
        ------
        ValueError
            The attention has another form than a vision tower's.
        """
        if not packed.batch_first or packed.in_proj_weight is None or packed.bias_k is not None:
            raise ValueError(f"this attention can't be opened: {packed!r}")
        with torch.device("meta"):
            ours = cls(packed.embed_dim, packed.num_heads, packed.dropout)
        ours.in_proj.weight, ours.in_proj.bias = packed.in_proj_weight, packed.in_proj_bias
        ours.out_proj.weight, ours.out_proj.bias = packed.out_proj.weight, packed.out_proj.bias
        return ours.train(packed.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Return ``(B, N, D)`` and None, as torch's module does; key and value are the query.

        Raises
        ------
        ValueError
            Cross-attention, or attention weights, are asked for.
        """
        if key is not query or value is not query or need_weights:
            raise ValueError("only self-attention without attention weights is computed here")
        q, k, v = self.in_proj(query).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def _fold_biases(attention: Any) -> None:
    with torch.no_grad():
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        if attention.qkv.bias is not None:
            bias = bias + attention.qkv.bias
    attention.qkv.bias = nn.Parameter(bias, requires_grad=False)
    attention.q_bias = attention.v_bias = None


def open_layers(model: nn.Module) -> nn.Module:
    """Return `model`, changed in place: every attention weight is a linear layer's that runs in forward."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(module, name, SelfAttention.from_packed(child))
        if getattr(module, "qkv", None) is not None and getattr(module, "q_bias", None) is not None:
            _fold_biases(module)
    return model


def is_opened(model: nn.Module) -> bool:
    """Return whether `open_layers` found something to change in `model`."""
    return any(
        isinstance(module, SelfAttention)
        or (getattr(module, "k_bias", None) is not None and getattr(module, "q_bias", None) is None)
        for module in model.modules()
    )
