"""Recall of known relations: are annotated pairs of entities found at the ends of the distribution of similarity?

As in EFAAR (Celik et al. 2024, doi:10.1371/journal.pcbi.1012463): the similarities of all pairs of entities are the
null, and a known pair is recalled when its percentile is at most l or at least u. A random map recalls l + 1 - u.
A pair tied with others holds any of their percentiles with equal chance, so that a collapsed map scores what a
random one does, not nought as there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.representations.estimates import Estimate, from_replicates
from emvfm.representations.ranking import unit_rows
from emvfm.representations.ties import tie_groups

__all__ = ["Recall", "Relation", "pair_percentiles", "relation_recall", "tail_shares", "unique_pairs"]

Floats = NDArray[np.float64]
#: Source of the annotation and the two entities.
Relation = tuple[str, str, str]
_BLOCK = 64 * 2**20


@dataclass(frozen=True)
class Recall:
    """How many known pairs of one source stand at the ends of the distribution.

    Parameters
    ----------
    source, lower, upper
        Annotation, and the percentiles l and u in [0, 1] that bound the ends.
    both, left, right
        Recall at either end, at the lower and at the upper end; intervals by resampling entities.
    expected, expected_left, expected_right
        Of a random map: l + 1 - u, l, 1 - u.
    n_pairs, n_entities
        Known pairs that are in the map, and the entities in them.
    n_null, absent
        All pairs of the map; known pairs of which an entity is not in it.
    """

    source: str
    lower: float
    upper: float
    both: Estimate
    left: Estimate
    right: Estimate
    expected: float
    expected_left: float
    expected_right: float
    n_pairs: int
    n_entities: int
    n_null: int
    absent: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        ends = {name: getattr(self, name).to_json() for name in ("both", "left", "right")}
        return {**asdict(self), **ends, "protocol": "all pairs of the map, cosine, ties by expectation"}


def pair_percentiles(features: ArrayLike, pairs: ArrayLike) -> tuple[Floats, Floats]:
    """Return between which percentiles of all pairs' cosine similarity each of `pairs` stands.

    Parameters
    ----------
    features
        ``(n, D)``, one row an entity.
    pairs
        ``(q, 2)`` rows, never a row with itself.

    Returns
    -------
    arrays
        ``(q,)`` share of pairs below, and share below or tied (the pair itself among them), in [0, 1].

    Notes
    -----
    Exact, in one pass over blocks of rows: only the `pairs` are held, not the n² similarities.
    """
    unit = unit_rows(features)
    known = np.asarray(pairs, np.intp).reshape(-1, 2)
    if (known[:, 0] == known[:, 1]).any():
        raise UsageError("an entity paired with itself", where="pairs")
    n = len(unit)
    step = max(1, _BLOCK // (n * 8))
    size = max(1, _BLOCK // (unit.shape[1] * 8))
    parts = [known[start : start + size].T for start in range(0, len(known), size)]
    values = np.concatenate([np.einsum("qd,qd->q", unit[a], unit[b]) for a, b in parts])
    ties = tie_groups(values)
    below, within = np.zeros((2, len(ties.sizes)), np.int64)
    for start in range(0, n, step):
        similarity = unit[start : start + step] @ unit[start:].T
        counted = ties.count(similarity[np.triu(np.ones(similarity.shape, bool), 1)])
        below += counted[0]
        within += counted[1]
    total = n * (n - 1) / 2
    return below[ties.group] / total, (below + within)[ties.group] / total


def tail_shares(low: Floats, high: Floats, lower: float, upper: float) -> tuple[Floats, Floats]:
    """Return how likely each pair is in the left and the right end, its percentile being even in [low, high]."""
    width = np.maximum(high - low, 1e-300)
    return np.clip((lower - low) / width, 0, 1), np.clip((high - upper) / width, 0, 1)


def unique_pairs(entities: Sequence[str], relations: Iterable[Relation]) -> dict[str, NDArray[np.intp]]:
    """Return the undirected pairs ``(q, 2)`` of each source that are in the map, each once, without self pairs."""
    return _known_pairs(entities, relations)[0]


def _known_pairs(
    entities: Sequence[str], relations: Iterable[Relation]
) -> tuple[dict[str, NDArray[np.intp]], dict[str, int]]:
    """Return the undirected pairs of each source once, without self pairs, and how many are not in the map."""
    rows = {name: row for row, name in enumerate(entities)}
    if len(rows) != len(entities):
        raise UsageError(
            "entities appear twice in the map", where="entities", todo="average their rows first"
        )
    pairs: dict[str, set[tuple[int, int]]] = {}
    absent: dict[str, set[tuple[str, str]]] = {}
    for source, one, two in relations:
        own = pairs.setdefault(source, set())
        missing = absent.setdefault(source, set())
        if one == two:
            continue
        if one in rows and two in rows:
            own.add((min(rows[one], rows[two]), max(rows[one], rows[two])))
        else:
            missing.add((min(one, two), max(one, two)))
    found = {source: np.array(sorted(own), np.intp).reshape(-1, 2) for source, own in pairs.items()}
    return found, {source: len(missing) for source, missing in absent.items()}


def _entity_bootstrap(scores: Floats, pairs: NDArray[np.intp], samples: int, seed: int) -> Floats:
    """Return ``(samples, k)`` means of `scores` ``(pairs, k)`` with entities drawn with replacement."""
    names, own = np.unique(pairs, return_inverse=True)
    own = own.reshape(pairs.shape)
    rng = np.random.default_rng(seed)
    even = np.full(len(names), 1 / len(names))
    found = np.full((samples, scores.shape[1]), np.nan)
    step = max(1, 2_000_000 // max(len(pairs), len(names)))
    for start in range(0, samples, step):
        drawn = rng.multinomial(len(names), even, size=min(step, samples - start))
        weights = drawn[:, own[:, 0]] * drawn[:, own[:, 1]]
        total = weights.sum(axis=1, keepdims=True)
        found[start : start + len(drawn)] = np.where(
            total > 0, weights @ scores / np.maximum(total, 1), np.nan
        )
    return found


def relation_recall(
    features: ArrayLike,
    entities: Sequence[str],
    relations: Iterable[Relation],
    *,
    ends: Sequence[tuple[float, float]] = ((0.05, 0.95), (0.1, 0.9)),
    least: int = 20,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Recall]:
    """Measure recall of known pairs by source, at each pair of percentiles.

    Parameters
    ----------
    features
        ``(n, D)``, one row an entity.
    entities
        Names of the rows, no name twice.
    relations
        Source and two names each; direction, repetition and pairs of one name do not count.
    ends
        Percentiles l < u.
    least
        Entities that a source's pairs must have in the map; other sources are left out.
    samples, level, seed
        Of the bootstrap over entities: pairs that share an entity are not independent. The null stays as it is.

    Raises
    ------
    UsageError
        Names twice, percentiles out of order, or no source with enough entities.
    """
    for lower, upper in ends:
        if not 0 <= lower <= upper <= 1:
            raise UsageError(
                "percentiles out of order", where="ends", got=(lower, upper), expected="0 <= l <= u <= 1"
            )
    if len(entities) != np.shape(features)[0]:
        raise UsageError(
            "one name per row", where="entities", got=len(entities), expected=np.shape(features)[0]
        )
    known, absent = _known_pairs(entities, relations)
    counts = {source: len(np.unique(pairs)) for source, pairs in known.items()}
    enough = {source: pairs for source, pairs in known.items() if len(pairs) and counts[source] >= least}
    if not enough:
        got = ", ".join(f"{source} {count}" for source, count in counts.items()) or "none"
        raise UsageError(
            "no source with enough entities", where="relations", got=got, expected=f"{least} in the map"
        )
    low, high = pair_percentiles(features, np.concatenate(list(enough.values())))
    results, start = [], 0
    n_null = len(entities) * (len(entities) - 1) // 2
    for source, pairs in enough.items():
        own = slice(start, start + len(pairs))
        start += len(pairs)
        for lower, upper in ends:
            left, right = tail_shares(low[own], high[own], lower, upper)
            scores = np.stack([left + right, left, right], axis=1)
            drawn = _entity_bootstrap(scores, pairs, samples, seed)
            both, at_left, at_right = (
                from_replicates(
                    float(scores[:, i].mean()),
                    drawn[:, i],
                    units="entities",
                    n=len(pairs),
                    n_units=counts[source],
                    level=level,
                    seed=seed,
                )
                for i in range(3)
            )
            results.append(
                Recall(
                    source=source,
                    lower=lower,
                    upper=upper,
                    both=both,
                    left=at_left,
                    right=at_right,
                    expected=lower + 1 - upper,
                    expected_left=lower,
                    expected_right=1 - upper,
                    n_pairs=len(pairs),
                    n_entities=counts[source],
                    n_null=n_null,
                    absent=absent[source],
                )
            )
    return results
