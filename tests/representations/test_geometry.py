"""Geometry of representations: shapes whose dimension is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from emvfm.errors import UsageError
from emvfm.representations.geometry import (
    MEASURES,
    alignment,
    axes_for,
    describe,
    mean_cosine,
    participation_ratio,
    rank_me,
    stable_rank,
    top_share,
    two_nn,
    uniformity,
)


def with_variances(values: list[float], n: int = 50) -> np.ndarray:
    """Centred rows whose sample covariance is exactly diagonal, turned at random."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(n, len(values)))
    columns = np.linalg.qr(drawn - drawn.mean(0))[0]
    return columns * np.sqrt(values) @ np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]


def test_known_spectra_have_known_dimensions() -> None:
    even, uneven = with_variances([1.0] * 4), with_variances([8.0, 1, 1, 0])
    assert participation_ratio(even) == pytest.approx(4)
    assert participation_ratio(uneven) == pytest.approx(100 / 66)
    assert rank_me(even) == pytest.approx(4)
    shares = np.sqrt([8, 1, 1]) / np.sqrt([8, 1, 1]).sum()
    assert rank_me(uneven) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert stable_rank(uneven) == pytest.approx(10 / 8)
    assert top_share(uneven) == pytest.approx(0.8)
    assert [axes_for(uneven, share) for share in (0.5, 0.8, 0.9, 0.99)] == [1, 1, 2, 3]


def test_fewer_rows_than_dimensions_give_the_same_spectrum() -> None:
    x = np.random.default_rng(1).normal(size=(12, 40))
    values = np.linalg.eigvalsh(np.cov(x, rowvar=False))
    assert participation_ratio(x) == pytest.approx(values.sum() ** 2 / (values**2).sum())


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_two_nn_finds_the_dimension_of_a_bent_surface(dimension: int) -> None:
    rng = np.random.default_rng(2)
    flat = rng.uniform(size=(1500, dimension))
    bent = np.concatenate([flat, flat**2], axis=1) @ rng.normal(size=(2 * dimension, 20))
    assert two_nn(bent) == pytest.approx(dimension, rel=0.12)
    assert two_nn(np.concatenate([bent, bent[:300]])) == pytest.approx(two_nn(bent))


def test_uniformity_and_alignment_are_their_definitions() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(30, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    squared = ((unit[:, None] - unit) ** 2).sum(-1)
    above = np.triu_indices(30, 1)
    assert uniformity(x, block=7) == pytest.approx(np.log(np.exp(-2 * squared[above]).mean()), abs=1e-10)
    labels = np.arange(30) % 7
    same = (labels[:, None] == labels)[above]
    assert alignment(x, labels) == pytest.approx(squared[above][same].mean())
    assert alignment(x, labels, power=1) == pytest.approx(np.sqrt(squared[above][same]).mean())
    assert mean_cosine(x) == pytest.approx((unit @ unit.T)[above].mean())
    assert math.isnan(alignment(x, np.arange(30)))


def test_a_collapsed_representation_shows() -> None:
    x = np.full((40, 6), 0.1)
    assert uniformity(x) == pytest.approx(0, abs=1e-12)
    assert mean_cosine(x) == pytest.approx(1)
    assert rank_me(x) == pytest.approx(1, abs=1e-9)
    assert math.isnan(participation_ratio(x))
    assert math.isnan(two_nn(x))
    found = json.loads(json.dumps(describe(x).to_json(), allow_nan=False))
    assert found["measures"]["participation ratio"]["value"] is None


@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_rotation_does_not_matter(measure: str) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 6)) * [3, 2, 1, 1, 1, 0.1] + 1
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert MEASURES[measure](x @ rotation) == pytest.approx(MEASURES[measure](x), rel=1e-6)


def test_all_measures_come_with_intervals_from_groups() -> None:
    x = np.random.default_rng(5).normal(size=(120, 8))
    found = describe(x, labels=np.arange(120) % 10, groups=np.arange(120) // 6)
    assert set(found.measures) == {*MEASURES, "alignment"}
    for name in ("participation ratio", "rankme", "mean cosine", "alignment"):
        assert found.measures[name].low <= found.measures[name].value <= found.measures[name].high
    assert found == describe(x, labels=np.arange(120) % 10, groups=np.arange(120) // 6)


def test_what_has_no_geometry_is_refused() -> None:
    with pytest.raises(UsageError, match="not a representation"):
        participation_ratio(np.ones((2, 4)))
    with pytest.raises(UsageError, match="one label per row"):
        alignment(np.ones((5, 2)), [1, 2])
