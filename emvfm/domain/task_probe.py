"""The task probe: foreground or not, per patch, within a dataset and from one dataset to another.

A logistic regression on single patches asks whether the frozen embedding holds the task along one direction,
and whether that direction is the same for another dataset. Directions are compared in the space where every
dimension is divided by its pooled standard deviation within datasets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.classifier_scores import Estimate, ScoredRows, block_weights, interval
from emvfm.domain.folds import FoldPlan
from emvfm.domain.task_results import DirectionCosine, TaskCell, TaskProbe
from emvfm.errors import UsageError

__all__ = ["PatchSample", "TaskSettings", "balanced_patches", "probe_task", "task_directions"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TaskSettings:
    """How patches are chosen and probes tested.

    Attributes
    ----------
    foreground, background
        A patch with at least, at most this share of foreground is one or the other; others are left out.
    per_image, total
        Patches of an image, and of a dataset, at most; half of them foreground.
    draws, level
        Bootstrap samples of blocks for an interval, and its coverage.
    """

    foreground: float = 0.8
    background: float = 0.2
    per_image: int = 64
    total: int = 20_000
    draws: int = 500
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class PatchSample:
    """Patches with a label.

    Attributes
    ----------
    features
        ``(n, D)`` float32.
    labels
        ``(n,)`` bool: foreground.
    images
        ``(n,)``: position of the image among the dataset's.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.bool_]
    images: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.labels)


def balanced_patches(
    images: Iterable[tuple[ArrayLike, ArrayLike | None]], n_images: int, settings: TaskSettings
) -> PatchSample | None:
    """Draw equally many foreground and background patches of each image; the same ones for every layer.

    Parameters
    ----------
    images
        Of each image in turn: ``(n_i, D)`` patches and ``(n_i,)`` foreground shares in [0, 1], None without mask.
    n_images
        How many there are, to keep to the total.

    Returns
    -------
    PatchSample or None
        None where no image has both.
    """
    each = max(1, min(settings.per_image, settings.total // max(1, n_images)) // 2)
    features, labels, owners = [], [], []
    for i, (patches, shares) in enumerate(images):
        if shares is None:
            continue
        patches, share = np.asarray(patches), np.asarray(shares)
        if len(patches) != len(share):
            raise UsageError("one foreground share per patch", got=len(share), expected=len(patches))
        inside = np.flatnonzero(share >= settings.foreground)
        outside = np.flatnonzero(share <= settings.background)
        n = min(each, len(inside), len(outside))
        if n == 0:
            continue
        rng = np.random.default_rng([settings.seed, i])
        rows = np.concatenate([np.sort(rng.choice(rows, n, replace=False)) for rows in (inside, outside)])
        features.append(patches[rows].astype(np.float32))
        labels.append(np.repeat([True, False], n))
        owners.append(np.full(2 * n, i, np.intp))
    if not features:
        return None
    return PatchSample(np.concatenate(features), np.concatenate(labels), np.concatenate(owners))


def _fitted(sample: PatchSample, rows: NDArray[np.bool_] | None = None):  # type: ignore[no-untyped-def]
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = slice(None) if rows is None else rows
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000))
    return model.fit(sample.features[chosen].astype(np.float64), sample.labels[chosen])


def _own_scores(sample: PatchSample, plan: FoldPlan) -> Floats:
    """Return ``(n,)`` decision values out of fold, NaN where a fold has nothing to learn from."""
    scores = np.full(len(sample), np.nan)
    for fold in plan.folds:
        train, test = np.isin(sample.images, fold.train), np.isin(sample.images, fold.test)
        if test.any() and len(np.unique(sample.labels[train])) == 2:
            scores[test] = _fitted(sample, train).decision_function(sample.features[test].astype(np.float64))
    return scores


def _weights(rows: NDArray[np.intp], n_blocks: int, settings: TaskSettings) -> Floats | None:
    present = np.unique(rows)
    if len(present) < 3:
        return None
    weights = np.zeros((settings.draws, n_blocks))
    rng = np.random.default_rng([settings.seed, 3])
    weights[:, present] = block_weights([np.arange(len(present))], settings.draws, rng)
    return weights


def _estimate(measure, weights: Floats | None, level: float) -> Estimate:  # type: ignore[no-untyped-def]
    value = float(measure()[0])
    return Estimate(value) if weights is None else Estimate(value, *interval(measure(weights), level))


def _pooled_scale(samples: Sequence[PatchSample]) -> Floats:
    """Return ``(D,)``: standard deviation within datasets; 1 where a dimension is constant."""
    scale = np.sqrt(np.mean([s.features.astype(np.float64).var(axis=0) for s in samples], axis=0))
    scale[scale == 0] = 1
    return scale


def task_directions(
    samples: Sequence[PatchSample], rows: Sequence[NDArray[np.bool_]] | None = None
) -> Floats:
    """Return ``(K, D)`` unit vectors: the direction of the task in each dataset.

    All in the space where a dimension is divided by its standard deviation within datasets, pooled over the
    datasets. An L2 penalty acts in that space.

    Parameters
    ----------
    rows
        ``(n_k,)`` bool of each dataset: the patches to learn from; the scale is that of all patches.
    """
    scale = _pooled_scale(samples)
    chosen = [np.ones(len(s), bool) for s in samples] if rows is None else rows
    return np.stack([_direction(s, scale, r) for s, r in zip(samples, chosen, strict=True)])


