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
from emvfm.segmentation.batches import ImageCrops, TokenCrops
from emvfm.segmentation.geometry import as_map, target_of
from emvfm.segmentation.losses import IGNORE

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
    crops = TokenCrops([[s] for s in sources], 4 * PATCH + 5)
    assert crops.n_per_source == [7, 7]
    rng, places = np.random.default_rng(0), []
    for _ in range(12):
        picks = [(0, int(rng.integers(7))), (1, int(rng.integers(7)))]
        tokens, targets = crops.batch(picks, rng)
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
    crops = TokenCrops([[s] for s in embed("a", "b")], 1000)
    tokens, targets = crops.batch([(0, 0), (1, 0), (1, 1)] * 4, np.random.default_rng(1))
    assert tokens.shape[2:] == (6, 6)  # 96 px; slices of the other have 120 px, seven and a half patches
    assert not (targets[::3] == IGNORE).any()
    assert (targets == IGNORE).any()
    # A window of six in eight patches has at most half a patch of padding on two sides.
    assert (targets == IGNORE).flatten(1).float().mean(1).max() < 0.2


def test_crops_follow_the_scale_of_the_input(embed) -> None:
    (source,) = embed("a", input_size="x0.5")
    crops = TokenCrops([[source]], 2 * PATCH)
    tokens, targets = crops.batch([(0, 2)], np.random.default_rng(2))
    (place,) = _places(as_map(source.patches(2)), tokens[0].numpy())
    mask = read_mask(source.dataset.mask_path(source.samples[2]))
    _check_target(targets[0].numpy(), mask[1::2, 1::2], place)


def test_a_crop_of_a_view_lies_over_the_same_view_of_the_mask(embed) -> None:
    views = training_views(3, PATCH)
    shown = [embed("b", view=view)[0] for view in views]
    assert len({embeddings.key for embeddings in shown}) == 3
    crops, rng, seen = TokenCrops([shown], 4 * PATCH, views), np.random.default_rng(3), set()
    for i in list(range(7)) * 2:
        tokens, targets = crops.batch([(0, i)], rng)
        wholes = [as_map(embeddings.patches(i)) for embeddings in shown]
        ((v, place),) = [(v, p) for v, whole in enumerate(wholes) for p in _places(whole, tokens[0].numpy())]
        mask = views[v](read_mask(shown[v].dataset.mask_path(shown[v].samples[i])))
        _check_target(targets[0].numpy(), target_of(mask, shown[v].grid(i), PATCH, "native"), place)
        seen.add(v)
    assert seen == {0, 1, 2}


