r"""Average precision and hits among the nearest, for every query, in memory of a few rows of the similarity matrix.

With M positives among N candidates in order of similarity, :math:`AP = \frac1M \sum_{k\ \mathrm{rel.}}
\mathrm{hits}(k) / k`. Among ties every order is equally likely, and what is returned is the expectation over them
(McSherry & Najork 2008, doi:10.1007/978-3-540-78646-7_38): identical embeddings score what a random order does,
neither one nor nought. Without ties it is the average precision of copairs (Kalinin et al. 2025,
doi:10.1038/s41467-025-60306-2), to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, gammaln

from emvfm.errors import UsageError
from emvfm.representations.pairing import Pairing
from emvfm.representations.ties import TOLERANCE, tie_groups

__all__ = ["Ranking", "expected_average_precision", "rank_queries", "unit_rows"]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Bytes that a block of similarities and its masks may take.
_BLOCK = 256 * 2**20
#: Positives up to which those of many queries are looked at together.
_FEW = 8
#: Similarities that are gone through again and again while they are near the processor.
_CACHED = 2**17


@dataclass(frozen=True)
class Ranking:
    """How well each query finds its positives; NaN for queries without a positive or without a negative.

    Parameters
    ----------
    queries
        ``(q,)`` queries that were asked for, of those that the pairing has; its ``rows`` says where they stand.
    average_precision, expected
        ``(q,)`` in [0, 1]: observed, and what a random order of the same candidates has on average.
    n_positives, n_candidates
        ``(q,)``; candidates are positives and negatives.
    hits, expected_hits
        For each k ``(q,)``: probability, over the order of ties, that a positive is among the k nearest, and the
        same for a random order.
    pairing
        The rules, as written.
    """

    queries: NDArray[np.intp]
    average_precision: Floats
    expected: Floats
    n_positives: Counts
    n_candidates: Counts
    hits: dict[int, Floats]
    expected_hits: dict[int, Floats]
    pairing: Pairing

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which queries ``(q,)`` have a score."""
        return np.isfinite(self.average_precision)

    @property
    def normalised(self) -> Floats:
        """(AP - E) / (1 - E) of each query: nought for a random order on average, one at best."""
        return (self.average_precision - self.expected) / (1 - self.expected)

    def to_json(self) -> dict[str, Any]:
        """Return columns as lists, None where a query has no value."""

        def listed(values: NDArray[Any]) -> list[Any]:
            return [None if value != value else value for value in values.tolist()]

        return {
            "protocol": {**self.pairing.to_json(), "similarity": "cosine", "ties": "expectation"},
            "n": len(self.queries),
            "queries": self.queries.tolist(),
            "average_precision": listed(self.average_precision),
            "expected": listed(self.expected),
            "n_positives": self.n_positives.tolist(),
            "n_candidates": self.n_candidates.tolist(),
            "hits": {str(k): listed(values) for k, values in self.hits.items()},
            "expected_hits": {str(k): listed(values) for k, values in self.expected_hits.items()},
        }


def unit_rows(x: ArrayLike) -> Floats:
    """Return the rows of `x` ``(n, D)`` at length one; a row of noughts stays, so it is similar to none.

    Raises
    ------
    UsageError
        When `x` is not a matrix of finite numbers.
    """
    values = np.asarray(x, np.float64)
    if values.ndim != 2 or not values.size:
        raise UsageError("not a set of embeddings", got=values.shape, expected="(n, D)")
    scale = np.abs(values).max(axis=1, keepdims=True)
    if not np.isfinite(scale).all():
        bad = int((~np.isfinite(values).all(axis=1)).sum())
        raise UsageError("embeddings are not finite", got=f"{bad} such rows of {len(values)}")
    values = values / np.where(scale > 0, scale, 1)  # squares of tiny or huge values would leave float64
    norms = np.sqrt(np.einsum("nd,nd->n", values, values))[:, None]
    values /= np.where(norms > 0, norms, 1)
    return values


def expected_average_precision(n_positives: ArrayLike, n_candidates: ArrayLike) -> Floats:
    r"""Return the mean average precision of a random order.

    .. math:: E = \frac{1}{N}\left[H_N + \frac{M - 1}{N - 1}(N - H_N)\right]

    NaN where there are no positives.
    """
    m, n = np.asarray(n_positives, np.float64), np.asarray(n_candidates, np.float64)
    safe = np.maximum(n, 1)
    harmonic = digamma(safe + 1) + np.euler_gamma
    value = (harmonic + (m - 1) / np.maximum(safe - 1, 1) * (safe - harmonic)) / safe
    return np.where(m > 0, value, np.nan)


def _probability_of_a_hit(k: Counts, positives: Counts, total: Counts) -> Floats:
    """Return how likely k draws without replacement from `total` find one of `positives`."""
    k = np.minimum(k, total)
    negatives = total - positives
    possible = k <= negatives
    rest = np.where(possible, negatives - k, 0)
    log_none = gammaln(negatives + 1) - gammaln(rest + 1) - gammaln(total + 1) + gammaln(total - k + 1)
    return np.where(possible, 1 - np.exp(np.minimum(log_none, 0)), 1.0) * (positives > 0)


