"""Mean average precision of groups of queries: against chance, with p- and q-values and intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from emvfm.errors import UsageError
from emvfm.representations.estimates import Estimate, bootstrap_mean
from emvfm.representations.nulls import BUDGET, Null, null_of_group, null_of_query, p_value
from emvfm.representations.ranking import Ranking

__all__ = ["GroupPrecision", "Retrieval", "mean_average_precision", "query_p_values"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupPrecision:
    """Mean average precision of the queries of one group.

    Parameters
    ----------
    group
        Its label.
    precision
        The mean with an interval over its queries, which are few and not independent: take it as a rough one.
    expected
        Mean over the same queries of what a random order scores.
    normalised
        Mean over the same queries of (AP - E) / (1 - E), which does not depend on how many positives there are.
    p_value, q_value
        Against random similarities; q by Benjamini & Hochberg over the groups.
    exact
        Whether all orders were gone through.
    """

    group: str
    precision: Estimate
    expected: float
    normalised: float
    p_value: float
    q_value: float
    exact: bool

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "precision": self.precision.to_json()}


@dataclass(frozen=True)
class Retrieval:
    """Mean average precision by group and over groups.

    Parameters
    ----------
    groups
        In order of their labels.
    overall
        Mean over groups of their precision, groups resampled.
    expected, normalised
        Mean over groups of what random orders score, and of the normalised precision, groups resampled.
    hits, expected_hits
        For each k the same two for the share of queries with a positive among the k nearest.
    left_out
        Queries without a positive, without a negative or without a group.
    draws, seed
        Of the nulls that are not exact.
    protocol
        Rules of the pairs, similarity and ties.
    """

    groups: tuple[GroupPrecision, ...]
    overall: Estimate
    expected: float
    normalised: Estimate
    hits: dict[int, Estimate]
    expected_hits: dict[int, float]
    left_out: int
    draws: int
    seed: int
    protocol: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {
            **asdict(self),
            "groups": [group.to_json() for group in self.groups],
            "overall": self.overall.to_json(),
            "normalised": self.normalised.to_json(),
            "hits": {str(k): estimate.to_json() for k, estimate in self.hits.items()},
            "expected_hits": {str(k): value for k, value in self.expected_hits.items()},
        }


def query_p_values(ranking: Ranking, *, draws: int = 9999, seed: int = 0, budget: int = BUDGET) -> Floats:
    """Return for each query how often a random order does at least as well; NaN without positives."""
    nulls: dict[tuple[int, int], Null] = {}
    found = np.full(len(ranking.queries), np.nan)
    known = ranking.known
    sizes = zip(ranking.n_positives.tolist(), ranking.n_candidates.tolist(), strict=True)
    for i, size in enumerate(sizes):
        if known[i]:
            if size not in nulls:
                nulls[size] = null_of_query(*size, draws=draws, seed=seed, budget=budget)
            null, exact = nulls[size]
            found[i] = p_value(ranking.average_precision[i], null, exact=exact)
    return found


def _members(labels: Sequence[Hashable], ranking: Ranking) -> dict[str, NDArray[np.intp]]:
    """Return for each group the places of its queries in the ranking, those with a score only."""
    own = [labels[query] for query in ranking.queries]
    members: dict[str, list[int]] = {}
    known = ranking.known
    for place, label in enumerate(own):
        text = "" if label is None else str(label).strip()
        if known[place] and text.lower() not in ("", "nan", "none", "<na>"):
            members.setdefault(text, []).append(place)
    return {label: np.array(members[label], np.intp) for label in sorted(members)}


def mean_average_precision(
    ranking: Ranking,
    labels: Sequence[Hashable],
    *,
    draws: int = 9999,
    seed: int = 0,
    budget: int = BUDGET,
    samples: int = 2000,
    level: float = 0.95,
) -> Retrieval:
    """Average the precision of queries by group and test each group against random similarities.

    Parameters
    ----------
    ranking
        Of :func:`~emvfm.representations.ranking.rank_queries`.
    labels
        Group of each query that the pairing has; those with a missing one are left out.
    draws, seed, budget
        Of the nulls, see :mod:`~emvfm.representations.nulls`.
    samples, level
        Of the bootstrap intervals.

    Raises
    ------
    UsageError
        When labels and rows differ in number, or no query with a positive has a group.
    """
    if len(labels) != ranking.pairing.n_queries:
        raise UsageError(
            "one group per query", where="groups", got=len(labels), expected=ranking.pairing.n_queries
        )
    members = _members(labels, ranking)
    if not members:
        raise UsageError(
            "no query with a positive has a group", where="groups", todo="check the column of groups"
        )
    nulls: dict[tuple[object, ...], Null] = {}
    scored = []
    for places in members.values():
        queries = ranking.queries[places]
        shared = ranking.pairing.masks(queries)[0][:, ranking.pairing.rows(queries)]
        m, n = ranking.n_positives[places].tolist(), ranking.n_candidates[places].tolist()
        key = (tuple(m), tuple(n), shared.tobytes())
        if key not in nulls:
            nulls[key] = null_of_group(shared, m, n, draws=draws, seed=seed, budget=budget)
        null, exact = nulls[key]
        value = float(ranking.average_precision[places].mean())
        scored.append((p_value(value, null, exact=exact), exact))
    normalised = ranking.normalised
    q_values = false_discovery_control([p for p, _ in scored], method="bh")
    groups = tuple(
        GroupPrecision(
            group=label,
            precision=bootstrap_mean(
                ranking.average_precision[places], units="queries", samples=samples, level=level, seed=seed
            ),
            expected=float(ranking.expected[places].mean()),
            normalised=float(normalised[places].mean()),
            p_value=p,
            q_value=float(q),
            exact=exact,
        )
        for (label, places), (p, exact), q in zip(members.items(), scored, q_values, strict=True)
    )
    n_queries = sum(map(len, members.values()))

    def over_groups(values: Floats) -> Estimate:
        means = [values[places].mean() for places in members.values()]
        return bootstrap_mean(means, units="groups", n=n_queries, samples=samples, level=level, seed=seed)

    return Retrieval(
        groups=groups,
        overall=over_groups(ranking.average_precision),
        expected=over_groups(ranking.expected).value,
        normalised=over_groups(normalised),
        hits={k: over_groups(values) for k, values in ranking.hits.items()},
        expected_hits={k: over_groups(values).value for k, values in ranking.expected_hits.items()},
        left_out=len(ranking.queries) - n_queries,
        draws=draws,
        seed=seed,
        protocol={**ranking.pairing.to_json(), "similarity": "cosine", "ties": "expectation"},
    )
