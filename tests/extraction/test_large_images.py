"""Images that go through in tiles: the same tokens in the same store, whatever the file and the scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import View
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset
from emvfm.errors import CorruptError, UsageError
from emvfm.extraction.pipeline import embed_dataset, identity_of
from emvfm.provenance import sha256_file
from emvfm.store import layout
from emvfm.store.care import verify

DRAW = np.random.default_rng(0)


@pytest.fixture
def local(vit: Backbone, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A backbone whose tokens tell the pixels of their patch, and nothing of the others: tiles change nothing."""
    directions = torch.from_numpy(DRAW.normal(size=(3 * 16 * 16, vit.width)).astype(np.float32)) / 30

    def tokens(images: torch.Tensor, layers: Any) -> Tokens:
        patches = images.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(3) @ directions
        stacked = torch.stack([patches * (layer + 1) for layer in layers], dim=1)
        cls = stacked.mean(dim=(2, 3))
        return Tokens(cls, stacked, cls[:, :, None])

    monkeypatch.setattr(vit, "tokens", tokens)
    return vit


def _with_image(dataset: Dataset, values: np.ndarray, **options: Any) -> Dataset:
    """Replace the first sample's image by a TIFF of `values`."""
    path = dataset.root / "images" / "large.tif"
    tifffile.imwrite(path, values, **options)
    sample = replace(
        dataset.samples[0], image="images/large.tif", mask=None, mask_sha256=None, image_sha256=sha256_file(path),
        height=values.shape[0], width=values.shape[1],
    )  # fmt: skip
    return replace(dataset, samples=(sample, *dataset.samples[1:]))


