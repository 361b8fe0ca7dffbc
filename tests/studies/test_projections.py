"""Rows to be projected: drawn as promised, their files whole, and the views of single samples in place."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.domain.pca import principal_components
from emvfm.errors import UsageError
from emvfm.studies.domains import Domain, open_domains
from emvfm.studies.options import DomainOptions
from emvfm.studies.projection_views import colour_map, patch_side, slices_of, stacks_of
from emvfm.studies.projections import (
    coordinate_arrays,
    coordinate_table,
    draw_images,
    draw_patches,
    joint_moments,
    unit_length,
    vectors_by_domain,
)
from emvfm.workspace import Workspace

OPTIONS = DomainOptions(
    backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1)
)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> list[Domain]:
    root = tmp_path_factory.mktemp("rows")
    workspace = Workspace(root / "workspace")
    for name, n, side in (("a", 24, 72), ("b", 8, 64)):
        write_phantom(root / name, name, n, side, seed=n)
        compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return open_domains(["a", "b"], OPTIONS, workspace)


def test_images_are_left_out_by_whole_blocks(domains: list[Domain]) -> None:
    everything = draw_images(domains)
    assert np.bincount(everything.domain).tolist() == [24, 8]
    some = draw_images(domains, 20, seed=1)
    assert np.bincount(some.domain).max() <= 10
    blocks = some.blocks()
    for g, domain in enumerate(domains):
        kept = set(some.sample[some.domain == g].tolist())
        for label in set(blocks[g]):
            assert {i for i, b in enumerate(domain.blocks) if b == label} <= kept
    np.testing.assert_array_equal(some.sample, draw_images(domains, 20, seed=1).sample)


def test_patches_are_as_many_of_each_domain(domains: list[Domain]) -> None:
    rows = draw_patches(domains, 6)
    assert np.bincount(rows.domain).tolist() == [48, 48]
    few = draw_patches(domains, 6, at_most=16)
    assert np.bincount(few.domain).tolist() == [8, 8]
    assert len(np.unique(few.sample[few.domain == 1])) == 8
    assert len(np.unique(few.sample[few.domain == 0])) < 24  # blocks are left out
    for drawn in (rows, few):
        places = {
            (g, i, *c) for g, i, c in zip(drawn.domain, drawn.sample, drawn.cells.tolist(), strict=True)
        }
        assert len(places) == len(drawn)
    other = draw_patches(domains, 6, seed=1)
    assert not np.array_equal(other.cells, rows.cells)


def test_vectors_are_those_of_the_store(domains: list[Domain]) -> None:
    rows = draw_patches(domains, 3)
    vectors = vectors_by_domain(rows, OPTIONS, 1)
    assert [len(v) for v in vectors] == np.bincount(rows.domain).tolist()
    k = int(np.flatnonzero(rows.domain == 1)[5])
    token = domains[1].embeddings.patches(int(rows.sample[k]), [1])[0][tuple(rows.cells[k])]
    np.testing.assert_array_equal(vectors[1][5], token.astype(np.float32))
    lengths = np.linalg.norm(np.concatenate(vectors_by_domain(rows, OPTIONS, 1, l2=True)), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert unit_length(np.zeros((1, 3))).tolist() == [[0, 0, 0]]
    images = draw_images(domains)
    plain = vectors_by_domain(images, replace(OPTIONS, pool="cls"), 0)
    np.testing.assert_array_equal(plain[0], domains[0].embeddings.image_embeddings("cls", 0))


def test_the_moments_are_those_of_all_rows(domains: list[Domain]) -> None:
    vectors = vectors_by_domain(draw_images(domains), OPTIONS, 1)
    joint = np.concatenate(vectors).astype(np.float64)
    moments = joint_moments(vectors, None, balanced=False)
    np.testing.assert_allclose(moments.scatter / 31, np.cov(joint.T), rtol=1e-9, atol=1e-12)
    balanced = joint_moments(vectors, None, balanced=True)
    np.testing.assert_allclose(balanced.mean, np.mean([v.mean(axis=0, dtype=float) for v in vectors], axis=0))
    streams = joint_moments([], [[v] for v in vectors], balanced=False)
    np.testing.assert_allclose(streams.scatter, moments.scatter, rtol=1e-4, atol=1e-4)


def test_tables_hold_hostile_names_and_missing_facts(domains: list[Domain]) -> None:
    rows = replace(draw_images(domains[:1]), foreground=np.array([np.nan] + [0.25] * 23))
    hostile = replace(domains[0], name='=1+1,"x"\n')
    rows = replace(rows, domains=(hostile,))
    values = np.arange(48.0).reshape(24, 2)
    table = list(csv.DictReader(io.StringIO(coordinate_table(rows, {1: values, 0: values}, ("x", "y")))))
    assert len(table) == 48
    assert {r["domain"] for r in table} == {hostile.name}
    assert [table[0]["foreground"], table[1]["foreground"]] == ["", "0.25"]
    assert [float(r["y"]) for r in table[:24]] == values[:, 1].tolist()
    with np.load(io.BytesIO(coordinate_arrays(rows, {"coordinates": values}))) as arrays:
        assert arrays["domain"][0] == hostile.name
        np.testing.assert_array_equal(arrays["coordinates"], values)
    with pytest.raises(UsageError):
        coordinate_arrays(rows, {"z": values})


def test_slices_and_paths_follow_the_stack(domains: list[Domain]) -> None:
    z = [domains[0].embeddings.samples[i].z for i in slices_of(domains[0], 3)]
    assert z == [4, 12, 20]
    rows = draw_patches(domains, 2)
    points = np.stack([rows.sample, rows.domain], axis=1).astype(float)
    stacks = stacks_of(rows, points)
    assert [s.domain for s in stacks] == ["a", "b"]
    samples = domains[1].embeddings.samples
    members = list(np.unique(rows.sample[rows.domain == 1]))
    np.testing.assert_array_equal(stacks[1].z, [samples[i].z for i in members])
    np.testing.assert_array_equal(np.asarray(stacks[1].points)[:, 0], members)


def test_a_colour_map_lies_over_its_image(domains: list[Domain]) -> None:
    vectors = vectors_by_domain(draw_patches(domains, 9), OPTIONS, 1)
    basis = principal_components(joint_moments(vectors, None, balanced=False), 3)
    coordinates = basis.transform(np.concatenate(vectors))
    limits = np.stack([coordinates.min(axis=0), coordinates.max(axis=0)])
    item = colour_map(domains[0], 3, 1, basis, limits)
    patch = domains[0].embeddings.patch
    assert patch_side(domains[0], 3) == (patch, patch)
    grid = domains[0].embeddings.grid(3)
    assert item.colours.shape == (*grid, 3)
    assert item.extent == (grid[0] * patch, grid[1] * patch)  # over the edge, where there is padding
    assert item.image.shape == item.mask.shape == (72, 72)
    token = domains[0].embeddings.patches(3, [1])[0][1, 2].astype(np.float64)
    expected = (basis.components @ (token - basis.mean) - limits[0]) / (limits[1] - limits[0])
    np.testing.assert_allclose(item.colours[1, 2], np.clip(expected, 0, 1), atol=1e-6)
