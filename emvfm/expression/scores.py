"""Scores of models with intervals, differences between them, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.expression import correlation
from emvfm.expression.crossvalidation import FoldPredictions, Model
from emvfm.expression.resampling import (
    Draws,
    FoldSums,
    draw,
    replicate_correlations,
    replicate_skill,
    sum_blocks,
)
from emvfm.representations.estimates import Estimate, from_replicates

__all__ = ["Difference", "ModelScore", "Scores", "bootstrap_p", "score_models", "verdict"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ModelScore:
    """How well one model predicts expression.

    Attributes
    ----------
    pearson
        Over the tested spots of a fold pooled, gene by gene; mean over genes, then over folds.
    pearson_sections
        The same within each tested section.
    spearman
        As `pearson`.
    skill
        1 - squared error / that of the mean of training: mean over genes and folds; below 0 is worse than it.
    pearson_spots
        Over genes, for each spot; mean over spots. High for the mean of training too.
    undefined
        Genes times folds without a correlation, out of `correlations`; they count in no mean.
    folds
        `pearson` of each fold, None where no gene has one.
    chosen
        What was chosen in each fold.
    """

    name: str
    kind: str
    pearson: Estimate
    pearson_sections: float | None
    spearman: float | None
    skill: Estimate
    pearson_spots: float | None
    undefined: int
    correlations: int
    folds: tuple[float | None, ...]
    chosen: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "pearson": self.pearson.to_json(), "skill": self.skill.to_json()}


@dataclass(frozen=True)
class Difference:
    """One model minus another on the same genes and spots.

    Attributes
    ----------
    metric
        ``pearson``, or ``skill`` against the mean of training, which has no correlation.
    genes
        Genes times folds that both have a score for, out of how many.
    p_value, p_holm
        Two-sided, of the bootstrap; and after Holm's correction for all differences reported together.
    """

    first: str
    second: str
    metric: str
    estimate: Estimate
    genes: tuple[int, int]
    p_value: float
    p_holm: float
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return {**asdict(self), "estimate": self.estimate.to_json()}


@dataclass(frozen=True)
class Scores:
    """All models and their differences; and by gene, a row per fold, model and gene."""

    models: tuple[ModelScore, ...]
    differences: tuple[Difference, ...]
    genes: tuple[Mapping[str, Any], ...]


def verdict(first: str, second: str, estimate: Estimate, p_holm: float | None = None) -> str:
    """Say what a difference shows, in words.

    Parameters
    ----------
    p_holm
        Corrected for the number of differences, to be said where it takes back what the interval says.
    """
    if estimate.low is None or estimate.high is None:
        return f"{first} against {second}: cannot be told here ({estimate.method})"
    between = f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    if estimate.low <= 0 <= estimate.high:
        return f"no evidence that {first} beats {second} here: {between}"
    if p_holm is not None and p_holm > 1 - estimate.level:
        between += f", but not after Holm's correction (p {p_holm:.2g})"
    return f"{first} {'beats' if estimate.low > 0 else 'is worse than'} {second} here: {between}"


def bootstrap_p(replicates: Floats) -> float:
    """Return the two-sided p-value of no difference: twice the smaller share of replicates beyond 0."""
    known = replicates[np.isfinite(replicates)]
    if not len(known):
        return math.nan
    beyond = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return float(min(1.0, 2 * (beyond + 1) / (len(known) + 1)))


def _mean(values: ArrayLike) -> float | None:
    table = np.asarray(values, np.float64)
    known = table[np.isfinite(table)]
    return float(known.mean()) if len(known) else None


def _over_folds(values: Sequence[float | None]) -> float | None:
    return (
        None
        if any(v is None for v in values) or not values
        else float(np.mean([v for v in values if v is not None]))
    )


class _Scoring:
    """The folds with their sums over blocks, and draws that all models share."""

    def __init__(
        self, folds: Sequence[FoldPredictions], sections: Sequence[str], blocks: ArrayLike, n_genes: int,
        *, samples: int, level: float, seed: int,
    ) -> None:  # fmt: skip
        self.folds, self.level, self.seed = folds, level, seed
        self.sections = np.asarray(sections, str)
        numbers = np.asarray(blocks)
        self.blocks = [numbers[f.fold.test] for f in folds]
        strata = []
        for own, fold in zip(self.blocks, folds, strict=True):
            first = np.unique(own, return_index=True)[1]
            strata.append(self.sections[fold.fold.test][first])
        self.n_blocks = sum(map(len, strata))
        self.n = sum(len(f.fold.test) for f in folds)
        self.draws: Draws = draw(strata, [f.genes for f in folds], n_genes, samples=samples, seed=seed)
        self.sums: dict[str, list[FoldSums]] = {
            name: [
                sum_blocks(f.predicted[name].values, f.measured, f.trained_mean, own, f.genes)
                for f, own in zip(folds, self.blocks, strict=True)
            ]
            for name in folds[0].predicted
        }

    def estimate(self, replicates: Floats) -> Estimate:
        units = "blocks of spots, and genes"
        return from_replicates(
            float(replicates[0]), replicates[1:], units=units, n=self.n, n_units=self.n_blocks, level=self.level,
            seed=self.seed,
        )  # fmt: skip

    def one(self, model: Model) -> ModelScore:
        own = self.sums[model.name]
        correlations, used = replicate_correlations([own], self.draws)
        skill, _ = replicate_skill([own], self.draws)
        by_fold = [self._of_fold(f, model.name) for f in self.folds]
        known, of = (sum(n) for n in zip(*used, strict=True))
        return ModelScore(
            name=model.name,
            kind=model.kind,
            pearson=self.estimate(correlations[0]),
            pearson_sections=_over_folds([fold["sections"] for fold in by_fold]),
            spearman=_over_folds([fold["spearman"] for fold in by_fold]),
            skill=self.estimate(skill[0]),
            pearson_spots=_over_folds([fold["spots"] for fold in by_fold]),
            undefined=of - known,
            correlations=of,
            folds=tuple(fold["pearson"] for fold in by_fold),
            chosen=tuple(fold.predicted[model.name].chosen for fold in self.folds),
        )

    def _of_fold(self, fold: FoldPredictions, name: str) -> dict[str, float | None]:
        p, y = fold.predicted[name].values, fold.measured
        labels = self.sections[fold.fold.test]
        sections = [_mean(correlation.pearson(p[labels == s], y[labels == s])) for s in np.unique(labels)]
        return {
            "pearson": _mean(correlation.pearson(p, y)),
            "sections": _mean([math.nan if v is None else v for v in sections]),
            "spearman": _mean(correlation.spearman(p, y)),
            "spots": _mean(correlation.pearson_of_rows(p, y)),
        }

    def difference(self, first: Model, second: Model) -> Difference:
        metric = "skill" if second.features is None else "pearson"
        function = replicate_skill if metric == "skill" else replicate_correlations
        found, used = function([self.sums[first.name], self.sums[second.name]], self.draws)
        change = found[0] - found[1]
        estimate = self.estimate(change)
        known, of = (sum(n) for n in zip(*used, strict=True))
        p = bootstrap_p(change[1:]) if estimate.low is not None else math.nan
        says = verdict(first.name, second.name, estimate)
        return Difference(first.name, second.name, metric, estimate, (known, of), p, p, says)


def score_models(
    models: Sequence[Model],
    folds: Sequence[FoldPredictions],
    gene_names: Sequence[str],
    sections: Sequence[str],
    blocks: ArrayLike,
    pairs: Sequence[tuple[str, str]],
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Score models on the same folds, with intervals over blocks of spots and genes, and compare pairs of them.

    Parameters
    ----------
    gene_names
        Of all genes.
    sections, blocks
        Of all spots; blocks are drawn within their section.
    pairs
        Names of models: first minus second. P-values are not yet corrected for their number.
    """
    scoring = _Scoring(folds, sections, blocks, len(gene_names), samples=samples, level=level, seed=seed)
    of = {model.name: model for model in models}
    rows = []
    for fold in folds:
        for model in models:
            p, y = fold.predicted[model.name].values, fold.measured
            table = np.stack([
                correlation.pearson(p, y), correlation.spearman(p, y),
                correlation.determination(p, y, fold.trained_mean),
            ])  # fmt: skip
            for gene, values in zip(fold.genes, table.T, strict=True):
                r, rho, skill = (float(v) if np.isfinite(v) else None for v in values)
                rows.append({
                    "fold": fold.fold.name, "model": model.name, "gene": gene_names[gene], "pearson": r,
                    "spearman": rho, "skill": skill,
                })  # fmt: skip
    return Scores(
        tuple(scoring.one(model) for model in models),
        tuple(scoring.difference(of[a], of[b]) for a, b in pairs),
        tuple(rows),
    )
