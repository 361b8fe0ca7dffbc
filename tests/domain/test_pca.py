"""Streamed principal components against scikit-learn, and what must not change them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from emvfm.domain.moments import streamed_moments
from emvfm.domain.pca import Basis, balanced_moments, principal_components
from emvfm.errors import UsageError


def _rows(n: int = 300, dimension: int = 12, seed: int = 0, offset: float = 0.0) -> np.ndarray:
    """Correlated rows whose variances differ enough to tell the components apart."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    return (rng.normal(size=(n, dimension)) * 1.5 ** -np.arange(dimension)) @ rotation + offset


def _basis(rows: np.ndarray, k: int, block: int = 37) -> Basis:
    blocks = (rows[i : i + block] for i in range(0, len(rows), block))
    return principal_components(streamed_moments(blocks, rows=64), k)


@pytest.mark.parametrize(("n", "dimension"), [(300, 12), (9, 30), (2, 5)])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_scikit_learn_finds_the_same(n: int, dimension: int, offset: float) -> None:
    rows = _rows(n, dimension, offset=offset)
    k = min(n - 1, dimension, 6)
    basis, theirs = _basis(rows, k), PCA(k, svd_solver="full").fit(rows)
    np.testing.assert_allclose(basis.variances, theirs.explained_variance_, rtol=1e-6)
    np.testing.assert_allclose(basis.shares, theirs.explained_variance_ratio_, rtol=1e-6)
    np.testing.assert_allclose(basis.transform(rows), theirs.transform(rows), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(basis.components, theirs.components_, atol=1e-6)  # signs too
    whitened = PCA(k, svd_solver="full", whiten=True).fit_transform(rows)
    np.testing.assert_allclose(basis.transform(rows, whiten=True), whitened, rtol=1e-6, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 120), max_size=8),
    order=st.randoms(use_true_random=False),
    rows_a_product=st.integers(1, 200),
)
def test_neither_order_nor_blocks_matter(cuts: list[int], order: object, rows_a_product: int) -> None:
    rows = _rows(120, 6)
    shuffled = list(range(120))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    blocks = np.split(rows[shuffled], sorted(cuts))
    basis = principal_components(streamed_moments(iter(blocks), rows=rows_a_product), 6)
    plain = principal_components(streamed_moments([rows]), 6)
    assert basis.n == 120
    np.testing.assert_allclose(basis.variances, plain.variances, rtol=1e-9)
    np.testing.assert_allclose(basis.transform(rows), plain.transform(rows), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_a_rotation_turns_the_basis_and_leaves_the_coordinates(seed: int) -> None:
    rows = _rows(100, 5)
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    plain, turned = _basis(rows, 5), _basis(rows @ rotation, 5)
    np.testing.assert_allclose(turned.variances, plain.variances, rtol=1e-9)
    np.testing.assert_allclose(
        np.abs(turned.transform(rows @ rotation)), np.abs(plain.transform(rows)), atol=1e-8
    )


def test_balancing_makes_sets_count_the_same() -> None:
    few, many = _rows(10, 4, seed=1), _rows(40, 4, seed=2, offset=3.0)
    balanced = balanced_moments([streamed_moments([few]), streamed_moments([many])])
    repeated = np.concatenate([np.repeat(few, 4, axis=0), many])  # what the weights stand for
    np.testing.assert_allclose(balanced.mean, repeated.mean(axis=0))
    np.testing.assert_allclose(balanced.scatter / balanced.n, np.cov(repeated.T, ddof=0))
    assert balanced.n == 50
    halves = balanced_moments([streamed_moments([many[:20]]), streamed_moments([many[20:]])])
    np.testing.assert_allclose(halves.scatter, streamed_moments([many]).scatter, rtol=1e-12)


def test_memory_does_not_grow_with_the_stream() -> None:
    def stream(n: int) -> Iterator[np.ndarray]:
        block = np.random.default_rng(0).normal(size=(500, 32)).astype(np.float16)
        for _ in range(n):
            yield block.copy()

    peaks = []
    for n in (200, 800):
        tracemalloc.start()
        streamed_moments(stream(n), rows=1024)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_what_it_takes_for_a_share_of_the_variance() -> None:
    rows = np.zeros((8, 4))
    rows[np.arange(8), np.repeat(np.arange(4), 2)] = np.tile([1.0, -1.0], 4)
    basis = _basis(rows, 2)
    assert basis.effective_dimension == pytest.approx(4)
    assert [basis.needed_for(share) for share in (0.2, 0.25, 0.26, 0.5, 1.0)] == [1, 1, 2, 2, 4]
    nothing = _basis(np.ones((5, 3)), 2)
    assert nothing.shares.tolist() == [0, 0]
    assert nothing.effective_dimension == 0
    np.testing.assert_array_equal(nothing.transform(np.ones((1, 3)), whiten=True), 0)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 0), (5, 6), (3, 4)])
def test_how_many_components_there_can_be(n: int, k: int) -> None:
    with pytest.raises(UsageError):
        principal_components(streamed_moments([_rows(n, 5)]), k)
    with pytest.raises(UsageError, match=r"\(n, 5\)"):
        _basis(_rows(9, 5), 2).transform(np.ones((2, 4)))
