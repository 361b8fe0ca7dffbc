"""Mean and covariance of more embeddings than fit into memory, from an iterator of blocks.

Parts are merged by their means and centred sums of products, as in Chan, Golub & LeVeque (1983,
doi:10.1080/00031305.1983.10483115): nothing is ever squared before it is centred, so nothing cancels. The
time goes into one symmetric product a part; whatever else a part needs is done for many parts at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError

__all__ = ["Moments", "moments_of", "streamed_moments"]

#: Parts whose means are kept until they are merged.
_PARTS = 64


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
        scatter = np.outer(apart, apart * (self.n * other.n / n))
        scatter += self.scatter
        scatter += other.scatter
        return Moments(n, self.mean + apart * (other.n / n), scatter)


def moments_of(block: ArrayLike) -> Moments:
    """Return the moments of ``(n, D)`` embeddings of any float type.

    Embeddings in half or single precision are multiplied in single precision after centring, which takes half the
    time; a few thousand rows at a time that costs about 1e-7 of a standard deviation squared, far less than their
    own rounding. Sums over parts are double.
    """
    values = np.asarray(block)
    if values.ndim != 2 or not values.size:
        raise UsageError("not a set of embeddings", got=values.shape, expected="(n, D) with n >= 1")
    parts = _Parts(values.shape[1])
    parts.take(values.astype(_working_type(values)))
    return parts.merged()


def streamed_moments(blocks: Iterable[ArrayLike], rows: int = 8192) -> Moments:
    """Return the moments of all ``(n_i, D)`` blocks; at most `rows` embeddings are copied at a time.

    Small blocks are gathered first, because a product of few rows is slow.

    Raises
    ------
    UsageError
        No embeddings, different D, or values that are not finite.
    """
    found: Moments | None = None
    parts: _Parts | None = None
    for gathered in _gathered(blocks, rows):
        parts = parts or _Parts(gathered.shape[1])
        parts.take(gathered)
        if len(parts.counts) == _PARTS:
            found, parts = parts.merged(found), None
    if parts is not None:
        found = parts.merged(found)
    if found is None:
        raise UsageError("no embeddings")
    return found


def _working_type(block: NDArray[Any]) -> type[np.float32] | type[np.float64]:
    return np.float32 if block.dtype in (np.float16, np.float32) else np.float64


def _gathered(blocks: Iterable[ArrayLike], rows: int) -> Iterator[NDArray[Any]]:
    """Yield all rows in order, `rows` at a time and fewer at the end or where the type changes; each in one buffer."""
    buffer, filled = np.empty((0, 0), np.float32), 0
    for given in blocks:
        block = np.asarray(given)
        if block.ndim != 2:
            raise UsageError("not a set of embeddings", got=block.shape, expected="(n, D)")
        if buffer.size and block.shape[1] != buffer.shape[1]:
            raise UsageError("embeddings of different length", got=f"{buffer.shape[1]} and {block.shape[1]}")
        kind = _working_type(block)
        if buffer.dtype != kind or not buffer.size:
            if filled:
                yield buffer[:filled]
            buffer, filled = np.empty((rows, block.shape[1]), kind), 0
        start = 0
        while start < len(block):
            piece = block[start : start + rows - filled]
            buffer[filled : filled + len(piece)] = piece
            start, filled = start + len(piece), filled + len(piece)
            if filled == rows:
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


@dataclass
class _Parts:
    """Sums of products of some parts, each centred on its own mean, and those means."""

    width: int
    counts: list[int] = field(default_factory=list)
    means: list[NDArray[np.float64]] = field(default_factory=list)
    rests: list[NDArray[np.float64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scatter = np.zeros((self.width, self.width))

    def take(self, values: NDArray[Any]) -> None:
        """Add a part, whose `values` are centred in place."""
        ones = np.ones(len(values), values.dtype)
        near = ones @ values / len(values)
        if not np.isfinite(near).all():
            raise UsageError("embeddings are not finite")
        values -= near
        rest = (ones @ values).astype(np.float64) / len(values)  # what rounding left of the mean
        self.scatter += values.T @ values  # a matrix by itself: BLAS does half the work
        self.counts.append(len(values))
        self.means.append(near + rest)
        self.rests.append(rest)

    def merged(self, former: Moments | None = None) -> Moments:
        """Return the moments of all parts, and of what came before."""
        counts = np.array(self.counts, float)[:, None]
        mean = (counts * self.means).sum(axis=0) / counts.sum()
        between, within = np.sqrt(counts) * (self.means - mean), np.sqrt(counts) * self.rests
        scatter = self.scatter + between.T @ between - within.T @ within
        own = Moments(int(counts.sum()), mean, scatter)
        return own if former is None else former.merged(own)
