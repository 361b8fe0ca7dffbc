"""The head of earlier published results, kept so that new numbers can stand beside old ones."""

from __future__ import annotations

from torch import nn

from emvfm.segmentation.heads.blocks import HeadShape, TokenHead, batched

__all__ = ["deconv_reference"]

WIDTHS = (512, 256, 128, 64, 64)


def deconv_reference(shape: HeadShape) -> nn.Module:
    """Return four learnt doublings with batch normalisation and neither dropout nor a width to choose."""
    first, *rest = WIDTHS
    layers = batched(nn.Conv2d(shape.channels, first, 1, bias=False))
    inside = first
    for outside in rest:
        layers += batched(nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1, bias=False))
        layers += batched(nn.Conv2d(outside, outside, 3, padding=1, bias=False))
        inside = outside
    return TokenHead(*layers, nn.Conv2d(inside, shape.classes, 1))
