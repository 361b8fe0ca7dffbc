"""The benchmark of localisation heads compares ways that do the same."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.options import HeadOptions, ProtocolOptions

ROOT = Path(__file__).parents[1]


@pytest.fixture
def localization(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.localization")


def test_scikit_learn_alone_gives_the_same_probabilities(localization) -> None:
    found = localization.make_material(600, 8, classes=3, folds=3)
    options = HeadOptions(head="logreg")
    run = cross_validate(
        found.embeddings,
        found.labels,
        found.groups,
        options,
        ProtocolOptions(thresholds="fixed"),
        folds=found.folds,
    )
    np.testing.assert_allclose(localization._scikit_learn(found, options), run.row_scores, atol=1e-3)


def test_the_bare_loop_learns_what_the_head_learns(localization) -> None:
    found = localization.make_material(1500, 8, classes=3, folds=3)
    options = HeadOptions(hidden=(16,), dropout=0.0, epochs=30, batch=64, patience=0, learning_rate=0.01)
    run = cross_validate(
        found.embeddings,
        found.labels,
        found.groups,
        options,
        ProtocolOptions(thresholds="fixed"),
        folds=found.folds,
    )
    scores = localization._bare_loop(found, replace(options))
    assert np.corrcoef(scores.ravel(), run.row_scores.ravel())[0, 1] > 0.9


def test_a_small_page_is_written(localization, tmp_path: Path, monkeypatch) -> None:
    small = localization.make_material
    monkeypatch.setattr(
        localization, "make_material", lambda rows, width: small(rows, width, classes=3, folds=2)
    )
    localization.main(
        ["--rows", "400", "--width", "8", "--epochs", "1", "--rounds", "1", "--out", str(tmp_path)]
    )
    text = (tmp_path / "performance-localization.md").read_text()
    assert "Written by `nox -s localization_speed -- --rows 400 --width 8" in text  # not the full size
    assert "400 × 8 embeddings, 3 classes, 2 folds" in text
    assert text.count("the bound of") == 2
