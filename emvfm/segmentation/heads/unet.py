"""A U-Net to which tokens are added on its way down: a backbone added to what a user would train without one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emvfm.errors import UsageError
from emvfm.segmentation.heads.blocks import POINTS, HeadShape, pixels_under, projected
from emvfm.segmentation.unet import UNet

__all__ = ["TokenUNet"]

MEETING = POINTS.bit_length() - 1  # halvings that lead from the points to the tokens
DEPTH = MEETING + 1  # one more, so that tokens are seen among their neighbours
SOFTLY = 0.1  # of the tokens at the first step


class TokenUNet(nn.Module):
    """The plain U-Net over the pixels, four halvings deep, with the tokens added behind its third.

    Pixels are resampled to eight points along a patch whatever its size, so that three halvings lead to the
    tokens. Without the tokens it is `UNet`; what it gains over one is what the backbone adds. Each channel of
    the tokens has a weight, small at first (LayerScale, Touvron et al. 2021, arXiv:2103.17239), so that the
    U-Net begins to see before the tokens tell it the training volume by heart. In TransUNet
    (Chen et al. 2021, arXiv:2102.04306) and UNETR (Hatamizadeh et al. 2022, arXiv:2103.10504) the transformer
    is trained with the rest; here its tokens may come from a store.

    Parameters
    ----------
    shape
        `width` channels at the resolution of the tokens, half of it at each finer level.

    Raises
    ------
    UsageError
        For a width that does not halve three times.
    """

    sees_pixels = True

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        if shape.width % POINTS:
            raise UsageError(
                "does not halve three times", where="head width", got=shape.width, expected="a multiple of 8"
            )
        self.patch = shape.patch
        self.project = projected(shape, shape.width)
        self.strength = nn.Parameter(torch.full((shape.width, 1, 1), SOFTLY))
        self.unet = UNet(shape.width // POINTS, DEPTH, classes=shape.classes, dropout=shape.dropout)

    def forward(self, tokens: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Return logits `(B, K, 8 h, 8 w)` of tokens `(B, L D, h, w)` and normalised pixels beside them.

        Parameters
        ----------
        pixels
            `(B, 3, h patch, w patch)` float32.

        Raises
        ------
        UsageError
            Without pixels, or with pixels of another place or size than the tokens.
        """
        points = pixels_under(tokens, pixels, self.patch, "unet")
        said = self.strength * self.project(tokens)
        return self.unet.expand(self.unet.contract(points, added={MEETING: said}))