def _score(positives: Floats, negatives: Floats, harmonic: Floats, ks: Sequence[int]) -> list[float]:
    """Return the expected average precision of one query and its hit at each k."""
    ties = tie_groups(-positives)  # the nearest first
    below, within = ties.count(-negatives)
    p = ties.sizes
    earlier = np.cumsum(p) - p
    before = below + earlier
    if int(within.sum()) == 0 and len(p) == len(positives):
        precision = ((earlier + 1) / (before + 1)).mean()
        return [float(precision), *(float(k > before[0]) for k in ks)]
    total = p + within
    between = np.where(total == 1, 1 / (before + 1), harmonic[before + total] - harmonic[before])
    # The j-th of t tied places holds a positive with p/t, and has (j-1)(p-1)/(t-1) tied positives before it.
    further = (p - 1) / np.maximum(total - 1, 1) * (total - (before + 1) * between)
    precision = (p / total * ((earlier + 1) * between + further)).sum() / len(positives)
    left = np.maximum(np.asarray(ks, np.int64) - before[0], 0)
    hits = _probability_of_a_hit(left, np.full_like(left, p[0]), np.full_like(left, total[0]))
    return [float(precision), *hits.tolist()]


def _score_untied(
    similarity: Floats, positives: Mask, negatives: Mask, m: Counts, ks: Sequence[int], scores: Floats
) -> list[int]:
    """Score the queries of a block that have few positives, none of them tied, into `scores`; return the others.

    Negatives are compared with one positive of all queries at a time, which costs less than a query at a time.
    """
    left = np.flatnonzero(m > _FEW).tolist()
    wanted = np.asarray(ks)
    step = max(1, _CACHED // similarity.shape[1])
    for count in np.unique(m[(m > 0) & (m <= _FEW)]).tolist():
        same = np.flatnonzero(m == count)
        place = np.arange(1, count + 1)
        for start in range(0, len(same), step):
            rows = same[start : start + step]
            own = similarity[rows]
            near = np.sort(own[positives[rows]].reshape(len(rows), count), axis=1)[:, ::-1]
            own[~negatives[rows]] = -np.inf
            above, reached = (
                np.stack(
                    [np.count_nonzero(own >= edge[:, None], axis=1) for edge in (near + shift).T], axis=1
                )
                for shift in (TOLERANCE, -TOLERANCE)
            )
            tied = (above != reached).any(axis=1) | (near[:, :-1] - near[:, 1:] <= TOLERANCE).any(axis=1)
            left += rows[tied].tolist()
            precision = (place / (above + place)).mean(axis=1)
            found = np.concatenate([precision[:, None], wanted > above[:, :1]], axis=1)
            scores[rows[~tied]] = found[~tied]
    return left


def rank_queries(
    features: ArrayLike,
    pairing: Pairing,
    *,
    queries: ArrayLike | None = None,
    ks: Sequence[int] = (1, 5, 10),
    block: int | None = None,
) -> Ranking:
    """Rank the candidates of each query by cosine similarity and score where its positives stand.

    Parameters
    ----------
    features
        ``(n, D)``; compared in float64. A row of noughts has similarity nought to every other.
    pairing
        Over the same n rows.
    queries
        Queries of the pairing to ask for, all by default; a query's row is a candidate for others either way.
    ks
        How many of the nearest to look for a positive in.
    block
        Queries at a time; by default what fits into 256 MiB.

    Raises
    ------
    UsageError
        When rows and metadata differ in number, features are not finite, or no query has a positive.
    """
    unit = unit_rows(features)
    n = len(unit)
    if n != pairing.n:
        raise UsageError("one row of metadata per embedding", where="metadata", got=pairing.n, expected=n)
    if not ks or min(ks) < 1:
        raise UsageError("not a number of neighbours", where="ks", got=list(ks), expected="1 or more")
    rows = np.arange(pairing.n_queries) if queries is None else np.asarray(queries, np.intp)
    harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, n + 1))]
    scores = np.full((len(rows), 1 + len(ks)), np.nan)
    counts = np.zeros((2, len(rows)), np.int64)
    step = block or max(1, _BLOCK // (n * 16))
    for start in range(0, len(rows), step):
        own = rows[start : start + step]
        positives, negatives = pairing.masks(own)
        similarity = unit[pairing.rows(own)] @ unit.T
        m = positives.sum(axis=1)
        counts[:, start : start + len(own)] = m, m + negatives.sum(axis=1)
        known = (m > 0) & (counts[1, start : start + len(own)] > m)  # else every order scores the same
        left = _score_untied(similarity, positives, negatives, np.where(known, m, 0), ks, scores[start:])
        for i in left:
            scores[start + i] = _score(similarity[i, positives[i]], similarity[i, negatives[i]], harmonic, ks)
    m, total = counts
    if not ((m > 0) & (total > m)).any():
        raise UsageError(
            "no query has a positive and a negative" if m.any() else "no query has a positive",
            where="pairs", got=pairing.text, todo="check rules and exclusions",
        )  # fmt: skip
    m = np.where(total > m, m, 0)
    expected_hits = {
        k: np.where(m > 0, _probability_of_a_hit(np.full_like(m, k), m, np.maximum(total, 1)), np.nan)
        for k in ks
    }
    return Ranking(
        queries=rows,
        average_precision=scores[:, 0],
        expected=expected_average_precision(m, total),
        n_positives=counts[0],
        n_candidates=total,
        hits={k: scores[:, 1 + i] for i, k in enumerate(ks)},
        expected_hits=expected_hits,
        pairing=pairing,
    )