@pytest.mark.parametrize("input_size", ["native", "x0.7", "x1.3"])
@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "colour"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_give_what_one_pass_gives(
    local: Backbone, make_dataset: Any, make_config: Any, workspace: Any, monkeypatch: pytest.MonkeyPatch,
    input_size: str, kind: str, batch_size: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(layout, "_SHARD_BYTES", 2**12)  # the store cuts the large image as well
    shape = (150, 210, 3) if kind == "colour" else (150, 210)
    values = DRAW.integers(0, 255, shape).astype("uint8" if kind == "colour" else kind)
    dataset = _with_image(make_dataset("data", [(64, 64)] * 3), values, rowsperstrip=20)
    options = make_config(input_size=input_size, batch_size=batch_size)
    whole = embed_dataset(dataset, local, replace(options, tile=0), workspace)
    tiled = embed_dataset(dataset, local, replace(options, tile=48, tile_overlap=16), workspace)
    assert tiled.key != whole.key
    for i in range(3):
        np.testing.assert_allclose(tiled.patches(i), whole.patches(i), atol=2e-3)
        np.testing.assert_array_equal(tiled.valid(i), whole.valid(i))
    np.testing.assert_allclose(tiled.image_embeddings("mean"), whole.image_embeddings("mean"), atol=1e-3)
    window = slice(2, 5), slice(3, 11)
    np.testing.assert_array_equal(tiled.patches(0, window=window), tiled.patches(0)[:, *window])
    assert verify(tiled.store) == {}


def test_a_view_of_a_large_image_is_tiled_too(
    local: Backbone, make_dataset: Any, make_config: Any, workspace: Any
) -> None:
    dataset = _with_image(
        make_dataset("data", [(64, 64)]), DRAW.integers(0, 60000, (150, 210)).astype("uint16")
    )
    view = View(turns=1, mirrored=True, skipped=(8, 3))
    found = [
        embed_dataset(
            dataset, local, make_config(tile=tile, tile_overlap=16 if tile else 0), workspace, view=view
        )
        for tile in (0, 48)
    ]
    np.testing.assert_allclose(found[1].patches(0), found[0].patches(0), atol=2e-3)


def test_an_image_of_one_tile_is_not_changed_by_tiling(
    vit: Backbone, make_dataset: Any, make_config: Any, workspace: Any
) -> None:
    dataset = make_dataset("data", [(64, 64), (48, 60)])
    whole = embed_dataset(dataset, vit, make_config(tile=0), workspace)
    tiled = embed_dataset(dataset, vit, make_config(tile=64, tile_overlap=32), workspace)
    for i in range(2):
        np.testing.assert_array_equal(tiled.patches(i), whole.patches(i))


def test_a_real_backbone_sees_neighbours_in_its_tiles(
    vit: Backbone, make_dataset: Any, make_config: Any, workspace: Any
) -> None:
    """With overlap, tokens lie closer to those of the whole image than with tiles that know no neighbours."""
    dataset = _with_image(make_dataset("data", [(64, 64)]), DRAW.integers(0, 255, (160, 160)).astype("uint8"))
    whole = embed_dataset(dataset, vit, make_config(tile=0), workspace).patches(0)
    away = {}
    for overlap in (0, 48):
        options = make_config(tile=80, tile_overlap=overlap)
        tiled = embed_dataset(dataset, vit, options, workspace).patches(0)
        away[overlap] = float(np.square(tiled - whole).mean())
    assert away[48] < away[0]


def test_damage_within_a_large_file_is_named(
    vit: Backbone, make_dataset: Any, make_config: Any, workspace: Any
) -> None:
    values = DRAW.normal(size=(150, 210)).astype(np.float32)
    values[140, 3] = np.inf
    dataset = _with_image(make_dataset("data", [(64, 64)]), values)
    with pytest.raises(CorruptError, match=r"large\.tif.*not finite"):
        embed_dataset(dataset, vit, make_config(tile=48, tile_overlap=16), workspace)
    assert not list(Path(workspace.store).rglob("*.tmp"))


def test_tiles_that_only_overlap_are_refused(vit: Backbone, make_config: Any) -> None:
    with pytest.raises(UsageError, match=r"overlap.*less than 32 px"):
        identity_of(vit, make_config(tile=32, tile_overlap=32))


# ---------------------------------------------------------------------- physical scale


def test_a_common_pixel_size_resamples_each_image_by_its_own(
    vit: Backbone, make_dataset: Any, make_config: Any, workspace: Any
) -> None:
    dataset = make_dataset("data", [(64, 64)] * 3)
    sizes = (5.0, 10.0, 4.0)
    samples = [replace(s, pixel_size_nm=nm) for s, nm in zip(dataset.samples, sizes, strict=True)]
    again = replace(samples[0], id="again", pixel_size_nm=10.0)  # the same bytes, said to be coarser
    dataset = replace(dataset, samples=(*samples, again))
    options = make_config(pixel_size="5 nm")
    found = embed_dataset(dataset, vit, options, workspace)
    assert [found.grid(i) for i in range(4)] == [(4, 4), (8, 8), (4, 4), (8, 8)]  # 51 px are four patches
    for i, factor in enumerate(("native", "x2", "x0.8", "x2")):
        preprocess = Preprocess.for_backbone(vit.spec, make_config(input_size=factor))
        pixels = preprocess.prepare(read_image(dataset.image_path(dataset.samples[i]))).pixels
        with torch.inference_mode():
            expected = vit.tokens(torch.from_numpy(pixels)[None], options.layers).patches[0].numpy()
        np.testing.assert_allclose(found.patches(i), expected, atol=1e-4)
        assert found.foreground(i).shape == found.grid(i)
    names = set(zarr.open_group(found.store.folder, mode="r")["grids/8x8/image"][:]) - {""}
    assert names == {f"{samples[1].image_sha256}@10.0nm", f"{samples[0].image_sha256}@10.0nm"}


def test_the_scale_enters_the_identity_and_its_unit_does_not(vit: Backbone, make_config: Any) -> None:
    plain, five = identity_of(vit, make_config()), identity_of(vit, make_config(pixel_size="5nm"))
    assert plain.key != five.key != identity_of(vit, make_config(pixel_size="6nm")).key
    for same in ("5", "5.0 nm", "0.005um", "0.005 µm"):
        assert identity_of(vit, make_config(pixel_size=same)).key == five.key
    for wrong in ("", "5mm", "-5nm", "0nm", "nm", "5 nm nm"):
        with pytest.raises(UsageError, match="not a pixel size"):
            identity_of(vit, make_config(pixel_size=wrong))
    with pytest.raises(UsageError, match="not both"):
        identity_of(vit, make_config(pixel_size="5nm", input_size="x2"))


def test_an_image_of_unknown_pixel_size_is_refused_by_name(
    vit: Backbone, make_dataset: Any, make_config: Any, workspace: Any
) -> None:
    dataset = make_dataset("data", [(64, 64)])
    with pytest.raises(UsageError, match=r"s000\.png.*pixel size.*not known.*--pixel-size"):
        embed_dataset(dataset, vit, make_config(pixel_size="5nm"), workspace)
