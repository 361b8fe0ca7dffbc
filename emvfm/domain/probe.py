r"""The domain probe: how well a classifier tells datasets apart by their image embeddings, and against what.

Cross-validation leaves out runs of neighbouring slices (`folds`); scaling and PCA are fitted on the training
rows of each fold. The null lets whole parts change places and refits everything. Two ends of one stack are probed the
same way: slices change along a stack, so that even these may be told apart, and a domain gap has to be more. The
p-value takes parts as exchangeable; where what lasts along a stack outlasts a block, it is too small, and
only the comparison with the two ends shows it.
The proxy A-distance is :math:`2 (1 - 2 \epsilon)` with the balanced error (Ben-David et al. 2010,
doi:10.1007/s10994-009-5152-4); it is negative where the error is beyond chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.classifier_scores import Estimate, ScoredRows, block_weights, interval, recalls
from emvfm.domain.folds import Fold, FoldPlan, count_relabellings, join_plans
from emvfm.domain.probe_results import DomainProbe, StackNull
from emvfm.errors import UsageError

__all__ = ["ProbeSettings", "out_of_fold", "probe_domains", "probe_one_stack"]

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is fitted and tested.

    Attributes
    ----------
    classifier
        ``linear``: logistic regression with L2 penalty and C = 1. ``knn``: votes of the nearest neighbours.
        Both weigh classes alike, whatever their size.
    neighbours
        That vote.
    pca
        Components kept after scaling; 0 keeps everything.
    permutations, draws
        Relabellings of parts for the null; bootstrap samples of blocks for the interval.
    level
        Coverage of the interval.
    """

    classifier: Literal["linear", "knn"] = "linear"
    neighbours: int = 5
    pca: int = 0
    permutations: int = 199
    draws: int = 1000
    level: float = 0.95
    seed: int = 0


