"""One score's result: rates are counts, sentences follow the numbers, and everything is JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emvfm.domain.outlier_results import Scored, study_outliers
from emvfm.errors import UsageError


def _scored(seed: int, n: int, length: int, shift: float = 0.0) -> Scored:
    rng = np.random.default_rng(seed)
    return Scored(rng.normal(size=n) + shift, [i // length for i in range(n)])


def _study(shift: float, *, n: int = 60, length: int = 3, **options):
    return study_outliers(
        "own", "mahalanobis", _scored(0, n, length), _scored(1, n, length),
        {"other": _scored(2, 45, length, shift)},
        layer=5, scale="image", note="", n_fit=90, blocks_fit=30, dimension=4, bootstrap=200, **options,
    )  # fmt: skip


def test_rates_are_counts_at_the_thresholds() -> None:
    found = _study(1.5)
    test, other, line = _scored(1, 60, 3).values, _scored(2, 45, 3, 1.5).values, found.calibration
    assert found.false_alarms.value == np.mean(test > line.threshold)
    assert found.slice_false_alarms.value == np.mean(test > line.slice_threshold)
    assert found.block_alarms == np.mean((test > line.maximum_threshold).reshape(20, 3).any(axis=1))
    assert found.against["other"].flagged.value == np.mean(other > line.threshold)
    assert (line.n, line.blocks, line.enough) == (60, 20, True)


@pytest.mark.parametrize(
    ("shift", "said"),
    [(6, "other is outlying"), (0.8, "somewhat outlying"), (0, "no evidence"), (-2, "lies closer")],
)
def test_the_sentence_follows_the_interval(shift, said) -> None:
    found = _study(shift)
    assert said in found.verdict_on("other"), found.verdict
    assert found.verdict.endswith(found.calibration.verdict)


def test_too_few_blocks_are_said_twice() -> None:
    found = _study(3, n=4, length=2)
    assert "too few blocks of slices for an interval" in found.verdict
    assert "too few calibration blocks for level 0.05 (2, 19 are needed)" in found.verdict
    assert found.slice_false_alarms is None
    assert found.block_alarms is None
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["verdict"] == found.verdict


def test_everything_is_json() -> None:
    record = _study(1).to_json()
    assert json.loads(json.dumps(record, allow_nan=False))["against"]["other"]["n"] == [60, 45]
    assert record["calibration"]["blocks"] == 20


def test_no_outliers_are_refused() -> None:
    one = _scored(0, 9, 3)
    with pytest.raises(UsageError, match="no outliers"):
        study_outliers(
            "own", "knn", one, one, {}, layer=0, scale="image", note="", n_fit=1, blocks_fit=1, dimension=1
        )
