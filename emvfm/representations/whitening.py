"""Principal axes of controls that know their rank, and roots of covariances built on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError

__all__ = ["Affine", "Spectrum", "power", "spectrum"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """The map ``(x - shift) @ matrix + offset``; a matrix of one axis stands for a diagonal.

    Parameters
    ----------
    shift
        ``(D,)``.
    matrix
        ``(D, K)`` or ``(D,)``.
    offset
        ``(K,)``.
    """

    shift: Floats
    matrix: Floats
    offset: Floats

    def __call__(self, x: Floats) -> Floats:
        """Map rows ``(n, D)`` to ``(n, K)``."""
        moved = x - self.shift
        return (moved * self.matrix if self.matrix.ndim == 1 else moved @ self.matrix) + self.offset


@dataclass(frozen=True)
class Spectrum:
    """Variances along the principal axes of controls; axes without variance are not among them.

    Parameters
    ----------
    values
        ``(r,)`` variances, decreasing, positive.
    vectors
        ``(D, r)`` orthonormal.
    """

    values: Floats
    vectors: Floats

    @property
    def rank(self) -> int:
        """Axes that are kept."""
        return len(self.values)

    @property
    def condition(self) -> float:
        """Largest over smallest variance that is kept."""
        return float(self.values[0] / self.values[-1])

    def shrunk(self, shrinkage: float) -> Floats:
        """Return variances drawn towards their mean, by a share in [0, 1]."""
        return (1 - shrinkage) * self.values + shrinkage * self.values.mean()


def spectrum(centred: Floats, freedom: int, *, eps: float = 1e-6, components: int | None = None) -> Spectrum:
    """Return the axes of centred controls ``(n, D)`` with more than `eps` of the largest variance.

    n controls of D > n dimensions vary along n - 1 axes at most. Dividing the others by their variance, which is
    nothing but rounding, blows them up to most of the energy (EFAAR's TVN: 6e15 on the JUMP pilot).

    Parameters
    ----------
    freedom
        Rows less the means that were taken off, at least 1.
    components
        Most axes to keep.

    Raises
    ------
    RefusedError
        When the controls do not vary.
    """
    _, roots, axes = np.linalg.svd(centred, full_matrices=False)
    values = roots**2 / max(freedom, 1)
    rounding = len(centred) * np.finfo(np.float64).eps ** 2 * values[0] if len(values) else 0.0
    kept = values > max(eps * values[0], rounding) if len(values) else np.zeros(0, bool)
    if freedom < 1 or not kept.any() or not values[0] > 0:
        raise RefusedError(
            "controls do not vary, so nothing can be scaled by them",
            where="correction",
            got=f"{len(centred)} controls",
            todo="give more controls, or correct with none or center",
        )
    most = min(int(kept.sum()), components or len(values))
    return Spectrum(values[:most], axes[:most].T)


def power(covariance: Floats, exponent: float) -> Floats:
    """Return a symmetric positive definite matrix ``(K, K)`` to a real power."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.clip(values, np.finfo(np.float64).tiny, None) ** exponent) @ vectors.T
