"""A feature pyramid from one map: every level sees all layers, finer levels are learnt doublings."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from emvfm.segmentation.heads.blocks import ChannelNorm, HeadShape, grouped

__all__ = ["FeaturePyramid"]

NARROWEST = 32
LEVELS = 3


class FeaturePyramid(nn.Module):
    """The simple pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527) merged from the top down.

    A plain ViT has one resolution; its tokens, all layers together, are projected once, doubled to two finer
    levels, and every level is added to the coarser ones above it before a 3x3 convolution (arXiv:1612.03144).

    Parameters
    ----------
    shape
        Finer levels have half the channels of the next coarser one, at least 32.
    """

    sees_pixels = False

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        widths = [shape.width]
        while len(widths) < LEVELS:
            widths.append(max(widths[-1] // 2, NARROWEST))
        self.project = nn.Sequential(
            ChannelNorm(shape.channels), nn.Dropout2d(shape.dropout),
            *grouped(nn.Conv2d(shape.channels, shape.width, 1)),
            *grouped(nn.Conv2d(shape.width, shape.width, 3, padding=1)),
            nn.Dropout2d(shape.dropout),
        )  # fmt: skip
        steps = list(pairwise(widths))
        self.grow = nn.ModuleList(
            nn.Sequential(*grouped(nn.ConvTranspose2d(coarse, fine, 2, stride=2))) for coarse, fine in steps
        )
        self.narrow = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for coarse, fine in steps)
        self.merge = nn.ModuleList(
            nn.Sequential(*grouped(nn.Conv2d(width, width, 3, padding=1))) for width in widths
        )
        self.classify = nn.Conv2d(widths[-1], shape.classes, 1)

    def forward(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return logits `(B, K, 4 h, 4 w)` of tokens `(B, L D, h, w)`; `pixels` are ignored."""
        level = self.project(tokens)
        path = self.merge[0](level)
        for grow, narrow, merge in zip(self.grow, self.narrow, self.merge[1:], strict=True):
            level = grow(level)
            coarse = nn.functional.interpolate(
                narrow(path), scale_factor=2, mode="bilinear", align_corners=False
            )
            path = merge(level + coarse)
        return self.classify(path)
