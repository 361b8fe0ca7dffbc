"""``emvfm bench localize`` from the command line: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from sklearn.metrics import f1_score
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.localization.simulation import simulate_embeddings

Run = Callable[..., Result]
NAMES = ("er", "golgi", "membrane", "nucleoplasm")
QUICK = ("--head", "logreg", "--folds", "3", "--samples", "100")


def _labels(proteins: int, fields: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own = rng.random((proteins, len(NAMES))) < 0.4
    own[~own.any(axis=1), 3] = True
    return np.repeat(own, fields, axis=0), np.repeat([f"P{i:02d}" for i in range(proteins)], fields)


def _write(path: Path, x: np.ndarray, **facts: object) -> Path:
    np.savez(path, features=x, **{name: np.asarray(values) for name, values in facts.items()})
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Brackets in a path are markup to the library that prints the result.
    folder = tmp_path_factory.mktemp("tables") / "odd [/b] [red]folder"
    folder.mkdir(parents=True)
    labels, protein = _labels(40, 3, 0)
    cells = [";".join(n for n, own in zip(NAMES, row, strict=True) if own) for row in labels]
    grades = [";".join("3" if n != "golgi" else "1" for n in cell.split(";")) for cell in cells]
    ids = [f"{p}-{i % 3}" for i, p in enumerate(protein)]
    facts = {"id": ids, "protein": protein, "label": cells, "grade": grades}
    facts["plate"] = [f"plate{int(p[1:]) % 2}" for p in protein]
    for name, signal in (("good", 1.2), ("weak", 0.3)):
        x = simulate_embeddings(labels, protein, width=10, signal=signal, seed=1)
        _write(folder / f"{name}.npz", x, **facts)
    turned = np.argsort(np.array(ids))[::-1]
    x = simulate_embeddings(labels, protein, width=10, signal=0.3, seed=1)
    _write(folder / "turned.npz", x[turned], **{k: np.asarray(v)[turned] for k, v in facts.items()})
    single = [row.split(";")[0] for row in cells]
    single[:6] = ["Unknown"] * 6
    x = simulate_embeddings(
        np.array([[n == own for n in NAMES] for own in single]), protein, width=10, signal=2.0
    )
    _write(folder / "single.npz", x, **{**facts, "label": single})
    return folder


@pytest.fixture(scope="module")
def run(tables: Path) -> Run:
    """Call ``emvfm bench localize`` in a workspace of the module."""
    root = str(tables / "workspace")
    return lambda *arguments: CliRunner().invoke(
        app, ["bench", "localize", "--root", root, *map(str, arguments)]
    )


def _json(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return json.loads(result.stdout)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of the time, where a test looks at numbers only."""
    monkeypatch.setattr("emvfm.studies.localize.pictures.pictures", lambda found: {})


@pytest.fixture(scope="module")
def pair(run: Run, tables: Path) -> dict:
    return _json(run(tables / "good.npz", tables / "weak.npz", *QUICK, "--share", "0.3", "--json"))


def test_a_grid_writes_its_scores_predictions_and_figures(pair: dict) -> None:
    folder = Path(pair["folder"])
    assert json.loads((folder / "metrics.json").read_text())["score"] == "macro_f1_present"
    assert {f.name for f in folder.iterdir()} >= {"config.yaml", "provenance.json", "efficiency.csv"}
    scores = _rows(folder / "scores.csv")
    assert len(scores) == 2 * 14
    first = next(row for row in scores if row["metric"] == "macro_f1_present")
    assert (first["run"], first["folds"], first["groups"], first["n"]) == ("good.npz", "3", "40", "120")
    assert float(first["low"]) < float(first["mean"]) < float(first["high"]) + 0.05
    assert float(first["std_ddof1"]) == pytest.approx(float(first["std_ddof0"]) * (3 / 2) ** 0.5)
    for name in ("scores", "classes", "calibration", "efficiency", "label-pairs"):
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert min(image.size) > 200
    rows = _rows(folder / "predictions" / "1-good.npz.csv")
    truth = np.array([[name in row["labels"].split(";") for name in NAMES] for row in rows])
    always = f1_score(truth, np.ones_like(truth), average="macro")
    assert pair["floor"]["macro_f1_present"] == pytest.approx(always)
    (comparison,) = pair["comparisons"]
    assert comparison["names"] == ["good.npz", "weak.npz"]
    assert comparison["proteins"]["low"] > 0
    assert comparison["p_holm"] == comparison["corrected"]["p_value"]


