"""The linear head: what one linear map can read from each token on its own."""

from __future__ import annotations

from torch import nn

from emvfm.segmentation.heads.blocks import ChannelNorm, HeadShape, TokenHead

__all__ = ["linear"]


def linear(shape: HeadShape) -> nn.Module:
    """Return the probe by which DINOv2 (arXiv:2304.07193) and DINOv3 (arXiv:2508.10104) are compared.

    They normalise by synchronised batch statistics; here each token is normalised by its own, so that batches
    of two crops and single images give the same answer in training and later.
    """
    return TokenHead(
        ChannelNorm(shape.channels),
        nn.Dropout(shape.dropout),
        nn.Conv2d(shape.channels, shape.classes, 1),
    )
