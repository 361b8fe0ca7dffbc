"""Correlations of resampled blocks and genes, from sums over blocks; the same draws for every model.

Neighbouring spots say nearly the same, so whole blocks of them are drawn, within their sections; genes are drawn
as well, since other genes might have been chosen. Both at once is the bootstrap of crossed factors (Owen & Eckles
2012, doi:10.1214/12-AOAS547).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.expression.correlation import varies

__all__ = [
    "Draws",
    "FoldSums",
    "draw",
    "fold_correlations",
    "replicate_correlations",
    "replicate_skill",
    "sum_blocks",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FoldSums:
    """What the correlations of one fold and model are made of.

    Attributes
    ----------
    counts
        ``(B,)`` spots of each block.
    sums
        ``(5, B, G)``: of p, y, p², y² and p y, both centred and of unit variance.
    errors
        ``(2, B, G)``: squared errors of the prediction, and of the mean of training.
    genes
        ``(G,)`` positions among all genes.
    defined
        ``(G,)``: whether both sides vary over all blocks.
    """

    counts: Floats
    sums: Floats
    errors: Floats
    genes: NDArray[np.intp]
    defined: NDArray[np.bool_]


def sum_blocks(
    predicted: ArrayLike, measured: ArrayLike, trained_mean: ArrayLike, blocks: ArrayLike, genes: ArrayLike
) -> FoldSums:
    """Sum over the blocks of ``(N, G)`` predictions and measurements; blocks are in the order of their numbers."""
    p, y = np.asarray(predicted, np.float64), np.asarray(measured, np.float64)
    if p.shape != y.shape or len(np.asarray(blocks)) != len(p):
        raise UsageError("shapes do not fit", where="blocks", got=f"{p.shape}, {y.shape}")
    labels = np.unique(np.asarray(blocks), return_inverse=True)[1].reshape(-1)
    n = int(labels.max()) + 1
    errors = np.zeros((2, n, p.shape[1]))
    for part, guess in zip(errors, (p, np.asarray(trained_mean, np.float64)), strict=True):
        np.add.at(part, labels, (y - guess) ** 2)
    defined = varies(p) & varies(y)
    # Unit variance keeps the sums of squares far from rounding, and changes no correlation.
    p, y = (np.divide(v - v.mean(axis=0), v.std(axis=0), out=np.zeros_like(v), where=defined) for v in (p, y))
    sums = np.zeros((5, n, p.shape[1]))
    for part, values in zip(sums, (p, y, p * p, y * y, p * y), strict=True):
        np.add.at(part, labels, values)
    counts = np.bincount(labels, minlength=n).astype(np.float64)
    return FoldSums(counts, sums, errors, np.asarray(genes, np.intp), defined)


@dataclass(frozen=True)
class Draws:
    """How often each block of each fold, and each gene, is drawn.

    Attributes
    ----------
    blocks
        One a fold: ``(R, B)``; the first row has every block once.
    genes
        ``(R, all genes)``; the first row has every gene once.
    """

    blocks: tuple[Floats, ...]
    genes: Floats


def draw(
    strata: Sequence[ArrayLike],
    genes: Sequence[ArrayLike],
    n_genes: int,
    *,
    samples: int = 2000,
    seed: int = 0,
) -> Draws:
    """Draw blocks within their sections, and genes among those that are predicted in any fold.

    Parameters
    ----------
    strata
        For each fold the section of each of its blocks.
    genes
        For each fold the positions of its genes.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for labels in strata:
        own = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
        weights = np.ones((samples + 1, len(own)))
        for stratum in range(int(own.max()) + 1):
            places = np.flatnonzero(own == stratum)
            even = np.full(len(places), 1 / len(places))
            weights[1:, places] = rng.multinomial(len(places), even, size=samples)
        blocks.append(weights)
    used = np.unique(np.concatenate([np.asarray(g, np.intp) for g in genes]))
    drawn = np.zeros((samples + 1, n_genes))
    drawn[0, used] = 1
    drawn[1:, used] = rng.multinomial(len(used), np.full(len(used), 1 / len(used)), size=samples)
    return Draws(tuple(blocks), drawn)


def fold_correlations(sums: FoldSums, weights: Floats) -> Floats:
    """Return ``(R, G)`` correlations where blocks are drawn as ``(R, B)`` weights say, NaN where there is none."""
    n = (weights @ sums.counts)[:, None]
    p, y, pp, yy, py = (weights @ part for part in sums.sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.stack([pp / n - (p / n) ** 2, yy / n - (y / n) ** 2])
        found = (py / n - p * y / n**2) / np.sqrt(np.prod(variance, axis=0))
    # Variances are near 1; one of rounding only is a gene that does not vary in the blocks drawn.
    known = (variance > 1e-12).all(axis=0) & sums.defined
    return np.where(known, np.clip(found, -1, 1), np.nan)


def _skill(sums: FoldSums, weights: Floats) -> Floats:
    own, least = (weights @ part for part in sums.errors)
    return np.where(least > 0, 1 - own / np.where(least > 0, least, 1), np.nan)


def _replicates(
    models: Sequence[Sequence[FoldSums]], draws: Draws, score: Callable[[FoldSums, Floats], Floats]
) -> tuple[Floats, tuple[tuple[int, int], ...]]:
    total = np.zeros((len(models), len(draws.genes)))
    used = []
    for number, weights in enumerate(draws.blocks):
        parts = [folds[number] for folds in models]
        genes, found = parts[0].genes, np.zeros_like(total)
        step = max(1, 2_000_000 // max(len(genes), 1))
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            values = np.stack([score(part, weights[rows]) for part in parts])
            known = np.asarray(np.isfinite(values).all(axis=0))
            share = known * draws.genes[rows][:, genes]
            if start == 0:
                used.append((int(known[0].sum()), len(genes)))
            summed = (np.where(known, values, 0) * share).sum(axis=2)
            with np.errstate(invalid="ignore", divide="ignore"):
                found[:, rows] = summed / share.sum(axis=1)
        total += found
    return total / len(draws.blocks), tuple(used)


def replicate_correlations(
    models: Sequence[Sequence[FoldSums]], draws: Draws
) -> tuple[Floats, tuple[tuple[int, int], ...]]:
    """Return for each model the mean over folds of the mean over genes of the correlation, for every draw.

    Parameters
    ----------
    models
        For each model its folds. A gene counts in a fold only where every model given has a correlation, so that
        differences between models are of the same genes: give one model for its own score, two for a difference.

    Returns
    -------
    replicates
        ``(models, R)``; the first is the value, NaN where no gene is left in a fold.
    used
        For each fold how many genes count, and of how many.
    """
    return _replicates(models, draws, fold_correlations)


def replicate_skill(
    models: Sequence[Sequence[FoldSums]], draws: Draws
) -> tuple[Floats, tuple[tuple[int, int], ...]]:
    """Return the same of 1 - squared error / squared error of the mean of training, gene by gene."""
    return _replicates(models, draws, _skill)
