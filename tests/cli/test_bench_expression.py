"""``emvfm bench expression`` from the command line: planted expression, refusals, folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.workspace import Workspace

SIDE, STEP, GENES = 6, 40, 12
SECTIONS = {"s1": "p", "s2": "p", "s3": "q"}
FAST = ("--samples", "100", "--genes", "6", "--head", "ridge", "--detected", "0", "--block", "2")
UNTRAINED = ("--backbone", "timm:test_vit", "--untrained", "--device", "cpu", "--precision", "float32")


def write_sections(folder: Path) -> None:
    """Write sections whose brightness around a spot decides the counts of half the genes."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "counts").mkdir()
    rows = ["image,section,spot,x,y,patient,kind"]
    loadings = rng.uniform(0.3, 1, GENES) * (np.arange(GENES) < GENES // 2)
    for section, patient in SECTIONS.items():
        size = SIDE * STEP + 40
        image = rng.integers(0, 30, (size, size, 3), np.uint8)
        table = ["\t" + "\t".join(f"g{g}" for g in range(GENES))]
        for i in range(SIDE):
            for j in range(SIDE):
                x, y, bright = 40 + STEP * i, 40 + STEP * j, rng.random()
                image[y - 20 : y + 20, x - 20 : x + 20] += np.uint8(200 * bright)
                rate = np.exp(3 + 2 * bright * loadings) * (i != 5 or j != 5)
                table.append(f"{i}x{j}\t" + "\t".join(map(str, rng.poisson(rate))))
                rows.append(f"{section}.png,{section},{i}x{j},{x},{y},{patient},{'ab'[(i + j) % 2]}")
        Image.fromarray(image).save(folder / "images" / f"{section}.png")
        (folder / "counts" / f"{section}.tsv").write_text("\n".join(table) + "\n")
    (folder / "spots.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expression")
    write_sections(folder)
    options = ComposeOptions(spots=folder / "spots.csv", images=folder / "images", tile="32")
    compose("st", [], Workspace(folder / "ws"), options)
    return folder


@pytest.fixture(scope="module")
def call(folder: Path) -> Callable[..., Result]:
    def call(*words: object) -> Result:
        root = ("--root", str(folder / "ws"))
        return CliRunner().invoke(app, ["bench", "expression", *map(str, words), *root])

    return call


def _counts(folder: Path) -> tuple[str, str]:
    return "--counts", str(folder / "counts")


def test_a_planted_signal_is_found_and_said(folder: Path, call) -> None:
    result = call("st", "--backbone", "pixel:intensity", *_counts(folder), *FAST, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    (head,) = found["heads"]
    scores = {m["kind"]: m for m in head["models"]}
    assert found["question"] == head["models"][0]["name"]
    assert scores["pixel"]["pearson"]["value"] > 0.6
    assert scores["permuted"]["pearson"]["value"] < 0.3
    assert set(scores) == {"pixel", "structure", "confound", "permuted", "mean"}
    assert scores["mean"]["pearson"]["value"] is None
    assert scores["mean"]["undefined"] == scores["mean"]["correlations"] == 18
    assert found["left_out"] == {"without a single count": 3}
    assert found["n"] == 3 * 35
    assert [f["name"] for f in found["folds"]] == ["s1", "s2", "s3"]
    assert all(len(f["genes"]) == 6 for f in found["folds"])
    assert any(
        "2 independent units of patient: p (2 sections), q (1 section)" in line for line in found["remarks"]
    )
    assert any("beats place in the section here" in d["verdict"] for d in head["differences"])
    assert any(d["metric"] == "skill" and d["second"] == "mean of training" for d in head["differences"])
    run = Path(found["folder"])
    for name in ("models", "genes-ridge", "maps"):
        with Image.open(run / "figures" / f"{name}.png") as image:
            assert image.width > 300
    with (run / "genes.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 6 * len(head["models"])
    assert {row["pearson"] for row in rows if row["model"] == "mean of training"} == {""}
    with (run / "predictions" / "1-pixel.csv").open() as one, (run / "measured.csv").open() as two:
        predicted, measured = list(csv.DictReader(one)), list(csv.DictReader(two))
    assert [r["id"] for r in predicted] == [r["id"] for r in measured]
    assert len(predicted) == 105


def test_the_nearest_spot_stands_between_any_spot_and_the_best(folder: Path, call) -> None:
    words = ("st", "--backbone", "pixel:intensity", *_counts(folder), *FAST, "--preset", "hest-1nn", "--json")
    result = call(*words)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    scores = {r["name"]: r for r in found["heads"][0]["retrieval"]}
    own = scores[found["question"]]
    assert own["blind"] < own["found"]["value"] <= own["best"]
    assert 0 < own["share"]["value"] <= 1
    assert "exchanged expression" in scores
    assert any("of what retrieval could give" in line for line in found["remarks"])
    with (Path(found["folder"]) / "retrieval.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"] for row in rows] == list(scores)
    assert float(rows[0]["share"]) == own["share"]["value"]


def test_a_network_comes_with_all_that_it_must_beat(folder: Path, call) -> None:
    words = (
        "st",
        *UNTRAINED,
        *_counts(folder),
        *FAST[:-4],
        "--head",
        "1nn",
        "--head",
        "pls",
        "--head",
        "knn",
        "--k",
        "3",
    )
    result = call(*words, "--group", "patient")
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for said in (
        "untrained", "pixel baseline (all)", "spacing of spots", "place in the section", "mean of training",
        "exchanged expression", "2 independent units", "2 folds by patient", "1nn: ", "pls: ", "knn: ",
    ):  # fmt: skip
        assert said in text


def test_embeddings_are_corrected_by_training_spots_and_places_are_not(folder: Path, call) -> None:
    words = ("st", "--backbone", "pixel:intensity", *_counts(folder), *FAST)
    plain = json.loads(call(*words, "--json").stdout)
    result = call(*words, "--correct", "sphere", "--controls", "all", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["correction"]["n_controls"] == found["n"]
    assert found["protocol"]["correction"].startswith("sphere, fitted on controls that are not tested")
    assert any(line.startswith("embeddings are corrected: sphere") for line in found["remarks"])
    for one, other in zip(plain["heads"][0]["models"], found["heads"][0]["models"], strict=True):
        changed = one["pearson"]["value"] != other["pearson"]["value"]
        assert changed == (one["kind"] in ("pixel", "permuted"))
    by_section = ("--correct", "center", "--controls", "all", "--correct-by", "section")
    refused = call(*words, *by_section)
    assert refused.exit_code == 4
    assert "--transductive" in " ".join(refused.output.split())
    assert call(*words, *by_section, "--transductive").exit_code == 0


def test_layers_of_one_extraction_are_scored_as_the_benchmark_scores_each(folder: Path, call) -> None:
    """The last block has the score and the interval of `bench expression`, and baselines stand there once."""
    rules = (*UNTRAINED, *_counts(folder), "--genes", "6", "--detected", "0", "--block", "2")
    alone = json.loads(call("st", *rules, "--head", "ridge", "--samples", "100", "--json").stdout)
    words = ["bench", "layers", "st", "--task", "expression", *rules, "--pools", "mean", "--resamples", "100"]
    result = CliRunner().invoke(app, [*words, "--json", "--root", str(folder / "ws")])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    of = {model["name"]: model["pearson"] for model in alone["heads"][0]["models"]}
    for key in ("value", "low", "high"):
        assert found["last"][key] == pytest.approx(of[alone["question"]][key], abs=1e-9)
    assert len(found["results"]) > 2
    assert sum(one["folds_that_chose_it"] for one in found["results"]) == 3
    names = [one["name"] for one in found["beside"]]
    assert names == ["spacing of spots", "place in the section", "mean of training"]
    assert found["beside"][0]["score"]["value"] == pytest.approx(of["spacing of spots"]["value"], abs=1e-9)
    assert found["beside"][2]["score"] is None
    with Image.open(Path(found["folder"]) / "figures" / "layers.png") as image:
        assert image.width > 300
    text = CliRunner().invoke(app, [*words, "--root", str(folder / "ws")]).stdout
    assert "without any image" in text


@pytest.mark.parametrize(("preset", "head"), [("hest", "ridge"), ("hest-1nn", "1nn")])
def test_presets(folder: Path, call, preset: str, head: str) -> None:
    result = call(
        "st", "--backbone", "pixel:intensity", *_counts(folder), *FAST, "--preset", preset, "--json"
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["heads"][0]["head"]["name"] == head
    assert found["protocol"]["expression"].startswith("log(1 + count)")
    assert found["n"] == 108  # nothing is divided by the counts of a spot


def test_positions_without_images(folder: Path, call) -> None:
    (folder / "one.csv").write_text(
        "\n".join(
            line
            for n, line in enumerate((folder / "spots.csv").read_text().splitlines())
            if n == 0 or ",s1," in line
        )
    )
    result = call(
        folder / "one.csv",
        "--counts",
        folder / "counts" / "s1.tsv",
        "--cell-type",
        "kind",
        *FAST,
        "--strips",
        "2",
        "--buffer",
        "1",
        "--json",
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["question"] == "spacing and types of neighbours"
    words = (folder / "one.csv", "--counts", folder / "counts" / "s1.tsv", *FAST)
    refused = call(*words, "--correct", "center", "--controls", "all")
    assert refused.exit_code == 2
    assert "no embeddings to correct" in refused.output
    kinds = [m["kind"] for m in found["models"]]
    assert kinds == ["structure", "structure", "circular", "confound", "permuted", "mean"]
    assert any("circular" in line for line in found["remarks"])
    assert any("nothing is said of another section" in line for line in found["remarks"])
    assert [f["name"] for f in found["folds"]] == ["strip 1", "strip 2"]
    assert all(f["train"] + f["test"] < found["n"] for f in found["folds"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "name a table of counts"),
        (("--counts", "nowhere.tsv"), 3, "no such table of counts"),
        (("--counts", "COUNTS", "--gene", "nothing"), 3, "were not measured"),
        (("--counts", "COUNTS", "--gene-list", "nowhere.txt"), 3, "no such list"),
        (("--counts", "COUNTS", "--group", "colour"), 2, "no such fact"),
        (("--counts", "COUNTS", "--position", "a,b"), 2, "no positions"),
        (("--counts", "COUNTS", "--head", "forest"), 2, "no such head"),
        (("--counts", "COUNTS", "--cell-type", "nothing"), 2, "no such fact"),
        (("--counts", "COUNTS/s1.tsv"), 4, "share names"),
        (("--counts", "COUNTS", "--preset", "hest", "--alpha", "3"), 2, "its own penalty"),
        (("--counts", "COUNTS", "--spot", "kind"), 4, "twice"),
        (("--counts", "COUNTS", "--correct", "center"), 2, "--controls"),
        (("--counts", "COUNTS", "--correct-by", "section"), 2, "nothing is corrected"),
    ],
)
def test_refusals_are_one_line(folder: Path, call, words: tuple[str, ...], code: int, said: str) -> None:
    filled = [word.replace("COUNTS", str(folder / "counts")) for word in words]
    result = call("st", "--backbone", "pixel:intensity", *FAST, *filled)
    assert result.exit_code == code, result.output
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output
