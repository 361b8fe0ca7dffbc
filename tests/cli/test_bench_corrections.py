"""``--correct`` as a step of localisation and of layers, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from emvfm.cli.app import app

BY_PLATE = ("--correct", "center", "--controls", "role=control", "--correct-by", "plate")
QUICK = ("--labels", "kind", "--group", "well", "--head", "logreg", "--folds", "3", "--samples", "100")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds in wells of three plates, which shift all their features far more than the kinds do; and controls."""
    rng = np.random.default_rng(0)
    rows = np.arange(108)
    plate, control = rows % 3, rows >= 72
    kind = rows // 3 % 2
    features = 0.6 * rng.normal(size=(108, 6)) + 40 * rng.normal(size=(3, 6))[plate]
    features[:, 0] += 2.0 * kind * ~control
    facts = {
        "id": [f"r{i}" for i in rows],
        "plate": [f"p{p}" for p in plate],
        "well": [f"w{i // 6}" for i in rows],
        "kind": ["" if c else f"k{k}" for k, c in zip(kind, control, strict=True)],
        "role": ["control" if c else "treated" for c in control],
    }
    path = tmp_path_factory.mktemp("tables") / "cells.npz"
    np.savez(path, features=features.astype(np.float32), **{k: np.asarray(v) for k, v in facts.items()})
    return path


@pytest.fixture(scope="module")
def call(table: Path) -> Callable[..., Result]:
    root = ("--root", str(table.parent / "workspace"))
    return lambda *words: CliRunner().invoke(app, ["bench", *map(str, words), *root])


def _score(result: Result) -> tuple[float, dict]:
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    return found["runs"][0]["interval"]["value"], found


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of the time."""
    monkeypatch.setattr("emvfm.studies.localize.pictures.pictures", lambda found: {})


def test_controls_without_labels_undo_what_an_unseen_plate_adds(call, table: Path) -> None:
    """A plate is left out; its controls are never tested, so it is corrected by them."""
    words = ("localize", table, *QUICK, "--split-by", "plate", "--json")
    plain, found = _score(call(*words))
    assert found["correction"] is None
    corrected, found = _score(call(*words, *BY_PLATE))
    assert corrected > plain + 0.2
    assert found["correction"]["protocol"].startswith(
        "center by plate, fitted on controls that are not tested"
    )
    assert found["correction"]["n_controls"] == 36
    said = call(*words[:-1], *BY_PLATE).stdout
    assert "embeddings are corrected: center" in " ".join(said.split())


def test_a_plate_that_is_tested_as_a_whole_is_no_control_of_itself(call, table: Path) -> None:
    every = ("--correct", "center", "--controls", "role=treated", "--correct-by", "plate")
    refused = call("localize", table, *QUICK, "--split-by", "plate", *every)
    assert refused.exit_code == 4
    assert "--transductive" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    value, found = _score(
        call("localize", table, *QUICK, "--split-by", "plate", *every, "--transductive", "--json")
    )
    assert 0 <= value <= 1
    assert "center by plate, fitted on all controls, tested ones too" in found["correction"]["protocol"]


@pytest.mark.parametrize("name", ["sphere", "tvn", "pca-cs", "coral", "combat"])
def test_every_correction_is_a_step(call, table: Path, name: str) -> None:
    words = ("--correct", name, "--controls", "all", "--correct-by", "plate", "--share", "0.5", "--json")
    value, found = _score(call("localize", table, *QUICK, *words))
    assert 0 <= value <= 1
    assert found["correction"]["name"] == name
    assert found["runs"][0]["efficiency"][0]["failed"] is None
