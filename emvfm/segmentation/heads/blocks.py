"""What segmentation heads are made of, and the numbers that say what a head has to fit."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from emvfm.errors import UsageError

__all__ = [
    "POINTS",
    "ChannelNorm",
    "HeadShape",
    "Silence",
    "TokenHead",
    "batched",
    "grouped",
    "pixels_under",
    "projected",
    "twice",
]

GROUPS = 8
#: Points along a patch at which a head sees the pixels: whatever the patch, a whole number of doublings above tokens.
POINTS = 8


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
    token_dropout
        Probability in [0, 1) that a head which sees pixels has to do without the tokens of an image.

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
    token_dropout: float = 0.0

    def __post_init__(self) -> None:
        for what, least in (("channels", 1), ("layers", 1), ("patch", 1), ("width", 1), ("classes", 2)):
            value = getattr(self, what)
            if value < least:
                raise UsageError(
                    "number too small", where=f"head {what}", got=value, expected=f"at least {least}"
                )
        for what, chance in (("dropout", self.dropout), ("token dropout", self.token_dropout)):
            if not 0 <= chance < 1:
                raise UsageError(
                    "not a probability below one", where=f"head {what}", got=chance, expected="[0, 1)"
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


class Silence(nn.Module):
    """In training, set all of an image's `(C, h, w)` to zero by chance; nothing is scaled, and later nothing done.

    ModDrop (Neverova et al. 2016, arXiv:1501.00102): where one of two inputs says enough about the training
    images to know them by heart, as the tokens of a volume do, the other is learnt because the first is at
    times missing.
    """

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, features: Tensor) -> Tensor:
        """Return `(B, C, h, w)`, of some images zeros."""
        if not self.training or not self.chance:
            return features
        heard = torch.rand(len(features), 1, 1, 1, device=features.device) >= self.chance
        return features * heard.to(features.dtype)


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


def twice(inside: int, outside: int) -> nn.Sequential:
    """Return two 3x3 convolutions, each followed as :func:`grouped` says."""
    return nn.Sequential(
        *grouped(nn.Conv2d(inside, outside, 3, padding=1)),
        *grouped(nn.Conv2d(outside, outside, 3, padding=1)),
    )


def projected(shape: HeadShape, outside: int) -> nn.Sequential:
    """Return what brings tokens to the `outside` channels at which they meet the pixels, at times silent."""
    return nn.Sequential(
        nn.Dropout2d(shape.dropout),
        *grouped(nn.Conv2d(shape.channels, outside, 1)),
        Silence(shape.token_dropout),
    )


def pixels_under(tokens: Tensor, pixels: Tensor | None, patch: int, head: str) -> Tensor:
    """Return pixels `(B, 3, 8 h, 8 w)`, eight points along a patch, of those under tokens `(B, C, h, w)`.

    Parameters
    ----------
    pixels
        `(B, 3, h patch, w patch)` float32.
    head
        Whose name an error gives.

    Raises
    ------
    UsageError
        Without pixels, or with pixels of another place or size than the tokens.
    """
    batch, _, rows, columns = tokens.shape
    expected = (batch, 3, rows * patch, columns * patch)
    if pixels is None or tuple(pixels.shape) != expected:
        found = "none" if pixels is None else tuple(pixels.shape)
        raise UsageError("no pixels under the tokens", where=f"head {head}", got=found, expected=expected)
    points = (rows * POINTS, columns * POINTS)
    if points == expected[2:]:
        return pixels
    return nn.functional.interpolate(
        pixels, size=points, mode="bilinear", align_corners=False, antialias=True
    )
