"""Expression as a task that a layer is chosen by: genes, folds, penalties and the choice itself by training spots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.expression import structure
from emvfm.expression.correlation import pearson
from emvfm.expression.crossvalidation import FoldPredictions, Model, cross_validate
from emvfm.expression.folds import Fold, block_folds
from emvfm.expression.regressors import HEADS, Head
from emvfm.expression.resampling import (
    Draws,
    FoldSums,
    draw,
    replicate_correlations,
    replicate_skill,
    sum_blocks,
)
from emvfm.representations.estimates import Estimate, from_replicates
from emvfm.studies.bench.corrections import CorrectionPlan, plan_of
from emvfm.studies.bench.layer_task import Beside
from emvfm.studies.bench.options import LayersOptions
from emvfm.studies.expression.design import Design, design_of
from emvfm.studies.expression.spots import Spots, join_spots
from emvfm.studies.profiles import Profiles

__all__ = ["ExpressionTask", "expression_task"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Sums = tuple[FoldSums, ...]
#: Inner folds for a choice of layers; more would cost as much again and choose hardly better.
_INNER = 3


@dataclass(frozen=True)
class ExpressionTask:
    """Prediction of expression from spots, as `bench expression` scores it; a table is a :class:`FoldSums` a fold.

    Attributes
    ----------
    together
        ``(N,)`` what is left out with each spot.
    buffer
        Kept free around a strip, in distances of neighbours.
    """

    spots: Spots
    design: Design
    together: NDArray[np.str_]
    head: Head
    plan: CorrectionPlan | None
    seed: int
    buffer: float

    metric = "Pearson per gene"
    #: What is learnt from the expression of other spots correlates with nothing.
    chance = 0.0
    units = "blocks of spots, and genes"

    @property
    def unit_name(self) -> str:
        return self.design.group

    @property
    def folds(self) -> int:
        return len(self.design.folds)

    @property
    def items(self) -> int:
        return sum(len(fold.test) for fold in self.design.folds)

    @property
    def n_units(self) -> int:
        return sum(map(len, self._strata))

    @property
    def sources(self) -> Mapping[str, str]:
        return {name: found for name, found in self.spots.sources.items() if name != self.spots.name}

    def evaluate(self, own: Profiles) -> Sums:
        return self._sums(
            self._predicted(Model("", "backbone", own.features[self.spots.rows], embedded=True))
        )

    def choose(self, own: Profiles, fold: int) -> float:
        """Return the mean correlation over folds of the training spots of a fold, genes chosen in each of them."""
        train = self.design.folds[fold].train
        model = Model("", "backbone", own.features[self.spots.rows[train]], embedded=True)
        found = cross_validate(
            [model], self.spots.expression[train], self._inner(train), np.asarray(self.spots.sections)[train].tolist(),
            self.design.blocks[train], self.head, self.design.choose, prepare=_prepare(self.plan, train), seed=self.seed,
        )  # fmt: skip
        scores = [pearson(one.predicted[""].values, one.measured) for one in found]
        known = [float(np.nanmean(score)) for score in scores if np.isfinite(score).any()]
        return float(np.mean(known)) if known else float("nan")

    def nested(self, tables: Sequence[Sums], chosen: Rows) -> Sums:
        return tuple(tables[layer][fold] for fold, layer in enumerate(chosen.tolist()))

    def replicates(self, tables: Sequence[Sums], resamples: int, seed: int) -> Floats:
        draws = self._draws(tables[0], resamples, seed)
        return np.concatenate([replicate_correlations([table], draws)[0] for table in tables])

    def beside(self, nested: Sums, resamples: int, level: float, seed: int) -> list[Beside]:
        """Return spacing and place of spots by correlation, and the mean of training, which has none, by skill."""
        draws = self._draws(nested, resamples, seed)

        def estimate(values: Floats) -> Estimate:
            return from_replicates(
                float(values[0]), values[1:], units=self.units, n=self.items, n_units=self.n_units, level=level,
                seed=seed,
            )  # fmt: skip

        found = []
        for model in self._baselines:
            both, _ = replicate_correlations([nested, self._sums(self._predicted(model))], draws)
            found.append(Beside(model.name, estimate(both[1]), self.metric, estimate(both[0] - both[1])))
        skill, _ = replicate_skill([nested], draws)
        return [*found, Beside("mean of training", None, "skill", estimate(skill[0]))]

    @cached_property
    def _baselines(self) -> list[Model]:
        where = (self.spots.x, self.spots.y, self.spots.sections)
        return [
            Model("spacing of spots", "structure", structure.spacing(*where, self.design.unit)[0]),
            Model("place in the section", "confound", structure.place(*where, self.design.unit)[0]),
        ]

    def _predicted(self, model: Model) -> tuple[FoldPredictions, ...]:
        return cross_validate(
            [model], self.spots.expression, self.design.folds, self.spots.sections, self.design.blocks, self.head,
            self.design.choose, prepare=_prepare(self.plan, None), seed=self.seed,
        )  # fmt: skip

    def _sums(self, folds: Sequence[FoldPredictions]) -> Sums:
        return tuple(
            sum_blocks(values.values, f.measured, f.trained_mean, self.design.blocks[f.fold.test], f.genes)
            for f in folds
            for values in f.predicted.values()
        )

    @cached_property
    def _strata(self) -> list[NDArray[np.str_]]:
        """Section of each block of each fold, in the order of their numbers."""
        sections = np.asarray(self.spots.sections)
        found = []
        for fold in self.design.folds:
            first = np.unique(self.design.blocks[fold.test], return_index=True)[1]
            found.append(sections[fold.test][first])
        return found

    def _draws(self, table: Sums, resamples: int, seed: int) -> Draws:
        genes = [fold.genes for fold in table]
        return draw(self._strata, genes, len(self.spots.genes), samples=resamples, seed=seed)

    def _inner(self, train: Rows) -> tuple[Fold, ...]:
        """Return folds of positions within `train`: of groups, else of sections, else strips."""
        for labels in (self.together[train], np.asarray(self.spots.sections)[train]):
            names, number = np.unique(labels, return_inverse=True)
            if len(names) > 1:
                part = number * min(_INNER, len(names)) // len(names)
                return tuple(
                    Fold(str(p), np.flatnonzero(part != p), np.flatnonzero(part == p))
                    for p in np.unique(part)
                )
        spots = self.spots
        where = (spots.x[train], spots.y[train], labels.tolist(), self.design.blocks[train], _INNER)
        try:
            return block_folds(*where, buffer=self.buffer * self.design.unit)
        except RefusedError:
            # No room for a buffer in a small section: a choice can do without, a test can not.
            return block_folds(*where)


def _prepare(plan: CorrectionPlan | None, rows: Rows | None) -> Callable[[Any, Rows], Any] | None:
    if plan is None:
        return None
    own = plan if rows is None else plan.take(rows)
    return lambda features, tested: own.fit(features, tested)[0]


def expression_task(profiles: Profiles, options: LayersOptions) -> ExpressionTask:
    """Return the task on tiles, of which only the facts matter.

    Raises
    ------
    UsageError, MissingError, RefusedError, CorruptError
        What options, counts or folds lack.
    """
    if options.aggregate:
        raise UsageError("spots are not averaged", where="--aggregate", got=", ".join(options.aggregate))
    spots = join_spots(profiles.facts, profiles.digest, profiles.name, options)
    design = design_of(spots, options, options.split, "--split")
    together = spots.sections if options.split is None else spots.column(options.split, "--split")
    plan = plan_of(profiles.facts, len(profiles), options)
    return ExpressionTask(
        spots=spots,
        design=design,
        together=np.asarray(together),
        head=Head(HEADS[options.head or "ridge"], pca=options.pca),
        plan=None if plan is None else plan.take(spots.rows),
        seed=options.seed,
        buffer=options.buffer,
    )
