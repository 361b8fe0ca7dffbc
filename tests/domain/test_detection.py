"""Detection measures against scikit-learn and naive twins of pytorch-ood, and their block bootstrap."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from emvfm.domain.detection import (
    MEASURES,
    detection_measures,
    measure_detection,
    rate_of_flags,
)
from emvfm.errors import UsageError


def _naive_fpr(positive: np.ndarray, negative: np.ndarray) -> float:
    """Walk down the thresholds until 95 % of the positive are above, as pytorch-ood's FPR95TPR does."""
    for threshold in sorted({*positive, *negative}, reverse=True):
        if np.mean(positive >= threshold) >= 0.95 - 1e-12:
            return float(np.mean(negative >= threshold))
    raise AssertionError


def _expected(inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    labels = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    scores = np.r_[inside, outside]
    return {
        "auroc": roc_auc_score(labels, scores),
        "aupr_out": average_precision_score(labels, scores),
        "aupr_in": average_precision_score(1 - labels, -scores),
        "fpr95_out": _naive_fpr(outside, inside),
        "fpr95_in": _naive_fpr(-inside, -outside),
    }


@pytest.mark.parametrize("decimals", [0, 1, 8], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("sizes", [(40, 25), (1, 7), (6, 1), (200, 300)])
def test_values_are_those_of_scikit_learn(decimals, sizes) -> None:
    rng = np.random.default_rng(0)
    inside, outside = (
        rng.normal(size=sizes[0]).round(decimals),
        (rng.normal(size=sizes[1]) + 1).round(decimals),
    )
    found = measure_detection(inside, outside, range(sizes[0]), range(sizes[1]), bootstrap=10)
    for name, value in _expected(inside, outside).items():
        assert getattr(found, name).value == pytest.approx(value, abs=1e-12), name


def test_fpr_is_on_the_curve_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(size=300), rng.normal(size=100) + 1.5
    fpr, tpr, _ = roc_curve(
        np.r_[np.zeros(300), np.ones(100)], np.r_[inside, outside], drop_intermediate=False
    )
    found = measure_detection(inside, outside, range(300), range(100), bootstrap=10)
    assert found.fpr95_out.value == fpr[np.argmax(tpr >= 0.95)]


def test_weights_count_rows_several_times() -> None:
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(size=30).round(1), (rng.normal(size=20) + 0.5).round(1)
    own, other = rng.integers(0, 4, (30, 3)), rng.integers(0, 4, (20, 3))
    found = detection_measures(inside, outside, own, other)
    for column in range(3):
        expected = _expected(np.repeat(inside, own[:, column]), np.repeat(outside, other[:, column]))
        for name, value in expected.items():
            assert found[name][column] == pytest.approx(value, abs=1e-12), name


def test_invariants() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=60), rng.normal(size=45) + 1
    blocks = [i // 5 for i in range(60)], [i // 5 for i in range(45)]
    found = measure_detection(a, b, *blocks, seed=1)
    # A rising function of the score changes nothing.
    assert measure_detection(np.exp(a), np.exp(b), *blocks, seed=1) == found
    turned = measure_detection(-b, -a, *blocks[::-1], seed=1)
    assert turned.auroc.value == pytest.approx(found.auroc.value)
    assert turned.aupr_in.value == pytest.approx(found.aupr_out.value)
    assert turned.fpr95_in.value == pytest.approx(found.fpr95_out.value)
    apart = measure_detection(a, b + 100, *blocks)
    assert [getattr(apart, m).value for m in MEASURES] == pytest.approx([1, 1, 1, 0, 0])
    assert (apart.auroc.low, apart.auroc.high) == (1, 1)
    same = measure_detection(np.ones(60), np.ones(45), *blocks)
    assert same.auroc.value == pytest.approx(0.5)
    assert same.fpr95_out.value == same.fpr95_in.value == 1


def test_interval_is_that_of_a_naive_bootstrap_of_blocks() -> None:
    rng = np.random.default_rng(4)
    blocks = np.arange(60) // 6
    shift = rng.normal(size=(2, 10))
    a, b = shift[0][blocks] + rng.normal(size=60), shift[1][blocks] + 1 + rng.normal(size=60)
    found = measure_detection(a, b, blocks.tolist(), blocks.tolist(), bootstrap=4000, seed=0)
    values = []
    for _ in range(4000):
        rows = [
            np.concatenate([np.flatnonzero(blocks == k) for k in rng.integers(0, 10, 10)]) for _ in range(2)
        ]
        x, y = a[rows[0]], b[rows[1]]
        values.append((np.less.outer(x, y).sum() + 0.5 * np.equal.outer(x, y).sum()) / (len(x) * len(y)))
    assert (found.auroc.low, found.auroc.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
    # Slices of one block are no independent witnesses.
    alone = measure_detection(a, b, range(60), range(60), bootstrap=4000)
    assert alone.auroc.high - alone.auroc.low < 0.8 * (found.auroc.high - found.auroc.low)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    blocks = (np.arange(80) // 4).tolist()
    covered = 0
    for seed in range(200):
        a = np.repeat(rng.normal(size=20), 4) + 0.3 * rng.normal(size=80)
        b = np.repeat(rng.normal(size=20), 4) + 0.3 * rng.normal(size=80)
        found = measure_detection(a, b, blocks, blocks, bootstrap=200, seed=seed).auroc
        covered += found.low <= 0.5 <= found.high
    assert 170 <= covered <= 198  # percentiles of 20 blocks are a little narrow


def test_few_blocks_give_no_interval() -> None:
    found = measure_detection([0.0, 1, 2, 3], [2.0, 3, 4], [0, 0, 1, 1], [0, 1, 2])
    assert (found.auroc.low, found.auroc.high) == (None, None)
    assert (found.n, found.blocks) == ((4, 3), (2, 3))
    assert found.auroc.text() == f"{found.auroc.value:.3f}"
    assert rate_of_flags([True, False], [0, 0]).low is None


def test_rates_have_intervals_by_blocks() -> None:
    blocks = (np.arange(100) // 10).tolist()
    flags = np.arange(100) < 20  # two whole blocks
    found = rate_of_flags(flags, blocks, bootstrap=4000)
    from scipy.stats import binom

    assert found.value == 0.2
    assert (found.low, found.high) == pytest.approx(binom.interval(0.95, 10, 0.2) / np.array(10), abs=0.1)
    single = rate_of_flags(flags, list(range(100)))
    assert single.high - single.low < found.high - found.low
    assert found.text() == "0.200 [0.00, 0.50]"


def test_results_are_seeded_and_json() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=30), rng.normal(size=30) + 0.5
    blocks = (np.arange(30) // 3).tolist()
    first, again, other = (measure_detection(a, b, blocks, blocks, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other
    assert json.loads(json.dumps(first.to_json(), allow_nan=False))["auroc"] == asdict(first.auroc)


@pytest.mark.parametrize(
    "arguments",
    [
        ([], [1.0], [], [0]),
        ([1.0], [1.0], [0, 1], [0]),
        ([np.nan], [1.0], [0], [0]),
        ([1.0], [np.inf], [0], [0]),
    ],
)
def test_what_is_refused(arguments) -> None:
    with pytest.raises(UsageError):
        measure_detection(*arguments)
