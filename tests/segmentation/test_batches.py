"""Crops of tokens and images lie exactly over their targets, however they are turned."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.lora import adapter_parameters, inject_lora
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.views import PLAIN, View, training_views
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.images import read_image
from emvfm.datasets.masks import read_mask
from emvfm.errors import MissingError
from emvfm.extraction.pipeline import embed_dataset
from emvfm.segmentation import batches
from emvfm.segmentation.augmentation import Dihedral, all_dihedral
from emvfm.segmentation.augmentation_options import Augmentation
from emvfm.segmentation.batches import ImageCrops, TokenCrops
from emvfm.segmentation.cropping import Cropping
from emvfm.segmentation.geometry import as_map, target_of
from emvfm.segmentation.losses import IGNORE
from emvfm.segmentation.model import build_model
from emvfm.segmentation.recipe import resolved

PATCH = 16
Place = tuple[Dihedral, int, int]


@pytest.fixture
def embed(workspace, fast, small_backbone):
    """Embed the training slices of datasets of the workspace."""

    def embed(*names: str, view: View = PLAIN, **changes: Any):
        return [
            embed_dataset(
                open_dataset(workspace, f"{name}:train"),
                small_backbone,
                fast(**changes),
                workspace,
                view=view,
            )
            for name in names
        ]

    return embed


def _places(whole: np.ndarray, part: np.ndarray, tolerance: float = 0.0) -> list[Place]:
    """Return each turn and corner at which the square `part` (C, s, s) lies in `whole` (C, h, w)."""
    found, side = [], part.shape[-1]
    rows, columns = (n - side + 1 for n in whole.shape[1:])
    for turn in all_dihedral():
        upright = turn.inverse()(torch.from_numpy(part)).numpy()
        fits = np.abs(whole[:, :rows, :columns] - upright[:, :1, :1]).max(0) <= tolerance
        for y, x in np.argwhere(fits).tolist():
            if np.abs(whole[:, y : y + side, x : x + side] - upright).max() <= tolerance:
                found.append((turn, y, x))
    return found


def _check_target(target: np.ndarray, whole: np.ndarray, place: Place) -> None:
    turn, y, x = place
    side = target.shape[-1]
    window = whole[y * PATCH : y * PATCH + side, x * PATCH : x * PATCH + side]
    np.testing.assert_array_equal(turn.inverse()(torch.from_numpy(target)).numpy(), window)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_token_crop_is_a_window_of_the_store_over_the_same_window_of_the_mask(
    embed, monkeypatch, in_memory: bool
) -> None:
    if not in_memory:
        monkeypatch.setattr(batches, "_MOST_BYTES", 0)
    sources = embed("a", "b")
    crops = TokenCrops([[s] for s in sources], Cropping(4 * PATCH + 5))
    assert crops.n_per_source == [7, 7]
    rng, places = np.random.default_rng(0), []
    for _ in range(12):
        picks = [(0, int(rng.integers(7))), (1, int(rng.integers(7)))]
        batch = crops.batch(picks, rng)
        tokens, targets = batch.tokens, batch.targets
        assert batch.pixels is None
        assert len(batch) == 2
        assert (tokens.dtype, targets.dtype) == (torch.float32, torch.int64)
        assert (tokens.shape[2:], targets.shape[1:]) == ((4, 4), (4 * PATCH, 4 * PATCH))
        for (source, i), inside, under in zip(picks, tokens.numpy(), targets.numpy(), strict=True):
            (place,) = _places(as_map(sources[source].patches(i)), inside)
            embeddings = sources[source]
            mask = read_mask(embeddings.dataset.mask_path(embeddings.samples[i]))
            _check_target(under, target_of(mask, embeddings.grid(i), PATCH, "native"), place)
            places.append(place)
    assert len({turn for turn, _, _ in places}) >= 6  # of eight, in 24 draws
    assert len({(y, x) for _, y, x in places}) >= 5


def test_a_crop_is_no_larger_than_the_smallest_image_and_padding_stays_ignored(embed) -> None:
    crops = TokenCrops([[s] for s in embed("a", "b")], Cropping(1000))
    batch = crops.batch([(0, 0), (1, 0), (1, 1)] * 4, np.random.default_rng(1))
    tokens, targets = batch.tokens, batch.targets
    assert tokens.shape[2:] == (6, 6)  # 96 px; slices of the other have 120 px, seven and a half patches
    assert not (targets[::3] == IGNORE).any()
    assert (targets == IGNORE).any()
    # A window of six in eight patches has at most half a patch of padding on two sides.
    assert (targets == IGNORE).flatten(1).float().mean(1).max() < 0.2


def test_crops_follow_the_scale_of_the_input(embed) -> None:
    (source,) = embed("a", input_size="x0.5")
    crops = TokenCrops([[source]], Cropping(2 * PATCH))
    batch = crops.batch([(0, 2)], np.random.default_rng(2))
    tokens, targets = batch.tokens, batch.targets
    (place,) = _places(as_map(source.patches(2)), tokens[0].numpy())
    mask = read_mask(source.dataset.mask_path(source.samples[2]))
    _check_target(targets[0].numpy(), mask[1::2, 1::2], place)


def test_a_crop_of_a_view_lies_over_the_same_view_of_the_mask(embed) -> None:
    views = training_views(3, PATCH)
    shown = [embed("b", view=view)[0] for view in views]
    assert len({embeddings.key for embeddings in shown}) == 3
    crops, rng, seen = TokenCrops([shown], Cropping(4 * PATCH), views), np.random.default_rng(3), set()
    for i in list(range(7)) * 2:
        batch = crops.batch([(0, i)], rng)
        tokens, targets = batch.tokens, batch.targets
        wholes = [as_map(embeddings.patches(i)) for embeddings in shown]
        ((v, place),) = [(v, p) for v, whole in enumerate(wholes) for p in _places(whole, tokens[0].numpy())]
        mask = views[v](read_mask(shown[v].dataset.mask_path(shown[v].samples[i])))
        _check_target(targets[0].numpy(), target_of(mask, shown[v].grid(i), PATCH, "native"), place)
        seen.add(v)
    assert seen == {0, 1, 2}


def test_tokens_pixels_and_target_of_a_crop_are_warped_together(
    embed, fast, small_backbone, monkeypatch
) -> None:
    """Tokens that hold the mean grey level of their patch still do so after a warp."""
    (source,) = embed("a")
    size = 6 * PATCH
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size
    grey = (rows + columns) / 2
    means = grey.reshape(6, PATCH, 6, PATCH).mean((1, 3))
    preprocess = Preprocess.for_backbone(small_backbone.spec, fast())
    varied = replace(STILL, flips=True, warp=1, rotation=20, zoom=0.2, elastic=6)
    crops = TokenCrops([[source]], Cropping(2 * PATCH, varied=varied), preprocess=preprocess)
    monkeypatch.setattr(crops, "_load", lambda *_: (means[None, :, :, None], grey))
    monkeypatch.setattr(crops, "_target", lambda *_: (grey > 0.5).astype(np.uint8))
    rng, mean, std = np.random.default_rng(0), preprocess.mean[0], preprocess.std[0]
    for _ in range(40):
        batch = crops.batch([(0, 0)], rng)
        seen = batch.pixels[0, 0] * std + mean
        inside = (batch.targets[0] != IGNORE).numpy()
        known = inside.reshape(2, PATCH, 2, PATCH).all((1, 3))
        averaged = seen.numpy().reshape(2, PATCH, 2, PATCH).mean((1, 3))
        np.testing.assert_allclose(batch.tokens[0, 0].numpy()[known], averaged[known], atol=0.02)
        clear = inside & (np.abs(seen.numpy() - 0.5) > 0.01)
        np.testing.assert_array_equal(batch.targets[0].numpy()[clear], seen.numpy()[clear] > 0.5)


def test_a_head_without_pixels_gets_tokens_as_they_are_stored(embed) -> None:
    (source,) = embed("a")
    crops = TokenCrops([[source]], Cropping(3 * PATCH, varied=Augmentation(warp=1)))
    batch = crops.batch([(0, 1)], np.random.default_rng(0))
    assert _places(as_map(source.patches(1)), batch.tokens[0].numpy())


def test_the_generator_alone_decides_a_batch(embed) -> None:
    crops = TokenCrops([embed("a")], Cropping(3 * PATCH))
    picks = [(0, 1), (0, 5), (0, 3)]
    first, again, other = (crops.batch(picks, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.tokens, other.tokens)


def test_a_training_slice_without_a_mask_is_named(embed) -> None:
    (source,) = embed("a")
    source.samples = (replace(source.samples[0], mask=None), *source.samples[1:])
    with pytest.raises(MissingError, match=source.samples[0].id):
        TokenCrops([[source]], Cropping(48)).batch([(0, 0)], np.random.default_rng(0))


@pytest.fixture
def image_crops(workspace, fast, small_backbone):
    """Crops of the training slices of datasets of the workspace."""

    def make(*names: str, cropping: Cropping):
        preprocess = Preprocess.for_backbone(small_backbone.spec, fast())
        datasets = [open_dataset(workspace, f"{name}:train") for name in names]
        return ImageCrops(datasets, preprocess, cropping), preprocess, datasets

    return make


STILL = Augmentation(
    flips=False, warp=0, rotation=0, zoom=0, elastic=0, brightness=0, contrast=0, gamma=0, noise=0, blur=0
)


def test_an_image_crop_without_grey_level_changes_is_a_window_of_the_prepared_image(image_crops) -> None:
    cropping = Cropping(4 * PATCH, varied=replace(STILL, flips=True))
    crops, preprocess, datasets = image_crops("a", "b", cropping=cropping)
    assert crops.n_per_source == [7, 7]
    rng, turns = np.random.default_rng(0), set()
    for i in range(7):
        picks = [(0, i), (1, 6 - i)]
        batch = crops.batch(picks, rng)
        assert batch.tokens is None
        for k, (source, index) in enumerate(picks):
            dataset, sample = datasets[source], datasets[source].samples[index]
            prepared = preprocess.prepare(read_image(dataset.image_path(sample)))
            (place,) = _places(prepared.pixels, batch.pixels[k].numpy(), tolerance=1e-4)
            turn, y, x = place
            whole = target_of(read_mask(dataset.mask_path(sample)), prepared.grid, PATCH, "native")
            under = turn.inverse()(batch.targets[k]).numpy()
            np.testing.assert_array_equal(under, whole[y : y + 64, x : x + 64])
            turns.add(turn)
    assert len(turns) >= 4


def test_a_crop_of_the_whole_image_is_the_prepared_image(image_crops) -> None:
    for side in (0, 10_000):
        crops, preprocess, (dataset,) = image_crops("a", cropping=Cropping(side, varied=STILL))
        batch = crops.batch([(0, 3)], np.random.default_rng(0))
        prepared = preprocess.prepare(read_image(dataset.image_path(dataset.samples[3])))
        np.testing.assert_allclose(batch.pixels[0].numpy(), prepared.pixels, atol=1e-5)
        np.testing.assert_array_equal(
            batch.targets[0].numpy(), read_mask(dataset.mask_path(dataset.samples[3]))
        )


def test_grey_levels_vary_from_crop_to_crop_but_targets_do_not(image_crops) -> None:
    cropping = Cropping(10_000, varied=Augmentation(flips=False, warp=0))
    crops, _, _ = image_crops("a", cropping=cropping)
    rng = np.random.default_rng(0)
    seen = [crops.batch([(0, 0)], rng) for _ in range(3)]
    for one, other in pairwise(seen):
        assert (one.pixels - other.pixels).abs().max() > 0.01
        assert torch.equal(one.targets, other.targets)


def test_a_warped_crop_shows_its_target_where_the_image_shows_it(image_crops) -> None:
    """Paint the mask as the image: wherever a label is left, the warped pixels say the same."""
    cropping = Cropping(48, varied=replace(STILL, flips=True, warp=1.0, rotation=30.0, zoom=0.3, elastic=2.0))
    crops, _, _ = image_crops("b", cropping=cropping)
    crops._items = [[(target.astype(np.float32) * (target == 1), target) for _, target in crops._items[0]]]
    rng, wrong, counted = np.random.default_rng(0), 0, 0
    for i in range(7):
        batch = crops.batch([(0, i)], rng)
        white = batch.pixels[0].max(dim=0).values > batch.pixels[0].amax() / 2
        seen = batch.targets[0] != IGNORE
        if not (batch.targets[0] == 1).any():
            continue
        wrong += int((white != (batch.targets[0] == 1))[seen].sum())
        counted += int(seen.sum())
    assert counted > 3 * 48 * 48
    assert wrong < 0.02 * counted  # the bounds of interpolation


def test_the_share_of_foreground_is_that_of_the_masks(image_crops, embed) -> None:
    crops, _, (dataset,) = image_crops("a", cropping=Cropping(48))
    want = [float(read_mask(dataset.mask_path(s)).mean()) for s in dataset.samples]
    assert crops.foreground() == [pytest.approx(want)]
    assert TokenCrops([embed("a")], Cropping(48)).foreground() == [pytest.approx(want)]


def test_pixels_beside_tokens_are_those_the_tokens_were_made_of(embed, fast, small_backbone) -> None:
    views = training_views(5, PATCH)
    shown = [embed("a", view=view)[0] for view in views]
    preprocess = Preprocess.for_backbone(small_backbone.spec, fast())
    still = Augmentation(brightness=0, contrast=0, gamma=0, noise=0, blur=0)
    crops = TokenCrops([shown], Cropping(3 * PATCH, varied=still), views, preprocess)
    rng, seen = np.random.default_rng(0), set()
    for i in range(14):
        batch = crops.batch([(0, i % 7)], rng)
        assert batch.pixels.shape[-2:] == batch.targets.shape[-2:]
        for v, view in enumerate(views):
            sample = shown[v].samples[i % 7]
            image = read_image(shown[v].dataset.image_path(sample))
            whole = replace(preprocess, view=view).prepare(image).pixels
            found = _places(as_map(shown[v].patches(i % 7)), batch.tokens[0].numpy())
            for turn, y, x in found:
                upright = turn.inverse()(batch.pixels[0]).numpy()
                p, s = PATCH, 3 * PATCH
                np.testing.assert_allclose(upright, whole[:, y * p : y * p + s, x * p : x * p + s], atol=1e-4)
                seen.add(v)
    assert len(seen) >= 3


def test_grey_levels_of_pixels_beside_tokens_vary_and_nothing_else_does(embed, fast, small_backbone) -> None:
    preprocess = Preprocess.for_backbone(small_backbone.spec, fast())
    flat = Augmentation(flips=False)
    whole = Cropping(0, varied=flat), Cropping(0, varied=replace(flat, brightness=0, contrast=0, gamma=0))
    bright, noisy = (TokenCrops([embed("a")], c, preprocess=preprocess) for c in whole)
    one, other = (crops.batch([(0, 2)], np.random.default_rng(4)) for crops in (bright, noisy))
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.targets, other.targets)
    assert (one.pixels - other.pixels).abs().max() > 0.01
    again = bright.batch([(0, 2)], np.random.default_rng(4))
    assert torch.equal(again.pixels, one.pixels)


def test_gradients_reach_the_adapter_through_tokens_of_crops(workspace, fast) -> None:
    config = fast(lora=True)
    backbone = load_backbone(config, workspace)
    inject_lora(backbone, config)
    preprocess = Preprocess.for_backbone(backbone.spec, config)
    crops = ImageCrops([open_dataset(workspace, "a:train")], preprocess, Cropping(48))
    model = build_model(resolved(config, 7), backbone)
    model.tokens(crops.batch([(0, 0)], np.random.default_rng(0)).pixels).square().sum().backward()
    gradients = [p.grad for name, p in adapter_parameters(backbone.module) if "blocks.0." in name]
    assert gradients
    assert all(g is not None for g in gradients)
    assert any(bool(g.abs().max() > 0) for g in gradients)
