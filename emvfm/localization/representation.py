"""What stands between embeddings and head: a scaler and principal components, of the fitted rows only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError

__all__ = ["Representation", "fit_representation"]

_ROWS = 16_384


@dataclass(frozen=True)
class Representation:
    """An affine map of embeddings.

    Attributes
    ----------
    mean, scale
        ``(D,)`` float64; 0 and 1 where nothing is standardised.
    centre, components
        ``(D,)`` and ``(K, D)`` float64 of the principal components, None without them.
    fitted_on
        Number of rows.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    centre: NDArray[np.float64] | None
    components: NDArray[np.float64] | None
    fitted_on: int

    @property
    def width(self) -> int:
        """Number of features that come out."""
        return len(self.mean) if self.components is None else len(self.components)

    def apply(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Map embeddings ``(N, D)`` to features ``(N, K)`` float32, a block of rows at a time."""
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            expected = f"(N, {len(self.mean)})"
            raise UsageError("other embeddings than fitted", got=embeddings.shape, expected=expected)
        features = np.empty((len(embeddings), self.width), np.float32)
        for start in range(0, len(embeddings), _ROWS):
            block = (embeddings[start : start + _ROWS] - self.mean) / self.scale
            if self.components is not None and self.centre is not None:
                block = (block - self.centre) @ self.components.T
            features[start : start + _ROWS] = block
        return features


def fit_representation(
    embeddings: NDArray[np.floating], *, standardise: bool = True, pca: int = 0
) -> Representation:
    """Fit the map on training rows.

    Parameters
    ----------
    embeddings
        ``(N, D)`` of the rows to fit on, and no others.
    standardise
        Whether each feature gets mean 0 and (biased) variance 1; a constant one stays as it is, centred.
    pca
        Principal components to keep, by scikit-learn; 0 for none.

    Raises
    ------
    UsageError
        When there are fewer rows or features than components.
    RefusedError
        When an embedding is not finite.
    """
    values = np.asarray(embeddings)
    if values.ndim != 2 or 0 in values.shape:
        raise UsageError("not a table of embeddings", got=values.shape, expected="(N, D)")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise RefusedError("embeddings are not finite", where="embeddings", got=f"{bad} rows that are not")
    n, width = values.shape
    mean, scale = np.zeros(width), np.ones(width)
    if standardise:
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(values)
        mean, scale = np.asarray(scaler.mean_, np.float64), np.asarray(scaler.scale_, np.float64)
    if not pca:
        return Representation(mean, scale, None, None, n)
    if pca > min(n - 1, width):
        got, expected = f"{pca} of {n} rows and {width} features", f"at most {min(n - 1, width)}"
        raise UsageError("too many components", where="pca", got=got, expected=expected)
    from sklearn.decomposition import PCA

    solver = "covariance_eigh" if n > width else "full"
    found = PCA(pca, svd_solver=solver).fit((values - mean) / scale)
    centre, components = np.asarray(found.mean_, np.float64), np.asarray(found.components_, np.float64)
    return Representation(mean, scale, centre, components, n)
