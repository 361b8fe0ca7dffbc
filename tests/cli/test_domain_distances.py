"""``emvfm domain fd | kd | prdc`` from the command line: variants, all layers, several datasets, refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from emvfm.backbones.loading import load_backbone
from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.domain.frechet import frechet_distance
from emvfm.extraction.pipeline import embed_dataset
from emvfm.studies.distances import block_moments
from emvfm.studies.domains import open_domains
from emvfm.studies.options import DomainOptions
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")
OPTIONS = (*BACKBONE, "--layers", "0", "--layers", "1", "--permutations", "99")
DOMAIN_OPTIONS = DomainOptions(
    backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1)
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("distances")
    workspace = Workspace(root / "workspace")
    for name, domain, n, seed in (("a", "a", 16, 3), ("b", "b", 12, 4), ("again", "a", 12, 5)):
        write_phantom(root / name, domain, n, 64, seed=seed)
        compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return workspace


@pytest.fixture(scope="module")
def call(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm domain NAME`` in the workspace of the module."""
    return lambda *arguments: CliRunner().invoke(
        app, ["domain", arguments[0], "--root", str(workspace.root), *map(str, arguments[1:])]
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _vectors(workspace: Workspace, name: str) -> np.ndarray:
    backbone = load_backbone(DOMAIN_OPTIONS, workspace)
    return embed_dataset(
        open_dataset(workspace, name), backbone, DOMAIN_OPTIONS, workspace
    ).image_embeddings()


def test_patches_are_compared_by_the_moments_of_all_of_them(workspace: Workspace, call) -> None:
    (found,) = _json(call("fd", "a", "b", *OPTIONS, "--patches", "--json"))["results"]
    domains = open_domains(["a", "b"], DOMAIN_OPTIONS, workspace)
    x, y = (np.concatenate(list(d.patches(-1))) for d in domains)
    assert found["n"] == [len(x), len(y)] == [16 * 16, 12 * 16]
    assert found["blocks"] == [4, 4]
    assert found["value"] == pytest.approx(frechet_distance(x, y), rel=1e-4)
    assert found["parameters"] == {"embeddings": "patches"}
    parts = block_moments(domains[0], -1, rows=[0, 1, 15])
    assert {label: part.n for label, part in parts.items()} == {
        domains[0].blocks[0]: 32, domains[0].blocks[15]: 16,
    }  # fmt: skip


def test_variants_of_the_frechet_distance(workspace: Workspace, call) -> None:
    plain = _json(call("fd", "a", "b", *OPTIONS, "--json"))["results"][0]
    assert plain["value"] == pytest.approx(
        frechet_distance(_vectors(workspace, "a"), _vectors(workspace, "b")), rel=1e-5
    )
    reference = _json(call("fd", "a", "b", *OPTIONS, "--preset", "reference", "--json"))["results"][0]
    assert (reference["value"], reference["ddof"]) == (plain["value"], 1)
    (equal,) = _json(call("fd", "a", "b", *OPTIONS, "--equal-n", "--json"))["results"]
    assert equal["n"] == [12, 12]
    assert equal["blocks"] == [4, 4]
    (shrunk,) = _json(call("fd", "a", "b", *OPTIONS, "--shrinkage", "ledoit-wolf", "--json"))["results"]
    assert shrunk["key"] == "fd-ledoit-wolf"
    assert all(0 < share <= 1 for share in shrunk["parameters"]["shrinkage"])
    assert shrunk["value"] != plain["value"]
    record = _json(call("fd", "a", "b", *OPTIONS, "--infinity", "--json"))
    first, second = record["results"]
    assert first["value"] == plain["value"]
    assert (second["key"], len(second["parameters"]["distances"])) == ("fd-infinity", 15)
    assert second["value"] < first["value"]
    assert (Path(record["folder"]) / "figures" / "fd-infinity-lines.png").is_file()


def test_all_layers_of_three_datasets_give_matrices_and_figures(call) -> None:
    record = _json(call("fd", "a", "b", "again", *OPTIONS, "--all-layers", "--json"))
    assert [r["layer"] for r in record["results"]] == [0, 0, 0, 1, 1, 1]
    folder = Path(record["folder"])
    names = {"fd", "fd-layers", "fd-matrix-block0", "fd-matrix-block1"}
    assert {p.stem for p in (folder / "figures").iterdir()} == names
    for path in (folder / "figures").iterdir():
        with Image.open(path) as figure:
            assert min(figure.size) > 200
    matrix = np.array(record["matrices"][1]["values"])
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[0, 2] == record["results"][4]["value"]
    assert matrix[1, 1] == pytest.approx(np.mean(record["results"][3]["within"][1::2]))
    rows = list(csv.reader((folder / "matrix-fd.csv").open()))
    assert rows[0] == ["layer", "domain", "a", "b", "again"]
    assert len(rows) == 7
    assert float(rows[4][4]) == matrix[0, 2]
    text = call("fd", "a", "b", "again", *OPTIONS, "--all-layers").stdout
    assert "not corrected for 6 comparisons" in text
    assert "block 1: a and b" in text


def test_kernel_energy_and_transport_in_one_table(call) -> None:
    record = _json(call("kd", "a", "b", *OPTIONS, "--json"))
    by_key = {r["key"]: r for r in record["results"]}
    assert list(by_key) == ["polynomial", "rbf", "energy", "sliced-wasserstein"]
    assert by_key["rbf"]["parameters"]["gamma"] > 0
    assert by_key["polynomial"]["parameters"]["subsets"]["size"] == 12
    assert by_key["polynomial"]["parameters"]["subsets"]["subsets"] == 100
    assert all(len(r["null"]) == r["permutations"] == 99 for r in by_key.values())
    (blocks,) = _json(
        call("kd", "a", "b", *OPTIONS, "--measure", "rbf", "--pairs", "between-blocks", "--json")
    )["results"]
    assert blocks["value"] < by_key["rbf"]["value"]  # pairs within a block lift it
    (fixed,) = _json(call("kd", "a", "b", *OPTIONS, "--measure", "rbf", "--gamma", "0.5", "--json"))[
        "results"
    ]
    assert fixed["parameters"] == {"pairs": "all", "gamma": 0.5}
    text = call("kd", "a", "b", *OPTIONS).stdout
    for part in ("kernel distance, cubic", "energy distance", "sliced Wasserstein distance", "16 + 12"):
        assert part in text


def test_coverage_counts_pairs_in_both_orders(call) -> None:
    record = _json(call("prdc", "a", "b", "again", *OPTIONS, "--k", "2", "--json"))
    results = {(*r["names"], r["key"]): r for r in record["results"]}
    assert len(results) == 6 * 4
    for a, b in permutations(("a", "b", "again"), 2):
        assert results[a, b, "precision"]["value"] == results[b, a, "recall"]["value"]
        assert 0 <= results[a, b, "coverage"]["value"] <= 1
    folder = Path(record["folder"])
    assert {p.stem for p in (folder / "figures").iterdir()} == {
        f"{name}{kind}" for name in ("precision", "recall", "density", "coverage") for kind in ("", "-matrix")
    }
    plain = _json(call("prdc", "a", "b", *OPTIONS, "--k", "2", "--neighbours", "all", "--json"))["results"]
    assert plain[2]["parameters"] == {"k": 2, "neighbours": "all"}
    assert "reference" in call("prdc", "a", "b", *OPTIONS, "--k", "2").stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("fd", "a", "b", "--patches", "--infinity"), ("--patches",)),
        (("fd", "a", "b", "--patches", "--shrinkage", "ledoit-wolf"), ("--patches",)),
        (("fd", "a", "b", "--infinity", "--shrinkage", "ledoit-wolf"), ("--infinity",)),
        (("fd", "a", "b", "--preset", "reference", "--layer", "0"), ("--preset", "last layer")),
        (("fd", "a", "b", "--preset", "reference", "--equal-n"), ("--preset",)),
        (("kd", "a", "b", "--measure", "cosine"), ("cosine", "polynomial")),
        (("kd", "a", "b", "--gamma", "0"), ("gamma",)),
        (("kd", "a", "b", "--order", "3"), ("order",)),
        (("prdc", "a", "b", "--k", "0"), ("k",)),
        (("prdc", "a", "b", "--k", "12"), ("a × b", "too few embeddings for precision")),
        (("kd", "a"), ("nothing to compare with",)),
    ],
)
def test_what_it_refuses(call, arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    result = call(*arguments, *OPTIONS)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "\n" not in result.stderr.strip()
    assert all(part in result.stderr for part in parts), result.stderr
