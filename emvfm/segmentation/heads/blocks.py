"""What segmentation heads are made of, and the numbers that say what a head has to fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

from torch import Tensor, nn

from emvfm.errors import UsageError

__all__ = ["ChannelNorm", "HeadShape", "TokenHead", "batched", "grouped"]

GROUPS = 8


@dataclass(frozen=True)
class HeadShape:
    """What a head has to fit.

    Parameters
    ----------
    channels
        Channels C of its input, `layers` times the width of the backbone.
    layers
        Blocks of the backbone whose tokens lie side by side in the input.
    patch
        Pixels of the model's input along a side of a token.
    width
        Channels within the head.
    dropout
        Probability in [0, 1) of dropping a channel.
    classes
        Number K of classes, background included.

    Raises
    ------
    UsageError
        For a number out of range, or channels that are no whole multiple of the layers.
    """

    channels: int
    layers: int = 1
    patch: int = 16
    width: int = 96
    dropout: float = 0.2
    classes: int = 2

    def __post_init__(self) -> None:
        for what, least in (("channels", 1), ("layers", 1), ("patch", 1), ("width", 1), ("classes", 2)):
            value = getattr(self, what)
            if value < least:
                raise UsageError(
                    "number too small", where=f"head {what}", got=value, expected=f"at least {least}"
                )
        if not 0 <= self.dropout < 1:
            raise UsageError(
                "not a probability below one", where="head dropout", got=self.dropout, expected="[0, 1)"
            )
        if self.channels % self.layers:
            raise UsageError(
                "channels do not divide into layers",
                where="head channels",
                got=self.channels,
                expected=f"a multiple of {self.layers}",
            )

    @property
    def tokens_width(self) -> int:
        """Channels D of the tokens of one layer."""
        return self.channels // self.layers


class TokenHead(nn.Sequential):
    """A chain of modules over tokens that has no use for the pixels."""

    sees_pixels = False

    def forward(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return logits `(B, K, s h, s w)` of tokens `(B, C, h, w)`; `pixels` are ignored."""
        return super().forward(tokens)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each token of a `(B, C, h, w)` map."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise every token on its own."""
        return super().forward(tokens.movedim(1, -1)).movedim(-1, 1)


def grouped(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """Follow a convolution by GroupNorm, whose statistics do not depend on the batch, and GELU."""
    outside = convolution.out_channels
    return [convolution, nn.GroupNorm(gcd(GROUPS, outside), outside), nn.GELU()]


def batched(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """Follow a convolution by BatchNorm and GELU."""
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.GELU()]
