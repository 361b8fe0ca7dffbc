"""``emvfm domain pca`` and ``umap`` from the command line: what they write, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.extraction.pipeline import embed_dataset
from emvfm.store.view import Embeddings
from emvfm.workspace import Workspace

OPTIONS = (
    "--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32", "--layers", "0",
    "--layers", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("pca") / "odd [/b] [red]folder"
    workspace = Workspace(root / "workspace")
    for name, domain, seed, n, side in (("a", "a", 3, 12, 64), ("b", "b", 4, 9, 72), ("c", "a", 5, 8, 64)):
        write_phantom(root / name, domain, n, side, seed=seed)
        compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return workspace


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm domain COMMAND`` in the workspace of the module."""
    return lambda name, *arguments: CliRunner().invoke(
        app, ["domain", name, "--root", str(workspace.root), *OPTIONS, *map(str, arguments)]
    )


@pytest.fixture(scope="module")
def plain(run: Callable[..., Result]) -> dict:
    """The record of all images of two datasets."""
    return _json(run("pca", "a", "b", "--json"))


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def _embedded(workspace: Workspace, name: str) -> Embeddings:
    options = BackboneOptions(
        backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1)
    )
    return embed_dataset(open_dataset(workspace, name), load_backbone(options, workspace), options, workspace)


def _arrays(record: dict) -> dict[str, np.ndarray]:
    with np.load(Path(record["folder"]) / "coordinates.npz") as arrays:  # no pickles are needed
        return dict(arrays)


def _files(record: dict) -> set[str]:
    folder = Path(record["folder"])
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


PLAIN = {
    "config.yaml", "metrics.json", "provenance.json", "coordinates.csv", "coordinates.npz", "variance.csv",
    "map.html", "figures/domains.png", "figures/slices.png", "figures/foreground.png", "figures/variance.png",
}  # fmt: skip


def test_the_coordinates_are_those_of_scikit_learn(workspace: Workspace, plain: dict) -> None:
    record = plain
    vectors = np.concatenate([_embedded(workspace, n).image_embeddings() for n in ("a", "b")])
    theirs = PCA(10, svd_solver="full").fit(vectors.astype(np.float64))
    arrays = _arrays(record)
    np.testing.assert_allclose(arrays["coordinates_block1"], theirs.transform(vectors), atol=1e-5)
    (result,) = record["results"]
    shares = [c["share"] for c in result["components"]]
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_, rtol=1e-5)
    assert (result["n"], result["basis_n"], result["layer"], result["seed"]) == ([12, 9], 21, 1, 0)
    assert _files(record) == PLAIN
    rows = list(csv.DictReader(io.StringIO((Path(record["folder"]) / "coordinates.csv").read_text())))
    assert [r["sample"] for r in rows] == arrays["sample"].tolist()
    assert {r["domain"] for r in rows} == {"a", "b"}
    for name, column in (("PC1", arrays["coordinates_block1"][:, 0]), ("foreground", arrays["foreground"])):
        np.testing.assert_allclose([float(r[name]) for r in rows], column, rtol=1e-5)
    a = _embedded(workspace, "a")
    assert float(rows[3]["foreground"]) == pytest.approx(a.foreground(3).mean(), abs=1e-6)
    assert [int(r["z"]) for r in rows[:12]] == [s.z for s in a.samples]


def test_patches_are_drawn_equally_and_are_where_they_say(
    workspace: Workspace, run: Callable[..., Result]
) -> None:
    record = _json(
        run("pca", "a", "b", "--patches", "--per-image", "8", "--maps", "1", "--slices", "2", "--json")
    )
    arrays, (result,) = _arrays(record), record["results"]
    assert result["n"] == [72, 72]  # the smaller dataset has nine images of eight
    assert result["unit"] == "patch"
    counts = np.unique(arrays["sample"][arrays["domain"] == "a"], return_counts=True)[1]
    assert (len(counts), counts.sum(), set(counts)) == (12, 72, {6})
    basis, mean = arrays["components_block1"], arrays["mean_block1"]
    for k in (0, 50, 100, 143):
        embeddings = _embedded(workspace, str(arrays["domain"][k]))
        (i,) = [i for i, s in enumerate(embeddings.samples) if s.id == arrays["sample"][k]]
        place = arrays["row"][k], arrays["column"][k]
        token = embeddings.patches(i, [1])[0][place].astype(np.float64)
        np.testing.assert_allclose(arrays["coordinates_block1"][k], basis @ (token - mean), atol=1e-5)
        assert arrays["foreground"][k] == pytest.approx(embeddings.foreground(i)[place])
        assert embeddings.valid(i)[place] >= 0.5
    found = _files(record)
    assert found - PLAIN - {f for f in found if f.startswith("maps/")} == {"figures/colour_maps.png"}
    assert len([f for f in found if f.startswith("maps/")]) == 2
    for name in found:
        if name.endswith(".png"):
            with Image.open(Path(record["folder"]) / name) as picture:
                assert min(picture.size) > 100