def test_the_scores_are_scikit_learns_of_the_predictions_that_are_written(pair: dict) -> None:
    folder = Path(pair["folder"])
    rows = _rows(folder / "predictions" / "1-good.npz.csv")
    truth, said = (
        np.array([[name in row[column].split(";") for name in NAMES] for row in rows])
        for column in ("labels", "predicted")
    )
    fold = np.array([int(row["fold"]) for row in rows])
    values = [f1_score(truth[fold == i], said[fold == i], average="macro") for i in range(3)]
    mean = next(m for m in pair["runs"][0]["means"] if m["metric"] == "macro_f1_present")
    np.testing.assert_allclose(mean["values"], values, atol=1e-12)
    assert mean["std_ddof0"] == pytest.approx(np.std(values), abs=1e-12)
    assert [row["group"] for row in rows] == [row["id"].split("-")[0] for row in rows]
    per_group = {row["group"]: set() for row in rows}
    for row in rows:
        per_group[row["group"]].add(row["fold"])
    assert {len(folds) for folds in per_group.values()} == {1}
    pooled = {
        row["class"]: float(row["f1"]) for row in _rows(folder / "classes.csv") if row["run"] == "good.npz"
    }
    np.testing.assert_allclose([pooled[n] for n in NAMES], f1_score(truth, said, average=None), atol=1e-12)


@pytest.mark.usefixtures("undrawn")
def test_rows_in_another_order_are_the_same_rows(run: Run, tables: Path, pair: dict) -> None:
    turned = _json(run(tables / "good.npz", tables / "turned.npz", *QUICK, "--json"))
    assert turned["runs"][1]["means"] == pair["runs"][1]["means"]


def test_what_is_printed_says_rows_folds_spread_and_comparison(run: Run, tables: Path) -> None:
    result = run(tables / "good.npz", tables / "weak.npz", *QUICK)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    assert "120 rows, 40 groups (protein), 4 classes" in text
    assert "ddof 0 / ddof 1" in text
    assert "macro F1 of rows, n = 120 groups (protein), n = 40" in text
    assert "corrected t p=" in text
    assert "odd [/b] [red]folder" in text


@pytest.mark.usefixtures("undrawn")
def test_rows_and_proteins_are_scored_in_one_run(run: Run, tables: Path, pair: dict) -> None:
    first = pair["runs"][0]
    (proteins,) = first["others"]
    assert (proteins["level"], proteins["pooled"]["n"], proteins["interval"]["n"]) == ("group", 40, 40)
    alone = _json(run(tables / "good.npz", *QUICK, "--level", "group", "--json"))["runs"][0]
    assert proteins["means"] == alone["means"]
    assert alone["others"][0]["level"] == "row"
    rows = [row for row in _rows(Path(pair["folder"]) / "levels.csv") if row["metric"] == "macro_f1_present"]
    assert [(row["run"], row["level"], row["n"]) for row in rows] == [
        ("good.npz", "row", "120"), ("good.npz", "group", "40"),
        ("weak.npz", "row", "120"), ("weak.npz", "group", "40"),
    ]  # fmt: skip
    assert float(rows[1]["mean"]) == alone["means"][0]["mean"]
    assert float(rows[1]["low"]) == alone["interval"]["low"]


@pytest.mark.usefixtures("undrawn")
def test_ungrouped_folds_come_with_what_they_leak(run: Run, tables: Path) -> None:
    found = _json(run(tables / "weak.npz", *QUICK[2:], "--head", "knn", "--neighbours", "1", "--ungrouped",
                      "--thresholds", "fixed", "--json"))  # fmt: skip
    leak = found["runs"][0]["leak"]
    assert leak["overstatement"]["low"] > 0.1
    assert leak["grouped"]["mean"] < leak["ungrouped"]["mean"]
    assert leak["ungrouped"]["mean"] == found["runs"][0]["means"][0]["mean"]
    said = run(tables / "weak.npz", *QUICK, "--ungrouped").stdout
    assert "overstate" in said
    assert "siblings" in said or "sibling" in said


