"""What positions say, against naive twins and arrangements with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.expression.structure import composition, own_type, place, spacing

RNG = np.random.default_rng(0)
XY = RNG.random((60, 2)) * 20
SECTIONS = ["a"] * 35 + ["b"] * 25
TYPES = RNG.choice(["x", "y", "z"], 60).tolist()


def _column(table: np.ndarray, names: tuple[str, ...], name: str) -> np.ndarray:
    return table[:, names.index(name)]


def test_neighbours_are_those_of_a_naive_count() -> None:
    table, names = spacing(*XY.T, SECTIONS, 2.0, radii=(1.5,), nearest=3)
    for i in range(60):
        others = [j for j in range(60) if j != i and SECTIONS[j] == SECTIONS[i]]
        distance = np.linalg.norm(XY[others] - XY[i], axis=1) / 2
        near = distance <= 1.5
        assert _column(table, names, "neighbours within 1.5")[i] == near.sum()
        off = np.linalg.norm((XY[others] - XY[i])[near].mean(axis=0) / 2) if near.any() else 0
        assert _column(table, names, "off the middle within 1.5")[i] == pytest.approx(off)
        assert np.allclose(table[i, 2:5], np.sort(distance)[:3])
        assert _column(table, names, "mean distance of neighbours")[i] == pytest.approx(
            np.sort(distance)[:3].mean()
        )


def test_the_inside_of_a_grid_has_four_neighbours_and_no_edge() -> None:
    x, y = np.meshgrid(np.arange(9.0), np.arange(9.0))
    table, names = spacing(x.ravel(), y.ravel(), ["s"] * 81, 1.0, radii=(1.1,))
    count, off = (
        _column(table, names, f"{what} within 1.1").reshape(9, 9) for what in ("neighbours", "off the middle")
    )
    assert (count[1:-1, 1:-1] == 4).all()
    assert count[0, 0] == 2
    assert np.allclose(off[1:-1, 1:-1], 0)
    assert off[0, 4] == pytest.approx(1 / 3)


@pytest.mark.parametrize("change", [lambda p: p + 100, lambda p: p[:, ::-1], lambda p: p * [-1, 1]])
def test_moving_turning_and_mirroring_change_no_spacing(change) -> None:
    one, _ = spacing(*XY.T, SECTIONS, 2.0)
    two, _ = spacing(*change(XY).T, SECTIONS, 2.0)
    assert np.allclose(one, two)


def test_the_unit_scales_out() -> None:
    assert np.allclose(spacing(*XY.T, SECTIONS, 2.0)[0], spacing(*(XY * 50).T, SECTIONS, 100.0)[0])


def test_composition_is_that_of_a_naive_count_without_the_cell_itself() -> None:
    places = XY.copy()
    places[1] = places[0]  # two cells on one another
    table, names = composition(*places.T, SECTIONS, TYPES, nearest=4)
    assert np.allclose(table[:, :3].sum(axis=1), 1)
    for i in range(2, 60):
        others = [j for j in range(60) if j != i and SECTIONS[j] == SECTIONS[i]]
        nearest = np.array(others)[np.argsort(np.linalg.norm(places[others] - places[i], axis=1))[:4]]
        shares = [np.mean([TYPES[j] == t for j in nearest]) for t in "xyz"]
        if sorted(np.linalg.norm(places[others] - places[i], axis=1))[3:5] != [0, 0]:
            assert np.allclose(table[i, :3], shares)
        assert table[i, 3] == pytest.approx(-sum(s * np.log(s) for s in table[i, :3] if s > 0))
    changed = list(TYPES)
    changed[7] = "y" if TYPES[7] != "y" else "z"
    assert np.allclose(composition(*places.T, SECTIONS, changed, nearest=4)[0][7], table[7])
    assert names == ("share of x", "share of y", "share of z", "entropy of types")


def test_a_type_is_one_column_and_a_place_is_from_the_middle() -> None:
    assert own_type(["b", "a", "b"])[0].tolist() == [[0, 1], [1, 0], [0, 1]]
    table, names = place(*XY.T, SECTIONS, 2.0)
    assert table.shape == (60, 9)
    assert np.allclose(place(*(XY + 1e3).T, SECTIONS, 2.0)[0], table)
    first = _column(table, names, "x^1 y^0")[:35]
    assert first.min() == pytest.approx(-first.max())


def test_small_sections_and_wrong_lengths() -> None:
    table, _ = spacing([0.0, 1.0, 5.0], [0.0, 0.0, 5.0], ["a", "a", "b"], 1.0)
    assert np.isfinite(table).all()
    assert np.isfinite(composition([0.0, 1.0, 5.0], [0.0] * 3, ["a", "a", "b"], list("xyx"))[0]).all()
    with pytest.raises(UsageError):
        spacing([0.0], [0.0], ["a", "b"], 1.0)
    with pytest.raises(UsageError):
        composition([0.0], [0.0], ["a"], ["x", "y"])
