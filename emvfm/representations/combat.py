"""ComBat: location and scale of each batch, shrunk towards what all features of the batch have in common.

Johnson, Li & Rabinovic 2007, doi:10.1093/biostatistics/kxj037, the parametric form, without covariates: it is
fitted on controls, which have none. The sums of squares it iterates on follow from means and variances.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError
from emvfm.representations.whitening import Affine

__all__ = ["combat_maps"]

Floats = NDArray[np.float64]


def _shrink(location: Floats, variance: Floats, n: int, *, tolerance: float = 1e-10) -> tuple[Floats, Floats]:
    """Return posterior locations and variances ``(D,)`` of one batch's standardised features."""
    prior_mean, prior_variance = location.mean(), location.var(ddof=1)
    m, s2 = variance.mean(), variance.var(ddof=1)
    if not (prior_variance > 0 and s2 > 0):
        raise RefusedError(
            "features of a batch do not differ, so there is nothing to shrink by", where="combat"
        )
    shape, rate = (2 * s2 + m**2) / s2, (m * s2 + m**3) / s2
    own, spread = location, variance
    for _ in range(1000):
        new = (prior_variance * n * location + spread * prior_mean) / (prior_variance * n + spread)
        squares = (n - 1) * variance + n * (location - new) ** 2
        wider = (0.5 * squares + rate) / (n / 2 + shape - 1)
        change = max(np.abs(new - own).max(), np.abs(wider - spread).max())
        own, spread = new, wider
        if change < tolerance:
            break
    return own, spread


def combat_maps(groups: dict[str, Floats]) -> dict[str, Affine]:
    """Return the map of each batch from its controls ``(n_b, D)``; features that do not vary stay as they are.

    Raises
    ------
    RefusedError
        Fewer than two features that vary, or features of a batch that do not differ.
    """
    n = sum(map(len, groups.values()))
    means = {batch: rows.mean(axis=0) for batch, rows in groups.items()}
    grand = sum((len(rows) * means[batch] for batch, rows in groups.items()), np.zeros(1)) / n
    pooled = (
        sum((((rows - means[batch]) ** 2).sum(axis=0) for batch, rows in groups.items()), np.zeros(1)) / n
    )
    varies = pooled > 1e-24 * np.maximum(grand**2, np.finfo(np.float64).tiny)
    if varies.sum() < 2:
        raise RefusedError(
            "fewer than two features vary among controls", where="combat", got=int(varies.sum())
        )
    scale = np.sqrt(pooled[varies])
    maps = {}
    for batch, rows in groups.items():
        location = (means[batch][varies] - grand[varies]) / scale
        variance = rows[:, varies].var(axis=0, ddof=1) / scale**2
        own, spread = _shrink(location, variance, len(rows))
        shift, factor, offset = np.zeros(len(grand)), np.ones(len(grand)), np.zeros(len(grand))
        shift[varies] = grand[varies] + scale * own
        factor[varies] = 1 / np.sqrt(spread)
        offset[varies] = grand[varies]
        maps[batch] = Affine(shift, factor, offset)
    return maps
