"""Streamed moments against numpy on the whole array, however it is cut, and in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emvfm.domain.frechet import frechet_from_moments
from emvfm.domain.moments import moments_of, streamed_moments
from emvfm.errors import UsageError


@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 60), max_size=6), rows=st.integers(1, 70))
def test_any_cut_gives_the_moments_of_the_whole(seed: int, cuts: list[int], rows: int) -> None:
    x = np.random.default_rng(seed).normal(3, 2, size=(60, 4))
    found = streamed_moments(iter(np.split(x, sorted(cuts))), rows=rows)
    assert found.n == 60
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance(), np.cov(x, rowvar=False), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.covariance(0), np.cov(x, rowvar=False, ddof=0), rtol=1e-10, atol=1e-12)


def test_a_far_mean_does_not_cancel() -> None:
    x = np.random.default_rng(0).normal(size=(500, 3))
    near, far = streamed_moments([x], rows=64), streamed_moments([x + 1e7], rows=64)
    np.testing.assert_allclose(far.covariance(), near.covariance(), rtol=1e-7, atol=1e-8)


def test_single_precision_products_cost_the_distance_nothing_even_where_it_is_ill_conditioned() -> None:
    # Deviations from 3 down to 0.003, means of 3, and a distance far below the variance.
    rng = np.random.default_rng(7)
    deviations, mean = 10 ** np.linspace(0.5, -2.5, 48), 3 * rng.normal(size=48)
    turned = np.linalg.qr(rng.normal(size=(48, 48)))[0]
    x, y = (((rng.normal(size=(6000, 48)) * deviations) @ turned + mean).astype(np.float32) for _ in range(2))
    single, double = (
        [streamed_moments([z.astype(kind)], rows=2000) for z in (x, y)] for kind in (np.float32, np.float64)
    )
    for fast, exact in zip(single, double, strict=True):
        scale = np.sqrt(np.diag(exact.covariance()))
        error = np.abs(fast.covariance() - exact.covariance()) / np.outer(scale, scale)
        assert error.max() < 2e-6
        assert np.abs((fast.mean - exact.mean) / scale).max() < 1e-6
    near, truth = (
        frechet_from_moments(a.mean, a.covariance(), b.mean, b.covariance()) for a, b in (single, double)
    )
    assert near == pytest.approx(truth, rel=1e-5)
    assert truth < 1e-2 * np.trace(double[0].covariance())


def test_merging_is_symmetric_and_associative_to_rounding() -> None:
    rng = np.random.default_rng(1)
    a, b, c = (moments_of(rng.normal(size=(n, 5)).astype(np.float32)) for n in (1, 7, 30))
    forth, back = a.merged(b).merged(c), c.merged(a.merged(b))
    assert forth.n == back.n == 38
    np.testing.assert_allclose(forth.scatter, back.scatter, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(forth.mean, back.mean, rtol=1e-12)


def test_memory_is_that_of_the_rows_held_not_of_all() -> None:
    def blocks(n: int):
        rng = np.random.default_rng(2)
        return (rng.random((500, 64), dtype=np.float32) for _ in range(n))

    peaks = []
    for n in (300, 1200):
        tracemalloc.start()
        streamed_moments(blocks(n), rows=1000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0] < 4e6  # all of them would be 150 MB


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([], "no embeddings"),
        ([np.ones((0, 3))], "no embeddings"),
        ([np.ones(3)], "not a set"),
        ([np.ones((2, 3)), np.ones((2, 4))], "different length"),
        ([np.array([[1.0, np.nan]])], "not finite"),
        ([np.array([[1.0, np.inf]])], "not finite"),
    ],
)
def test_what_is_no_set_of_embeddings_is_refused(blocks: list[np.ndarray], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        streamed_moments(blocks)


def test_one_embedding_has_a_mean_but_no_covariance() -> None:
    one = moments_of([[1.0, 2.0]])
    assert one.mean.tolist() == [1, 2]
    with pytest.raises(UsageError, match="2 or more"):
        one.covariance()
    other = moments_of([[1.0, 2.0, 3.0]])
    with pytest.raises(UsageError, match="different length"):
        one.merged(other)