def test_the_generator_alone_decides_a_batch(embed) -> None:
    crops = TokenCrops([embed("a")], 3 * PATCH)
    picks = [(0, 1), (0, 5), (0, 3)]
    first, again, other = (crops.batch(picks, np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_training_slice_without_a_mask_is_named(embed) -> None:
    (source,) = embed("a")
    source.samples = (replace(source.samples[0], mask=None), *source.samples[1:])
    with pytest.raises(MissingError, match=source.samples[0].id):
        TokenCrops([[source]], 48).batch([(0, 0)], np.random.default_rng(0))


class _Watched:
    """A backbone that remembers the images it was given."""

    def __init__(self, backbone) -> None:
        self.backbone, self.images = backbone, None

    def tokens(self, images, layers):
        self.images = images.detach().cpu().numpy()
        return self.backbone.tokens(images, layers)


@pytest.fixture
def image_crops(workspace, fast, small_backbone):
    """Crops of the training slices of datasets of the workspace, and the backbone that sees them."""

    def make(*names: str, crop: int = 4 * PATCH):
        watched = _Watched(small_backbone)
        preprocess = Preprocess.for_backbone(small_backbone.spec, fast())
        datasets = [open_dataset(workspace, f"{name}:train") for name in names]
        return ImageCrops(datasets, watched, (0, 1), preprocess, crop), watched, preprocess, datasets  # type: ignore[arg-type]

    return make


def _unchanged(image: np.ndarray, rng: np.random.Generator, **_: Any) -> np.ndarray:
    return image


def test_an_image_crop_without_grey_level_changes_is_a_window_of_the_prepared_image(
    image_crops, monkeypatch, small_backbone
) -> None:
    monkeypatch.setattr(batches, "photometric", _unchanged)
    crops, watched, preprocess, datasets = image_crops("a", "b")
    assert crops.n_per_source == [7, 7]
    rng, turns = np.random.default_rng(0), set()
    for i in range(7):
        picks = [(0, i), (1, 6 - i)]
        with torch.no_grad():
            maps, targets = crops.batch(picks, rng)
            tokens = small_backbone.tokens(torch.from_numpy(watched.images), (0, 1)).patches
        for k, (source, index) in enumerate(picks):
            dataset, sample = datasets[source], datasets[source].samples[index]
            prepared = preprocess.prepare(read_image(dataset.image_path(sample)))
            (place,) = _places(prepared.pixels, watched.images[k], tolerance=1e-4)
            turn, y, x = place
            whole = target_of(read_mask(dataset.mask_path(sample)), prepared.grid, PATCH, "native")
            under = turn.inverse()(targets[k]).numpy()
            np.testing.assert_array_equal(under, whole[y : y + 64, x : x + 64])
            np.testing.assert_array_equal(maps[k].numpy(), as_map(tokens[k].numpy()))
            turns.add(turn)
    assert len(turns) >= 4


def test_a_crop_of_the_whole_image_gives_the_tokens_of_the_prepared_image(
    image_crops, monkeypatch, small_backbone
) -> None:
    monkeypatch.setattr(batches, "photometric", _unchanged)
    monkeypatch.setattr(batches, "random_dihedral", lambda rng: Dihedral())
    crops, _, preprocess, (dataset,) = image_crops("a", crop=10_000)
    with torch.no_grad():
        maps, targets = crops.batch([(0, 3)], np.random.default_rng(0))
        prepared = preprocess.prepare(read_image(dataset.image_path(dataset.samples[3])))
        tokens = small_backbone.tokens(torch.from_numpy(prepared.pixels)[None], (0, 1)).patches[0].numpy()
    np.testing.assert_allclose(maps[0].numpy(), as_map(tokens), atol=1e-4)
    np.testing.assert_array_equal(targets[0].numpy(), read_mask(dataset.mask_path(dataset.samples[3])))


def test_grey_levels_vary_from_crop_to_crop_but_targets_do_not(image_crops, monkeypatch) -> None:
    monkeypatch.setattr(batches, "random_dihedral", lambda rng: Dihedral())
    crops, watched, _, _ = image_crops("a", crop=10_000)
    rng, seen = np.random.default_rng(0), []
    for _ in range(3):
        with torch.no_grad():
            _, targets = crops.batch([(0, 0)], rng)
        seen.append((watched.images, targets))
    for (images, targets), (others, other_targets) in pairwise(seen):
        assert np.abs(images - others).max() > 0.01
        assert torch.equal(targets, other_targets)


def test_the_maps_of_an_adapted_backbone_carry_gradients_to_the_adapter(workspace, fast) -> None:
    config = fast(lora=True)
    backbone = load_backbone(config, workspace)
    inject_lora(backbone, config)
    preprocess = Preprocess.for_backbone(backbone.spec, config)
    crops = ImageCrops([open_dataset(workspace, "a:train")], backbone, (0, 1), preprocess, 48)
    maps, _ = crops.batch([(0, 0)], np.random.default_rng(0))
    maps.square().sum().backward()
    gradients = [p.grad for name, p in adapter_parameters(backbone.module) if "blocks.0." in name]
    assert gradients
    assert all(g is not None for g in gradients)
    assert any(bool(g.abs().max() > 0) for g in gradients)
