"""Twins of what copairs computes, written from its formulas (cytomining/copairs, compute.py and average_precision.py).

Lists of index pairs, similarities of gathered rows in batches, one long list sorted by query and similarity: the
way of the peer, with float64 for its float32 so that values can be compared. Ties keep positives first, as there.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np


def pairs_same(labels: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    found = []
    for label in np.unique(labels):
        found += list(combinations(np.flatnonzero(labels == label).tolist(), 2))
    pairs = np.array(found, np.int32).reshape(-1, 2)
    return pairs if apart is None else pairs[apart[pairs[:, 0]] != apart[pairs[:, 1]]]


def pairs_different(labels: np.ndarray, apart: np.ndarray | None = None) -> np.ndarray:
    found = []
    for one, two in combinations(np.unique(labels), 2):
        found += list(product(np.flatnonzero(labels == one).tolist(), np.flatnonzero(labels == two).tolist()))
    pairs = np.array(found, np.int32).reshape(-1, 2)
    return pairs if apart is None else pairs[apart[pairs[:, 0]] != apart[pairs[:, 1]]]


def pairwise_cosine(features: np.ndarray, pairs: np.ndarray, batch: int = 20_000) -> np.ndarray:
    found = np.empty(len(pairs))
    for start in range(0, len(pairs), batch):
        x, y = (features[pairs[start : start + batch, side]] for side in (0, 1))
        x = x / np.linalg.norm(x, axis=1)[:, None]
        y = y / np.linalg.norm(y, axis=1)[:, None]
        found[start : start + batch] = (x * y).sum(axis=1)
    return found


def average_precision(features: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Average precision of each row, NaN where it is in no pair."""
    sims = np.repeat(np.concatenate([pairwise_cosine(features, p) for p in (positive, negative)]), 2)
    labels = np.repeat([1, 0], [positive.size, negative.size])
    ix = np.concatenate([positive.ravel(), negative.ravel()])
    relevant = labels[np.lexsort([1 - sims, ix])]
    rows, counts = np.unique(ix, return_counts=True)
    starts = np.r_[0, np.cumsum(counts)[:-1]]
    n_positive = np.add.reduceat(relevant, starts)
    hits = np.cumsum(relevant) - np.repeat(np.r_[0, np.cumsum(n_positive)[:-1]], counts)
    k = np.arange(1, len(relevant) + 1) - np.repeat(starts, counts)
    found = np.full(len(features), np.nan)
    with np.errstate(invalid="ignore"):
        found[rows] = np.add.reduceat(hits / k * relevant, starts) / n_positive
    return found
