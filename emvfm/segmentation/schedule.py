"""How fast which parameters learn: warm-up and cosine over the steps, layer-wise decay over the depth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

from torch import nn

from emvfm.errors import UsageError

__all__ = ["layerwise_groups", "level_of", "rate_factor", "without_decay"]

#: What follows the blocks in timm's and OpenCLIP's vision transformers; all else outside them comes before.
AFTER_BLOCKS = ("norm", "fc_norm", "ln_post", "proj", "attn_pool", "head")
NEVER_DECAYED = (
    "pos_embed",
    "cls_token",
    "reg_token",
    "mask_token",
    "positional_embedding",
    "class_embedding",
)


def rate_factor(step: int, steps: int, warmup: int, shape: Literal["cosine", "constant"] = "cosine") -> float:
    """Return the factor in (0, 1] of the highest learning rate at 0-based `step` of `steps`.

    It grows linearly over `warmup` steps, the first of which already learns; ``cosine`` lies under a half
    cosine that falls from 1 at the beginning to 0 after the last step, ``constant`` stays at 1.
    """
    fall = 1.0 if shape == "constant" else 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / max(1, warmup)) * fall


def level_of(name: str, blocks: str, depth: int) -> int:
    """Return how deep a parameter lies: 0 for embeddings, 1 to `depth` for blocks, `depth` beyond them.

    Parameters
    ----------
    name
        Of the parameter within the transformer.
    blocks
        Dotted name of the list of blocks, such as ``blocks`` or ``transformer.resblocks``.

    Raises
    ------
    UsageError
        The name has a block that `depth` does not reach.
    """
    if name.startswith(f"{blocks}."):
        block = int(name.removeprefix(f"{blocks}.").split(".")[0])
        if block >= depth:
            raise UsageError("no such block", where=name, got=block, expected=f"below {depth}")
        return block + 1
    return depth if name.split(".", maxsplit=1)[0] in AFTER_BLOCKS else 0


def without_decay(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether weight decay would harm: norms, biases and scales (one axis), embeddings of position."""
    return parameter.ndim <= 1 or name.rsplit(".", maxsplit=1)[-1] in NEVER_DECAYED


def layerwise_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    blocks: str,
    depth: int,
    *,
    rate: float,
    decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a vision transformer for full fine-tuning (BEiT, arXiv:2106.08254).

    Early blocks hold what is general and move least: a parameter at level l of :func:`level_of` learns at
    ``rate * decay ** (depth - l)``, the last block at the full rate.

    Parameters
    ----------
    parameters
        Names within the transformer and parameters, as ``module.named_parameters()`` gives them.
    blocks, depth
        Dotted name and number of the blocks.
    rate
        Highest learning rate, of the last block.
    decay
        Factor from a block to the one before it, in (0, 1]; 1 is one rate for all.
    weight_decay
        Of weights with at least two axes that are no embeddings; the others get none.

    Returns
    -------
    list of dict
        Groups for a torch optimiser, the earliest first, each with ``params``, ``highest`` and
        ``weight_decay``; together they hold every trainable parameter once.

    Raises
    ------
    UsageError
        For a decay out of range, or when nothing is trainable.
    """
    if not 0 < decay <= 1:
        raise UsageError("out of range", where="layer-wise decay", got=decay, expected="(0, 1]")
    members: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            key = level_of(name, blocks, depth), without_decay(name, parameter)
            members.setdefault(key, []).append(parameter)
    if not members:
        raise UsageError(
            "nothing is trainable", where="layer-wise groups", todo="unfreeze the backbone first"
        )
    return [
        {
            "params": members[level, spared],
            "highest": rate * decay ** (depth - level),
            "weight_decay": 0.0 if spared else weight_decay,
        }
        for level, spared in sorted(members)
    ]
