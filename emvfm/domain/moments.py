"""Mean and covariance of more embeddings than fit into memory, from an iterator of blocks.

Parts are merged by their means and centred sums of products, as in Chan, Golub & LeVeque (1983,
doi:10.1080/00031305.1983.10483115): nothing is ever squared before it is centred, so nothing cancels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["Moments", "moments_of", "streamed_moments"]


@dataclass(frozen=True)
class Moments:
    """Of `n` embeddings: their mean ``(D,)`` and the centred sum of products ``(D, D)``, float64."""

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    def covariance(self, ddof: int = 1) -> NDArray[np.float64]:
        """Return ``(D, D)``; needs more embeddings than `ddof`."""
        if self.n <= ddof:
            raise UsageError(
                "too few embeddings for a covariance", got=self.n, expected=f"{ddof + 1} or more"
            )
        return self.scatter / (self.n - ddof)

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both together."""
        if len(self.mean) != len(other.mean):
            raise UsageError("embeddings of different length", got=f"{len(self.mean)} and {len(other.mean)}")
        n = self.n + other.n
        if n == 0:
            return self
        apart = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(apart, apart * (self.n * other.n / n))
        return Moments(n, self.mean + apart * (other.n / n), scatter)


def moments_of(block: ArrayLike) -> Moments:
    """Return the moments of ``(n, D)`` embeddings of any float type."""
    values = np.array(block, dtype=np.float64)  # a copy: it is centred in place
    if values.ndim != 2 or not values.size:
        raise UsageError("not a set of embeddings", got=values.shape, expected="(n, D) with n >= 1")
    mean = values.mean(axis=0)
    if not np.isfinite(mean).all():
        raise UsageError("embeddings are not finite")
    values -= mean
    return Moments(
        len(values), mean, values.T @ values
    )  # numpy sees one matrix and its transpose: half the work


def streamed_moments(blocks: Iterable[ArrayLike], rows: int = 8192) -> Moments:
    """Return the moments of all ``(n_i, D)`` blocks; at most `rows` embeddings are held in float64 at a time.

    Small blocks are gathered first, because a product of few rows is slow.

    Raises
    ------
    UsageError
        No embeddings, different D, or values that are not finite.
    """
    found: Moments | None = None
    waiting: list[np.ndarray] = []
    for given in blocks:
        block = np.asarray(given)
        if block.ndim != 2:
            raise UsageError("not a set of embeddings", got=block.shape, expected="(n, D)")
        width = waiting[0].shape[1] if waiting else len(found.mean) if found else block.shape[1]
        if block.shape[1] != width:
            raise UsageError("embeddings of different length", got=f"{width} and {block.shape[1]}")
        for start in range(0, len(block), rows):
            piece = block[start : start + rows]
            if waiting and sum(map(len, waiting)) + len(piece) > rows:
                found = _with(found, waiting)
                waiting = []
            waiting.append(piece)
    if waiting:
        found = _with(found, waiting)
    if found is None:
        raise UsageError("no embeddings")
    return found


def _with(found: Moments | None, waiting: list[np.ndarray]) -> Moments:
    part = moments_of(np.concatenate(waiting) if len(waiting) > 1 else waiting[0])
    return part if found is None else found.merged(part)
