"""What the detail head has alone: any width."""

from __future__ import annotations

import pytest
import torch

from emvfm.segmentation.heads import build_head


@pytest.mark.parametrize("width", [1, 3, 20, 33])
def test_any_width_fits_the_group_norms(width: int) -> None:
    head = build_head("detail", 16, patch=14, width=width)
    assert head(torch.randn(2, 16, 3, 5), torch.randn(2, 3, 42, 70)).shape == (2, 2, 24, 40)
