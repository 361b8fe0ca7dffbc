"""Folds by protein: nothing crosses, labels are spread as evenly as a naive twin spreads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.folds import inner_split, make_folds, stratify


def _naive(labels: np.ndarray, k: int, seed: int) -> list[int]:
    """Sechidis et al. 2011, algorithm 1, read line by line: lists and loops, one row at a time."""
    rng = np.random.default_rng(seed)
    remaining = set(range(len(labels)))
    c = [len(labels) / k] * k
    c_label = [[labels[:, i].sum() / k for _ in range(k)] for i in range(labels.shape[1])]
    fold = [-1] * len(labels)
    while remaining:
        held = {i: [r for r in remaining if labels[r, i]] for i in range(labels.shape[1])}
        held = {i: rows for i, rows in held.items() if rows}
        label = min(held, key=lambda i: len(held[i])) if held else None
        for row in held[label] if label is not None else sorted(remaining):
            lack = c_label[label] if label is not None else c
            most = [j for j in range(k) if lack[j] == max(lack)]
            most = [j for j in most if c[j] == max(c[j] for j in most)]
            chosen = int(rng.choice(most))
            fold[row] = chosen
            remaining.discard(row)
            c[chosen] -= 1
            for i in np.flatnonzero(labels[row]):
                c_label[i][chosen] -= 1
    return fold


def _worst_gap(labels: np.ndarray, fold: np.ndarray, k: int) -> float:
    return float(
        np.mean([np.ptp([labels[fold == j, i].sum() for j in range(k)]) for i in range(labels.shape[1])])
    )


def test_single_rows_are_spread_like_the_papers_algorithm_does() -> None:
    own, twin, chance = [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels = rng.random((240, 8)) < np.geomspace(0.03, 0.6, 8)
        own.append(_worst_gap(labels, stratify(labels, np.ones(240), [0.2] * 5, seed=seed), 5))
        twin.append(_worst_gap(labels, np.array(_naive(labels, 5, seed)), 5))
        chance.append(_worst_gap(labels, rng.permutation(np.arange(240) % 5), 5))
    assert np.mean(own) <= 1.15 * np.mean(twin)
    assert np.mean(own) < 0.35 * np.mean(chance)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 9999), st.integers(2, 5), st.integers(5, 25), st.booleans(), st.sampled_from([1, 2]))
def test_every_row_is_tested_once_and_no_protein_crosses(seed, k, n_groups, grouped, order) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 5, n_groups))
    labels = (rng.random((n_groups, 4)) < 0.3)[groups]
    order_of_rows = rng.permutation(len(groups))
    groups, labels = groups[order_of_rows], labels[order_of_rows]
    folds = make_folds(labels, groups, k=k, grouped=grouped, order=order, seed=seed)
    assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(len(groups)))
    crossing = set()
    for train, test in folds:
        assert not set(train) & set(test)
        crossing |= set(groups[train]) & set(groups[test])
    assert folds.report.crossing_groups == len(crossing)
    assert folds.report.seen_rows == pytest.approx(np.isin(groups, list(crossing)).mean())
    if grouped:
        assert not crossing
    assert sum(folds.report.rows) == len(groups)
    np.testing.assert_array_equal(np.sum(folds.report.positives, axis=0), labels.sum(axis=0))
    assert folds.same_as(make_folds(labels, groups, k=k, grouped=grouped, order=order, seed=seed))


def test_an_inner_split_looks_at_training_rows_only_and_keeps_proteins_whole() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 3)
    labels = (rng.random((60, 4)) < 0.3)[groups]
    train, test = next(iter(make_folds(labels, groups)))
    fit, validation = inner_split(labels, groups, train, fraction=0.2)
    assert sorted([*fit, *validation]) == train.tolist()
    assert not set(groups[fit]) & set(groups[validation])
    assert abs(len(validation) / len(train) - 0.2) < 0.03
    other = labels.copy()
    other[test] = ~other[test]
    for a, b in zip((fit, validation), inner_split(other, groups, train, fraction=0.2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_opencell_proteins_with_four_fields_each(opencell: np.ndarray) -> None:
    proteins = opencell
    assert proteins.shape == (1310, 17)
    groups = np.repeat(np.arange(1310), 4)
    labels = proteins[groups]
    folds = make_folds(labels, groups, seed=1)
    assert folds.report.crossing_groups == 0
    assert folds.report.empty == ()
    assert np.ptp(folds.report.rows) < 0.05 * 1048  # labels come before sizes
    per_fold = np.array(folds.report.positives) / 4
    assert np.ptp(per_fold, axis=0)[labels.sum(axis=0) < 400].max() <= 2  # labels of fewer than 100 proteins
    second = make_folds(labels, groups, order=2, seed=1)
    pairs = [(i, j) for i in range(17) for j in range(i)]
    both = np.stack([proteins[:, i] & proteins[:, j] for i, j in pairs], axis=1)
    assert _worst_gap(both, second.fold[::4], 5) < _worst_gap(both, folds.fold[::4], 5)
    ungrouped = make_folds(labels, groups, grouped=False, seed=1)
    assert ungrouped.report.crossing_groups > 1200
    assert "cross folds" in ungrouped.report.text()
    assert "none in two folds" in folds.report.text()


def test_what_makes_no_folds_is_refused() -> None:
    with pytest.raises(UsageError, match="too few folds"):
        make_folds([[1], [0]], [0, 1], k=1)
    with pytest.raises(RefusedError, match="fewer groups than folds"):
        make_folds([[1], [0], [1]], [0, 0, 1], k=3)
    with pytest.raises(UsageError, match="one group a row"):
        make_folds([[1], [0]], [0, 1, 2])
    with pytest.raises(UsageError, match="shares"):
        stratify([[1]], [1], [0.5, 0.6])
    with pytest.raises(RefusedError, match="inner split"):
        inner_split([[1], [0]], [0, 0], [0, 1])
