"""The Fréchet distance against a matrix square root, closed forms and its own invariances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from emvfm.domain.frechet import frechet_distance, frechet_from_gram, frechet_from_moments, gram
from emvfm.errors import UsageError


def _sets(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) @ mixing + rng.normal(size=d)


def _by_square_root(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(sqrtm(a @ b))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root))


@pytest.mark.parametrize(("n", "m", "d"), [(50, 40, 5), (200, 90, 30), (33, 33, 2)])
def test_it_is_the_textbook_formula(n: int, m: int, d: int) -> None:
    x, y = _sets(n, m, d)
    assert frechet_distance(x, y) == pytest.approx(_by_square_root(x, y), rel=1e-9)


def test_diagonal_gaussians_have_a_closed_form() -> None:
    m1, m2 = np.array([0.0, 1.0, -2.0]), np.array([3.0, 1.0, 0.5])
    s1, s2 = np.array([1.0, 2.0, 0.1]), np.array([4.0, 2.0, 3.0])
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    got = frechet_from_moments(m1, np.diag(s1**2), m2, np.diag(s2**2))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 40), (30, 12, 20), (2, 2, 3)])
def test_with_fewer_embeddings_than_dimensions_it_agrees_with_full_covariances(
    n: int, m: int, d: int
) -> None:
    x, y = _sets(n, m, d, seed=1)
    by_moments = frechet_from_moments(x.mean(0), np.cov(x, rowvar=False), y.mean(0), np.cov(y, rowvar=False))
    # The root of a singular covariance carries the square root of rounding; the Gram way does not.
    assert frechet_distance(x, y) == pytest.approx(by_moments, rel=1e-5)


@given(st.integers(2, 9), st.integers(2, 9), st.integers(1, 12), st.integers(0, 10_000))
def test_the_gram_matrix_holds_all_that_is_needed(n: int, m: int, d: int, seed: int) -> None:
    x, y = _sets(n + 3, m, d, seed)
    matrix = gram(x, y)
    rows = np.random.default_rng(seed).permutation(n + 3)[:n]
    got = frechet_from_gram(matrix, rows, n + 3 + np.arange(m))
    a, b = x[rows], y
    by_moments = frechet_from_moments(
        a.mean(0), np.atleast_2d(np.cov(a, rowvar=False)), b.mean(0), np.atleast_2d(np.cov(b, rowvar=False))
    )
    scale = np.trace(np.atleast_2d(np.cov(a.T))) + np.trace(np.atleast_2d(np.cov(b.T))) + 1
    assert got == pytest.approx(by_moments, rel=1e-5, abs=1e-6 * scale)


@pytest.mark.parametrize("d", [4, 60])
def test_invariances(d: int) -> None:
    x, y = _sets(30, 25, d, seed=2)
    value = frechet_distance(x, y)
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    shift = 100 * rng.normal(size=d)
    assert frechet_distance(y, x) == pytest.approx(value, rel=1e-8)
    assert frechet_distance(x @ rotation + shift, y @ rotation + shift) == pytest.approx(value, rel=1e-7)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * value, rel=1e-8)
    assert frechet_distance(x[::-1], y[::-1]) == pytest.approx(value, rel=1e-8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6 * value)
    assert frechet_distance(x, x + shift) == pytest.approx((shift**2).sum(), rel=1e-6)


def test_what_is_no_set_of_embeddings_is_refused() -> None:
    x, y = _sets(5, 5, 3)
    with pytest.raises(UsageError, match="not a set"):
        frechet_distance(x[:1], y)
    with pytest.raises(UsageError, match="not finite"):
        frechet_distance(np.where(x == x[0, 0], np.nan, x), y)
    with pytest.raises(UsageError, match="different length"):
        frechet_distance(x, y[:, :2])
