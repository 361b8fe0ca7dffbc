"""A plain U-Net from scratch: what a user would pick instead of a foundation model, in the same trainer."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from typing import Literal

import torch
from torch import Tensor, nn

from emvfm.errors import UsageError

__all__ = ["UNet"]

GROUPS = 8
WIDEST = 512
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class UNet(nn.Module):
    """The U-Net of Ronneberger et al. 2015 (arXiv:1505.04597) with same-padding and GroupNorm.

    Parameters
    ----------
    width
        Channels at full resolution; each halving doubles them, up to 512.
    depth
        Number of halvings, at least 1.
    classes
        Number K of classes, background included, at least 2.
    channels
        Channels of the input.
    dropout
        Probability in [0, 1) of dropping a channel at the coarsest level, as the paper's "drop-out layers at
        the end of the contracting path".
    activation
        ``gelu``, or the paper's ``relu``.

    Attributes
    ----------
    multiple
        The sides of the input are multiples of this many pixels, 2 ** depth.

    Raises
    ------
    UsageError
        For a number out of range or an unknown activation.
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        *,
        classes: int = 2,
        channels: int = 3,
        dropout: float = 0.0,
        activation: Literal["gelu", "relu"] = "gelu",
    ) -> None:
        super().__init__()
        _check(width, depth, classes, channels, dropout, activation)
        self.multiple = 2**depth
        widths = [min(width * 2**level, max(width, WIDEST)) for level in range(depth + 1)]
        act = ACTIVATIONS[activation]
        self.down = nn.ModuleList(
            _twice(inside, outside, act) for inside, outside in zip([channels, *widths], widths, strict=False)
        )
        self.drop = nn.Dropout2d(dropout)
        steps = list(zip(widths[1:], widths[:-1], strict=True))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in steps)
        self.up = nn.ModuleList(_twice(2 * fine, fine, act) for _, fine in steps)
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits `(B, K, H, W)` of normalised pixels `(B, C, H, W)` float32.

        Raises
        ------
        UsageError
            When H or W is no multiple of :attr:`multiple`.
        """
        height, width = pixels.shape[-2:]
        if height % self.multiple or width % self.multiple or not height or not width:
            expected = f"multiples of {self.multiple}"
            raise UsageError(
                "sides do not halve evenly", where="U-Net", got=(height, width), expected=expected
            )
        return self.expand(self.contract(pixels))

    def contract(self, pixels: Tensor, added: Mapping[int, Tensor] | None = None) -> list[Tensor]:
        """Return the features of all levels, `(B, width 2^level, H / 2^level, W / 2^level)`, finest first.

        Sides are halved upwards: what is added to the levels may come in odd numbers.

        Parameters
        ----------
        added
            By level, what is added to its features before they go on to the next one.
        """
        levels: list[Tensor] = []
        features = pixels
        for level, block in enumerate(self.down):
            features = block(nn.functional.max_pool2d(features, 2, ceil_mode=True) if level else features)
            if added and level in added:
                features = features + added[level]
            levels.append(features)
        return levels

    def expand(self, levels: list[Tensor]) -> Tensor:
        """Return logits `(B, K, H, W)` of the features of all levels, finest first."""
        *skips, coarsest = levels
        features = self.drop(coarsest)
        for grow, block, skip in zip(reversed(self.grow), reversed(self.up), reversed(skips), strict=True):
            rows, columns = skip.shape[-2:]
            features = block(torch.cat([skip, grow(features)[..., :rows, :columns]], dim=1))
        return self.classify(features)


def _twice(inside: int, outside: int, activation: type[nn.Module]) -> nn.Sequential:
    """Return two 3x3 convolutions, each with norm and activation; the norm makes their biases useless."""
    layers: list[nn.Module] = []
    for channels in (inside, outside):
        layers.append(nn.Conv2d(channels, outside, 3, padding=1, bias=False))
        layers += [nn.GroupNorm(gcd(GROUPS, outside), outside), activation()]
    return nn.Sequential(*layers)


def _check(width: int, depth: int, classes: int, channels: int, dropout: float, activation: str) -> None:
    least = (("width", width, 1), ("depth", depth, 1), ("classes", classes, 2), ("channels", channels, 1))
    for what, value, lowest in least:
        if value < lowest:
            raise UsageError(
                "number too small", where=f"U-Net {what}", got=value, expected=f"at least {lowest}"
            )
    if not 0 <= dropout < 1:
        raise UsageError("not a probability below one", where="U-Net dropout", got=dropout, expected="[0, 1)")
    if activation not in ACTIVATIONS:
        known = " | ".join(ACTIVATIONS)
        raise UsageError("unknown activation", where="U-Net", got=repr(activation), expected=known)
