"""Baselines fill stores: rows are named by what the numbers follow from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.datasets.manifest import Dataset, save_dataset
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.extraction.pipeline import embed_dataset, open_embeddings
from emvfm.extraction.repair import recompute
from emvfm.store.view import Embeddings
from emvfm.workspace import Workspace

Make = Callable[..., Dataset]
SIZES = [(40, 50), (48, 48), (40, 50)]


def embed(dataset: Dataset, name: str, workspace: Workspace, **changes: object) -> Embeddings:
    options = BackboneOptions(backbone=name, **changes)  # type: ignore[arg-type]
    return embed_dataset(dataset, load_backbone(options, workspace), options, workspace)


def with_facts(dataset: Dataset, **columns: list[str]) -> Dataset:
    rows = zip(dataset.samples, *columns.values(), strict=True)
    samples = tuple(replace(s, facts=dict(zip(columns, values, strict=True))) for s, *values in rows)
    return save_dataset(replace(dataset, samples=samples))


def test_an_image_is_what_describes_it_whole(make_dataset: Make, workspace: Workspace) -> None:
    from emvfm.backbones.baselines.pixel import describe
    from emvfm.backbones.baselines.planes import planes_of
    from emvfm.datasets.images import read_image

    dataset = make_dataset("d", SIZES)
    found = embed(dataset, "pixel:all", workspace)
    for i, sample in enumerate(dataset.samples):
        whole, cells = describe(planes_of(read_image(dataset.image_path(sample))), "all", None, 16)
        for pool in ("mean", "cls"):
            np.testing.assert_array_equal(found.image_embeddings(pool)[i], whole[0])  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.patches(i)[0].reshape(cells.shape), cells)
        assert found.grid(i) == (3, 4 if i != 1 else 3)
        assert found.foreground(i).shape == found.grid(i)


def test_nothing_is_described_twice(
    make_dataset: Make, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emvfm.backbones.baselines.baseline import Baseline

    dataset = make_dataset("d", SIZES)
    first = embed(dataset, "pixel:intensity", workspace)

    def refuse(*_: object) -> None:
        raise AssertionError("described again")

    monkeypatch.setattr(Baseline, "describe", refuse)
    assert embed(dataset, "pixel:intensity", workspace).key == first.key
    options = BackboneOptions(backbone="pixel:intensity")
    opened = open_embeddings(dataset, load_backbone(options, workspace), options, workspace)
    np.testing.assert_array_equal(opened.image_embeddings(), first.image_embeddings())


def test_masks_name_the_rows_of_structure(make_dataset: Make, workspace: Workspace) -> None:
    """The same image with another mask is another row, and another image with the same mask is not."""
    dataset = make_dataset("d", [(40, 50)])
    first = embed(dataset, "structure:density", workspace)
    (sample,) = dataset.samples
    other = make_dataset("e", [(40, 50)], seed=1)
    swapped = replace(sample, mask=other.samples[0].mask, mask_sha256=other.samples[0].mask_sha256)
    moved = replace(dataset, root=other.root, samples=(swapped,))
    second = embed(moved, "structure:density", workspace)
    assert second.key == first.key
    assert not np.array_equal(first.image_embeddings(), second.image_embeddings())
    assert len(second.store.rows()) == 2
    third = replace(moved, samples=(replace(swapped, image_sha256="0" * 64),))
    np.testing.assert_array_equal(
        embed(third, "structure:density", workspace).image_embeddings(), second.image_embeddings()
    )


def test_structure_without_masks_is_refused(make_dataset: Make, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="described from masks"):
        embed(make_dataset("d", SIZES, masks=False), "structure:all", workspace)


def test_cells_of_a_table_are_found_by_the_sample(
    make_dataset: Make, workspace: Workspace, tmp_path: Path
) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("sample,x,y\ns000,10,10\ns000,20,20\ns001,5,5\n")
    dataset = make_dataset("d", SIZES, masks=False)
    counts = embed(dataset, f"structure:density={table}", workspace).image_embeddings()[:, 0]
    np.testing.assert_allclose(10**counts - 1, [2, 1, 0], atol=1e-5)
    table.write_text("sample,x,y\ns000,1000,10\n")
    with pytest.raises(CorruptError, match="outside"):
        embed(dataset, f"structure:density={table}", workspace)


def test_facts_name_the_rows_of_codes(make_dataset: Make, workspace: Workspace) -> None:
    dataset = with_facts(make_dataset("d", SIZES), plate=["p1", "p2", "p1"], well=["a", "b", "c"])
    found = embed(dataset, "random:onehot=plate,well", workspace)
    assert found.image_embeddings().tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0], [1, 0, 0, 0, 1]]
    assert embed(dataset, "random:onehot=plate+well", workspace).key == found.key
    plates = embed(dataset, "random:onehot=plate", workspace)
    assert len(plates.store.rows()) == 2  # two images, the same facts, one row
    assert plates.image_embeddings().tolist() == [[1, 0], [0, 1], [1, 0]]
    part = embed(dataset.split("train"), "random:onehot=plate", workspace)
    assert part.key == plates.key  # the code of a split is the code of the whole
    # Other facts of the same images: other numbers, and not those of before.
    again = with_facts(dataset, plate=["p2", "p2", "p1"], well=["a", "b", "c"])
    assert embed(again, "random:onehot=plate", workspace).image_embeddings().tolist() == [
        [0, 1],
        [0, 1],
        [1, 0],
    ]


def test_facts_that_are_not_there_are_refused(make_dataset: Make, workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no such fact"):
        embed(make_dataset("d", SIZES), "random:onehot=plate", workspace)


def test_a_changed_image_is_refused(make_dataset: Make, workspace: Workspace) -> None:
    dataset = make_dataset("d", SIZES)
    dataset.image_path(dataset.samples[1]).write_bytes(dataset.image_path(dataset.samples[0]).read_bytes())
    with pytest.raises(CorruptError, match="s001"):
        embed(dataset, "pixel:intensity", workspace)
    options = BackboneOptions(backbone="pixel:intensity")
    with pytest.raises(MissingError):  # and nothing half-written is there
        open_embeddings(dataset, load_backbone(options, workspace), options, workspace)


def test_channels_are_those_of_the_images(make_dataset: Make, workspace: Workspace) -> None:
    dataset = make_dataset("d", [(32, 32, 3), (32, 48, 3)])
    assert embed(dataset, "pixel:intensity", workspace).width == 3 * 15 + 3
    mixed = make_dataset("e", [(32, 32, 3), (32, 48)])
    with pytest.raises(UsageError, match="differ in their channels"):
        embed(mixed, "pixel:intensity", workspace)


@pytest.mark.parametrize(
    "name", ["pixel:intensity/8", "random:noise", "structure:spacing", "random:onehot=split"]
)
def test_what_was_withdrawn_is_computed_again(
    make_dataset: Make, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    dataset = make_dataset("workspace/datasets/d", SIZES, name="d")
    found = embed(dataset, name, workspace, init_seed=3)
    expected = found.image_embeddings()
    grids = {found.grid(i) for i in range(3)}
    shards = [
        name for name in found.store.published() if name.split("/")[0] in {f"{h}x{w}" for h, w in grids}
    ]
    images = list(found.store.rows())
    for shard in shards:
        found.store.forget(shard)
    repaired = recompute(found.store, images, workspace)
    assert repaired.problem is None
    np.testing.assert_array_equal(Embeddings(found.store, dataset).image_embeddings(), expected)
