"""The Fréchet distance against a matrix square root, closed forms, and the symmetries it must have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from sklearn.covariance import ledoit_wolf_shrinkage

from emvfm.domain.frechet import (
    FrechetAtInfinity,
    ShrunkFrechet,
    frechet_distance,
    frechet_from_gram,
    frechet_from_moments,
    gram,
    ledoit_wolf_from_gram,
)
from emvfm.errors import UsageError


def naive(x: np.ndarray, y: np.ndarray) -> float:
    """The textbook: a square root of the product of the covariances, as it stands."""
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(sqrtm(cov_x @ cov_y))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root))


def by_eigenvalues(x: np.ndarray, y: np.ndarray) -> float:
    """The cross term from the (not symmetric) product of full covariances, whatever its rank."""
    cov_x, cov_y = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    eigenvalues = np.linalg.eigvals(cov_x @ cov_y).real
    eigenvalues = np.where(eigenvalues > 1e-10 * abs(eigenvalues).max(), eigenvalues, 0)
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(means + np.trace(cov_x) + np.trace(cov_y) - 2 * np.sqrt(eigenvalues).sum())


def correlated(rng: np.random.Generator, n: int, d: int, shift: float = 0.0) -> np.ndarray:
    """Embeddings with unlike variances and correlations between dimensions."""
    mixing = rng.normal(size=(d, d)) / np.sqrt(d) + np.diag(np.linspace(0.5, 2, d))
    return rng.normal(size=(n, d)) @ mixing + shift


# n > D for both sets, for one of them, and for none: the two ways to compute it and their border.
SIZES = [(60, 45, 8), (60, 7, 8), (9, 8, 8), (9, 9, 8), (6, 11, 30), (2, 2, 5), (2, 40, 3)]


@pytest.mark.parametrize(("n", "m", "d"), [(60, 45, 8), (400, 300, 32), (50, 40, 2)])
def test_equals_the_textbook_where_that_is_well_conditioned(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(d)
    x, y = correlated(rng, n, d), correlated(rng, m, d, shift=0.3)
    assert frechet_distance(x, y) == pytest.approx(naive(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_equals_eigenvalues_of_the_product_at_any_rank(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n + m)
    x, y = correlated(rng, n, d), correlated(rng, m, d, shift=-0.7)
    assert frechet_distance(x, y) == pytest.approx(by_eigenvalues(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_both_ways_to_compute_it_agree(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n * m)
    x, y = correlated(rng, n, d), correlated(rng, m, d, shift=0.2)
    through_gram = frechet_from_gram(gram(x, y), np.arange(n), n + np.arange(m))
    moments = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y)]
    assert through_gram == pytest.approx(frechet_from_moments(*moments[0], *moments[1]), rel=1e-6)


def test_diagonal_gaussians_have_a_closed_form() -> None:
    rng = np.random.default_rng(0)
    means, deviations = rng.normal(size=(2, 12)), rng.uniform(0.1, 3, size=(2, 12))
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    got = frechet_from_moments(means[0], np.diag(deviations[0] ** 2), means[1], np.diag(deviations[1] ** 2))
    assert got == pytest.approx(expected, rel=1e-12)


def test_data_with_exact_moments_have_the_closed_form_too() -> None:
    # The corners of a box: mean and variances are exact, covariances nought.
    corners = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    x, y = corners * (1, 2) + (5, 0), corners * (3, 0.5)
    spread = 4 / 3  # ddof 1
    assert frechet_distance(x, y) == pytest.approx(25 + spread * (2**2 + 1.5**2), rel=1e-12)


def test_one_dimension_is_the_difference_of_mean_and_deviation() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(2, 3, size=(30, 1)), rng.normal(size=(20, 1))
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_the_estimate_approaches_the_truth_from_above() -> None:
    # Same law, distance nought: what is left at finite n is bias, and falls with n.
    rng = np.random.default_rng(2)
    small, large = (
        np.mean([frechet_distance(rng.normal(size=(n, 6)), rng.normal(size=(n, 6))) for _ in range(20)])
        for n in (20, 500)
    )
    assert small > 5 * large > 0


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_symmetry_identity_and_sign(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n + d)
    x, y = correlated(rng, n, d), correlated(rng, m, d)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-8)
    assert frechet_distance(x, y) > 0
    assert 0 <= frechet_distance(x, x) < 1e-9 * np.trace(np.atleast_2d(np.cov(x, rowvar=False)))


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize(
    "moved",
    [
        lambda z: z + 1e6,
        lambda z: z @ np.linalg.qr(np.random.default_rng(5).normal(size=(z.shape[1],) * 2))[0],
        lambda z: np.hstack([z, np.zeros((len(z), 3))]),
        lambda z: z[::-1],
    ],
    ids=["translation", "rotation", "padding with zeros", "order of rows"],
)
def test_invariant_to(moved: Callable[[np.ndarray], np.ndarray], n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n)
    x, y = correlated(rng, n, d), correlated(rng, m, d, shift=0.5)
    assert frechet_distance(moved(x), moved(y)) == pytest.approx(frechet_distance(x, y), rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
@pytest.mark.parametrize("factor", [1e-3, -2.0, 1e4])
def test_scales_with_the_square(factor: float, n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(m)
    x, y = correlated(rng, n, d), correlated(rng, m, d)
    assert frechet_distance(factor * x, factor * y) == pytest.approx(
        factor**2 * frechet_distance(x, y), rel=1e-7
    )


def test_a_pure_shift_is_its_squared_length() -> None:
    x = correlated(np.random.default_rng(3), 40, 64)
    shift = np.random.default_rng(4).normal(size=64)
    assert frechet_distance(x, x + shift) == pytest.approx((shift**2).sum(), rel=1e-9)


@given(
    seed=st.integers(0, 10**6),
    d=st.integers(1, 12),
    first=st.sets(st.integers(0, 19), min_size=2),
    second=st.sets(st.integers(0, 19), min_size=2),
)
def test_any_subsets_of_the_rows_follow_from_one_gram_matrix(
    seed: int, d: int, first: set[int], second: set[int]
) -> None:
    x = correlated(np.random.default_rng(seed), 20, d)
    matrix = gram(x[:9], x[9:])
    assert matrix.shape == (20, 20)
    a, b = sorted(first), sorted(second)
    got = frechet_from_gram(matrix, a, b)
    scale = 1 + np.trace(np.atleast_2d(np.cov(x, rowvar=False)))
    assert got == pytest.approx(frechet_distance(x[a], x[b]), rel=1e-6, abs=1e-7 * scale)
    # The root of a singular covariance carries the square root of rounding; the Gram way does not.
    moments = [(x[i].mean(0), np.atleast_2d(np.cov(x[i], rowvar=False))) for i in (a, b)]
    by_moments = frechet_from_moments(*moments[0], *moments[1])
    assert got == pytest.approx(by_moments, rel=1e-5, abs=1e-6 * scale)


def test_half_precision_embeddings_are_computed_in_double() -> None:
    rng = np.random.default_rng(6)
    x, y = (rng.normal(100, 1, size=(30, 5)).astype(np.float16) for _ in range(2))
    assert frechet_distance(x, y) == pytest.approx(
        frechet_distance(x.astype(np.float64), y.astype(np.float64)), rel=1e-12
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("d", [2, 50])
def test_values_that_are_not_finite_are_refused(bad: float, d: int) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 10, d))
    y[3, 1] = bad
    with pytest.raises(UsageError, match="not finite"):
        frechet_distance(x, y)
    with pytest.raises(UsageError, match="not finite"):
        gram(y, x)


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (4,), (3, 4, 5)])
def test_a_single_embedding_has_no_covariance(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="n >= 2"):
        frechet_distance(np.ones((5, 4)), np.ones(shape))


@pytest.mark.parametrize("n", [3, 40])
def test_embeddings_of_different_length_are_refused(n: int) -> None:
    x, y = np.ones((n, 4)), np.ones((n, 5))
    for call in (frechet_distance, gram):
        with pytest.raises(UsageError, match="different length"):
            call(x, y)


def test_constant_embeddings_are_only_as_far_as_their_means() -> None:
    assert frechet_distance(np.full((5, 3), 2.0), np.zeros((4, 3))) == pytest.approx(12.0)
    assert frechet_distance(np.full((5, 9), 2.0), np.full((7, 9), 2.0)) == 0.0


def test_gaussians_far_apart_have_their_known_distance_within_three_standard_errors() -> None:
    rng = np.random.default_rng(20)
    mixing = rng.normal(size=(2, 5, 5)) / 2 + np.eye(5)
    mean = np.full(5, 0.4)
    truth = frechet_from_moments(np.zeros(5), mixing[0].T @ mixing[0], mean, mixing[1].T @ mixing[1])
    values = [
        frechet_distance(
            rng.normal(size=(2000, 5)) @ mixing[0], rng.normal(size=(2000, 5)) @ mixing[1] + mean
        )
        for _ in range(60)
    ]
    assert abs(np.mean(values) - truth) < 3 * np.std(values, ddof=1) / np.sqrt(60) + 0.002 * truth


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_shrinkage_is_that_of_scikit_learn(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n * d)
    x, y = correlated(rng, n, d), correlated(rng, m, d, shift=2.0)
    matrix = gram(x, y)
    for z, rows in ((x, np.arange(n)), (y, n + np.arange(m)), (y[:2], [n, n + 1])):
        assert ledoit_wolf_from_gram(matrix, rows, d) == pytest.approx(ledoit_wolf_shrinkage(z), abs=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_shrunk_distance_equals_that_of_the_full_shrunk_covariances(n: int, m: int, d: int) -> None:
    rng = np.random.default_rng(n + 3 * d)
    x, y = correlated(rng, n, d), correlated(rng, m, d, shift=0.4)
    moments = []
    for z in (x, y):
        share, covariance = ledoit_wolf_shrinkage(z), np.atleast_2d(np.cov(z, rowvar=False))
        moments += [z.mean(0), (1 - share) * covariance + share * np.trace(covariance) / d * np.eye(d)]
    found = ShrunkFrechet(x, y)(np.arange(n), n + np.arange(m))
    assert found == pytest.approx(frechet_from_moments(*moments), rel=1e-6)
    other = ShrunkFrechet(x, y, correlated(rng, 5, d))(n + np.arange(m), np.arange(n))
    assert other == pytest.approx(found, rel=1e-6)  # symmetric, and whatever else is in the matrix


def test_shrinking_brings_two_samples_of_one_law_closer() -> None:
    rng = np.random.default_rng(21)
    x, y = rng.normal(size=(20, 100)), rng.normal(size=(20, 100))
    assert ShrunkFrechet(x, y)(np.arange(20), 20 + np.arange(20)) < 0.5 * frechet_distance(x, y)


def _at_infinity(x: np.ndarray, y: np.ndarray, length: int, seed: int = 0) -> FrechetAtInfinity:
    labels = [*(f"x{i // length}" for i in range(len(x))), *(f"y{i // length}" for i in range(len(y)))]
    return FrechetAtInfinity(gram(x, y), labels, seed=seed)


def test_the_distance_at_infinite_n_has_far_less_bias() -> None:
    rng = np.random.default_rng(22)
    plain, extrapolated = [], []
    for _ in range(40):
        x, y = rng.normal(size=(120, 4)), 0.5 + rng.normal(size=(120, 4))
        plain.append(frechet_distance(x, y))
        extrapolated.append(_at_infinity(x, y, 1)(np.arange(120), 120 + np.arange(120)))
    bias, left = np.mean(plain) - 1.0, np.mean(extrapolated) - 1.0
    assert bias > 0.02
    assert abs(left) < 3 * np.std(extrapolated) / np.sqrt(40)


def test_the_line_goes_through_the_distances_of_unions_of_whole_blocks() -> None:
    rng = np.random.default_rng(23)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(20, 3))
    a, b = np.arange(30), 30 + np.arange(20)
    line = _at_infinity(x, y, 5).fit(a, b)
    assert line is not None
    assert len(line.distances) == 15
    assert line.inverse_n[-1] == pytest.approx((1 / 30 + 1 / 20) / 2)
    assert line.distances[-1] == pytest.approx(frechet_distance(x, y))
    possible = {round((1 / n + 1 / m) / 2, 12) for n in range(5, 31, 5) for m in range(5, 21, 5)}
    assert {round(v, 12) for v in line.inverse_n} <= possible
    slope, value = np.polyfit(line.inverse_n, line.distances, 1)
    assert (line.slope, line.value) == pytest.approx((slope, value))
    assert line.r2 == pytest.approx(np.corrcoef(line.inverse_n, line.distances)[0, 1] ** 2)
    assert line == _at_infinity(x, y, 5).fit(a, b)
    assert line != _at_infinity(x, y, 5, seed=1).fit(a, b)
    assert _at_infinity(x, y, 30).fit(a, b) is None  # a single block each
    assert np.isnan(_at_infinity(x, y, 30)(a, b))
