"""Principal components of embeddings of any number, from their moments alone, in float64.

The moments come from a stream of blocks (`emvfm.domain.moments`), so memory is bounded and the result is the
exact PCA of all rows, not an incremental estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.moments import Moments
from emvfm.errors import UsageError

__all__ = ["Basis", "balanced_moments", "principal_components"]

Floats = NDArray[np.float64]


def balanced_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of several sets together, as if all had the same number of rows.

    A row of a set counts ``N / (K n_k)`` times for K sets of n_k rows and N in all, so that the weights
    add up to N; of sets of equal size these are the plain moments.
    """
    n = sum(part.n for part in parts)
    mean = np.mean([part.mean for part in parts], axis=0)
    scatter = np.zeros_like(parts[0].scatter)
    for part in parts:
        shift = part.mean - mean
        scatter += n / len(parts) * (part.scatter / part.n + np.outer(shift, shift))
    return Moments(n, mean, scatter)


@dataclass(frozen=True)
class Basis:
    """Principal components.

    Attributes
    ----------
    n
        Rows it was made from.
    mean
        ``(D,)``.
    components
        ``(k, D)``, orthonormal rows; the entry of largest size in each is positive.
    variances
        ``(k,)`` along them, falling, ddof 1.
    spectrum
        ``(D,)``: the variances along all components.
    """

    n: int
    mean: Floats
    components: Floats
    variances: Floats
    spectrum: Floats

    @property
    def shares(self) -> Floats:
        """``(k,)``: part of the whole variance along each component; zeros where nothing varies."""
        whole = float(self.spectrum.sum())
        return self.variances / whole if whole > 0 else np.zeros_like(self.variances)

    @property
    def effective_dimension(self) -> float:
        """Return the participation ratio: how many equal variances would be spread as the spectrum is."""
        squares = float((self.spectrum**2).sum())
        return float(self.spectrum.sum()) ** 2 / squares if squares > 0 else 0.0

    def needed_for(self, share: float) -> int:
        """Return how many components hold this part of the variance."""
        whole = np.cumsum(self.spectrum)
        return int(np.searchsorted(whole, share * whole[-1] * (1 - 1e-12)) + 1)

    def transform(self, rows: ArrayLike, *, whiten: bool = False) -> Floats:
        """Return ``(n, k)`` float64 coordinates of ``(n, D)`` rows; of variance 1 if whitened."""
        values = np.asarray(rows, np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.mean):
            raise UsageError(
                "not embeddings of this basis", got=values.shape, expected=f"(n, {len(self.mean)})"
            )
        coordinates = (values - self.mean) @ self.components.T
        if whiten:
            smallest = np.finfo(np.float64).eps * float(self.spectrum[0])
            coordinates /= np.sqrt(np.maximum(self.variances, smallest or 1.0))
        return coordinates


def principal_components(moments: Moments, components: int) -> Basis:
    """Return the first principal components.

    Parameters
    ----------
    moments
        Of two rows or more.
    components
        At most the smaller of rows and dimensions.

    Raises
    ------
    UsageError
        More components than there can be, or fewer than two rows.
    """
    n, dimension = moments.n, len(moments.mean)
    if n < 2:
        raise UsageError("too few embeddings for principal components", got=n, expected="2 or more")
    if not 1 <= components <= min(n, dimension):
        raise UsageError(
            "no such number of components",
            got=components,
            expected=f"1 to {min(n, dimension)} ({n} embeddings of {dimension} dimensions)",
        )
    values, vectors = np.linalg.eigh(moments.scatter / (n - 1))
    spectrum = np.clip(values[::-1], 0, None)
    found = vectors[:, ::-1].T[:components]
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    found = np.ascontiguousarray(found * np.where(largest < 0, -1.0, 1.0))
    return Basis(n, moments.mean, found, spectrum[:components].copy(), spectrum)
