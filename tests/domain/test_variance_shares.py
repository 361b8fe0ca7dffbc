"""Shares of variance against their naive definition, and what the sentence says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emvfm.domain.moments import streamed_moments
from emvfm.domain.pca import principal_components
from emvfm.domain.variance_shares import summarise


def _domains(distance: float, n: int = 24, seed: int = 0) -> tuple[list[np.ndarray], list[list[int]]]:
    rng = np.random.default_rng(seed)
    shift = np.zeros(8)
    shift[2] = distance
    rows = [rng.normal(size=(n, 8)) + k * shift for k in range(2)]
    return rows, [[i // 4 for i in range(n)]] * 2


def test_the_shares_are_what_they_are_called() -> None:
    rows, blocks = _domains(6.0)
    joint = np.concatenate(rows)
    basis = principal_components(streamed_moments(rows), 3)
    found = summarise(("a", "b"), basis, rows, blocks, seed=3)
    along = basis.transform(joint)
    whole = np.cov(joint.T).trace()
    label = np.repeat([0, 1], 24)
    for k, component in enumerate(found.components):
        assert component.share == pytest.approx(along[:, k].var(ddof=1) / whole)
        means = np.array([along[label == g, k].mean() for g in (0, 1)])
        assert component.between == pytest.approx(means.var() / along[:, k].var())
        assert component.low <= component.share <= component.high
        assert component.between_low <= component.between <= component.between_high
    assert found.components[0].between > 0.8
    assert "PC1, where" in found.verdict
    assert found.blocks == (6, 6)
    assert json.loads(json.dumps(found.to_json()))["seed"] == 3


def test_leaving_out_a_block_is_what_it_says() -> None:
    rows, blocks = _domains(1.0)
    basis = principal_components(streamed_moments(rows), 1)
    (component,) = summarise(("a", "b"), basis, rows, blocks, level=0.9).components

    def share(kept: list[np.ndarray]) -> float:
        joint = np.concatenate(kept)
        return basis.transform(joint)[:, 0].var() / joint.var(axis=0).sum()

    variance = 0.0
    for g in (0, 1):
        values = []
        for block in range(6):
            kept = list(rows)
            kept[g] = rows[g][np.asarray(blocks[g]) != block]
            values.append(share(kept))
        variance += 5 / 6 * ((np.array(values) - np.mean(values)) ** 2).sum()
    from scipy.stats import t

    assert component.high == pytest.approx(component.share + t.ppf(0.95, 10) * np.sqrt(variance))


def test_one_domain_and_few_blocks_say_so() -> None:
    rows, blocks = _domains(0.0)
    basis = principal_components(streamed_moments(rows[:1]), 1)
    alone = summarise(("a",), basis, rows[:1], blocks[:1])
    assert alone.components[0].between is None
    assert "PC1 holds" in alone.verdict
    assert "between" not in alone.verdict
    few = summarise(("a", "b"), principal_components(streamed_moments(rows), 2), rows, [[0] * 24, blocks[1]])
    assert few.components[0].low is None
    assert "too few blocks" in few.verdict


def test_equal_domains_share_almost_nothing() -> None:
    rows, blocks = _domains(0.0, n=400)
    basis = principal_components(streamed_moments(rows), 2)
    found = summarise(("a", "b"), basis, rows, blocks)
    assert max(c.between for c in found.components) < 0.02
    constant = [np.ones((6, 3)), np.ones((6, 3))]
    flat = summarise(
        ("a", "b"), principal_components(streamed_moments(constant), 2), constant, [[0, 0, 1, 1, 2, 2]] * 2
    )
    assert flat.components[0].share == 0
    assert flat.components[0].between == 0
