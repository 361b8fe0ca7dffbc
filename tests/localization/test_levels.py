"""Cells, fields and proteins of one run: each level is what a run at that level alone gives."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.folds import make_folds
from emvfm.localization.levels import other_levels
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.simulation import simulate_embeddings

KNN = HeadOptions(head="knn", neighbours=5)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings, labels, proteins and fields: 30 proteins of two fields of three cells."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    labels = np.repeat(rng.random((30, 3)) < 0.4, 6, axis=0)
    return (
        simulate_embeddings(labels, groups, width=8, signal=0.8, seed=0),
        labels,
        groups,
        np.arange(180) // 3,
    )


@pytest.mark.parametrize("thresholds", ["fixed", "per-class"])
def test_every_level_is_what_a_run_at_that_level_alone_gives(data, thresholds: str) -> None:
    x, labels, groups, fields = data
    protocol = ProtocolOptions(folds=3, thresholds=thresholds)
    found = cross_validate(x, labels, groups, KNN, protocol, units=fields, levels=("unit", "group"))
    assert [(one.level, one.pooled.n) for one in found.others] == [("unit", 60), ("group", 30)]
    for one in found.others:
        alone = cross_validate(
            x, labels, groups, KNN,
            ProtocolOptions(folds=3, thresholds=thresholds, level=one.level), units=fields,
        )  # fmt: skip
        assert one.means == alone.means
        assert one.pooled == alone.pooled
        np.testing.assert_array_equal(one.predictions.decided, alone.predictions.decided)
        assert one.interval("macro_f1_present", samples=50) == alone.interval("macro_f1_present", samples=50)
    rows = cross_validate(x, labels, groups, KNN, protocol, units=fields)
    assert (rows.means, rows.others) == (found.means, ())
    json.dumps(found.to_json(), allow_nan=False)


def test_levels_are_those_that_the_facts_allow(data) -> None:
    _, labels, groups, fields = data
    folds = make_folds(labels, groups, k=3)
    assert other_levels(labels, folds, fields, "row") == ("unit", "group")
    assert other_levels(labels, folds, None, "row") == ("group",)
    assert other_levels(labels, folds, fields, "group") == ("row", "unit")
    assert other_levels(labels, folds, groups, "row") == ("unit",)  # a field a protein
    assert other_levels(labels, folds, np.arange(180), "row") == ("group",)  # a cell a field
    assert other_levels(labels, folds, np.arange(180) % 7, "row") == ()  # a field of several proteins
    alone = make_folds(labels, np.arange(180), k=3)
    assert other_levels(labels, alone, None, "row") == ()
    apart = make_folds(labels, groups, k=3, grouped=False)
    assert other_levels(labels, apart, None, "row") == ()  # a protein tested in parts is no protein


def test_where_classes_compete_a_level_has_one_label(data) -> None:
    _, labels, groups, _ = data
    folds = make_folds(labels, groups, k=3)
    own = np.eye(3, dtype=bool)[groups % 3]
    assert other_levels(own, folds, None, "row", single=True) == ("group",)
    assert other_levels(np.eye(3, dtype=bool)[np.arange(180) % 3], folds, None, "row", single=True) == ()


def test_units_that_are_not_there_are_refused(data) -> None:
    x, labels, groups, _ = data
    with pytest.raises(UsageError, match="no units to score"):
        cross_validate(x, labels, groups, KNN, ProtocolOptions(folds=3), levels=("unit",))
