"""Kernel distances against double loops and scikit-learn's kernels; unbiased where they say so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import energy_distance
from sklearn.metrics.pairwise import (
    euclidean_distances,
)
from sklearn.metrics.pairwise import (
    polynomial_kernel as sk_polynomial,
)
from sklearn.metrics.pairwise import (
    rbf_kernel as sk_rbf,
)

from emvfm.domain.kernel import (
    energy_kernel,
    median_gamma,
    mmd2,
    mmd2_between_blocks,
    mmd2_of_subsets,
    polynomial_kernel,
    rbf_kernel,
    squared_distances,
)
from emvfm.errors import UsageError


def naive(x: np.ndarray, y: np.ndarray, kernel) -> float:
    """The definition, pair by pair."""
    own = [
        sum(kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j)
        / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    return sum(own) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def sets(n: int = 9, m: int = 6, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, d)), rng.normal(0.5, 2, size=(m, d))


def test_kernels_are_those_of_scikit_learn() -> None:
    x, y = sets()
    joint = np.concatenate([x, y])
    np.testing.assert_allclose(polynomial_kernel(x, y), sk_polynomial(joint, degree=3, coef0=1), rtol=1e-12)
    np.testing.assert_allclose(
        squared_distances(x, y), euclidean_distances(joint, squared=True), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(rbf_kernel(squared_distances(x, y), 0.3), sk_rbf(joint, gamma=0.3), rtol=1e-9)
    gamma = median_gamma(squared_distances(x, y))
    pairs = [((a - b) ** 2).sum() for i, a in enumerate(joint) for b in joint[:i]]
    assert gamma == pytest.approx(1 / (2 * np.median(pairs)))


@pytest.mark.parametrize(
    ("matrix", "kernel"),
    [
        (polynomial_kernel, lambda a, b: (a @ b / len(a) + 1) ** 3),
        (
            lambda x, y: rbf_kernel(squared_distances(x, y), 0.2),
            lambda a, b: np.exp(-0.2 * ((a - b) ** 2).sum()),
        ),
        (lambda x, y: energy_kernel(squared_distances(x, y)), lambda a, b: -np.linalg.norm(a - b)),
    ],
    ids=["polynomial", "rbf", "energy"],
)
def test_equals_the_double_loop_also_for_subsets(matrix, kernel) -> None:
    x, y = sets()
    joint, values = np.concatenate([x, y]), matrix(x, y)
    for a, b in ((np.arange(9), 9 + np.arange(6)), (np.array([0, 3, 10]), np.array([14, 2]))):
        assert mmd2(values, a, b) == pytest.approx(naive(joint[a], joint[b], kernel), rel=1e-9)
        assert mmd2(values, a, b) == pytest.approx(mmd2(values, b, a), rel=1e-12)


def test_energy_distance_is_scipys_but_for_pairs_of_a_row_with_itself() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(12, 1)), rng.normal(1, 2, size=(8, 1))
    # scipy counts the noughts of a row with itself; the unbiased form does not.
    own = sum(np.abs(z - z.T).sum() * (1 / len(z) ** 2 - 1 / (len(z) * (len(z) - 1))) for z in (x, y))
    expected = energy_distance(x[:, 0], y[:, 0]) ** 2 + own
    found = mmd2(energy_kernel(squared_distances(x, y)), np.arange(12), 12 + np.arange(8))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["polynomial", "rbf", "energy"])
def test_unbiased_over_a_thousand_draws_of_one_law(kind: str) -> None:
    rng = np.random.default_rng(4)
    values = []
    for _ in range(1000):
        x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
        distances = squared_distances(x, y)
        kernel = {
            "polynomial": polynomial_kernel(x, y),
            "rbf": rbf_kernel(distances, 0.2),
            "energy": energy_kernel(distances),
        }[kind]
        values.append(mmd2(kernel, np.arange(7), 7 + np.arange(5)))
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(1000)
    assert min(values) < 0 < max(values)


def test_unbiased_for_two_laws_too() -> None:
    # E k = sum of products of moments: for the linear kernel it is the squared distance of the means.
    rng = np.random.default_rng(5)
    values = [
        mmd2(
            polynomial_kernel(rng.normal(size=(6, 2)), rng.normal(1, 1, size=(4, 2)), degree=1, gamma=1.0),
            np.arange(6), 6 + np.arange(4),
        )
        for _ in range(1000)
    ]  # fmt: skip
    assert abs(np.mean(values) - 2) < 3 * np.std(values) / np.sqrt(1000)


def test_without_pairs_within_a_block_it_is_unbiased_for_dependent_slices() -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat(np.arange(8), 4)  # four blocks of four slices in either set
    plain, between = [], []
    for _ in range(1000):
        rows = np.repeat(rng.normal(size=(8, 3)), 4, axis=0) + 0.1 * rng.normal(size=(32, 3))
        kernel = rbf_kernel(squared_distances(rows), 0.2)
        plain.append(mmd2(kernel, np.arange(16), 16 + np.arange(16)))
        between.append(mmd2_between_blocks(kernel, np.arange(16), 16 + np.arange(16), labels))
    error = np.std(between) / np.sqrt(1000)
    assert abs(np.mean(between)) < 3 * error
    assert np.mean(plain) > 10 * error


def test_blocks_of_one_row_are_the_plain_form_and_a_single_block_has_no_value() -> None:
    kernel = polynomial_kernel(*sets())
    a, b = np.arange(9), 9 + np.arange(6)
    assert mmd2_between_blocks(kernel, a, b, np.arange(15)) == pytest.approx(mmd2(kernel, a, b))
    assert np.isnan(mmd2_between_blocks(kernel, a, b, np.repeat([0, 1], [9, 6])))


def test_subsets_of_everything_are_the_whole_and_smaller_ones_scatter_around_it() -> None:
    kernel = polynomial_kernel(*sets(60, 50))
    a, b = np.arange(60), 60 + np.arange(50)
    whole = mmd2_of_subsets(kernel, a[:50], b, size=1000, subsets=3)
    assert (whole.size, whole.subsets) == (50, 3)
    assert whole.mean == pytest.approx(mmd2(kernel, a[:50], b))
    assert whole.deviation < 1e-9 * whole.mean
    small = mmd2_of_subsets(kernel, a, b, size=20, subsets=400, seed=1)
    assert abs(small.mean - mmd2(kernel, a, b)) < 4 * small.deviation / 20
    assert small == mmd2_of_subsets(kernel, a, b, size=20, subsets=400, seed=1)
    assert small != mmd2_of_subsets(kernel, a, b, size=20, subsets=400, seed=2)


@pytest.mark.parametrize("moved", [lambda z: z + 1e5, lambda z: z[:, ::-1], lambda z: -z])
def test_distances_do_not_change_with_the_frame(moved) -> None:
    x, y = sets()
    np.testing.assert_allclose(
        squared_distances(moved(x), moved(y)), squared_distances(x, y), rtol=1e-6, atol=1e-8
    )


def test_what_has_no_value_is_refused() -> None:
    with pytest.raises(UsageError, match="coincide"):
        median_gamma(squared_distances(np.ones((4, 2)), np.ones((3, 2))))
    with pytest.raises(UsageError, match="2 or more"):
        mmd2_of_subsets(np.eye(3), [0], [1, 2])
    for call in (squared_distances, polynomial_kernel):
        with pytest.raises(UsageError, match="not finite"):
            call(np.ones((3, 2)), np.full((3, 2), np.nan))
