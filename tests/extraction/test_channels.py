"""Channels from the file to the store: copies, fills, names before order, and names of stores that stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.views import View
from emvfm.datasets.images import write_channels
from emvfm.datasets.manifest import Dataset, Sample, save_dataset
from emvfm.errors import CorruptError, UsageError
from emvfm.extraction.pipeline import channels_of, embed_dataset, identity_of, open_embeddings, preprocess_of
from emvfm.extraction.repair import recompute
from emvfm.provenance import sha256_file
from emvfm.store.store import EmbeddingStore
from emvfm.workspace import Workspace

NAMES = ("gfp", "dna", "er")


def _values(n: int = 3, count: int = 3, dtype: str = "uint16", side: int = 40) -> np.ndarray:
    draw = np.random.default_rng(7)
    values = draw.integers(0, 200, (n, count, side, 48)) * np.arange(1, count + 1)[:, None, None]
    return values.astype(dtype)


def _dataset(root: Path, values: np.ndarray, names: tuple[str, ...] | None = NAMES) -> Dataset:
    samples = []
    for i, planes in enumerate(values):
        path = write_channels(root / "images" / f"s{i}.tif", planes)
        samples.append(
            Sample(f"s{i}", f"images/s{i}.tif", None, "train", "cells", "v", None, *planes.shape[1:], None,
                   sha256_file(path), None)
        )  # fmt: skip
    meta = {} if names is None else {"channels": [{"name": name} for name in names]}
    return save_dataset(Dataset("cells", root, tuple(samples), meta))


@pytest.fixture
def embed(tmp_path, vit, make_config):
    """Embed a dataset of these values and names; the folder is named by what is in it."""

    def run(values: np.ndarray, names=NAMES, backbone: Backbone = vit, view=None, **options) -> np.ndarray:
        root = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        root.mkdir()
        found = embed_dataset(
            _dataset(root, values, names), backbone, make_config(**options), Workspace(tmp_path / "ws"),
            **({} if view is None else {"view": view}),
        )  # fmt: skip
        return np.concatenate(
            [found.image_embeddings(pool, layer) for pool in ("cls", "mean") for layer in range(2)], axis=1
        )

    return run


@pytest.mark.parametrize("normalise", ["backbone", "self", "percentile", "minmax", "imagenet"])
@pytest.mark.parametrize("channels", ["replicate", "map", "random-map", "mean"])
def test_names_decide_and_not_the_order_in_the_file(embed, channels, normalise):
    values = _values(2)
    order = [2, 0, 1]
    first = embed(values, channels=channels, normalise=normalise, fill="mean")
    turned = embed(
        values[:, order], tuple(NAMES[i] for i in order), channels=channels, normalise=normalise, fill="mean"
    )
    np.testing.assert_array_equal(first, turned)


@pytest.mark.parametrize("backbone", ["rgb", "hpa"])
def test_replicating_equal_channels_gives_copies(embed, vit, make_config, workspace, backbone):
    model = vit if backbone == "rgb" else load_backbone(make_config(backbone="timm:test_vit@hpa"), workspace)
    one = _values(2, 1)
    width = model.width
    whole = embed(np.repeat(one, 3, axis=1), channels="replicate", backbone=model)
    alone = embed(one, ("gfp",), channels="replicate", backbone=model)
    assert whole.shape == (2, 3 * alone.shape[1])
    parts = whole.reshape(2, -1, 3, width)
    for k in range(3):
        np.testing.assert_array_equal(parts[:, :, k].reshape(2, -1), alone)
    averaged = embed(np.repeat(one, 3, axis=1), channels="replicate", join="mean", backbone=model)
    np.testing.assert_allclose(averaged, alone, rtol=1e-5, atol=1e-5)


def test_replicating_a_grey_image_is_what_grey_images_always_were(embed):
    one = _values(2, 1, "uint8")
    np.testing.assert_array_equal(embed(one, ("gfp",), channels="replicate"), embed(one, None))


def test_a_mean_of_passes_is_their_mean(embed):
    values = _values(2)
    joined = embed(values, channels="replicate").reshape(2, -1, 3, 64)
    averaged = embed(values, channels="replicate", join="mean").reshape(2, -1, 64)
    np.testing.assert_allclose(averaged, joined.mean(axis=2), rtol=1e-5, atol=1e-5)


def test_fills_leave_mapped_slots_untouched(vit, tmp_path, make_config):
    values = _values(1, 2)
    dataset = _dataset(tmp_path, values, ("hoechst", "gfp"))
    image = np.moveaxis(values[0], 0, -1)
    inputs = {}
    for fill in ("zero", "mean", "copy:gfp"):
        options = make_config(channels="map", map="red=gfp,green=hoechst", fill=fill)
        inputs[fill] = preprocess_of(vit, options, dataset=dataset).prepare(image).pixels
    for found in inputs.values():
        np.testing.assert_array_equal(found[:2], inputs["zero"][:2])
    black = -np.float32(vit.spec.mean[2]) / np.float32(vit.spec.std[2])
    np.testing.assert_allclose(inputs["zero"][2], black, rtol=1e-6)
    assert np.ptp(inputs["mean"][2]) > 0
    options = make_config(channels="map", map="red=gfp", fill="zero", normalise="self")
    slots = preprocess_of(vit, options, dataset=dataset).prepare(image).pixels
    assert not slots[1:].any()  # for a backbone of normalised channels nothing is the mean
    plane = values[0, 1].astype(np.float64)
    expected = (plane - plane.mean()) / (plane.std() + 1e-7)
    np.testing.assert_allclose(slots[0, :40, :48], expected, rtol=1e-4, atol=1e-5)


def test_slots_of_the_same_names_need_no_choice(embed, vit, make_config, tmp_path):
    values = _values(2, 3, "uint8")
    turned = embed(values[:, [2, 0, 1]], ("blue", "red", "green"))
    np.testing.assert_array_equal(turned, embed(values, ("red", "green", "blue")))
    plain = identity_of(vit, make_config())
    (tmp_path / "d").mkdir()
    named = _dataset(tmp_path / "d", values, ("red", "green", "blue"))
    assert (
        identity_of(vit, make_config(), preprocess=preprocess_of(vit, make_config(), dataset=named)) == plain
    )


def test_a_bag_goes_through_a_backbone_with_one_slot(embed, make_config, workspace):
    model = load_backbone(make_config(backbone="timm:test_vit@gray"), workspace)
    values = _values(2)
    bag = embed(values, channels="bag", backbone=model).reshape(2, -1, 3, model.width)
    for k, name in enumerate(sorted(NAMES)):
        alone = embed(values[:, [NAMES.index(name)]], (name,), channels="bag", backbone=model)
        np.testing.assert_array_equal(bag[:, :, k].reshape(2, -1), alone)


def test_tiles_and_views_of_channels_are_those_of_the_whole(embed):
    values = _values(1, 2, side=96)
    options = {"names": ("a", "b"), "channels": "replicate", "normalise": "self"}
    whole = embed(values, **options)
    turned = embed(np.rot90(values, 2, axes=(2, 3)), **options)
    viewed = embed(values, view=View(turns=2), **options)
    np.testing.assert_array_equal(turned, viewed)
    tiled = embed(values, tile=64, tile_overlap=32, **options)
    assert tiled.shape == whole.shape
    assert not np.array_equal(tiled, whole)
    assert np.corrcoef(tiled[0], whole[0])[0, 1] > 0.9
    viewed = embed(values, tile=64, tile_overlap=32, view=View(turns=2), **options)
    np.testing.assert_array_equal(
        embed(np.rot90(values, 2, axes=(2, 3)), tile=64, tile_overlap=32, **options), viewed
    )


# Identity


def test_stores_written_before_there_were_channels_keep_their_names(vit, make_config):
    assert identity_of(vit, make_config()).key == "09556807811b5e0ed574c60df13c40cc"
    tiled = make_config(input_size="224", tile=64, tile_overlap=16)
    assert identity_of(vit, tiled).key == "7a84925ceb1868dd0087efd7f2d77b04"


def test_whatever_changes_numbers_changes_the_name(vit, tmp_path, make_config):
    dataset = _dataset(tmp_path, _values(1))
    keys = {}
    for options in (
        {"channels": "replicate"},
        {"channels": "replicate", "join": "mean"},
        {"channels": "replicate", "normalise": "self"},
        {"channels": "replicate", "normalise": "percentile"},
        {"channels": "replicate", "normalise": "minmax"},
        {"channels": "mean"},
        {"channels": "map", "map": "red=gfp"},
        {"channels": "map", "map": "red=gfp", "fill": "mean"},
        {"channels": "map", "map": "red=gfp", "fill": "copy:dna"},
        {"channels": "map", "map": "green=gfp"},
        {"channels": "random-map", "map_seed": 1},
        {"channels": "random-map", "map_seed": 2},
    ):
        config = make_config(**options)
        preprocess = preprocess_of(vit, config, dataset=dataset)
        keys[str(options)] = identity_of(vit, config, preprocess=preprocess).key
    assert len(set(keys.values())) == len(keys)
    renamed = replace(dataset, meta={"channels": [{"name": n} for n in ("dna", "gfp", "er")]})
    config = make_config(channels="map", map="red=gfp")
    other = identity_of(vit, config, preprocess=preprocess_of(vit, config, dataset=renamed)).key
    assert other not in keys.values()  # the same bytes mean other channels there


def test_what_is_damaged_is_computed_again_from_the_identity_alone(vit, tmp_path, make_config):
    workspace = Workspace(tmp_path / "ws")
    dataset = _dataset(workspace.datasets / "cells", _values(2))
    config = make_config(channels="map", map="red=gfp,blue=dna", fill="mean", normalise="self")
    before = embed_dataset(dataset, vit, config, workspace)
    store = EmbeddingStore(workspace.store / before.key)
    copy = Workspace(tmp_path / "again")
    (copy.root).mkdir()
    _dataset(copy.datasets / "cells", _values(2))
    empty = EmbeddingStore.ensure(copy.store, store.identity, label=vit.label, width=vit.width)
    assert recompute(empty, list(store.rows()), copy).computed == 2
    again = open_embeddings(dataset, vit, config, copy)
    np.testing.assert_array_equal(again.image_embeddings("mean"), before.image_embeddings("mean"))


# What does not fit is one line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "names of their own"),
        ({"channels": "bag"}, "needs one slot"),
        ({"channels": "map"}, "say which"),
        ({"channels": "map", "map": "red"}, "not a map"),
        ({"channels": "map", "map": "red=gfp,red=dna"}, "not a map"),
        ({"channels": "map", "map": "cyan=gfp"}, "no such slot"),
        ({"map": "red=actin"}, "no such channel"),
        ({"channels": "mean", "map": "red=gfp"}, "for the strategy map"),
        ({"channels": "mean", "fill": "copy:actin"}, "no such fill"),
    ],
)
def test_options_that_do_not_fit_the_channels(vit, tmp_path, make_config, options, said):
    names = ("a", "b", "c") if options == {"channels": "map"} else NAMES
    dataset = _dataset(tmp_path, _values(1), names)
    with pytest.raises(UsageError, match=said):
        preprocess_of(vit, make_config(**options), dataset=dataset)


def test_images_that_do_not_fit_the_names(vit, tmp_path, make_config):
    (tmp_path / "d").mkdir()
    dataset = _dataset(tmp_path / "d", _values(1, 2), NAMES)
    with pytest.raises(UsageError, match="not the channels of the plan"):
        embed_dataset(dataset, vit, make_config(channels="mean"), Workspace(tmp_path / "ws"))
    bare = _dataset(tmp_path / "d", _values(1, 2), None)
    with pytest.raises(UsageError, match="choose how they go in"):
        embed_dataset(bare, vit, make_config(), Workspace(tmp_path / "ws"))
    with pytest.raises(UsageError, match="have no names"):
        channels_of(vit, make_config(channels="mean"), bare)
    colour = _dataset(tmp_path / "d", _values(1, 3, "uint8"), None)
    plan = channels_of(vit, make_config(channels="replicate"), colour)
    assert plan is not None
    assert plan.outputs == ("blue", "green", "red")
    path = dataset.image_path(dataset.samples[0])
    tifffile.imwrite(
        path, np.full((3, 40, 48), np.nan, np.float32), photometric="minisblack", metadata={"axes": "CYX"}
    )
    nan = replace(dataset, samples=(replace(dataset.samples[0], image_sha256=sha256_file(path)),))
    with pytest.raises(CorruptError, match="finite"):
        embed_dataset(nan, vit, make_config(channels="mean"), Workspace(tmp_path / "ws"))


def test_a_backbone_takes_images_of_its_slots_only(make_config, workspace):
    model = load_backbone(make_config(backbone="timm:test_vit@hpa"), workspace)
    assert model.spec.slots == ("nucleus", "protein", "microtubules", "er")
    with pytest.raises(UsageError, match=r"expected \(B, 4, H, W\)"):
        model.tokens(torch.zeros(1, 3, 32, 32))
    assert model.tokens(torch.zeros(1, 4, 32, 32)).cls.shape == (1, 4, 64)
