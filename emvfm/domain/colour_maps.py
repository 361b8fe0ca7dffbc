"""Three coordinates of every patch as red, green and blue, with one scale for all images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["rgb_maps", "robust_limits"]

Floats = NDArray[np.float64]


def robust_limits(groups: Sequence[ArrayLike], quantile: float = 0.01) -> Floats:
    """Return ``(2, k)``: the coordinates that become 0 and 1, shared by all groups.

    Parameters
    ----------
    groups
        ``(n_i, k)`` coordinates of patches, one array a domain. The limits hold between the lowest lower
        and the highest upper quantile of the groups, so that no domain is clipped because it is small.
    quantile
        Part of a group below the lower limit, and above the upper one.
    """
    if not 0 <= quantile < 0.5:
        raise UsageError("not a quantile", got=quantile, expected="0 to below 0.5")
    limits = np.stack(
        [np.quantile(np.asarray(g, np.float64), [quantile, 1 - quantile], axis=0) for g in groups]
    )
    return np.stack([limits[:, 0].min(axis=0), limits[:, 1].max(axis=0)])


def rgb_maps(coordinates: ArrayLike, limits: ArrayLike) -> Floats:
    """Return coordinates ``(..., 3)`` as colours in [0, 1]; fewer than three are filled up with one half.

    Parameters
    ----------
    coordinates
        ``(..., k)``, of which the first three count; NaN, such as padding, stays NaN.
    limits
        ``(2, k)`` from `robust_limits`; a coordinate without extent becomes one half.
    """
    values = np.asarray(coordinates, np.float64)[..., :3]
    low, high = np.asarray(limits, np.float64)[:, :3]
    extent = high - low
    scaled = np.where(extent > 0, (values - low) / np.where(extent > 0, extent, 1), 0.5)
    colours = np.where(np.isnan(values), np.nan, np.clip(scaled, 0, 1))
    missing = 3 - colours.shape[-1]
    if missing > 0:
        middle = np.where(np.isnan(colours[..., :1]), np.nan, 0.5)
        colours = np.concatenate([colours, *[middle] * missing], axis=-1)
    return colours
