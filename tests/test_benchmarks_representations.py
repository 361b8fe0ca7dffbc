"""The page on representations: its inputs know what they say they know, and nothing finished is run again."""

from __future__ import annotations

import csv
import gzip
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.representation_steps")


@pytest.fixture
def study(steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A study of two small sets, whose commands are counted and not run."""
    found = steps.Study(tmp_path / "shared", tmp_path / "root", 2, {})
    found.calls = []

    def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
        found.calls.append(arguments)
        folder = found.root / "runs" / f"r{len(found.calls)}"
        folder.mkdir(parents=True)
        return 0, {"folder": str(folder), "n": len(found.calls)}, ""

    monkeypatch.setattr(found, "call", call)
    plates = found.shared / "data" / "jump-cp-pilot"
    plates.mkdir(parents=True)
    for plate in steps.PLATES:
        with gzip.open(plates / f"{plate}.csv.gz", "wt", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["Metadata_Well", "Metadata_pert_iname", "x"])
            writer.writerows(
                [[f"{row}{column:02}", f"c{column}", 0.5] for row in "AB" for column in (1, 2, 3)]
            )
    crops = found.shared / "data" / "bbbc021"
    crops.mkdir(parents=True)
    rows = [
        [i, f"p{i % 2}", f"B0{2 + i % 3}", ["DMSO", "x", "x"][i % 3], [0, 5.0, 15.0][i % 3]]
        for i in range(60)
    ]
    with (crops / "index.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["row", "plate", "well", "compound", "concentration_uM"], *rows])
    return found


def _table(path: Path) -> tuple[list[str], np.ndarray]:
    with gzip.open(path, "rt", newline="") as stream:
        header, *rows = csv.reader(stream)
    start = header.index("f0")
    return [row[0] for row in rows], np.array([row[start:] for row in rows], float)


def test_a_finished_command_is_not_run_again_until_its_folder_is_gone(steps, study) -> None:
    found = steps.Steps(study)
    first = found.run("bench", "audit", "a")
    assert found.run("bench", "audit", "a") == first
    assert found.all({"a": ["bench", "audit", "a"], "b": ["bench", "audit", "b"]})["b"]["n"] == 2
    Path(first["folder"]).rmdir()
    assert found.run("bench", "audit", "a")["n"] == 3


def test_a_command_is_run_again_when_a_file_it_reads_has_changed(steps, study, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("1")
    found = steps.Steps(study)
    assert found.run("bench", "retrieve", str(table))["n"] == 1
    table.write_text("2")
    assert found.run("bench", "retrieve", str(table))["n"] == 2


def test_baselines_of_plates_have_the_rows_of_the_plates_and_know_what_they_say(steps, study) -> None:
    tables = steps.plate_baselines(study)
    assert {name: [Path(p).name for p in paths] for name, paths in tables.items()} == {
        name: [Path(p).name for p in steps.plates(study)] for name in steps.BASELINES
    }
    wells, noise = _table(Path(tables["noise"][0]))
    assert wells == ["A01", "A02", "A03", "B01", "B02", "B03"]
    assert not np.array_equal(noise, _table(Path(tables["noise"][1]))[1])
    assert np.unique(_table(Path(tables["constant"][0]))[1]).tolist() == [1.0]
    np.testing.assert_array_equal(_table(Path(tables["well"][0]))[1], np.eye(6))
    row_and_column = _table(Path(tables["row and column"][0]))[1]
    np.testing.assert_array_equal(row_and_column @ row_and_column.T, _shared_places(wells))
    before = [Path(p).read_bytes() for p in tables["noise"]]
    assert [Path(p).read_bytes() for p in steps.plate_baselines(study)["noise"]] == before


def _shared_places(wells: list[str]) -> np.ndarray:
    return np.array([[(a[0] == b[0]) + (a[1:] == b[1:]) for b in wells] for a in wells])


def test_crops_are_drawn_from_every_well_of_every_plate(steps, study) -> None:
    assert steps.cells(study, 4) == {"15 uM": 8, "5 uM": 8, "DMSO": 8}
    (call,) = study.calls
    assert call[:3] == ("data", "compose", "bbbc021")
    with Path(call[call.index("--table") + 1]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["unit"]: sum(r["unit"] == row["unit"] for r in rows) for row in rows} == {
        f"p{p} B0{w}": 4 for p in (0, 1) for w in (2, 3, 4)
    }
    assert all((row["treatment"] == "DMSO") == (row["well"] == "B02") for row in rows)


def test_cells_of_another_table_are_not_taken_for_these(steps, study) -> None:
    steps.cells(study, 4)
    record = study.dataset("bbbc021") / "dataset.json"
    record.parent.mkdir(parents=True)
    record.write_text(steps.sha256_file(study.root / "tables" / "bbbc021.csv"))
    steps.cells(study, 4)
    with pytest.raises(SystemExit, match="other cells"):
        steps.cells(study, 3)


def test_a_command_that_fails_ends_the_study(steps, study, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: str) -> tuple[int, dict[str, Any], str]:
        raise SystemExit("refused")

    monkeypatch.setattr(study, "call", refused)
    with pytest.raises(SystemExit, match="refused"):
        steps.Steps(study).all({i: ["bench", "audit", str(i)] for i in range(9)})


def test_backbones_are_options_that_the_commands_have(steps, study) -> None:
    from emvfm.studies.localize.members import parse_backbone
    from tests.test_documentation import _problem

    for backbone in steps.cell_backbones(study, (0, 1)).values():
        parse_backbone(backbone)
        assert _problem(["bench", "retrieve", "cells", *steps.flags(backbone)]) is None
