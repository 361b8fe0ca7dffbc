"""A U-Net with tokens: a U-Net where they say nothing, and a refusal of widths that do not halve."""

from __future__ import annotations

import pytest
import torch

from emvfm.errors import UsageError
from emvfm.segmentation.heads import build_head
from emvfm.segmentation.heads.unet import TokenUNet
from emvfm.segmentation.unet import UNet


def _head(patch: int = 8) -> TokenUNet:
    torch.manual_seed(0)
    head = build_head("unet", 16, patch=patch, width=32, dropout=0.0).eval()
    assert isinstance(head, TokenUNet)
    return head


def test_with_tokens_of_no_strength_it_is_the_plain_unet_over_the_pixels() -> None:
    head = _head()
    plain = UNet(4, 4).eval()
    plain.load_state_dict(head.unet.state_dict())
    tokens, pixels = torch.randn(2, 16, 4, 6), torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(head.unet.expand(head.unet.contract(pixels)), plain(pixels))
    assert not torch.allclose(head(tokens, pixels), plain(pixels), atol=1e-3)
    head.strength.data.zero_()
    torch.testing.assert_close(head(tokens, pixels), plain(pixels))


@pytest.mark.parametrize("width", [1, 12, 33])
def test_a_width_that_does_not_halve_three_times_is_refused(width: int) -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        build_head("unet", 16, width=width)


@pytest.mark.parametrize("grid", [(3, 5), (1, 1), (4, 7)])
def test_an_odd_number_of_tokens_halves_all_the_same(grid: tuple[int, int]) -> None:
    rows, columns = grid
    head = _head()
    tokens, pixels = torch.randn(1, 16, rows, columns), torch.randn(1, 3, 8 * rows, 8 * columns)
    assert head(tokens, pixels).shape == (1, 2, 8 * rows, 8 * columns)
