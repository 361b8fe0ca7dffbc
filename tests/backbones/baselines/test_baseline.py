"""Baselines by name: what they refuse, what they are called, and what decides their numbers."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emvfm.backbones.baselines.baseline import Baseline, Source
from emvfm.backbones.baselines.chance import one_hot
from emvfm.backbones.baselines.preprocess import BaselinePreprocess
from emvfm.backbones.baselines.registry import FAMILIES, BaselineSpec, find_baseline, presets_of
from emvfm.backbones.baselines.structure.tables import read_cells
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.registry import find_spec
from emvfm.backbones.views import View
from emvfm.errors import CorruptError, EmvfmError, MissingError, UsageError
from emvfm.workspace import Workspace

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
LABELS = np.kron(np.arange(20).reshape(4, 5), np.ones((10, 10), int))


def source(image: np.ndarray = IMAGE, labels: np.ndarray = LABELS, **changes: Any) -> Source:
    return Source(lambda: image, lambda: labels, name="s", size=(40, 50), **changes)


def load(name: str, workspace: Workspace, **changes: Any) -> Baseline:
    found = load_backbone(BackboneOptions(backbone=name, **changes), workspace)
    assert isinstance(found, Baseline)
    return found


def describe(found: Baseline, what: Source, **changes: Any) -> Any:
    preprocess = Preprocess.for_backbone(found.spec, BackboneOptions(**changes))
    assert isinstance(preprocess, BaselinePreprocess)
    return found.describe(what, preprocess)


NAMES = [
    f"{family}:{preset}" for family in FAMILIES for preset in presets_of(family)
    if preset not in ("onehot", "composition")
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_is_a_backbone(name: str, workspace: Workspace) -> None:
    found = load(name, workspace)
    described = describe(found, source())
    assert described.image.shape == (found.width,) == (len(found.spec.feature_names()),)
    assert described.patches.shape == (*described.valid.shape, found.width)
    assert described.valid.shape == ((1, 1) if found.spec.whole else (3, 4))
    assert described.patches.dtype == described.image.dtype == np.float32
    assert found.choose_layers(None) == (0,)
    assert "baseline" in found.label


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pixel:intensty", MissingError),
        ("pixel", MissingError),
        ("random:", MissingError),
        ("structure:a/b", MissingError),
        ("pixel:all/3", UsageError),
        ("pixel:all/512", UsageError),
        ("pixel:all=x", UsageError),
        ("random:onehot", UsageError),
        ("random:onehot=a,,b", UsageError),
        ("random:onehot/16=a", UsageError),
        ("structure:composition", UsageError),
        ("structure:shape=cells.csv", UsageError),
        ("structure:density/16", UsageError),
    ],
)
def test_wrong_names_are_refused_in_one_line(name: str, kind: type[EmvfmError]) -> None:
    with pytest.raises(kind) as error:
        find_spec(name)
    assert "\n" not in str(error.value)


def test_close_names_are_proposed() -> None:
    with pytest.raises(MissingError, match="did you mean pixel:intensity"):
        find_spec("pixel:intensty")


@pytest.mark.parametrize(
    "options",
    [{"untrained": True}, {"weights": Path("w.pth")}, {"adapter": "run"}, {"shuffle_weights": True}],
    ids=str,
)
def test_what_only_weights_have_is_refused(options: dict[str, Any], workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no weights"):
        load("pixel:all", workspace, **options)


def test_what_only_models_do_is_refused(workspace: Workspace) -> None:
    found = load("pixel:all", workspace)
    with pytest.raises(UsageError, match="no weights"):
        found.library.blocks(found.module)


def test_tokens_are_the_cells_of_the_described_image(workspace: Workspace) -> None:
    """What a head sees in training, from pixels, is what the store has."""
    for name in ("pixel:all", "pixel:texture/8", "random:noise", "random:projection"):
        found = load(name, workspace)
        preprocess = Preprocess.for_backbone(found.spec, BackboneOptions())
        image = IMAGE[:40, :48] if found.patch == 8 else IMAGE[:32, :48]  # whole cells: no padding
        tokens = found.tokens(torch.from_numpy(preprocess.prepare(image).pixels)[None])
        described = describe(found, source(image))
        np.testing.assert_allclose(tokens.patches[0, 0].numpy(), described.patches, atol=1e-5)
        np.testing.assert_allclose(tokens.cls[0, 0].numpy(), described.image, atol=1e-5)


def test_heads_take_neither_colours_nor_structure(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="grey"):
        load("pixel:all", workspace).tokens(torch.rand(1, 3, 32, 32))
    with pytest.raises(UsageError, match="does not follow from pixels"):
        load("structure:density", workspace).tokens(torch.zeros(1, 3, 32, 32))


def test_no_intensity_enters_structure(workspace: Workspace) -> None:
    """Scaled, inverted or shuffled intensities change nothing; a moved object does."""
    found = load("structure:all", workspace)
    expected = describe(found, source()).image
    shuffled = np.random.default_rng(1).permutation(IMAGE.ravel()).reshape(IMAGE.shape)
    for image in (IMAGE // 2, 255 - IMAGE, shuffled):
        np.testing.assert_array_equal(describe(found, source(image)).image, expected)

    def unread() -> np.ndarray:
        raise AssertionError("the image was read")

    np.testing.assert_array_equal(describe(found, replace(source(), image=unread)).image, expected)
    assert not np.array_equal(describe(found, source(labels=LABELS.T.copy())).image, expected)


def test_units_are_nm_only_where_pixels_have_a_size(workspace: Workspace) -> None:
    found = load("structure:spacing", workspace)
    in_nm = found.bound(unit="nm")
    plain, scaled = describe(found, source()).image, describe(in_nm, source(pixel_size_nm=10.0)).image
    assert scaled[0] - plain[0] == pytest.approx(1, abs=1e-5)  # log10
    assert "[log nm]" in in_nm.spec.feature_names()[0]
    assert in_nm.spec.identity() != found.spec.identity()


def test_noise_depends_on_pixels_and_seed_alone(workspace: Workspace) -> None:
    first = describe(load("random:noise", workspace), source()).image
    np.testing.assert_array_equal(
        describe(load("random:noise", workspace), source(IMAGE.copy())).image, first
    )
    other = IMAGE.copy()
    other[0, 0] ^= 1
    assert not np.array_equal(describe(load("random:noise", workspace), source(other)).image, first)
    assert not np.array_equal(describe(load("random:noise", workspace, init_seed=1), source()).image, first)
    cells = describe(load("random:noise", workspace), source()).patches
    assert abs(cells.mean()) < 5 / np.sqrt(cells.size)
    assert cells.std() == pytest.approx(1, abs=0.1)


def test_a_projection_keeps_distances(workspace: Workspace) -> None:
    found, pixels = load("random:projection", workspace), load("pixel:thumbnail", workspace)
    images = [np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8) for i in range(20)]
    small, whole = ([describe(b, source(i)).image for i in images] for b in (found, pixels))
    ratios = [
        np.linalg.norm(small[i] - small[j]) / np.linalg.norm(whole[i] - whole[j])
        for i in range(20) for j in range(i)
    ]  # fmt: skip
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)
    assert np.std(ratios) < 0.15


def test_a_constant_has_collapsed(workspace: Workspace) -> None:
    found = load("random:constant", workspace)
    np.testing.assert_array_equal(describe(found, source()).image, describe(found, source(255 - IMAGE)).image)


def test_facts_become_codes() -> None:
    vocabulary = {"plate": ("p1", "p2"), "label": ("a", "b", "c")}
    assert one_hot({"plate": "p2", "label": "c; a"}, vocabulary).tolist() == [0, 1, 1, 0, 1]
    assert one_hot({}, vocabulary).tolist() == [0] * 5
    with pytest.raises(UsageError, match="was not there"):
        one_hot({"plate": "p3"}, vocabulary)


def test_identities_differ_with_all_that_decides_the_numbers() -> None:
    names = [*NAMES, "pixel:all/14", "random:onehot=plate"]
    found = [find_baseline(name) for name in names]
    assert all(isinstance(spec, BaselineSpec) for spec in found)
    specs = [
        *found,
        found[0].bound(channels=2),
        find_baseline("random:onehot=well").bound(vocabulary=(("well", ("a",)),)),
        find_baseline("structure:density=t.csv").bound(argument_digest="1"),
    ]
    facts = [repr(spec.identity()) for spec in specs]
    assert len(set(facts)) == len(facts)
    assert "some/folder" not in repr(find_baseline("structure:density=some/folder/t.csv").identity())


def test_only_pixels_can_be_resized_or_turned() -> None:
    for name in ("structure:density", "random:onehot=plate"):
        spec = find_spec(name)
        with pytest.raises(UsageError, match="size to change"):
            Preprocess.for_backbone(spec, BackboneOptions(input_size="x0.5"))
        with pytest.raises(UsageError, match="turned"):
            Preprocess.for_backbone(spec, BackboneOptions(), View(turns=1))


def test_views_and_sizes_are_those_of_backbones(workspace: Workspace) -> None:
    found = load("pixel:thumbnail", workspace)
    turned = Preprocess.for_backbone(found.spec, BackboneOptions(), View(turns=1))
    assert isinstance(turned, BaselinePreprocess)
    np.testing.assert_allclose(
        found.describe(source(), turned).image.reshape(16, 16),
        np.rot90(describe(found, source()).image.reshape(16, 16)),
        atol=1e-6,
    )
    half = Preprocess.for_backbone(found.spec, BackboneOptions(input_size="x0.5"))
    assert isinstance(half, BaselinePreprocess)
    assert found.describe(source(), half).valid.shape == (2, 2) == half.grid((40, 50))
    assert half.identity() != turned.identity()


def test_a_table_of_cells_stands_for_masks(tmp_path: Path, workspace: Workspace) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("sample,x,y,type\ns,10,10,a\ns,30,10,b\ns,30,30,a\nother,1,1,c\n")
    found = load(f"structure:composition={table}", workspace)
    assert str(tmp_path) not in found.label
    assert found.spec.argument_digest == hashlib.sha256(table.read_bytes()).hexdigest()
    image = describe(found, source()).image
    named = dict(zip(found.spec.feature_names(), image, strict=True))
    assert named["composition/share a"] == pytest.approx(2 / 3)
    assert named["composition/share c"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "a column is missing"),
        ("", "a column is missing"),
        ("sample,x,y\ns,1,nan\n", ":2: not a position"),
        ("sample,x,y\ns,1\n", "not a position"),
        ("sample,x,y\ns,1,=1+1\n", "not a position"),
        ("sample,x,y\n\x00", "not a table|not a position|a column"),
    ],
)
def test_hostile_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(text)
    if text.endswith("\x00"):
        path.write_bytes(b"\xff\xfe\x00sample")
    with pytest.raises(CorruptError, match=message) as error:
        read_cells(path)
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such table"):
        read_cells(tmp_path / "none.csv")
