"""What a comparison says: the words follow the numbers, and the numbers are those of the pieces."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from emvfm.domain.frechet import frechet_distance
from emvfm.domain.results import compare_frechet


def _compare(shift: float, n_blocks: int = 6):
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(n_blocks), 3)
    x, y = (
        np.repeat(rng.normal(size=(n_blocks, 8)), 3, axis=0) + 0.1 * rng.normal(size=(3 * n_blocks, 8))
        for _ in range(2)
    )
    return (
        x,
        y + shift,
        compare_frechet(("a", "b"), x, y + shift, rows.tolist(), rows.tolist(), permutations=199, seed=3),
    )


def test_domains_far_apart_differ_and_the_value_is_the_distance() -> None:
    x, y, found = _compare(5.0)
    assert found.value == pytest.approx(frechet_distance(x, y), rel=1e-6)
    assert 1 / 200 <= found.p_value <= 0.02  # of 924 relabellings two are the observed one
    assert found.ratio is not None
    assert found.ratio > 3
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.value <= found.high
    assert (found.n, found.blocks, found.dimension) == ((18, 18), (6, 6), 8)
    assert "a and b differ to this backbone" in found.verdict
    assert f"{found.ratio:.1f} times" in found.verdict


def test_domains_alike_give_no_evidence() -> None:
    _, _, found = _compare(0.0)
    assert found.p_value > 0.05
    assert "no evidence" in found.verdict


def test_too_few_blocks_say_nothing_however_far_apart() -> None:
    _, _, found = _compare(50.0, n_blocks=2)
    assert found.distinct == 6
    assert found.low is None
    assert "too few blocks" in found.verdict
    assert "6 ways" in found.verdict


def test_it_is_strict_json() -> None:
    for found in (_compare(1.0)[2], _compare(1.0, n_blocks=2)[2]):
        text = json.dumps(found.to_json(), allow_nan=False)
        assert json.loads(text)["verdict"] == found.verdict
        assert json.loads(text)["ddof"] == 1
    assert replace(found, p_value=0.5, distinct=100, ratio=1.0).verdict != found.verdict
