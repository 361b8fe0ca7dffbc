"""Coordinates as colours: known regions come out apart, on one scale for all domains."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.domain.colour_maps import rgb_maps, robust_limits
from emvfm.domain.moments import streamed_moments
from emvfm.domain.pca import principal_components
from emvfm.errors import UsageError


def test_regions_of_a_synthetic_map_have_distinct_colours() -> None:
    rng = np.random.default_rng(0)
    region = np.zeros((16, 20), int)
    region[:, 10:], region[8:, :10], region[4:8, 12:] = 1, 2, 3
    centres = rng.normal(size=(4, 32))
    tokens = centres[region] + 0.05 * rng.normal(size=(16, 20, 32))
    rows = tokens.reshape(-1, 32)
    basis = principal_components(streamed_moments([rows]), 3)
    coordinates = basis.transform(rows)
    colours = rgb_maps(coordinates.reshape(16, 20, 3), robust_limits([coordinates]))
    assert colours.shape == (16, 20, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    means = [colours[region == r].mean(axis=0) for r in range(4)]
    spread = max(colours[region == r].std(axis=0).max() for r in range(4))
    apart = min(np.linalg.norm(means[i] - means[j]) for i in range(4) for j in range(i))
    assert apart > 0.3
    assert spread < 0.1


def test_one_scale_holds_for_all_domains() -> None:
    small, large = np.linspace(0, 1, 101)[:, None], np.linspace(3, 5, 2001)[:, None]
    limits = robust_limits([small, large], 0.01)
    np.testing.assert_allclose(limits[:, 0], [0.01, 4.98])
    assert rgb_maps([[4.98]], limits)[0, 0] == 1
    assert rgb_maps([[9.0]], limits)[0, 0] == 1
    assert rgb_maps([[0.01]], limits)[0, 0] == 0
    outlier = robust_limits([np.concatenate([np.zeros(99), [1e9]])[:, None]], 0.02)
    assert outlier[1, 0] < 1e9


def test_what_is_missing_shows() -> None:
    colours = rgb_maps([[0.5, np.nan], [np.nan, np.nan]], [[0, 0], [1, 1]])
    assert colours.shape == (2, 3)
    assert colours[0, [0, 2]].tolist() == [0.5, 0.5]
    assert np.isnan(colours[0, 1])
    assert np.isnan(colours[1]).all()
    assert rgb_maps([[7.0, 1.0, 2.0, 9.0]], [[7, 0, 0, 0], [7, 2, 2, 2]]).tolist() == [[0.5, 0.5, 1.0]]
    with pytest.raises(UsageError):
        robust_limits([np.ones((3, 3))], 0.5)
