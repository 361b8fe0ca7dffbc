"""The sliced Wasserstein distance against scipy along every direction, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from emvfm.domain.transport import SlicedWasserstein
from emvfm.errors import UsageError


@pytest.mark.parametrize(("n", "m"), [(8, 8), (12, 9), (3, 10), (15, 5)])
def test_order_one_is_scipys_along_every_direction(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    joint = np.concatenate([rng.normal(size=(n, 4)), rng.normal(1, 2, size=(m, 4))])
    sliced = SlicedWasserstein(joint[:n], joint[n:], projections=25, order=1, seed=3)
    np.testing.assert_allclose(np.linalg.norm(sliced.directions, axis=1), 1)
    for a, b in ((np.arange(n), n + np.arange(m)), (rng.permutation(n + m)[:4], np.array([n, 0, n + 2]))):
        expected = [wasserstein_distance(joint[a] @ t, joint[b] @ t) for t in sliced.directions]
        np.testing.assert_allclose(sliced.per_projection(a, b), expected, rtol=1e-9)
        assert sliced(a, b) == pytest.approx(np.mean(expected))


def test_order_two_equals_transport_of_repeated_values() -> None:
    # Sets of 4 and 6 are sets of 12 with every value repeated: then it is plain sorting.
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(4, 3)), rng.normal(1, 1, size=(6, 3))
    sliced = SlicedWasserstein(x, y, projections=11)
    found = sliced.per_projection(np.arange(4), 4 + np.arange(6))
    for value, t in zip(found, sliced.directions, strict=True):
        a, b = np.sort(np.repeat(x @ t, 3)), np.sort(np.repeat(y @ t, 2))
        assert value == pytest.approx(((a - b) ** 2).mean())


def test_a_shift_is_its_length_over_the_root_of_the_dimension() -> None:
    x = np.random.default_rng(2).normal(size=(30, 16))
    shift = np.random.default_rng(3).normal(size=16)
    found = SlicedWasserstein(x, x + shift, projections=4000)(np.arange(30), 30 + np.arange(30))
    assert found == pytest.approx(np.linalg.norm(shift) / 4, rel=0.05)  # E (t·s)² = |s|² / D


@pytest.mark.parametrize("order", [1, 2])
def test_identity_symmetry_scale_and_seed(order: int) -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(10, 5)), rng.normal(size=(7, 5))
    a, b = np.arange(10), 10 + np.arange(7)
    sliced = SlicedWasserstein(x, y, order=order)
    assert sliced(a, a) == 0
    assert sliced(a, b) == pytest.approx(sliced(b, a), rel=1e-12)
    assert SlicedWasserstein(3 * x, 3 * y, order=order)(a, b) == pytest.approx(3 * sliced(a, b))
    assert SlicedWasserstein(x + 5, y + 5, order=order)(a, b) == pytest.approx(sliced(a, b))
    assert SlicedWasserstein(x, y, order=order)(a, b) == sliced(a, b)
    assert SlicedWasserstein(x, y, order=order, seed=1)(a, b) != sliced(a, b)


def test_what_it_refuses() -> None:
    with pytest.raises(UsageError, match="order"):
        SlicedWasserstein(np.ones((3, 2)), np.ones((3, 2)), order=3)
    with pytest.raises(UsageError, match="different length"):
        SlicedWasserstein(np.ones((3, 2)), np.ones((3, 3)))
