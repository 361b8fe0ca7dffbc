"""The page on localisation against the program: every command on it runs, and what it says of maps is so."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.localization.label_spaces import LABEL_SPACES
from emvfm.localization.simulation import simulate_embeddings
from tests.test_documentation import ROOT, _calls, _shell_lines

PAGE = (ROOT / "docs" / "localization.md").read_text(encoding="utf-8")
CALLS = [call for line in _shell_lines(PAGE) for call in _calls(line)]
BACKBONE = "timm:test_vit,untrained"
PLACES = ("Cytosol", "Nucleoplasm", "Golgi apparatus")
TARGETS = ("25", "0", "7")


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _materials(folder: Path) -> None:
    """Write what the page names, small: a table of features, annotations, and three datasets of two channels."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 2, 24, 24)).astype(np.uint8)
    np.save(folder / "cells.npy", images)
    np.save(folder / "fields.npy", images[:, :1])
    rows = [
        {
            "protein": f"P{i // 2}", "field": f"f{i // 2}", "location": PLACES[i // 2 % 3], "target": TARGETS[i // 2 % 3],
            "label": "Unknown" if i % 10 == 9 else PLACES[i // 2 % 3], "well": "A" if i % 4 < 2 else "B",
        }
        for i in range(60)
    ]  # fmt: skip
    _table(folder / "cells.csv", rows)
    notes = [
        {
            "target_name": f"P{i}",
            "annotation_name": name,
            "annotation_grade": str(1 + (i + at) % 3),
        }
        for i in range(30)
        for at, name in enumerate(("er", "golgi"))
    ]
    _table(folder / "annotations.csv", notes)
    labels = np.array([[row["location"] == place for place in PLACES] for row in rows])
    groups = np.arange(60) // 2
    features = simulate_embeddings(labels, groups, width=6, seed=0)
    facts = {name: np.array([row[name] for row in rows]) for name in ("protein", "field", "location")}
    np.savez(folder / "features.npz", features=features, **facts)
    two = ("--images", "cells.npy", "--channels", "gfp,dna")
    for name, own in (("opencell", two), ("bbbc013", two), ("hpa", ("--images", "fields.npy"))):
        made = CliRunner().invoke(
            app,
            ["data", "compose", name, "--table", "cells.csv", *own, "--split-by", "well=B", "--force", "--root",
             str(folder / "workspace")],
        )  # fmt: skip
        assert made.exit_code == 0, made.output


def _quickly(call: list[str]) -> list[str]:
    """Return the words with small random backbones, fewer folds and draws, and labels that all 30 proteins have."""
    swapped = {"dinov2": BACKBONE, "dinov2,untrained,init_seed=1": f"{BACKBONE},init_seed=1", "16": "5"}
    words = [swapped.get(word, word) for word in call]
    words += [] if "--backbone" in call else ["--backbone", BACKBONE]
    return [*words, "--folds", "3", "--samples", "100", "--epochs", "2", "--panels", "0", "--device", "cpu"]


def test_every_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {tuple(call[:2]) for call in CALLS} == {("bench", "localize")}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("emvfm.studies.localize.pictures.pictures", lambda found: {})
    _materials(tmp_path)
    for call in CALLS:
        done = CliRunner().invoke(app, [*_quickly(call), "--root", str(tmp_path / "workspace")])
        assert done.exit_code == 0, f"{' '.join(call)}: {done.output}"
        assert "runs/bench-localize-" in done.stdout


def test_the_page_names_every_map_and_counts_its_targets() -> None:
    for name in LABEL_SPACES:
        assert f"| `{name}` |" in PAGE
    (count,) = re.findall(r"\| (\d+) of the 17 labels of OpenCell", PAGE)
    assert int(count) == len({row.target for row in LABEL_SPACES["hpa-to-opencell"].rows})