def _direction(sample: PatchSample, scale: Floats, rows: NDArray[np.bool_]) -> Floats:
    from sklearn.linear_model import LogisticRegression

    x = sample.features[rows].astype(np.float64)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)
    weights = model.fit((x - x.mean(axis=0)) / scale, sample.labels[rows]).coef_[0]
    return weights / max(float(np.linalg.norm(weights)), 1e-300)


@dataclass(frozen=True)
class _Resampled:
    """The direction of one dataset: of all patches, without each part, and of its two halves."""

    full: Floats
    left_out: Floats | None
    halves: float | None


def _resampled(sample: PatchSample, plan: FoldPlan, scale: Floats) -> _Resampled:
    part = plan.parts[sample.images]
    present = np.unique(part)
    full = _direction(sample, scale, np.ones(len(sample), bool))
    if len(present) < 2:
        return _Resampled(full, None, None)
    # Every other part, so that both halves span the stack.
    odd = np.isin(part, present[1::2])
    first, second = (_direction(sample, scale, half) for half in (odd, ~odd))
    left_out = None
    if len(present) >= 3:
        left_out = np.stack([_direction(sample, scale, part != p) for p in present])
    return _Resampled(full, left_out, float(first @ second))


def _cosine(names: tuple[str, str], a: _Resampled, b: _Resampled, level: float) -> DirectionCosine:
    """Return the cosine of two directions with a Student interval from leaving out one part at a time."""
    from scipy.stats import t

    value = float(a.full @ b.full)
    low = high = None
    if a.left_out is not None and b.left_out is not None:
        variance, freedom = 0.0, 0
        for values in (a.left_out @ b.full, b.left_out @ a.full):
            variance += (len(values) - 1) / len(values) * float(((values - values.mean()) ** 2).sum())
            freedom += len(values) - 1
        margin = float(t.ppf((1 + level) / 2, freedom)) * variance**0.5
        low, high = max(-1.0, value - margin), min(1.0, value + margin)
    return DirectionCosine(names, value, low, high, (a.halves, b.halves), len(a.full))


def probe_task(
    names: Sequence[str],
    samples: Sequence[PatchSample],
    plans: Sequence[FoldPlan],
    settings: TaskSettings,
    *,
    target: str = "foreground",
    impossible: dict[str, str] | None = None,
) -> TaskProbe:
    """Train on each dataset, test on each.

    Parameters
    ----------
    samples, plans
        Of each dataset; a plan's rows are its images.
    target
        What the masks show, for the sentences.
    impossible
        Datasets that can't be probed, and why.
    """
    own = [_own_scores(s, p) for s, p in zip(samples, plans, strict=True)]
    models = [_fitted(s) for s in samples] if len(samples) > 1 else []
    cells = []
    for j, (sample, plan) in enumerate(zip(samples, plans, strict=True)):
        blocks = np.unique(plan.blocks, return_inverse=True)[1][sample.images]
        n_blocks, tested = int(blocks.max()) + 1, np.isfinite(own[j])
        weights = _weights(blocks, n_blocks, settings)
        by_own: ScoredRows | None = None
        if len(np.unique(sample.labels[tested])) == 2:
            by_own = ScoredRows(own[j][tested], sample.labels[tested], blocks[tested], n_blocks)
        for i in range(len(samples)):
            scored, difference = by_own, None
            if i != j:
                scores = models[i].decision_function(sample.features.astype(np.float64))
                scored = ScoredRows(scores, sample.labels, blocks, n_blocks)
                if by_own is not None:  # on the very same patches, and the same resamples of blocks
                    same = ScoredRows(scores[tested], sample.labels[tested], blocks[tested], n_blocks)
                    difference = _estimate(
                        lambda w=None, a=same, b=by_own: a.auroc(w) - b.auroc(w), weights, settings.level
                    )
            if scored is None:
                cells.append(TaskCell(names[i], names[j], None, None, None, None, 0, 0))
                continue
            measures = (scored.auroc, scored.balanced_accuracy, scored.average_precision)
            auroc, accuracy, precision = (_estimate(m, weights, settings.level) for m in measures)
            n, n_used = len(scored.scores), len(np.unique(scored.blocks))
            cells.append(TaskCell(names[i], names[j], auroc, accuracy, precision, difference, n, n_used))
    scale = _pooled_scale(samples)
    directions = [_resampled(s, p, scale) for s, p in zip(samples, plans, strict=True)]
    pairs = combinations(range(len(samples)), 2)
    return TaskProbe(
        names=tuple(names),
        target=target,
        cells=tuple(sorted(cells, key=lambda c: (names.index(c.train), names.index(c.test)))),
        cosines=tuple(
            _cosine((names[i], names[j]), directions[i], directions[j], settings.level) for i, j in pairs
        ),
        patches=tuple(len(s) for s in samples),
        images=tuple(len(np.unique(s.images)) for s in samples),
        foreground=settings.foreground,
        background=settings.background,
        level=settings.level,
        seed=settings.seed,
        impossible=dict(impossible or {}),
    )
