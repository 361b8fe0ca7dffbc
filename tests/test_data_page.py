"""The page on tables and the section on channels against the program: their commands run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli.app import app
from tests.test_documentation import ROOT, _calls, _shell_lines

N = 12
COMPOSED = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
EMBEDDED = (ROOT / "docs" / "embeddings.md").read_text(encoding="utf-8")
SLOTS = {"dinov2": "", "dino4cells_vits16": "@hpa", "timm:vit_small_patch16_224@gray": "@gray"}


def _calls_of(page: str) -> list[list[str]]:
    return [call for line in _shell_lines(page) for call in _calls(line)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page names."""
    root = tmp_path_factory.mktemp("data")
    draw = np.random.default_rng(0)
    np.savez_compressed(root / "crops.npz", images=draw.integers(0, 255, (N, 2, 40, 44), dtype=np.uint8))
    (root / "images").mkdir()
    tables: dict[str, list[dict[str, object]]] = {"index.csv": [], "labels.csv": []}
    for i in range(N):
        wells = ("A01", "A12", "B01", "B12")
        tables["index.csv"].append(
            {"row": i, "well": wells[i % 4], "plate": f"p{i % 3}", "h": 40 - i, "w": 44}
        )
        Image.fromarray(draw.integers(0, 255, (40, 44), dtype=np.uint8)).save(root / "images" / f"{i}.png")
        stain = ("protein", "nucleus")[i >= 8]
        tables["labels.csv"].append({"file": f"{i}.png", "stain": stain, "targets": f"{i % 3} 25"})
    for name, rows in tables.items():
        with (root / name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root


def test_the_commands_run_and_say_what_the_pages_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run = lambda words: CliRunner().invoke(app, [*words, "--root", "ws"])  # noqa: E731
    composed = _calls_of(COMPOSED)
    assert len(composed) == 4
    for call in composed:
        small = ["--val", "0.2"] if "proteins" in call else []  # of 8 images, 0.1 would be none
        found = run([*call, *small])
        assert found.exit_code == 0, found.output
    assert "channels dna (DAPI, 461 nm), actin" in run(["data", "show", "drugs"]).output
    embedded = [call for call in _calls_of(EMBEDDED) if "--channels" in call]
    assert len(embedded) == 4
    for call in embedded:
        place = call.index("--backbone") + 1
        call = [*call[:place], "timm:test_vit" + SLOTS[call[place]], *call[place + 1 :]]
        found = run([*call, "--untrained", "--device", "cpu", "--layers", "3"])
        assert found.exit_code == 0, found.output
        assert "cells: " in found.output
