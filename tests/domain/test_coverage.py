"""Precision, recall, density and coverage against loops over the definitions, and against what they must say."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.domain.coverage import neighbour_coverage
from emvfm.domain.kernel import squared_distances
from emvfm.errors import UsageError


def naive(x: np.ndarray, y: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """x is the reference, y is evaluated; one embedding and one ball at a time."""

    def radius(z: np.ndarray, i: int) -> float:
        return sorted(np.linalg.norm(z[i] - other) for j, other in enumerate(z) if j != i)[k - 1]

    def inside(points: np.ndarray, z: np.ndarray) -> list[list[bool]]:
        return [[np.linalg.norm(p - z[i]) <= radius(z, i) for i in range(len(z))] for p in points]

    in_x, in_y = np.array(inside(y, x)), np.array(inside(x, y))
    return in_x.any(1).mean(), in_y.any(1).mean(), in_x.sum() / (k * len(y)), in_x.any(0).mean()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
def test_equals_the_definitions(k: int, shift: float) -> None:
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(14, 3)), rng.normal(shift, 1.5, size=(9, 3))
    distances = squared_distances(x, y)
    found = neighbour_coverage(distances, np.arange(14), 14 + np.arange(9), k=k)
    assert tuple(found) == pytest.approx(naive(x, y, k))
    root = neighbour_coverage(np.sqrt(distances), np.arange(14), 14 + np.arange(9), k=k)
    assert root == found  # only the order of distances counts
    back = neighbour_coverage(distances, 14 + np.arange(9), np.arange(14), k=k)
    assert (back.precision, back.recall) == (found.recall, found.precision)


def test_the_same_set_covers_itself_and_a_far_one_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(20, 4))
    distances = squared_distances(np.concatenate([x, x]), x + 1000)
    same = neighbour_coverage(distances, np.arange(20), 20 + np.arange(20))
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    far = neighbour_coverage(distances, np.arange(20), 40 + np.arange(20))
    assert tuple(far) == (0, 0, 0, 0)


def test_density_and_coverage_have_their_expectation_under_one_law() -> None:
    # Naeem et al. 2020: density 1, coverage 1 - (N-1)…(N-k) / ((N+M-1)…(N+M-k)), whatever the law.
    rng, n, m, k = np.random.default_rng(1), 30, 20, 4
    found = [
        neighbour_coverage(squared_distances(rng.normal(size=(n, 2)), rng.normal(size=(m, 2))),
                           np.arange(n), n + np.arange(m), k=k)
        for _ in range(300)
    ]  # fmt: skip
    expected = 1 - np.prod([(n - i) / (n + m - i) for i in range(1, k + 1)])
    for values, truth in (([f.density for f in found], n / (n - 1)), ([f.coverage for f in found], expected)):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(300)


def test_collapse_is_seen_by_recall_and_not_by_precision() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 2))
    y = 0.02 * rng.normal(size=(60, 2))  # all of it in the middle of x
    found = neighbour_coverage(squared_distances(x, y), np.arange(60), 60 + np.arange(60))
    assert found.precision == 1
    assert found.recall < 0.1
    assert found.coverage < 0.3


def test_too_few_neighbours_have_no_value() -> None:
    distances = squared_distances(np.random.default_rng(3).normal(size=(10, 2)))
    assert all(np.isnan(neighbour_coverage(distances, np.arange(5), 5 + np.arange(5), k=5)))
    assert not any(np.isnan(neighbour_coverage(distances, np.arange(5), 5 + np.arange(5), k=4)))
    with pytest.raises(UsageError, match="1 or more"):
        neighbour_coverage(distances, np.arange(5), 5 + np.arange(5), k=0)


def test_neighbours_of_another_block_only() -> None:
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(16, 2)), np.repeat(np.arange(8), 2)
    distances, a, b = squared_distances(x), np.arange(10), np.arange(10, 16)
    found = neighbour_coverage(distances, a, b, k=2, labels=labels)
    radius = [sorted(distances[i, j] for j in a if labels[j] != labels[i])[1] for i in a]
    inside = np.array([[distances[i, j] <= radius[i] for i in a] for j in b])
    assert found.precision == inside.any(1).mean()
    assert found.density == pytest.approx(inside.sum() / 12)
    assert found.coverage == inside.any(0).mean()
    alone = neighbour_coverage(distances, a, b, k=2, labels=np.arange(16))
    assert alone == neighbour_coverage(distances, a, b, k=2)
    assert all(np.isnan(neighbour_coverage(distances, a, b, k=5, labels=labels)))  # 4 of other blocks in b


def test_near_duplicates_hide_a_law_from_itself_unless_blocks_are_known() -> None:
    rng = np.random.default_rng(5)
    rows = np.repeat(rng.normal(size=(24, 3)), 5, axis=0) + 0.01 * rng.normal(size=(120, 3))
    distances, a, b = squared_distances(rows), np.arange(60), np.arange(60, 120)
    assert neighbour_coverage(distances, a, b, k=3).coverage < 0.1
    assert neighbour_coverage(distances, a, b, k=3, labels=np.repeat(np.arange(24), 5)).coverage > 0.7
