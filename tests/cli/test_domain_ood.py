"""``emvfm domain ood`` and ``ood-compare`` from the command line: numbers, parts, files, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from scipy.spatial import distance
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner

from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.cli.app import app
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.domain.outliers import SCORES
from emvfm.extraction.pipeline import embed_dataset
from emvfm.store.view import Embeddings
from emvfm.workspace import Workspace

BACKBONE = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")
OPTIONS = (*BACKBONE, "--layers", "0", "--layers", "1", "--bootstrap", "99")
BLOCKS = (*OPTIONS, "--parts", "blocks")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("ood") / "odd [/b] folder"
    workspace = Workspace(root / "workspace")
    for name, domain, seed, n in (("a", "a", 3, 60), ("b", "b", 4, 16), ("again", "a", 5, 12)):
        write_phantom(root / name, domain, n, 64, seed=seed)
        compose(name, [root / name], workspace, ComposeOptions(link="copy"))
    return workspace


@pytest.fixture(scope="module")
def call(workspace: Workspace) -> Callable[..., Result]:
    """Call ``emvfm domain COMMAND`` in the workspace of the module."""
    return lambda name, *arguments: CliRunner().invoke(
        app, ["domain", name, "--root", str(workspace.root), *map(str, arguments)]
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def _rows(record: dict, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((Path(record["folder"]) / name).open()))


def _embeddings(workspace: Workspace, name: str) -> Embeddings:
    options = BackboneOptions(
        backbone="timm:test_vit", untrained=True, device="cpu", precision="float32", layers=(0, 1)
    )
    return embed_dataset(open_dataset(workspace, name), load_backbone(options, workspace), options, workspace)


@pytest.fixture(scope="module")
def by_blocks(call: Callable[..., Result]) -> dict:
    return _json(call("ood", "a", "b", "again", *BLOCKS, "--json"))


@pytest.fixture(scope="module")
def by_patches(call: Callable[..., Result]) -> dict:
    scores = ("--scores", "mahalanobis", "--scores", "knn-cosine")
    sizes = ("--patch-sample", "200", "--bank", "50", "--maps", "2")
    return _json(call("ood", "a", "b", *BLOCKS, *scores, *sizes, "--patches", "--all-layers", "--json"))


def test_the_numbers_are_those_of_scikit_learn(workspace: Workspace, by_blocks: dict) -> None:
    assert [r["score"] for r in by_blocks["results"]] == list(SCORES)
    result = by_blocks["results"][0]
    rows = [row for row in _rows(by_blocks, "scores.csv") if row["score"] == "mahalanobis"]
    embedded = _embeddings(workspace, "a")
    vectors = dict(zip([s.id for s in embedded.samples], embedded.image_embeddings("mean", -1), strict=True))
    fitted = np.stack([vectors[row["sample"]] for row in rows if row["part"] == "fit"]).astype(float)
    assert len(fitted) == result["n_fit"] == by_blocks["parts"]["fit"]["n"]
    precision = LedoitWolf().fit(fitted).precision_
    held = [row for row in rows if row["part"] == "test"]
    for row in held:
        expected = distance.mahalanobis(vectors[row["sample"]].astype(float), fitted.mean(axis=0), precision)
        assert float(row["value"]) == pytest.approx(expected, rel=1e-6)
    outside = [float(row["value"]) for row in rows if row["dataset"] == "b"]
    own = [float(row["value"]) for row in held]
    labels, scores = [0] * len(own) + [1] * len(outside), own + outside
    found = result["against"]["b"]
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["aupr_out"]["value"] == pytest.approx(average_precision_score(labels, scores))
    assert found["n"] == [len(own), 16]
    threshold = result["calibration"]["threshold"]
    assert found["flagged"]["value"] == np.mean(np.array(outside) > threshold)
    assert result["false_alarms"]["value"] == np.mean(np.array(own) > threshold)
    assert all(int(row["flagged"]) == (float(row["value"]) > threshold) for row in rows)


def test_parts_are_apart_and_recorded(by_blocks: dict, call: Callable[..., Result]) -> None:
    rows = [r for r in _rows(by_blocks, "scores.csv") if r["dataset"] == "a" and r["score"] == "cosine"]
    part_of = {int(row["z"]): row["part"] for row in rows}
    assert {part: list(part_of.values()).count(part) for part in ("fit", "calibration", "test")} == {
        part: by_blocks["parts"][part]["n"] for part in ("fit", "calibration", "test")
    }
    assert by_blocks["parts"]["gap"]["n"] == 60 - len(part_of)
    for z, part in part_of.items():
        assert part_of.get(z + 1, part) == part  # a gap of one slice is between two parts
    assert "seed 0" in by_blocks["parts"]["source"]
    assert "one volume" in by_blocks["parts"]["remark"]
    other = _json(call("ood", "a", "b", "again", *BLOCKS, "--seed", "1", "--scores", "cosine", "--json"))
    assert {r["sample"]: r["part"] for r in _rows(other, "scores.csv") if r["dataset"] == "a"} != {
        r["sample"]: r["part"] for r in rows
    }


def test_the_splits_of_the_dataset_are_taken_where_it_has_all(
    workspace: Workspace, call: Callable[..., Result]
) -> None:
    record = _json(call("ood", "a", "b", *OPTIONS, "--scores", "cosine", "--json"))
    split_of = {s.id: s.split for s in open_dataset(workspace, "a").samples}
    named = {"train": "fit", "val": "calibration", "test": "test"}
    rows = [row for row in _rows(record, "scores.csv") if row["dataset"] == "a"]
    assert rows
    assert all(named[split_of[row["sample"]]] == row["part"] for row in rows)
    assert "gap" in split_of.values()
    assert len(rows) == sum(split != "gap" for split in split_of.values())
    of_train = _json(call("ood", "a:train", "b", *OPTIONS, "--scores", "cosine", "--json"))
    assert "seed" in of_train["parts"]["source"]


def test_few_calibration_blocks_are_told(by_blocks: dict) -> None:
    line = by_blocks["results"][0]["calibration"]
    assert line["blocks"] < line["needed"] == 19
    assert line["promised"] == pytest.approx(1 / (line["blocks"] + 1))
    assert "too few calibration blocks for level 0.05" in by_blocks["verdict"]


def test_files_are_written(by_blocks: dict) -> None:
    folder = Path(by_blocks["folder"])
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "config.yaml", "metrics.json", "provenance.json", "comparison.csv", "scores.csv",
        "figures/auroc.png", "figures/roc-image.png", "figures/scores-image.png",
    }  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == {name: value for name, value in by_blocks.items() if name != "folder"}
    comparison = _rows(by_blocks, "comparison.csv")
    assert len(comparison) == len(SCORES) * 2
    for row in comparison:
        (result,) = [r for r in by_blocks["results"] if r["score"] == row["score"]]
        assert float(row["auroc"]) == result["against"][row["outside"]]["auroc"]["value"]
        low = result["against"][row["outside"]]["auroc"]["low"]
        assert row["auroc_low"] == ("" if low is None else str(low))


def test_the_configuration_written_repeats_the_run(
    by_blocks: dict, call: Callable[..., Result], tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes((Path(by_blocks["folder"]) / "config.yaml").read_bytes())
    assert _json(call("ood", "a", "b", "again", "--config", config, "--json")) == by_blocks


def test_text_says_the_verdict_and_the_promise(by_blocks: dict, call: Callable[..., Result]) -> None:
    result = call("ood", "a", "b", "again", *BLOCKS)
    assert result.exit_code == 0, result.output
    unfolded = "".join(result.stdout.split())
    first = by_blocks["results"][0]
    for part in (*first["verdict"].split("; "), by_blocks["folder"], by_blocks["parts"]["remark"]):
        assert "".join(part.split()) in unfolded, part


def test_patches_of_all_layers(workspace: Workspace, by_patches: dict) -> None:
    places = {(r["layer"], r["scale"], r["score"]) for r in by_patches["results"]}
    scales = ("image", "patch mean", "patch p95")
    assert places == {(i, s, m) for i in (0, 1) for s in scales for m in ("mahalanobis", "knn-cosine")}
    assert {r["dimension"] for r in by_patches["results"]} == {64}
    notes = {r["note"] for r in by_patches["results"] if r["score"] == "knn-cosine" and r["scale"] != "image"}
    assert notes == {"neighbour 5 of 50"}
    means, tops = (
        {r["sample"]: float(r["value"]) for r in _rows(by_patches, "scores.csv")
         if (r["scale"], r["layer"], r["score"]) == (scale, "1", "mahalanobis")}
        for scale in scales[1:]
    )  # fmt: skip
    assert all(tops[sample] > means[sample] > 0 for sample in means)
    folder = Path(by_patches["folder"])
    names = {p.name for p in (folder / "figures").iterdir()}
    assert names == {
        "auroc.png", "layers.png", "maps-0-a.png", "maps-1-b.png",
        *(f"{kind}-{scale}.png" for kind in ("roc", "scores") for scale in ("image", "patch-mean", "patch-p95")),
    }  # fmt: skip
    with Image.open(folder / "figures" / "maps-1-b.png") as figure:
        assert min(figure.size) > 300


def test_the_reference_preset_is_the_reference(workspace: Workspace, call: Callable[..., Result]) -> None:
    record = _json(call("ood", "a", "b", *OPTIONS, "--preset", "reference", "--quantile", "0.9", "--json"))
    vectors = [_embeddings(workspace, name).image_embeddings("mean", -1).astype(float) for name in ("a", "b")]
    precision = LedoitWolf().fit(vectors[0]).precision_
    distances = [distance.mahalanobis(v, vectors[0].mean(axis=0), precision) for x in vectors for v in x]
    threshold = np.quantile(distances[:60], 0.9)
    (result,) = record["results"]
    assert result["threshold"]["value"] == pytest.approx(threshold, rel=1e-6)
    assert result["target_outlier_rate"] == np.mean(np.array(distances[60:]) > threshold)
    rows = _rows(record, "distances.csv")
    assert sorted(float(row["distance"]) for row in rows) == pytest.approx(sorted(distances), rel=1e-6)
    assert all(Path(row["filepath"]).is_file() for row in rows)
    summary = json.loads((Path(record["folder"]) / "summary.json").read_text())
    assert (summary["num_id"], summary["num_target"]) == (60, 16)
    assert "by construction" in record["remark"]
    several = _json(call("ood", "a", "b", "again", *OPTIONS, "--preset", "reference", "--json"))
    folder = Path(several["folder"])
    assert all((folder / r["distances"]).is_file() for r in several["results"])
    assert len(several["results"]) == 2
    said = call("ood", "a", "b", *OPTIONS, "--preset", "reference")
    assert said.exit_code == 0, said.output
    assert "".join(record["remark"].split()) in "".join(said.stdout.split())


def test_runs_are_compared(
    by_blocks: dict, by_patches: dict, call: Callable[..., Result], tmp_path: Path
) -> None:
    reference = _json(call("ood", "a", "b", *OPTIONS, "--preset", "reference", "--json"))
    foreign = tmp_path / "theirs"  # as the reference system leaves it
    foreign.mkdir()
    for name in ("summary.json", "distances.csv"):
        shutil.copy(Path(reference["folder"]) / name, foreign)
    runs = (by_blocks["folder"], Path(by_patches["folder"]).name, reference["folder"], foreign)
    labels = [part for label in ("plain", "patches", "[reference]", "theirs") for part in ("--labels", label)]
    record = _json(call("ood-compare", *runs, *labels, "--json"))
    found = {row["label"]: row for row in record["results"]}
    assert set(found) == {"plain: b", "plain: again", "patches", "[reference]", "theirs"}
    plain = by_blocks["results"][0]
    assert found["plain: b"]["auroc"] == plain["against"]["b"]["auroc"]["value"]
    assert found["plain: b"]["inside_rate"] == plain["false_alarms"]["value"]
    values = [
        float(row["value"]) for row in _rows(by_blocks, "scores.csv")
        if (row["score"], row["dataset"]) == ("mahalanobis", "b")
    ]  # fmt: skip
    ratio = np.median(values) / plain["calibration"]["threshold"]
    assert found["plain: b"]["median_ratio"] == pytest.approx(ratio)
    assert found["[reference]"]["circular"]
    same = ("n", "threshold", "inside_rate", "outside_rate", "median_ratio", "auroc")
    assert [found["theirs"][k] for k in same] == [found["[reference]"][k] for k in same]
    assert found["[reference]"]["outside_rate"] == reference["results"][0]["target_outlier_rate"]
    assert "[reference], theirs" in record["remark"]
    folder = Path(record["folder"])
    assert len(_rows(record, "comparison.csv")) == 5
    assert (folder / "figures" / "runs.png").is_file()
    text = call("ood-compare", *runs, *labels)
    assert text.exit_code == 0, text.output
    assert "[reference]" in text.stdout
    patches = call("ood-compare", *runs[1:3], "--scale", "patch mean", "--score", "knn-cosine", "--json")
    (first, _) = _json(patches)["results"]
    assert first["score"] == "knn-cosine"


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        (("a",), 2, ("nothing to compare with",)),
        (("a", "c"), 3, ("c", "no such dataset")),
        (("a", "b", "--scores", "euclid"), 2, ("no such score", "euclid", "mahalanobis")),
        (("a", "b", "--scores", "knn", "--scores", "knn"), 2, ("twice",)),
        (("a", "b", "--k", "50"), 2, ("--k", "50")),
        (("a:train", "b", "--parts", "splits"), 2, ("a:train", "--parts blocks")),
        (("a", "b", "--parts", "blocks", "--calibration", "0.6", "--test", "0.4"), 2, ("too few blocks",)),
        (("a", "b", "--false-alarms", "0"), 2, ("false_alarms",)),
        (("a", "b", "--layer", "7"), 2, ("layer",)),
    ],
)
def test_what_it_refuses(
    call: Callable[..., Result], arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    result = call("ood", *OPTIONS, *arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "\n" not in result.stderr.strip()
    assert all(part in result.stderr for part in parts), result.stderr


def test_what_the_comparison_refuses(
    by_blocks: dict, by_patches: dict, call: Callable[..., Result], tmp_path: Path
) -> None:
    one, two = by_blocks["folder"], by_patches["folder"]
    broken = tmp_path / "domain-ood-broken"
    shutil.copytree(one, broken)
    (broken / "metrics.json").write_text('{"results": []}')
    for arguments, code, part in (
        ((one,), 2, "nothing to compare with"),
        ((one, one), 2, "twice"),
        ((one, "no-such"), 3, "no such run"),
        ((one, two, "--labels", "x"), 2, "one label a run"),
        ((one, two, "--score", "relative"), 2, "no such score"),
        ((one, broken), 1, "not a result of"),
    ):
        result = call("ood-compare", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert part in result.stderr