def test_every_patch_makes_the_basis(workspace: Workspace, run: Callable[..., Result]) -> None:
    record = _json(run("pca", "a", "b", "--patches", "--per-image", "4", "--all-patches", "--json"))
    rows = []
    for name in ("a", "b"):
        e = _embedded(workspace, name)
        rows += [e.patches(i, [1])[0][e.valid(i) >= 0.5].astype(np.float64) for i in range(len(e))]
    joint = np.concatenate(rows)
    theirs = PCA(4, svd_solver="full").fit(joint)
    np.testing.assert_allclose(_arrays(record)["components_block1"][:4], theirs.components_, atol=1e-4)
    assert record["results"][0]["basis_n"] == len(joint)
    balanced = _json(
        run("pca", "a", "b", "--patches", "--per-image", "4", "--all-patches", "--balanced", "--json")
    )
    assert balanced["results"][0]["components"] != record["results"][0]["components"]


def test_all_layers_and_one_dataset(run: Callable[..., Result]) -> None:
    record = _json(run("pca", "a", "--all-layers", "--components", "3", "--json"))
    assert [r["layer"] for r in record["results"]] == [0, 1]
    assert _files(record) == PLAIN | {"figures/layers.png"}
    arrays = _arrays(record)
    assert arrays["coordinates_block0"].shape == arrays["coordinates_block1"].shape == (12, 3)
    alone = _json(run("pca", "a", "--layer", "0", "--components", "3", "--json"))
    assert alone["results"][0] == record["results"][0]
    lines = (Path(record["folder"]) / "variance.csv").read_text().splitlines()
    assert len(lines) == 7


def test_each_option_decides(run: Callable[..., Result]) -> None:
    first = _json(run("pca", "b", "c", "--json"))
    assert first["results"][0]["n"] == [9, 8]
    seen = {first["folder"]}
    for change in (("--balanced",), ("--whiten",), ("--l2",), ("--pool", "cls"), ("--preset", "reference")):
        other = _json(run("pca", "b", "c", *change, "--json"))
        assert other["folder"] not in seen, change
        seen.add(other["folder"])
        coordinates = _arrays(other)["coordinates_block1"]
        if change == ("--whiten",):
            np.testing.assert_allclose(coordinates.var(axis=0, ddof=1), 1, rtol=1e-6)
        elif change == ("--preset", "reference"):
            np.testing.assert_array_equal(coordinates, _arrays(first)["coordinates_block1"])
        else:
            assert other["results"] != first["results"], change


def test_text_says_the_numbers_and_the_verdict(run: Callable[..., Result], plain: dict) -> None:
    record = plain
    result = run("pca", "a", "b")
    assert result.exit_code == 0, result.output
    unfolded = "".join(result.stdout.split())
    for part in (record["results"][0]["verdict"], record["folder"], record["backbone"]):
        assert "".join(part.split()) in unfolded
    first = record["results"][0]["components"][0]
    assert (
        f"{100 * first['share']:.1f} [{100 * first['low']:.1f}, {100 * first['high']:.1f}] %" in result.stdout
    )


def test_the_map_holds_every_image(plain: dict) -> None:
    page = (Path(plain["folder"]) / "map.html").read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data = json.loads(found.group(1))
    assert [m["id"] for m in data["images"]] == _arrays(plain)["sample"].tolist()
    assert all(m["picture"] for m in data["images"])


def test_a_neighbour_map_is_written_with_its_remark(run: Callable[..., Result]) -> None:
    record = _json(run("umap", "a", "b", "--patches", "--points", "60", "--neighbours", "5", "--json"))
    assert _files(record) == (PLAIN - {"variance.csv", "figures/variance.png"})
    (result,) = record["results"]
    assert "not evidence" in result["remark"]
    assert record["n"] == [30, 30]
    assert result["parameters"]["n_jobs"] == 1
    assert result["library"].startswith("umap-learn ")
    assert result["pca"] == 50
    arrays = _arrays(record)
    assert arrays["coordinates_block1"].shape == (60, 2)
    assert "not evidence" in (Path(record["folder"]) / "map.html").read_text(encoding="utf-8")
    images = run("umap", "a", "b", "--points", "12", "--all-layers")
    assert images.exit_code == 0, images.output
    assert "not evidence" in images.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("pca", "nowhere"), 3, ("nowhere",)),
        (("pca", "a", "a"), 2, ("twice",)),
        (("pca", "a", "--layer", "2"), 2, ("layer",)),
        (("pca", "a", "--components", "0"), 2, ("components",)),
        (("pca", "a", "--all-patches"), 2, ("--patches",)),
        (("pca", "a", "--maps", "1"), 2, ("--patches",)),
        (("pca", "a", "--preset", "reference", "--components", "13"), 2, ("13", "1 to 12")),
        (("pca", "a", "--preset", "reference", "--patches"), 2, ("reference", "patches")),
        (("pca", "a", "--preset", "reference", "--balanced"), 2, ("reference", "balanced")),
        (("umap", "a", "--preset", "reference"), 2, ("50", "1 to 12")),
        (("umap", "a", "--preset", "reference", "--method", "tsne"), 2, ("reference", "tsne")),
        (("umap", "a", "--points", "3"), 2, ("points",)),
    ],
)
def test_what_they_refuse(
    run: Callable[..., Result], arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    line = result.stderr.strip()
    assert "\n" not in line
    assert all(part in line for part in parts), line
