"""The bootstrap of sums over blocks, for any statistic: against a loop, and where it is undefined."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.segmentation.intervals import Estimate, block_totals, bootstrap, draw_blocks

BLOCKS = [0, 0, 1, 1, 2, 5]
TABLE = np.random.default_rng(0).random((6, 2)) + 0.5


def _ratio(table: np.ndarray) -> np.ndarray:
    return table[..., 0] / table[..., 1]


def test_the_interval_is_that_of_a_loop_over_draws() -> None:
    got = bootstrap(TABLE, BLOCKS, _ratio, samples=50, level=0.8, seed=4)
    names = sorted(set(BLOCKS))
    values = []
    for times in draw_blocks(4, 50, seed=4):
        rows = [TABLE[i] for n, t in zip(names, times, strict=True) for i in range(6) if BLOCKS[i] == n
                for _ in range(t)]  # fmt: skip
        values.append(sum(r[0] for r in rows) / sum(r[1] for r in rows))
    assert (got.low, got.high) == pytest.approx(tuple(np.quantile(values, [0.1, 0.9])))
    assert got.value == pytest.approx(_ratio(TABLE.sum(axis=0)))
    assert "4 blocks" in got.method
    assert Estimate.from_json(json.loads(json.dumps(got.to_json()))) == got


def test_draws_where_the_statistic_is_undefined_are_left_out_and_counted() -> None:
    table = np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])

    def mean(table: np.ndarray) -> np.ndarray:
        zero = table[..., 1] == 0
        return np.where(zero, np.nan, table[..., 0] / np.where(zero, 1, table[..., 1]))

    got = bootstrap(table, [0, 1, 2], mean, samples=200)
    assert np.isfinite([got.low, got.high]).all()
    assert "200 resamples" not in got.method
    never = bootstrap(table * [1, 0], [0, 1, 2], mean, samples=20)
    assert (never.low, never.high) == (None, None)


def test_a_single_block_has_no_interval_and_misuse_is_told() -> None:
    assert bootstrap(TABLE, [3] * 6, _ratio).low is None
    np.testing.assert_allclose(block_totals(TABLE, BLOCKS).sum(axis=0), TABLE.sum(axis=0))
    for changes in ({"blocks": [0]}, {"samples": 0}, {"level": 1.0}):
        with pytest.raises(UsageError):
            bootstrap(**{"table": TABLE, "blocks": BLOCKS, "statistic": _ratio, **changes})
