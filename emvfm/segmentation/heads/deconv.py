"""The default head: context between tokens by convolution, then two learnt doublings."""

from __future__ import annotations

from torch import nn

from emvfm.segmentation.heads.blocks import HeadShape, TokenHead, grouped

__all__ = ["deconv"]

NARROWEST = 32


def deconv(shape: HeadShape) -> nn.Module:
    """Return two 3x3 convolutions at token resolution and two doublings, with GroupNorm throughout."""
    width = shape.width
    layers: list[nn.Module] = [nn.Dropout2d(shape.dropout), *grouped(nn.Conv2d(shape.channels, width, 1))]
    for _ in range(2):
        layers += grouped(nn.Conv2d(width, width, 3, padding=1))
    layers.append(nn.Dropout2d(shape.dropout))
    inside = width
    for _ in range(2):
        outside = max(inside // 2, NARROWEST)
        layers += grouped(nn.ConvTranspose2d(inside, outside, 2, stride=2))
        layers += grouped(nn.Conv2d(outside, outside, 3, padding=1))
        inside = outside
    return TokenHead(*layers, nn.Conv2d(inside, shape.classes, 1))
