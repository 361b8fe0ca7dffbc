"""The page of results on localisation: commands run once, honest names, figures and tables of what was found."""

from __future__ import annotations

import csv
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _import_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def _modules() -> tuple[Any, Any, Any]:
    names = ("localization_results", "localization_steps", "localization_texts")
    results, steps, texts = (importlib.import_module(f"benchmarks.{name}") for name in names)
    return results, steps, texts


class Recorded:
    """Stands for the command line: writes what a command would have recorded, and counts the calls."""

    def __init__(self, root: Path, record: dict[str, Any]) -> None:
        self.root, self.shared, self.calls, self.record = root, root / "shared", 0, record

    def dataset(self, name: str) -> Path:
        return self.root / "datasets" / name

    def call(self, *arguments: str) -> tuple[int, dict[str, Any], str]:
        self.calls += 1
        folder = self.root / f"run{self.calls}"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(self.record))
        return 0, {"folder": str(folder)}, ""


def _mean(metric: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "mean": value, "std_ddof0": 0.01, "std_ddof1": 0.02, "values": [value] * 3}


def _run(backbone: str, channels: str, value: float) -> dict[str, Any]:
    metrics = ("macro_f1_present", "micro_f1", "macro_ap", "macro_auroc", "calibration_error")
    return {
        "backbone": backbone, "channels": channels, "width": 8, "means": [_mean(m, value) for m in metrics],
        "interval": {"low": value - 0.1, "high": value + 0.1, "protocol": "bootstrap"},
        "pooled": {"protocol": "3 folds"},
    }  # fmt: skip


GRID = {
    "score": "macro_f1_present", "floor": {"macro_f1_present": 0.2, "exact_match": 0.4}, "comparisons": [],
    "task": {"n": 30, "classes": ["a", "b"], "positives": [20, 10], "groups": 5, "group": "field",
             "remarks": ["2 of 32 rows have no label"], "folds": {"k": 3}},
    "runs": [
        _run("dinov2_vits14", "map", 0.7), _run("dinov2_vits14, untrained, init_seed 0", "map", 0.5),
        _run("dinov2_vits14, untrained, init_seed 1", "map", 0.6), _run("pixel:all", "", 0.65),
    ],
}  # fmt: skip


def test_a_command_is_run_once_and_again_when_its_folder_is_gone(tmp_path) -> None:
    _, steps, _ = _modules()
    study = Recorded(tmp_path, {"n": 3})
    work = steps.Work(study, (0,))
    first = work.once("bench", "localize", "a")
    assert work.once("bench", "localize", "a") == first
    assert (study.calls, first["n"]) == (1, 3)
    work.once("bench", "localize", "b")
    (Path(first["folder"]) / "metrics.json").unlink()
    work.once("bench", "localize", "a")
    assert study.calls == 3


def test_no_member_is_called_what_it_is_not() -> None:
    results, steps, _ = _modules()
    titles = [results._title(run["backbone"]) for run in GRID["runs"]]
    assert titles == [
        "ViT-S/14 (imgfocus)", "ViT-S/14, untrained, seed 0", "ViT-S/14, untrained, seed 1", "pixel:all",
    ]  # fmt: skip
    assert results._title("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k") == "ViT-Ti/16 (timm)"
    assert len(steps.KAGGLE_NAMES) == 28
    assert not any(";" in name for name in steps.KAGGLE_NAMES)  # which parts labels


