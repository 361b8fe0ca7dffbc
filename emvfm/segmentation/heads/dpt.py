"""A head over several levels: tokens of early blocks become fine maps, those of late blocks coarse ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

from torch import Tensor, nn

from emvfm.segmentation.heads.blocks import GROUPS, ChannelNorm, HeadShape

__all__ = ["DensePrediction", "layers_of_levels"]

SCALES = (4.0, 2.0, 1.0, 0.5)
NARROWEST = 32


def layers_of_levels(layers: int, levels: int = len(SCALES)) -> list[range]:
    """Share `layers` blocks out over `levels` in order: neither a block nor a level is left without.

    >>> layers_of_levels(4)
    [range(0, 1), range(1, 2), range(2, 3), range(3, 4)]
    >>> layers_of_levels(2)
    [range(0, 1), range(0, 1), range(1, 2), range(1, 2)]
    """
    starts = [level * layers // levels for level in range(levels + 1)]
    return [range(first, max(first + 1, end)) for first, end in pairwise(starts)]


class DensePrediction(nn.Module):
    """The head of DPT (Ranftl et al. 2021, arXiv:2103.13413), light.

    Each of four levels takes tokens of its own blocks to 4, 2, 1 or half the resolution of the tokens; from
    the coarsest up they are refined by residual units and added. Differs from the paper in GroupNorm instead
    of none or BatchNorm, in finer levels being narrower, and in stopping at four times the tokens.

    Parameters
    ----------
    shape
        With fewer than four layers, neighbouring levels share them; with more, a level takes several.
    """

    sees_pixels = False

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.width_of_layer = shape.tokens_width
        self.levels = layers_of_levels(shape.layers)
        widths = [max(shape.width // share, NARROWEST) for share in (3, 2, 1, 1)]
        self.reassemble = nn.ModuleList(
            _reassemble(len(level) * self.width_of_layer, width, scale)
            for level, width, scale in zip(self.levels, widths, SCALES, strict=True)
        )
        self.drop = nn.Dropout2d(shape.dropout)
        self.skip = nn.ModuleList(_Residual(width) for width in widths[:-1])
        self.refine = nn.ModuleList(_Residual(width) for width in widths)
        narrower = zip(widths[1:], widths[:-1], strict=True)
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in narrower)
        self.classify = nn.Sequential(_norm(widths[0]), nn.GELU(), nn.Conv2d(widths[0], shape.classes, 1))

    def forward(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return logits `(B, K, 4 h, 4 w)` of tokens `(B, L D, h, w)`; `pixels` are ignored."""
        maps = [
            self.drop(reassemble(_of_layers(tokens, level, self.width_of_layer)))
            for reassemble, level in zip(self.reassemble, self.levels, strict=True)
        ]
        path = self.refine[-1](maps[-1])
        for level in reversed(range(len(maps) - 1)):
            # Narrowed before it grows, which gives the same numbers as after and costs a quarter.
            size = maps[level].shape[-2:]
            coarse = nn.functional.interpolate(
                self.narrow[level](path), size=size, mode="bilinear", align_corners=False
            )
            path = self.refine[level](coarse + self.skip[level](maps[level]))
        return self.classify(path)


def _of_layers(tokens: Tensor, layers: Sequence[int], width: int) -> Tensor:
    """Return the channels of neighbouring layers."""
    return tokens[:, layers[0] * width : (layers[-1] + 1) * width]


def _reassemble(channels: int, width: int, scale: float) -> nn.Sequential:
    """Normalise tokens, project them and bring them to `scale` times their resolution."""
    project = [ChannelNorm(channels), nn.Conv2d(channels, width, 1)]
    if scale == 1:
        return nn.Sequential(*project)
    if scale > 1:
        return nn.Sequential(*project, nn.ConvTranspose2d(width, width, int(scale), stride=int(scale)))
    return nn.Sequential(*project, nn.Conv2d(width, width, 3, stride=round(1 / scale), padding=1))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(GROUPS, width), width)


class _Residual(nn.Sequential):
    """Two 3x3 convolutions, each after norm and activation, added to what they are given."""

    def __init__(self, width: int) -> None:
        super().__init__(
            _norm(width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1),
            _norm(width), nn.GELU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + super().forward(tokens)
