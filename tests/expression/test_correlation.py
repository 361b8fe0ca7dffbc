"""Correlations against scipy, gene by gene, and what has none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from emvfm.errors import UsageError
from emvfm.expression.correlation import determination, pearson, pearson_of_rows, spearman


def _tables(n: int = 60, g: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(n, g))
    return 0.5 * y + rng.normal(size=(n, g)), np.round(y, 1)  # ties


def test_they_are_scipys() -> None:
    p, y = _tables()
    for i in range(p.shape[1]):
        assert pearson(p, y)[i] == pytest.approx(stats.pearsonr(p[:, i], y[:, i]).statistic, abs=1e-12)
        assert spearman(p, y)[i] == pytest.approx(stats.spearmanr(p[:, i], y[:, i]).statistic, abs=1e-12)
    assert pearson_of_rows(p, y)[7] == pytest.approx(stats.pearsonr(p[7], y[7]).statistic, abs=1e-12)


def test_shift_and_scale_change_nothing() -> None:
    p, y = _tables()
    assert np.allclose(pearson(p * 3e-5 + 2, y), pearson(p, y), atol=1e-9)
    assert np.allclose(pearson(-p, y), -pearson(p, y))


@pytest.mark.parametrize("constant", [0.0, 3.3, 1e12])
def test_what_does_not_vary_has_no_correlation_rather_than_0(constant: float) -> None:
    p, y = _tables()
    p[:, 2] = constant
    y[:, 4] = constant
    p[:, 5] = 0.1 + np.resize([0, 1e-17, -1e-17], len(p))  # constant but for rounding
    for found in (pearson(p, y), spearman(p, y)):
        assert np.flatnonzero(np.isnan(found)).tolist() == [2, 4, 5]


def test_one_spot_has_none() -> None:
    assert np.isnan(pearson(np.ones((1, 3)), np.ones((1, 3)))).all()


def test_the_mean_of_training_has_no_skill_and_truth_has_1() -> None:
    _, y = _tables()
    mean = np.full(y.shape[1], 0.3)
    assert np.allclose(determination(np.tile(mean, (len(y), 1)), y, mean), 0)
    assert np.allclose(determination(y, y, mean), 1)
    assert np.isnan(determination(np.ones((4, 1)), np.full((4, 1), 0.3), [0.3])).all()


def test_shapes_must_fit() -> None:
    with pytest.raises(UsageError):
        pearson(np.ones((3, 2)), np.ones((2, 3)))