def test_a_section_has_every_member_both_deviations_and_the_floor(tmp_path) -> None:
    results, steps, _ = _modules()
    document = importlib.import_module("benchmarks.document").Document("T", "c", "I.")
    results._protocol(document, GRID)
    results._scores(document, GRID)
    document.write(tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "n = 30 (20 a, 10 b), 5 groups of field" in text
    assert "macro F1 0.200, exact match 0.400" in text
    assert "std, ddof 0 / 1" in text
    assert "| ViT-S/14 (imgfocus) | map | 8 | 0.700 [0.600, 0.800] | 0.010 / 0.020 |" in text
    assert "| pixel:all | as they are |" in text
    assert "DINOv2" not in text
    assert results._bars(GRID).startswith(b"\x89PNG")
    assert {bench.name for bench in steps.BENCHES} < set(_modules()[2].TEXTS)


def test_chance_is_what_random_orders_score() -> None:
    results, _, _ = _modules()
    rng = np.random.default_rng(0)
    truth = np.zeros((6, 2), int)
    truth[:1, 0], truth[:3, 1] = 1, 1
    folds = [{"scores": {"n": 6, "classes": [{"support": 1}, {"support": 3}, {"support": 0}]}}]
    drawn = [average_precision_score(truth, rng.random((6, 2)), average="macro") for _ in range(400)]
    assert results.chance_ap(folds) == pytest.approx(np.mean(drawn), abs=0.04)
    assert results.chance_ap(folds) > truth.mean()


def test_crops_are_thinned_and_simulated_rows_share_their_protein(tmp_path) -> None:
    _, steps, _ = _modules()
    work = steps.Work(Recorded(tmp_path, {}), (0,))
    source = work.study.shared / "data"
    (source / "bbbc021").mkdir(parents=True)
    plates = [steps.PLATES[0]] * 17 + ["other"] * 5
    lines = ["row,plate", *(f"{i},{plate}" for i, plate in enumerate(plates))]
    (source / "bbbc021" / "index.csv").write_text("\n".join(lines) + "\n")
    with steps._thinned(work).open(encoding="utf-8") as stream:
        assert [row["row"] for row in csv.DictReader(stream)] == ["0", "8", "16"]
    (source / "opencell").mkdir()
    (source / "opencell" / "localization_annotations.csv").write_text(
        "ensg_id,target_name,annotation_name,annotation_grade\ne,P,er,3\ne,P,golgi,1\nf,Q,golgi,2\n"
    )
    path, labels = steps.opencell(work, 0)
    assert labels.tolist() == [[1, 0]] * 4 + [[0, 1]] * 4
    with np.load(path, allow_pickle=False) as found:
        assert found["protein"].tolist() == ["P"] * 4 + ["Q"] * 4
        assert len(set(found["id"].tolist())) == 8
        assert np.abs(found["features"][:4] - found["features"][0]).max() < 0.6


def _grid_of(folder: Path, right: dict[str, float], seed: int) -> dict[str, Any]:
    """Write what a grid of runs leaves of its predictions; return its record."""
    rng = np.random.default_rng(seed)
    truth = np.array([[i % 2, 1] for i in range(60)], bool)
    runs = []
    (folder / "predictions").mkdir(parents=True)
    for number, (name, share) in enumerate(right.items(), 1):
        said = np.where(rng.random(truth.shape) < share, truth, ~truth)
        rows = [
            [f"r{i}", f"g{i // 3}", i // 3 % 3, *(";".join(c for c, own in zip("ab", flags, strict=True) if own)
             for flags in (truth[i], said[i])), *said[i].astype(float)]
            for i in range(60)
        ]  # fmt: skip
        with (folder / "predictions" / f"{number}-run.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([["id", "group", "fold", "labels", "predicted", "a", "b"], *rows])
        backbone, _, way = name.partition(" · ")
        interval = {"metric": "macro_f1_present", "value": share, "low": share - 0.1, "high": share + 0.1,
                    "p_value": None, "level": 0.95, "n": 60, "n_groups": 20, "seed": 0, "protocol": "3 folds",
                    "bias": 0.0}  # fmt: skip
        runs.append({"name": name, "backbone": backbone, "channels": way, "interval": interval})
    return {
        "folder": str(folder),
        "runs": runs,
        "task": {"classes": ["a", "b"]},
        "score": "macro_f1_present",
    }


def test_another_head_stands_beside_logistic_regression_and_its_rivals(tmp_path) -> None:
    results, steps, _ = _modules()
    section = importlib.import_module("benchmarks.localization_heads")
    rights = {
        "dinov2_vits14 · map": 0.9,
        "dinov2_vits14, untrained, init_seed 0 · map": 0.6,
        "pixel:all": 0.7,
    }
    plain = _grid_of(tmp_path / "plain", {**rights, "dinov2_vits14 · mean": 0.5}, 0)
    grids = {name: _grid_of(tmp_path / name, rights, 1) for name, _ in section.HEADS}

    class Work:
        def grid(self, bench: object) -> dict[str, Any]:
            return plain

        def headed(self, bench: object, options: tuple[str, ...]) -> dict[str, Any]:
            return grids[next(name for name, own in section.HEADS if own == options)]

    found = section.read_predictions(plain, "pixel:all")
    truth, said = found.labels.astype(int), found.decided.astype(int)
    assert (truth.shape, found.folds, len(set(found.group.tolist()))) == ((60, 2), 3, 20)
    assert 0.5 < (truth == said).mean() < 0.9
    document = importlib.import_module("benchmarks.document").Document("T", "c", "I.")
    section.heads(document, Work(), [steps.BENCHES[0]], results._title)
    document.write(tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert (
        "| backbone | channels | logreg [95 %] | mlp | minus logreg | p | dino4cells | minus logreg | p |"
        in text
    )
    assert "| ViT-S/14 (imgfocus) | map | 0.900 [0.800, 1.000] | 0.900 [0.800, 1.000] |" in text
    assert text.count("| ViT-S/14 (imgfocus) | map | ViT-S/14, untrained, seed 0 | +") == 1
    assert text.count("| ViT-S/14 (imgfocus) | map | pixel:all | +") == 1
    assert re.search(r"`mlp` is above logistic regression in \d of 3 rows and below it in \d ", text)
