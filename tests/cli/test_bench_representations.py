"""``emvfm bench relate | enrich | similarity | geometry | layers`` from the command line."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.manifest import save_dataset
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.representations.cka import linear_cka
from emvfm.representations.geometry import participation_ratio
from emvfm.workspace import Workspace

NAME = "timm:test_vit"
SHARED = ("--device", "cpu", "--precision", "float32")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A dataset of twelve images, two plates and three kinds; kinds are told apart by their brightness."""
    root = tmp_path_factory.mktemp("bench")
    workspace = Workspace(root / "workspace")
    write_phantom(root / "cells", "a", 12, 48, seed=3)
    compose("cells", [root / "cells"], workspace, ComposeOptions(link="copy", split="random", val=0))
    dataset = open_dataset(workspace, "cells")
    facts = [{"plate": f"p{i % 2}", "kind": f"k{i // 4}", "well": f"w{i // 2}"} for i in range(12)]
    samples = tuple(dataclasses.replace(s, facts=f) for s, f in zip(dataset.samples, facts, strict=True))
    save_dataset(dataclasses.replace(dataset, samples=samples))
    return workspace


@pytest.fixture(scope="module")
def call(workspace: Workspace) -> Callable[..., Result]:
    return lambda command, *arguments: CliRunner().invoke(
        app, ["bench", command, "--root", str(workspace.root), *map(str, arguments)]
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def _figures(record: dict) -> set[str]:
    found = sorted((Path(record["folder"]) / "figures").iterdir())
    for path in found:
        with Image.open(path) as picture:
            assert min(picture.size) > 150
    return {path.stem for path in found}


@pytest.fixture(scope="module")
def genes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty genes in two rows each, ten complexes of four; those of one complex lie together."""
    folder = tmp_path_factory.mktemp("genes")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 12))
    lines = ["gene,complex," + ",".join(f"f{j}" for j in range(12))]
    for gene in range(40):
        for _ in range(2):
            values = centres[gene // 4] + 0.3 * rng.normal(size=12)
            lines.append(f"g{gene},x{gene // 4}," + ",".join(map(str, values)))
    (folder / "map.csv").write_text("\n".join(lines))
    pairs = [(f"g{a}", f"g{b}") for a, b in combinations(range(40), 2) if a // 4 == b // 4]
    (folder / "corum.csv").write_text(
        "entity1,entity2\n" + "\n".join(f"{a},{b}" for a, b in [*pairs, *pairs[:5]])
    )
    text = "a,b,source\n" + "\n".join(f"{a},{b},near" for a, b in pairs)
    text += (
        "\n" + "\n".join(f"g{a},g{(a + 17) % 40},far" for a in range(40)) + "\ng1,unknown,far\ng1,g2,few\n"
    )
    (folder / "mixed.csv").write_text(text)
    return folder


def test_known_relations_are_recalled_by_source(call, genes: Path) -> None:
    options = ("--entity", "gene", "--samples", "99", "--least", "10")
    record = _json(
        call("relate", genes / "map.csv", *options, "--relations", genes / "corum.csv", "--relations", genes / "mixed.csv",
             "--related-by", "complex", "--json")
    )  # fmt: skip
    found = {(r["source"], round(r["expected"], 3)): r for r in record["results"]}
    assert {source for source, _ in found} == {"corum", "near", "far", "complex"}
    assert found["corum", 0.1]["n_pairs"] == 60
    for source in ("corum", "near", "complex"):
        assert found[source, 0.1]["both"] == found["corum", 0.1]["both"]
        assert found[source, 0.1]["right"]["value"] > 0.6
        assert found[source, 0.2]["both"]["value"] > 0.95
    assert found["far", 0.1]["both"]["low"] < 0.15
    assert found["far", 0.1]["absent"] == 1
    assert record["sources_left_out"] == [{"source": "few", "entities": 2}]
    assert _figures(record) == {"recall"}
    rows = list(csv.DictReader((Path(record["folder"]) / "recall.csv").open()))
    assert {row["end"] for row in rows} == {"both", "lower", "upper"}
    assert (
        "few is left out"
        in call("relate", genes / "map.csv", *options, "--relations", genes / "mixed.csv").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("relate", "MAP"), 2, "--entity"),
        (("relate", "MAP", "--entity", "gene"), 2, "--related-by"),
        (("relate", "MAP", "--entity", "gene", "--relations", "gone.csv"), 3, "no such table"),
        (("relate", "MAP", "--entity", "gene", "--relations", "MAP"), 2, "no telling which columns"),
        (("relate", "MAP", "--entity", "gene", "--related-by", "gene"), 2, "no source with enough"),
        (("relate", "MAP", "--entity", "gene", "--related-by", "complex", "--ends", "1.5"), 2, "not a share"),
        (("enrich", "MAP"), 2, "--positives"),
        (("enrich", "MAP", "--positives", "same gene", "--near", "2"), 2, "not a share"),
        (("similarity", "MAP"), 2, "two or more"),
        (("similarity",), 2, "nothing to open"),
        (("similarity", "MAP", "MAP"), 2, "twice"),
        (("similarity", "cells", "--backbone", f"{NAME},untrained", "--backbone", "x,colour=red"), 2, "not an option"),
        (("similarity", "--run", "none"), 3, "no such run"),
        (("layers", "MAP"), 2, "no layers"),
        (("layers", "cells", "--backbone", NAME, "--untrained", *SHARED, "--pools", "max"), 2, "pooling"),
        (("layers", "cells", "--backbone", NAME, "--untrained", *SHARED, "--task", "localize"), 2, "no such column"),
        (("layers", "cells", "--backbone", NAME, "--untrained", *SHARED, "--task", "localize", "--labels", "kind"), 2,
         "--split"),
        (("layers", "cells", "--backbone", NAME, "--untrained", *SHARED, "--positives", "same kind", "--split", "plate"),
         4, "too few values"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(call, genes: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    result = call(*(str(genes / "map.csv") if a == "MAP" else a for a in arguments))
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_related_rows_are_enriched_over_a_random_order(call, genes: Path) -> None:
    record = _json(call("enrich", genes / "map.csv", "--positives", "same complex", "--exclude", "gene", "--unit", "complex",
                        "--near", "0.05", "--near", "0.2", "--json"))  # fmt: skip
    near, far = record["results"]
    assert (near["share"], far["share"]) == (0.05, 0.2)
    assert near["excess"]["low"] > 1
    assert near["excess"]["n"] == 80
    assert near["log_odds"]["value"] == pytest.approx(near["excess"]["value"] + near["expected"])
    assert _figures(record) == {"odds"}
    rows = list(csv.DictReader((Path(record["folder"]) / "rows.csv").open()))
    assert len(rows) == 160
    assert "random order" in call("enrich", genes / "map.csv", "--positives", "same complex").stdout


def test_tables_of_the_same_rows_are_matched_by_their_ids(call, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 9))
    turned = x @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    order = rng.permutation(30)
    ids = np.array([f"row{i}" for i in range(30)])
    np.savez(tmp_path / "x.npz", features=x.astype(np.float32), id=ids)
    np.savez(tmp_path / "turned.npz", features=turned[order].astype(np.float32), id=ids[order])
    np.savez(tmp_path / "y.npz", features=y.astype(np.float32), id=ids)
    tables = [tmp_path / name for name in ("x.npz", "turned.npz", "y.npz")]
    record = _json(call("similarity", *tables, "--permutations", "9", "--parts", "5", "--json"))
    assert record["names"] == ["x.npz", "turned.npz", "y.npz"]
    found = {(r["measure"], r["a"], r["b"]): r for r in record["results"]}
    assert len(found) == 3 * 6
    for measure in record["matrices"]:
        assert found[measure, "x.npz", "turned.npz"]["estimate"]["value"] == pytest.approx(1, abs=1e-4)
    other = found["cka", "x.npz", "y.npz"]
    assert other["estimate"]["value"] == pytest.approx(linear_cka(x, y), abs=1e-5)
    assert other["p_value"] >= 0.1
    matrix = np.array(record["matrices"]["cka"])
    assert matrix[0, 2] == matrix[2, 0] == other["estimate"]["value"]
    assert _figures(record) == {"cka", "cka-rbf", "procrustes", "svcca", "rsa", "mutual-knn"}
    assert (Path(record["folder"]) / "matrix-rsa.csv").is_file()
    fewer = _json(
        call("similarity", *tables, "--rows", "20", "--measure", "cka", "--permutations", "0", "--json")
    )
    assert (fewer["rows"], fewer["rows_of"]) == (20, 30)
    np.savez(tmp_path / "z.npz", features=y, id=np.char.add(ids, "x"))
    result = call("similarity", tables[0], tmp_path / "z.npz")
    assert result.exit_code == 2
    assert "different rows" in result.stderr
    geometry = _json(call("geometry", *tables, "--parts", "5", "--json"))
    (first, second, _) = geometry["results"]
    measured = first["measures"]["participation ratio"]
    assert measured["value"] == pytest.approx(participation_ratio(x), rel=1e-4)
    assert second["measures"]["rankme"]["value"] == pytest.approx(
        first["measures"]["rankme"]["value"], rel=1e-4
    )


def test_backbones_and_layers_of_a_dataset_are_compared_and_described(call) -> None:
    backbones = ("--backbone", f"{NAME},untrained", "--backbone", f"{NAME},untrained,init_seed=1")
    options = (*backbones, *SHARED, "--layers", "0", "--layers", "1", "--all-layers", "--parts", "4")
    record = _json(call("similarity", "cells", *options, "--measure", "cka", "--permutations", "5", "--json"))
    assert record["names"] == [
        f"{NAME}, untrained, block 0",
        f"{NAME}, untrained, block 1",
        f"{NAME}, untrained, init_seed 1, block 0",
        f"{NAME}, untrained, init_seed 1, block 1",
    ]
    assert all("untrained" in one["backbone"] for one in record["representations"])
    text = call("geometry", "cells", *options, "--alike", "kind", "--leave-out", "well").stdout
    assert "alignment" in text
    assert text.count("untrained, block") == 2


def test_predictions_of_runs_are_correlated(call, workspace: Workspace) -> None:
    runs = []
    for seed in (0, 1):
        options = ("--backbone", NAME, "--untrained", "--init-seed", seed, *SHARED, "--draws", "99")
        record = _json(call("retrieve", "cells", *options, "--positives", "same kind", "--json"))
        runs.append(Path(record["folder"]).name)
    record = _json(call("similarity", "--run", runs[0], "--run", runs[1], "--permutations", "19", "--json"))
    assert record["columns"] == ["average_precision"]
    assert record["rows"] == 12
    (pair,) = record["results"]
    assert -1 <= pair["estimate"]["value"] <= 1
    same = _json(call("similarity", "--run", runs[0], "--run", runs[0], "--json"))
    assert same["results"][0]["estimate"]["value"] == pytest.approx(1)
    result = call("similarity", "cells", "--run", runs[0])
    assert result.exit_code == 2
    fewer = _json(call("similarity", "cells", "--backbone", f"{NAME},untrained", *SHARED, "--all-layers",
                       "--measure", "cka", "--parts", "0", "--permutations", "0", "--json"))  # fmt: skip
    result = call("similarity", "--run", Path(fewer["folder"]).name)
    assert result.exit_code == 3
    assert "no predictions" in result.stderr


def test_all_blocks_are_scored_from_one_extraction_and_one_is_chosen(call, workspace: Workspace) -> None:
    backbone = ("--backbone", NAME, "--untrained", *SHARED, "--resamples", "99")
    record = _json(
        call(
            "layers",
            "cells",
            *backbone,
            "--positives",
            "same kind",
            "--split",
            "well",
            "--folds",
            "3",
            "--json",
        )
    )
    depth = len({r["layer"] for r in record["results"]})
    assert len(record["results"]) == 2 * depth > 2
    assert sum(r["folds_that_chose_it"] for r in record["results"]) == 3
    scores = [r["score"]["value"] for r in record["results"]]
    assert min(scores) <= record["nested"]["value"] <= max(scores) + 1e-12
    assert record["optimism_of_hindsight"] == pytest.approx(max(scores) - record["nested"]["value"])
    assert _figures(record) == {"layers"}
    plain = _json(
        call(
            "retrieve",
            "cells",
            *backbone[:-2],
            "--layers",
            "0",
            "--positives",
            "same kind",
            "--draws",
            "99",
            "--json",
        )
    )
    assert record["results"][0]["score"]["value"] == pytest.approx(plain["overall"]["value"], abs=1e-9)
    assert record["chance"] == pytest.approx(plain["expected"])
    labelled = ("--task", "localize", "--labels", "kind", "--split", "well", "--folds", "2", "--head", "knn")
    found = _json(call("layers", "cells", *backbone, *labelled, "--pools", "mean", "--json"))
    assert found["metric"] == "macro F1"
    assert len(found["results"]) == depth
    related = ("--task", "relate", "--entity", "id", "--related-by", "kind", "--least", "6", "--folds", "2")
    found = _json(call("layers", "cells", *backbone, *related, "--pools", "mean", "--json"))
    assert found["chance"] == 0.1
    assert "folds that chose it" in call("layers", "cells", *backbone, *related, "--pools", "mean").stdout
