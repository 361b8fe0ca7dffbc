"""Enrichment of related rows among the nearest: odds ratios with Fisher's exact test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import false_discovery_control, hypergeom

from emvfm.errors import UsageError
from emvfm.representations.estimates import Estimate, bootstrap_mean
from emvfm.representations.pairing import Pairing
from emvfm.representations.ranking import unit_rows

__all__ = ["Enrichment", "expected_log_odds", "fisher_p_values", "neighbour_enrichment", "odds_ratios"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Enrichment:
    """Related rows among the nearest `share` of each query's candidates.

    Parameters
    ----------
    share
        Of the candidates that counts as near.
    log_odds
        Mean over queries of the natural logarithm of the odds ratio.
    expected
        The same for a random order. It is above nought where related rows are few: a query that finds none of two
        gets ½ for it, which is more than its share.
    excess
        `log_odds` less `expected`, query by query; nought is chance.
    odds_ratio
        Exponential of `log_odds`, a geometric mean.
    significant
        Share of queries with a q-value (Benjamini & Hochberg) of at most `alpha`.
    odds_ratios, p_values, q_values
        By query, None where it has no related or no unrelated candidate.
    """

    share: float
    alpha: float
    log_odds: Estimate
    expected: float
    excess: Estimate
    odds_ratio: float
    significant: Estimate
    odds_ratios: tuple[float | None, ...]
    p_values: tuple[float | None, ...]
    q_values: tuple[float | None, ...]
    protocol: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {
            **asdict(self),
            "log_odds": self.log_odds.to_json(),
            "excess": self.excess.to_json(),
            "significant": self.significant.to_json(),
        }


def odds_ratios(tables: ArrayLike) -> Floats:
    """Return (a d) / (b c) of tables ``(..., 4)`` of a, b, c, d; with a nought in one, ½ is added to its cells.

    The cells are near and related, near and not, far and related, far and not (Haldane 1956; Anscombe 1956).
    """
    cells = np.asarray(tables, np.float64)
    cells = cells + 0.5 * (cells == 0).any(axis=-1, keepdims=True)
    return cells[..., 0] * cells[..., 3] / (cells[..., 1] * cells[..., 2])


def expected_log_odds(near: int, related: int, candidates: int) -> float:
    """Return the mean logarithm of :func:`odds_ratios` when `near` of the candidates are drawn at random, exactly."""
    least, most = max(0, near + related - candidates), min(near, related)
    a = np.arange(least, most + 1)
    tables = np.stack([a, near - a, related - a, candidates - near - related + a], axis=1)
    weights = hypergeom.pmf(a, candidates, related, near)
    return float(weights @ np.log(odds_ratios(tables)) / weights.sum())


def fisher_p_values(tables: ArrayLike) -> Floats:
    """Return one-sided p-values of Fisher's exact test: as many near and related rows, or more."""
    a, b, c, d = np.moveaxis(np.asarray(tables, np.int64), -1, 0)
    return np.asarray(hypergeom.sf(a - 1, a + b + c + d, a + c, a + b), np.float64)


def neighbour_enrichment(
    features: ArrayLike,
    pairing: Pairing,
    *,
    share: float = 0.01,
    alpha: float = 0.05,
    groups: Sequence[object] | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    block: int = 256,
) -> Enrichment:
    """Count related rows (positives) among the nearest candidates of each row, by cosine similarity.

    Rows tied at the border are taken in random order (`seed`).

    Parameters
    ----------
    features
        ``(n, D)``.
    pairing
        Positives are the related rows, negatives the others.
    share
        In (0, 1); at least one candidate is near.
    groups
        Rows of one group count as one unit in the intervals, such as replicates of a compound.

    Raises
    ------
    UsageError
        For a share out of range, or when no row has both related and unrelated candidates.
    """
    if not 0 < share < 1:
        raise UsageError("not a share of candidates", where="share", got=share, expected="between 0 and 1")
    unit = unit_rows(features)
    n = len(unit)
    if n != pairing.n:
        raise UsageError("one row of metadata per embedding", where="metadata", got=pairing.n, expected=n)
    rng = np.random.default_rng(seed)
    tables = np.zeros((n, 4), np.int64)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        positives, negatives = pairing.masks(rows)
        similarity = np.round(unit[rows] @ unit.T, 12)
        for i, row in enumerate(rows):
            candidates = np.flatnonzero(positives[i] | negatives[i])
            related = positives[i, candidates]
            if not related.any() or related.all():
                continue
            near = max(1, round(share * len(candidates)))
            order = np.lexsort([rng.random(len(candidates)), -similarity[i, candidates]])
            a, m = int(related[order[:near]].sum()), int(related.sum())
            tables[row] = a, near - a, m - a, len(candidates) - near - m + a
    known = tables.sum(axis=1) > 0
    if not known.any():
        raise UsageError("no row has related and unrelated candidates", where="pairs", got=pairing.text)
    ratios, p_values = odds_ratios(tables[known]), fisher_p_values(tables[known])
    q_values = false_discovery_control(np.minimum(p_values, 1.0), method="bh")
    labels = np.arange(n) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    unit_of = np.unique(labels[known], return_inverse=True)[1]

    def mean_of_units(values: Floats) -> Estimate:
        means = np.bincount(unit_of, values) / np.bincount(unit_of)
        return bootstrap_mean(
            means,
            units="rows" if groups is None else "groups",
            n=int(known.sum()),
            samples=samples,
            level=level,
            seed=seed,
        )

    def by_query(values: Floats) -> tuple[float | None, ...]:
        spread = np.full(n, np.nan)
        spread[known] = values
        return tuple(None if value != value else value for value in spread.tolist())

    sizes = [(a + b, a + c, a + b + c + d) for a, b, c, d in tables[known].tolist()]
    by_size = {size: expected_log_odds(*size) for size in set(sizes)}
    expected = np.array([by_size[size] for size in sizes])
    log_odds = mean_of_units(np.log(ratios))
    return Enrichment(
        share=share,
        alpha=alpha,
        log_odds=log_odds,
        expected=mean_of_units(expected).value,
        excess=mean_of_units(np.log(ratios) - expected),
        odds_ratio=math.exp(log_odds.value),
        significant=mean_of_units((q_values <= alpha).astype(np.float64)),
        odds_ratios=by_query(ratios),
        p_values=by_query(p_values),
        q_values=by_query(q_values),
        protocol={**pairing.to_json(), "similarity": "cosine", "test": "Fisher exact, one-sided"},
    )