def test_one_label_a_row_is_noticed_and_unknown_rows_are_left_out(run: Run, tables: Path) -> None:
    found = _json(run(tables / "single.npz", *QUICK, "--unknown", "Unknown", "--json"))
    assert found["task"]["single"] is True
    assert found["task"]["n"] == 114
    said = [row["labels"] for row in _rows(Path(found["folder"]) / "predictions" / "1-single.npz.csv")]
    most = max(set(said), key=said.count)
    assert found["floor"]["exact_match"] == pytest.approx(said.count(most) / 114)
    constant = f1_score(said, [most] * 114, average="macro")
    assert found["floor"]["macro_f1_present"] == pytest.approx(constant)
    assert "6 of 120 rows have no label and are left out" in found["task"]["remarks"]
    assert (Path(found["folder"]) / "figures" / "confusion.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_a_split_by_a_fact_tests_those_rows_only(run: Run, tables: Path) -> None:
    one = _json(run(tables / "good.npz", *QUICK, "--split-by", "plate=plate1", "--json"))
    assert one["task"]["folds"]["rows"] == [60]
    assert {row["id"][1:3] for row in _rows(Path(one["folder"]) / "predictions" / "1-good.npz.csv")} == {
        f"{i:02d}" for i in range(1, 40, 2)
    }
    each = _json(run(tables / "good.npz", *QUICK, "--split-by", "plate", "--json"))
    assert each["task"]["folds"]["k"] == 2
    assert each["task"]["folds"]["rows"] == [60, 60]


@pytest.mark.usefixtures("undrawn")
def test_labels_from_a_table_with_grades_a_map_and_a_count(run: Run, tables: Path, tmp_path: Path) -> None:
    labels, protein = _labels(40, 1, 0)
    with (tmp_path / "annotations.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["gene", "annotation", "grade"])
        for name, row in zip(protein, labels, strict=True):
            writer.writerows(
                [name, n, 1 if n == "golgi" else 3] for n, own in zip(NAMES, row, strict=True) if own
            )
    (tmp_path / "map.csv").write_text(
        "ours,theirs\ner,secretory\nmembrane,membrane\nnucleoplasm,nucleus\ngolgi,secretory\n"
    )
    table = ("--label-table", tmp_path / "annotations.csv", "--label-key", "gene", "--labels", "annotation")
    plain = _json(run(tables / "good.npz", *QUICK, *table, "--json"))
    assert plain["task"]["positives"] == (3 * labels.sum(axis=0)).tolist()
    graded = _json(run(tables / "good.npz", *QUICK, *table, "--grades", "grade", "--grade", "2", "--json"))
    assert graded["task"]["classes"] == ["er", "membrane", "nucleoplasm"]
    assert graded["task"]["steps"][0]["dropped"] == {"golgi": int(3 * labels[:, 1].sum())}
    fact = _json(run(tables / "good.npz", *QUICK, "--grades", "grade", "--grade", "2", "--json"))
    assert fact["task"]["positives"] == graded["task"]["positives"]
    mapped = _json(run(tables / "good.npz", *QUICK, *table, "--label-map", tmp_path / "map.csv", "--json"))
    assert mapped["task"]["classes"] == ["membrane", "nucleus", "secretory"]
    assert mapped["task"]["positives"][2] == 3 * int((labels[:, 0] | labels[:, 1]).sum())


@pytest.mark.usefixtures("undrawn")
def test_labels_go_from_numbers_to_names_to_another_space(run: Run, tables: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    numbers = [["25", "0;25", "19;27", "27"][i % 4] for i in range(40)]
    facts = {"id": [f"f{i}" for i in range(40)], "protein": [f"P{i}" for i in range(40)], "label": numbers}
    table = _write(tmp_path / "kaggle.npz", rng.normal(size=(40, 5)), **facts)
    maps = ("--label-map", "kaggle-hpa", "--label-map", "hpa-to-opencell")
    found = _json(run(table, *QUICK, *maps, "--json"))
    assert found["task"]["classes"] == ["centrosome", "cytoplasmic", "nucleoplasm"]
    assert found["task"]["positives"] == [10, 20, 10]
    last = found["task"]["steps"][-1]
    assert (last["what"], last["dropped"]) == ("label map hpa-to-opencell", {"rods & rings": 20})
    wrong = run(table, *QUICK, "--label-map", "hpa-to-nowhere")
    assert wrong.exit_code == 3
    assert "kaggle-hpa" in wrong.stderr


@pytest.mark.usefixtures("undrawn")
def test_presets_are_those_of_their_authors_and_an_option_of_ones_own_stays(run: Run, tables: Path) -> None:
    found = _json(
        run(tables / "good.npz", "--preset", "knn", "--neighbours", "3", "--samples", "100", "--json")
    )
    head = found["runs"][0]["head"]
    assert (head["head"], head["neighbours"], found["runs"][0]["protocol"]["thresholds"]) == (
        "knn",
        3,
        "fixed",
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("good.npz", "--labels", "location"), 2, "no such column"),
        (("good.npz", "--group", "gene"), 2, "no such column"),
        (("good.npz", "--split-by", "plate=plate7"), 2, "no rows with a value"),
        (("good.npz", "--train-split", "train"), 2, "--test-split"),
        (("good.npz", "--min-count", "99"), 4, "no row with a label is left"),
        (("good.npz", "--grades", "plate"), 2, "a grade that is no number"),
        (("good.npz", "--folds", "60"), 4, "fewer groups than folds"),
        (("good.npz", "single.npz", "--against", "x"), 2, "no such run"),
        (("good.npz", "good.npz"), 2, "twice"),
        (("good.npz", "--share", "1.5"), 2, "not a share"),
        (("good.npz", "--level", "unit"), 2, "no units"),
        (("absent.npz",), 3, "no such"),
        (("nowhere", "--backbone", "dinov2,wieghts=a"), 2, "not an option of a backbone"),
        (("nowhere",), 3, "nowhere"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(run: Run, tables: Path, arguments, code: int, said: str) -> None:
    named = [tables / a if str(a).endswith(".npz") else a for a in arguments]
    result = run(*named, "--samples", "100", "--head", "logreg")
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("emvfm: ")]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.fixture(scope="module")
def cells(tables: Path) -> str:
    """A dataset of cells with two channels: label `nuclear` where the protein is where the DNA is."""
    rng = np.random.default_rng(0)
    images, rows = np.zeros((32, 2, 40, 40), np.uint8), []
    y, x = np.mgrid[:40, :40] - 19.5
    for i, image in enumerate(images):
        nucleus = y**2 + x**2 < 60
        inside = i % 2 == 0
        image[1] = np.where(nucleus, 180, 5) + rng.integers(0, 20, (40, 40))
        image[0] = np.where(nucleus == inside, 150, 8) + rng.integers(0, 20, (40, 40))
        rows.append([f"p{i // 4}", "nuclear" if inside else "cytoplasmic", "AB"[i // 16]])
    np.save(tables / "cells.npy", images)
    with (tables / "cells.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["protein", "label", "plate"], *rows])
    made = CliRunner().invoke(
        app,
        ["data", "compose", "cells", "--root", str(tables / "workspace"), "--table", str(tables / "cells.csv"),
         "--images", str(tables / "cells.npy"), "--channels", "gfp,dna", "--split-by", "plate=B", "--force"],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    return "cells"


def test_a_dataset_is_embedded_by_every_backbone_and_its_images_are_shown(run: Run, cells: str) -> None:
    backbones = ("--backbone", "pixel:intensity", "--backbone", "timm:test_vit,untrained,layers=[1]")
    ways = ("--channels", "replicate", "--channels", "map", "--map", "red=gfp,green=dna", "--device", "cpu")
    found = _json(run(cells, *QUICK, *backbones, *ways, "--against", "pixel:intensity", "--json"))
    assert [(one["name"], one["backbone"], one["channels"]) for one in found["runs"]] == [
        ("pixel:intensity", "pixel:intensity", ""),
        ("timm:test_vit, untrained · replicate", "timm:test_vit, untrained", "replicate"),
        ("timm:test_vit, untrained · map", "timm:test_vit, untrained", "map"),
    ]
    assert found["runs"][1]["width"] == 2 * found["runs"][2]["width"]
    assert found["runs"][0]["interval"]["value"] > 0.95
    assert [c["names"][1] for c in found["comparisons"]] == ["pixel:intensity"] * 2
    assert found["task"]["single"] is True
    with Image.open(Path(found["folder"]) / "figures" / "panels.png") as image:
        assert min(image.size) > 300
    split = _json(
        run(
            cells,
            *QUICK,
            *backbones[:2],
            "--train-split",
            "train",
            "--test-split",
            "test",
            "--panels",
            0,
            "--json",
        )
    )
    assert split["task"]["folds"]["rows"] == [16]
    assert not (Path(split["folder"]) / "figures" / "panels.png").exists()


def test_rows_that_are_not_the_same_are_refused(run: Run, tables: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(10, 4))
    other = _write(tmp_path / "other.npz", x, id=[f"q{i}" for i in range(10)], label=["er"] * 10)
    result = run(tables / "good.npz", other, *QUICK)
    assert result.exit_code == 4
    assert "not the same rows" in result.stderr