def _prepared(x: Floats, fold: Fold, pca: int) -> tuple[Floats, Floats]:
    """Return scaled (and reduced) training and test rows, everything fitted on the training rows."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x[fold.train])
    learn, tested = scaler.transform(x[fold.train]), scaler.transform(x[fold.test])
    if pca:
        reduction = PCA(min(pca, *learn.shape), svd_solver="full").fit(learn)
        learn, tested = reduction.transform(learn), reduction.transform(tested)
    return learn, tested


def _linear(learn: Floats, tested: Floats, labels: Labels) -> Floats:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    return model.fit(learn, labels).predict_proba(tested)


def _nearest(learn: Floats, tested: Floats, labels: Labels, neighbours: int) -> Floats:
    from sklearn.neighbors import NearestNeighbors

    k = min(neighbours, len(learn))
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(learn)
    voters = labels[found.kneighbors(tested, return_distance=False)]
    rank = 1 - 1e-9 * np.arange(k)  # the nearer neighbour decides a tie
    sizes = np.bincount(labels)
    votes = np.stack([((voters == c) * rank).sum(axis=1) / size for c, size in enumerate(sizes)], axis=1)
    return votes / votes.sum(axis=1, keepdims=True)


def out_of_fold(x: ArrayLike, folds: Sequence[Fold], labels: ArrayLike, settings: ProbeSettings) -> Floats:
    """Return ``(N, K)`` probabilities of K classes, each row from a probe that saw neither it nor its neighbours.

    Parameters
    ----------
    x
        ``(N, D)``.
    folds
        See `folds.FoldPlan`.
    labels
        ``(N,)`` in 0 to K - 1.

    Notes
    -----
    Where the training rows of a fold lack a class, its rows can't be tested and are NaN.
    """
    rows, label = np.asarray(x, np.float64), np.asarray(labels, np.intp)
    if len(rows) != len(label):
        raise UsageError("rows and labels differ", got=f"{len(rows)} and {len(label)}")
    classes = int(label.max()) + 1
    result = np.full((len(rows), classes), np.nan)
    for fold in folds:
        if len(np.unique(label[fold.train])) < classes:
            continue
        learn, tested = _prepared(rows, fold, settings.pca)
        if settings.classifier == "linear":
            result[fold.test] = _linear(learn, tested, label[fold.train])
        else:
            result[fold.test] = _nearest(learn, tested, label[fold.train], settings.neighbours)
    return result


def _exchanged(
    x: Floats, plan: FoldPlan, of_part: Labels, order: Labels, settings: ProbeSettings
) -> tuple[Floats, Labels]:
    """Return probabilities and labels after parts have changed places; a place keeps its label."""
    label_of = np.empty_like(of_part)
    label_of[order] = of_part
    labels = label_of[plan.parts]
    return out_of_fold(x, plan.exchanged(order), labels, settings), labels


def _balanced_accuracy(probabilities: Floats, labels: Labels) -> float:
    right = recalls(probabilities, labels)
    return float(np.mean([right[labels == c].mean() for c in range(probabilities.shape[1])]))


def _against_rest(probabilities: Floats, labels: Labels, blocks: Labels) -> list[ScoredRows]:
    """Return one-against-the-rest scores of each class (of two classes, the second is enough)."""
    classes = probabilities.shape[1]
    guessed = np.nan_to_num(probabilities, nan=1 / classes)
    n_blocks = int(blocks.max()) + 1
    chosen = range(classes) if classes > 2 else [1]
    return [ScoredRows(guessed[:, c], labels == c, blocks, n_blocks) for c in chosen]


def _auroc(scored: Sequence[ScoredRows], weights: Floats | None = None) -> Floats:
    return np.mean([rows.auroc(weights) for rows in scored], axis=0)


def _reached(observed: float, null: Floats) -> float:
    return float((1 + (null >= observed - 1e-9).sum()) / (1 + len(null)))


def probe_domains(
    names: Sequence[str],
    vectors: Sequence[ArrayLike],
    plans: Sequence[FoldPlan],
    settings: ProbeSettings,
    *,
    within: Sequence[StackNull] = (),
) -> DomainProbe:
    """Probe whether K datasets can be told apart.

    Parameters
    ----------
    vectors
        ``(n_k, D)`` of each dataset.
    plans
        Of each dataset, see `folds.plan_folds`.
    within
        What `probe_one_stack` said of each dataset, for the verdict.
    """
    plan = join_plans(plans)
    x = np.concatenate([np.asarray(v, np.float64) for v in vectors])
    if not np.isfinite(x).all():
        raise UsageError("embeddings are not finite", where=" and ".join(names))
    counts, classes = [len(p) for p in plans], len(plans)
    y = np.repeat(np.arange(classes), counts)
    rng = np.random.default_rng(settings.seed)
    n_parts = [len(p.runs) for p in plans]
    of_part = np.repeat(np.arange(classes), n_parts)
    observed = out_of_fold(x, plan.folds, y, settings)
    null, null_auroc = np.empty(settings.permutations), np.empty(settings.permutations)
    for i in range(settings.permutations):
        permuted, labels = _exchanged(x, plan, of_part, rng.permutation(len(of_part)), settings)
        null[i] = _balanced_accuracy(permuted, labels)
        null_auroc[i] = _auroc(_against_rest(permuted, labels, plan.blocks))[0]
    right, scored = recalls(observed, y), _against_rest(observed, y, plan.blocks)
    accuracy = float(np.mean([right[y == c].mean() for c in range(classes)]))
    auroc = float(_auroc(scored)[0])
    n_blocks = [len(np.unique(p.blocks)) for p in plans]
    bounds = bounds_auroc = (None, None)  # type: tuple[float | None, float | None]
    if min(n_blocks) >= 3:
        of_class = [np.unique(plan.blocks[y == c]) for c in range(classes)]
        weights = block_weights(of_class, settings.draws, np.random.default_rng([settings.seed, 1]))
        correct = np.bincount(plan.blocks, weights=right)
        size = np.bincount(plan.blocks)
        resampled = np.mean(
            [(weights[:, b] @ correct[b]) / (weights[:, b] @ size[b]) for b in of_class], axis=0
        )
        bounds = interval(resampled, settings.level)
        bounds_auroc = interval(_auroc(scored, weights), settings.level)
    p_value = _reached(accuracy, null)
    tested = ~np.isnan(observed[:, 0])
    said = np.nan_to_num(observed).argmax(axis=1)
    confusion = [
        [int(((y == a) & (said == b) & tested).sum()) for b in range(classes)] for a in range(classes)
    ]
    distance = None
    if classes == 2:  # the error is 1 - balanced accuracy
        low, high = (None if b is None else 4 * b - 2 for b in bounds)
        distance = Estimate(4 * accuracy - 2, low, high, p_value)
    distinct, same = count_relabellings(n_parts)
    return DomainProbe(
        names=tuple(names),
        classifier=settings.classifier,
        balanced_accuracy=Estimate(accuracy, *bounds, p_value),
        auroc=Estimate(auroc, *bounds_auroc, _reached(auroc, null_auroc)),
        proxy_a_distance=distance,
        accuracy=float(right.mean()),
        majority_accuracy=max(counts) / sum(counts),
        chance=1 / classes,
        n=tuple(counts),
        blocks=tuple(n_blocks),
        parts=tuple(n_parts),
        tested=tuple(int(tested[y == c].sum()) for c in range(classes)),
        confusion=tuple(map(tuple, confusion)),
        within=tuple(within),
        dimension=x.shape[1],
        pca=settings.pca,
        neighbours=settings.neighbours if settings.classifier == "knn" else None,
        level=settings.level,
        permutations=settings.permutations,
        distinct=distinct,
        same=same,
        null=tuple(null.tolist()),
        null_auroc=tuple(null_auroc.tolist()),
        seed=settings.seed,
    )


def probe_one_stack(
    name: str, x: ArrayLike, plan: FoldPlan, settings: ProbeSettings, *, halvings: int = 20
) -> StackNull:
    """Probe two halves of one dataset: its two ends, and halves drawn from its parts at random.

    Parameters
    ----------
    x
        ``(N, D)``; `plan` gives the parts in their order along the stack.
    halvings
        How many random halves.
    """
    rows, n_parts = np.asarray(x, np.float64), len(plan.runs)
    ends: float | None = None
    random: list[float] = []
    tested = 0
    if n_parts >= 2:
        of_part = (np.arange(n_parts) >= (n_parts + 1) // 2).astype(np.intp)
        labels = of_part[plan.parts]
        probabilities = out_of_fold(rows, plan.folds, labels, settings)
        tested = int((~np.isnan(probabilities[:, 0])).sum())
        if 2 * tested >= len(plan):
            ends = _balanced_accuracy(probabilities, labels)
            rng = np.random.default_rng([settings.seed, 2])
            random = [
                _balanced_accuracy(*_exchanged(rows, plan, of_part, rng.permutation(n_parts), settings))
                for _ in range(halvings)
            ]
    return StackNull(
        name=name,
        classifier=settings.classifier,
        ends=ends,
        random=tuple(random),
        n=len(plan),
        tested=tested,
        parts=n_parts,
        seed=settings.seed,
    )
