"""One comparison for all measures: its numbers are those of the pieces, p-values are uniform, words follow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from emvfm.domain.comparison import Comparison, Measure, compare
from emvfm.domain.coverage import neighbour_coverage
from emvfm.domain.frechet import frechet_distance
from emvfm.domain.kernel import energy_kernel, mmd2, polynomial_kernel, squared_distances
from emvfm.domain.moments import moments_of
from emvfm.domain.resampling import block_jackknife_interval, block_permutation_test, split_halves
from emvfm.domain.results import (
    compare_frechet,
    compare_frechet_at_infinity,
    compare_moments,
    compare_shrunk_frechet,
)
from emvfm.domain.transport import SlicedWasserstein
from emvfm.errors import UsageError

LARGER = Measure("d", "difference")
SMALLER = Measure("s", "likeness", further="smaller", bounds=(-np.inf, 0.0))


def _domains(rng: np.random.Generator, blocks: int = 6, length: int = 3, shift: float = 0.0, d: int = 4):
    x, y = (
        np.repeat(rng.normal(size=(blocks, d)), length, axis=0) + 0.2 * rng.normal(size=(blocks * length, d))
        for _ in range(2)
    )
    return x, y + shift, np.repeat(np.arange(blocks), length).tolist()


def test_numbers_are_those_of_the_pieces_for_every_measure() -> None:
    rng = np.random.default_rng(0)
    x, y, blocks = _domains(rng, shift=1.0)
    values = np.concatenate([x, y])[:, 0]

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return abs(float(values[a].mean() - values[b].mean()))

    calls = []

    def both(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        calls.append(1)
        return difference(a, b), -difference(a, b)

    options = {"dimension": 1, "permutations": 99, "level": 0.9, "seed": 4}
    first, second = compare(("a", "b"), both, (LARGER, SMALLER), blocks, blocks, **options)
    test = block_permutation_test(difference, blocks, blocks, permutations=99, seed=4)
    halves = split_halves(difference, blocks, blocks, seed=4)
    assert (first.value, first.p_value, first.null) == (test.observed, test.p_value, test.null)
    assert (first.within, first.between, first.ratio) == (halves.within, halves.between, halves.ratio)
    assert (first.low, first.high) == block_jackknife_interval(difference, blocks, blocks, level=0.9)
    assert first.relative == pytest.approx(first.value / np.mean(halves.within))
    assert first.bound == pytest.approx(np.quantile(test.null, 0.95))
    assert second.value == -first.value
    assert second.p_value == first.p_value
    assert second.bound == pytest.approx(-first.bound)
    assert second.high <= 0
    assert len(calls) <= 1 + 99 + 300 + 12  # both measures share every evaluation
    assert (first.key, second.measure, second.further) == ("d", "likeness", "smaller")


MEASURES = {
    "fd": lambda x, y, blocks: compare_frechet(("a", "b"), x, y, blocks, blocks, permutations=99),
    "shrunk": lambda x, y, blocks: compare_shrunk_frechet(("a", "b"), x, y, blocks, blocks, permutations=99),
    "infinity": lambda x, y, blocks: compare_frechet_at_infinity(
        ("a", "b"), x, y, blocks, blocks, permutations=99, points=6
    ),
    "moments": lambda x, y, blocks: compare_moments(
        ("a", "b"),
        *({b: moments_of(z[np.asarray(blocks) == b]) for b in set(blocks)} for z in (x, y)),
        permutations=99,
    ),
}


@pytest.mark.parametrize("name", MEASURES)
def test_far_domains_differ_like_ones_do_not_and_few_blocks_say_nothing(name: str) -> None:
    far = MEASURES[name](*_domains(np.random.default_rng(1), shift=5.0))
    assert far.beyond
    assert far.p_value <= 0.03
    assert "differ to this backbone: " in far.verdict
    assert far.low < far.value < far.high
    like = MEASURES[name](*_domains(np.random.default_rng(2)))
    assert like.p_value > 0.05
    assert "no evidence" in like.verdict
    few = MEASURES[name](*_domains(np.random.default_rng(1), blocks=2, shift=50.0))
    assert not few.beyond
    assert "too few blocks" in few.verdict
    for found in (far, like, few):
        assert json.loads(json.dumps(found.to_json(), allow_nan=False))["verdict"] == found.verdict
        assert (found.ddof, found.dimension, found.seed) == (1, 4, 0)


def test_moments_of_blocks_give_the_distance_of_the_rows() -> None:
    x, y, blocks = _domains(np.random.default_rng(3), shift=1.0)
    labels = np.asarray(blocks)
    parts = [{b: moments_of(z[labels == b]) for b in range(6)} for z in (x, y)]
    found = compare_moments(("a", "b"), *parts, permutations=99)
    rows = compare_frechet(("a", "b"), x, y, blocks, blocks, permutations=99)
    assert found.value == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert found.null == pytest.approx(rows.null, rel=1e-6)  # the same exchanges
    assert (found.n, found.blocks) == ((18, 18), (6, 6))
    assert (found.low, found.high) == pytest.approx((rows.low, rows.high), rel=1e-6)


def test_the_line_to_infinity_and_the_shrinkage_are_recorded() -> None:
    x, y, blocks = _domains(np.random.default_rng(4), shift=1.0)
    line = compare_frechet_at_infinity(("a", "b"), x, y, blocks, blocks, permutations=99).parameters
    assert len(line["inverse_n"]) == len(line["distances"]) == 15
    assert 0 <= line["r2"] <= 1
    shrunk = compare_shrunk_frechet(("a", "b"), x, y, blocks, blocks, permutations=99)
    assert all(0 < share <= 1 for share in shrunk.parameters["shrinkage"])
    with pytest.raises(UsageError, match="too few blocks"):
        compare_frechet_at_infinity(("a", "b"), x, y, [0] * 18, [0] * 18)


def _statistics(x: np.ndarray, y: np.ndarray):
    distances = squared_distances(x, y)
    cubic, energy = polynomial_kernel(x, y), energy_kernel(distances)
    sliced = SlicedWasserstein(x, y, projections=20)
    labels = np.repeat(np.arange(len(distances) // 3), 3)
    return lambda a, b: (
        mmd2(cubic, a, b), mmd2(energy, a, b), sliced(a, b),
        *neighbour_coverage(distances, a, b, k=2, labels=labels),
    )  # fmt: skip


ALL = (
    Measure("kd", "polynomial", centred=True),
    Measure("energy", "energy", centred=True),
    Measure("sw", "sliced"),
    *(
        Measure(k, k, further="smaller", symmetric=k == "x")
        for k in ("precision", "recall", "density", "coverage")
    ),
)


def test_p_values_of_every_measure_are_uniform_under_one_law() -> None:
    rng = np.random.default_rng(5)
    found = []
    for seed in range(120):
        x, y, blocks = _domains(rng, blocks=5)
        results = compare(
            ("a", "b"),
            _statistics(x, y),
            ALL,
            blocks,
            blocks,
            dimension=4,
            permutations=19,
            repeats=1,
            seed=seed,
        )
        found.append([r.p_value for r in results])
    for measure, p in zip(ALL, np.array(found).T, strict=True):
        assert np.mean(p <= 0.05) <= 0.11, measure.key
        if measure.further == "larger":  # ties of shares make the others conservative
            smooth = p - rng.uniform(size=len(p)) / 20  # p is one of 1/20 … 20/20
            assert kstest(smooth, "uniform").pvalue > 0.01, measure.key


def test_every_measure_finds_a_shift() -> None:
    x, y, blocks = _domains(np.random.default_rng(6), shift=4.0)
    results = compare(("a", "b"), _statistics(x, y), ALL, blocks, blocks, dimension=4, permutations=199)
    assert all(r.beyond for r in results), [(r.key, r.p_value) for r in results]
    assert [r.ratio is None for r in results] == [m.centred for m in ALL]
    coverage = results[-1]
    assert coverage.value == 0
    assert f"coverage {np.mean(coverage.between):.3g} between halves of the two" in coverage.verdict
    assert "times as far apart" in results[2].verdict


def test_a_measure_with_a_direction_counts_one_way_of_exchanging_as_observed() -> None:
    facts = {
        "names": ("a", "b"), "value": 0.1, "low": None, "high": None, "level": 0.95, "n": (6, 6),
        "blocks": (3, 3), "dimension": 2, "p_value": 0.05, "permutations": 99, "distinct": 20, "ratio": 0.1,
        "within": (1.0, 1.0), "between": (0.1,), "null": (1.0,), "seed": 0, "further": "smaller",
    }  # fmt: skip
    assert not Comparison(**facts, symmetric=False).too_few
    assert Comparison(**facts, symmetric=True).too_few
    assert Comparison(**{**facts, "within": ()}, symmetric=False, centred=True).too_few
    assert replace(Comparison(**facts), null=()).bound is None


def test_no_value_at_all_is_an_error_and_none_for_halves_says_nothing() -> None:
    x, y, blocks = _domains(np.random.default_rng(7), blocks=4)
    distances = squared_distances(x, y)
    measures = ALL[3:]

    def run(k: int) -> tuple[Comparison, ...]:
        return compare(
            ("a", "b"), lambda a, b: neighbour_coverage(distances, a, b, k=k), measures, blocks, blocks,
            dimension=4, permutations=99,
        )  # fmt: skip

    with pytest.raises(UsageError, match="a × b: too few embeddings for precision"):
        run(12)
    assert all(r.within == () and r.too_few for r in run(7))
