"""The reference's outlier summary, by loops over scikit-learn's covariance."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.spatial import distance
from sklearn.covariance import LedoitWolf

from emvfm.domain.reference_outliers import DISTANCE_COLUMNS, REMARK, reference_outliers
from emvfm.errors import UsageError

RNG = np.random.default_rng(0)
INSIDE, TARGET = RNG.normal(size=(50, 8)), RNG.normal(size=(7, 8)) + 0.8


def test_numbers_are_those_of_a_loop() -> None:
    found = reference_outliers(("a", "b"), INSIDE, TARGET, quantile=0.9)
    precision = LedoitWolf().fit(INSIDE).precision_
    distances = [distance.mahalanobis(row, INSIDE.mean(axis=0), precision) for row in [*INSIDE, *TARGET]]
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)
    own = found.distances[:50]
    assert found.threshold == np.quantile(own, 0.9)
    for i in range(57):
        percentile = sum(d <= found.distances[i] for d in own) / 50
        assert found.percentiles[i] == pytest.approx(percentile)
        assert found.tail[i] == pytest.approx(1 - percentile)
        assert found.scores[i] == pytest.approx(-math.log10(max(1 - percentile, 1e-12)))
    assert found.rates[0] == pytest.approx(0.1)  # by construction, whatever the data
    assert found.rates[1] == np.mean(found.distances[50:] > found.threshold)
    assert found.scores[np.argmax(own)] == 12


def test_rows_and_summary_have_the_fields_of_the_reference() -> None:
    found = reference_outliers(("a", "b"), INSIDE, TARGET)
    rows = found.rows([f"{i}.png" for i in range(57)], ["s"] * 57)
    assert [row["rank"] for row in rows] == list(range(1, 58))
    assert all(tuple(row) == DISTANCE_COLUMNS for row in rows)
    distances = [row["distance"] for row in rows]
    assert distances == sorted(distances, reverse=True)
    first = rows[0]
    i = int(first["filepath"].removesuffix(".png"))
    assert first["dataset"] == ("id" if i < 50 else "target")
    assert first["distance_squared"] == pytest.approx(found.distances[i] ** 2)
    assert first["distance_over_threshold"] - 1 == pytest.approx(
        first["distance_minus_threshold"] / found.threshold
    )
    assert sum(row["is_outlier"] for row in rows if row["dataset"] == "target") == round(7 * found.rates[1])
    summary = found.summary(rows, top=3)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["threshold"] == {"method": "id_quantile", "quantile": 0.95, "value": found.threshold}
    assert (summary["num_id"], summary["num_target"], summary["embedding_dim"]) == (50, 7, 8)
    assert set(summary["id_stats"]) == {"mean", "std", "median", "min", "max", "q95", "q99"}
    assert summary["target_max_over_threshold"] == pytest.approx(found.distances[50:].max() / found.threshold)
    assert [row["dataset"] for row in summary["top_outliers_target"]] == ["target"] * 3
    assert summary["remark"] == REMARK
    assert "by construction" in summary["verdict"]


@pytest.mark.parametrize("quantile", [0, 1])
def test_what_is_refused(quantile) -> None:
    with pytest.raises(UsageError, match="not a quantile"):
        reference_outliers(("a", "b"), INSIDE, TARGET, quantile=quantile)
    with pytest.raises(UsageError, match="one path"):
        reference_outliers(("a", "b"), INSIDE, TARGET).rows(["x"], ["y"])
