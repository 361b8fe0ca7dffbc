"""How long slices depend on each other: against processes whose length is known, and blocks that respect it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.signal import lfilter

from emvfm.domain.dependence import Dependence, blocks_of_length, dependence_length, joint_caveat
from emvfm.errors import UsageError


def stack(rng: np.random.Generator, n: int, rho: float, dimension: int = 4) -> np.ndarray:
    """Return ``(n, D)`` of a stationary first-order process of variance 1."""
    noise = rng.normal(size=(n, dimension))
    noise[0] /= np.sqrt(1 - rho**2)
    return lfilter([1], [1, -rho], noise, axis=0) * np.sqrt(1 - rho**2)


def measured(x: np.ndarray) -> float:
    found = dependence_length(x, ["v"] * len(x), range(len(x)))
    assert found is not None
    return found


@pytest.mark.parametrize(("n", "least", "most"), [(20, 0.6, 2.2), (92, 0.8, 1.6), (400, 0.85, 1.4)])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_it_is_that_of_a_known_process(rho: float, n: int, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    true = (1 + rho) / (1 - rho)
    assert least * true < np.median([measured(stack(rng, n, rho)) for _ in range(60)]) < most * true


def test_slow_changes_below_much_noise_are_seen_although_neighbours_hardly_correlate() -> None:
    rng = np.random.default_rng(1)
    slow = [stack(rng, 200, 0.95) + 1.5 * rng.normal(size=(200, 4)) for _ in range(30)]
    true = 1 + 2 * (0.95 / 0.05) / (1 + 1.5**2)
    lag_one = 0.95 / (1 + 1.5**2)
    assert (1 + lag_one) / (1 - lag_one) < 2  # what a first-order process would say
    assert 0.5 * true < np.median([measured(x) for x in slow]) < 1.5 * true


def test_what_it_does_not_depend_on() -> None:
    rng = np.random.default_rng(2)
    x = stack(rng, 60, 0.7)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    assert measured(3 * x @ turn + 5) == pytest.approx(measured(x))
    assert measured(x[::-1]) == pytest.approx(measured(x))
    order = rng.permutation(60)
    assert dependence_length(x[order], ["v"] * 60, order.tolist()) == pytest.approx(measured(x))
    assert dependence_length(
        np.repeat(x, 2, axis=0), ["v"] * 120, np.repeat(range(60), 2).tolist()
    ) == pytest.approx(measured(x))  # two tiles a slice


def test_stacks_are_apart_and_count_by_their_slices() -> None:
    rng = np.random.default_rng(3)
    a, b = stack(rng, 60, 0.8), stack(rng, 20, 0.2) + 100
    found = dependence_length(np.concatenate([a, b]), ["a"] * 60 + ["b"] * 20, [*range(60), *range(20)])
    assert found == pytest.approx((60 * measured(a) + 20 * measured(b)) / 80)


def test_what_can_not_be_told() -> None:
    x = np.random.default_rng(4).normal(size=(7, 3))
    assert dependence_length(x, ["v"] * 7, range(7)) is None
    assert dependence_length(x, ["v"] * 7, [None] * 7) == 1
    assert measured(np.ones((20, 3))) >= 1  # nothing changes at all
    with pytest.raises(UsageError, match="one volume"):
        dependence_length(x, ["v"] * 6, range(7))


def test_a_drift_is_as_long_as_the_stack() -> None:
    drift = np.linspace(-3, 3, 40)[:, None] + 0.1 * np.random.default_rng(5).normal(size=(40, 6))
    assert measured(drift) > 20


@pytest.mark.parametrize("length", [1, 3, 7, 10, 50])
def test_blocks_have_at_least_the_slices_asked_for(length: int) -> None:
    volumes, positions = ["v"] * 23 + ["w"] * 9, [*range(0, 46, 2), *range(9)]
    labels = np.array(blocks_of_length(volumes, positions, length))
    sizes = np.bincount(labels)
    assert all(size >= min(length, 23 if block in labels[:23] else 9) for block, size in enumerate(sizes))
    assert not set(labels[:23]) & set(labels[23:])
    assert (np.diff(labels[:23]) >= 0).all()
    assert np.ptp(np.bincount(labels[:23])[: labels[22] + 1]) <= 1


def test_blocks_without_places_stand_alone_and_tiles_together() -> None:
    labels = blocks_of_length(["v"] * 6, [None, 0, 0, 1, None, 1], 1)
    assert labels == [0, 1, 1, 2, 3, 2]
    with pytest.raises(UsageError, match="block-length"):
        blocks_of_length(["v"], [0], 0)


def test_it_says_what_is_too_short_and_what_would_do() -> None:
    long, short = Dependence("a", 3.0, 7, 8, 56), Dependence("b", 19.0, 10, 20, 200)
    assert (long.needed, long.enough, long.caveat) == (7, True, "")
    assert (short.needed, short.enough) == (55, False)
    assert "slices of b depend on each other over about 19" in short.caveat
    assert "--block-length 55" in short.caveat
    assert joint_caveat([long, short]) == short.caveat
    hopeless = Dependence("e", 19.0, 10, 9, 90).caveat
    assert "longest stack of 90 is too short" in hopeless
    assert "--block-length" not in hopeless
    assert Dependence("c", None, 2, 2, 4).enough
    assert Dependence("d", 1.0, 1, 30, 30).enough  # independent images are blocks of their own
    assert json.loads(json.dumps(short.to_json()))["caveat"] == short.caveat
