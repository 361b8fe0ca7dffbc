"""Fused tokens lie where their pixels are, are those of the patches over them, and look like any backbone's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emvfm.backbones.backbone import Tokens
from emvfm.backbones.preprocess import Preprocess
from emvfm.datasets.catalog import open_dataset
from emvfm.errors import UsageError
from emvfm.extraction.pipeline import embed_dataset, identity_of
from emvfm.segmentation.fusion import FUSIONS, fuse, fuse_scales, fuse_shifts

SIZE = st.tuples(st.integers(1, 5), st.integers(1, 5))


def _grid(pixels: Tensor, patch: int) -> Tensor:
    """Return the mean of each patch, ``(B, 1, h, w, C)``: the model that only averages."""
    return torch.nn.functional.avg_pool2d(pixels, patch).permute(0, 2, 3, 1)[:, None]


@given(SIZE, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_half_cell_has_the_mean_of_all_patches_over_it(grid: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    h, w = grid
    maps = {shift: torch.from_numpy(rng.normal(size=(h, w, 3))) for shift in ((0, 0), (1, 1), (1, 0), (0, 1))}
    want = np.zeros((2 * h, 2 * w, 3))
    for y in range(2 * h):
        for x in range(2 * w):
            over = [
                tokens[(y - down) // 2, (x - right) // 2].numpy()
                for (down, right), tokens in maps.items()
                if y >= down and x >= right
            ]
            want[y, x] = np.mean(over, axis=0)
    np.testing.assert_allclose(fuse_shifts(maps).numpy(), want, atol=1e-12)


class _Averages:
    """A stand-in for a backbone whose tokens are the means of their patches."""

    def __init__(self, backbone) -> None:
        self.backbone = backbone

    def __call__(self, images: Tensor, layers=None) -> Tokens:
        patches = _grid(images, self.backbone.patch)
        return Tokens(patches.mean((2, 3)), patches, patches[:, :, 0, :0])


@pytest.mark.parametrize("way", ["shift", "scale"])
def test_tokens_that_hold_their_place_give_the_finer_grid(small_backbone, monkeypatch, way: str) -> None:
    """A ramp stays a ramp under means and bicubic enlargement, so the finer grid is known."""
    fused = fuse(small_backbone, way)
    monkeypatch.setattr(fused.plain, "tokens", _Averages(fused.plain))
    assert (fused.patch, small_backbone.patch) == (8, 16)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(64.0), indexing="ij")
    ramp = torch.stack([rows, columns, rows + 2 * columns])[None]
    found = fused.tokens(ramp).patches
    assert found.shape == (1, 1, 12, 8, 3)
    finer = _grid(ramp, 8)
    if way == "shift":
        torch.testing.assert_close(found[:, :, 1:-1, 1:-1], finer[:, :, 1:-1, 1:-1])
    else:
        # The plain half is a step a patch, the enlarged one the finer grid but at the rim.
        doubled = _grid(ramp, 16).repeat_interleave(2, 2).repeat_interleave(2, 3)
        enlarged = 2 * found - doubled
        torch.testing.assert_close(enlarged[:, :, 1:-1, 1:-1], finer[:, :, 1:-1, 1:-1], atol=1e-3, rtol=0)


def test_the_mean_of_two_scales_is_a_mean() -> None:
    plain, large = torch.zeros(2, 3, 1), torch.ones(4, 6, 1)
    assert torch.equal(fuse_scales(plain, large), torch.full((4, 6, 1), 0.5))


@pytest.mark.parametrize("way", FUSIONS)
def test_any_multiple_of_the_finer_patch_is_an_input(small_backbone, way: str) -> None:
    fused = fuse(small_backbone, way)
    if way == "none":
        assert fused is small_backbone
        return
    images = torch.randn(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = fused.tokens(images, (0, 1))
    assert tokens.patches.shape == (2, 2, 5, 7, small_backbone.width)
    with pytest.raises(UsageError, match="multiples of 8"):
        fused.tokens(images[..., :-4])


def test_constant_images_are_where_fusion_changes_least(small_backbone) -> None:
    """The plain patches away from the rim of a smooth image are near the fused ones: no map is moved."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    image = torch.sin(3 * rows + 2 * columns).expand(1, 3, 128, 128).contiguous()
    with torch.no_grad():
        plain = small_backbone.tokens(image, (1,)).patches[0, 0]
        fused = fuse(small_backbone, "shift").tokens(image, (1,)).patches[0, 0]
    coarse = fused.unflatten(0, (8, 2)).unflatten(2, (8, 2)).mean((1, 3))
    inside = slice(1, -1)

    def distance(down: int) -> float:
        moved = torch.roll(coarse, down, 0)
        return float((moved - plain)[2:-2, inside].norm())

    assert distance(0) < min(distance(1), distance(-1))


def test_the_store_keeps_fused_tokens_under_a_key_of_their_own(workspace, fast, small_backbone) -> None:
    config, dataset = fast(), open_dataset(workspace, "b:val")
    fused = fuse(small_backbone, "shift")
    keys = {identity_of(fuse(small_backbone, way), config).key for way in FUSIONS}
    assert len(keys) == 3
    stored = embed_dataset(dataset, fused, config, workspace)
    assert stored.grid(0) == (15, 15)  # 120 px
    from emvfm.datasets.images import read_image

    prepared = Preprocess.for_backbone(fused.spec, config).prepare(
        read_image(dataset.image_path(dataset.samples[0]))
    )
    with torch.no_grad():
        direct = fused.tokens(torch.from_numpy(prepared.pixels)[None], (0, 1)).patches[0]
    np.testing.assert_allclose(stored.patches(0), direct.numpy(), atol=5e-3)


def test_an_unknown_way_is_a_usage_error(small_backbone) -> None:
    with pytest.raises(UsageError, match="fuse"):
        fuse(small_backbone, "blend")
