"""A head that sees the image beside the tokens: tokens say what is there, pixels say where it ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emvfm.segmentation.heads.blocks import HeadShape, grouped, pixels_under, projected, twice

__all__ = ["Detail"]

NARROWEST = 8


class Detail(nn.Module):
    """Convolutions over the pixels that meet the tokens at their resolution and lead the way back up.

    The detail capture of ViTMatte (Yao et al. 2023, arXiv:2305.15272) with an encoder that goes down to the
    tokens. Pixels are resampled to eight points along a patch whatever its size, so that every level is a whole
    number of doublings above the tokens: 4, 2 and 1 points a patch inside, 8 in the answer. On the way up, each
    level is put beside the pixels' own map of that resolution, as in a U-Net.

    Parameters
    ----------
    shape
        `width` channels at the resolution of the tokens, two thirds and one third of it at the finer levels.
    """

    sees_pixels = True

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.patch = shape.patch
        widths = [max(shape.width * share // 3, NARROWEST) for share in (1, 2)] + [shape.width]
        fine, middle, coarse = widths
        self.stem = nn.Sequential(*grouped(nn.Conv2d(3, fine, 6, stride=2, padding=2)))
        self.encode = nn.ModuleList((twice(fine, fine), twice(fine, middle), twice(middle, coarse)))
        self.halve = nn.MaxPool2d(2)
        self.project = projected(shape, coarse)
        self.merge = nn.Sequential(*twice(2 * coarse, coarse), nn.Dropout2d(shape.dropout))
        self.decode = nn.ModuleList((twice(coarse + middle, middle), twice(middle + fine, fine)))
        self.classify = nn.Sequential(nn.Conv2d(fine, 4 * shape.classes, 1), nn.PixelShuffle(2))

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
        level = self.encode[0](self.stem(pixels_under(tokens, pixels, self.patch, "detail")))
        skips = []
        for encode in list(self.encode)[1:]:
            skips.append(level)
            level = encode(self.halve(level))
        level = self.merge(torch.cat((self.project(tokens), level), dim=1))
        for decode, skip in zip(self.decode, reversed(skips), strict=True):
            grown = nn.functional.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
            level = decode(torch.cat((grown, skip), dim=1))
        return self.classify(level)
