"""Runs that differ in nothing but their seed, together: their mean, and how it differs from another recipe's.

Cells of one test set and one recipe are averaged; recipes are compared on the seeds they share, or one by one
in the order of seeds if they share none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from emvfm.errors import UsageError
from emvfm.segmentation.cells import Cell
from emvfm.segmentation.comparison import exchange_test, holm, mean_of_runs, paired_difference
from emvfm.segmentation.evaluation_options import EvalConfig
from emvfm.segmentation.intervals import Estimate

__all__ = ["Difference", "RecipeScore", "compare_recipes", "mean_over_seeds"]


@dataclass(frozen=True)
class RecipeScore:
    """Runs of one recipe on one test set.

    Parameters
    ----------
    name
        Of the recipe, told apart from the others of the same call.
    seeds
        Of the runs, in rising order.
    iou, dice
        Mean over runs of the pooled score; seeds and blocks of slices are resampled together.
    spread
        Standard deviation of the runs' pooled IoU over seeds, None for a single run.
    """

    recipe: str
    name: str
    train: str
    test: str
    seeds: tuple[int, ...]
    iou: Estimate
    dice: Estimate
    spread: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Pooled IoU of one recipe minus that of another, on the same slices.

    Parameters
    ----------
    seeds
        Pairs of seeds, first and second.
    difference
        With an interval over seeds and blocks.
    p_value, p_corrected
        Of the test by exchange of blocks; corrected by Holm for all differences of the call.
    smallest
        The least p-value that so many blocks can give.
    """

    first: str
    second: str
    test: str
    seeds: tuple[tuple[int, int], ...]
    difference: Estimate
    p_value: float
    p_corrected: float
    smallest: float
    method: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


def _groups(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """Return the cells by recipe and test set, each group by seed; a run that is there twice counts once."""
    groups: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.recipe, cell.test), {})[cell.run] = cell
    return {key: sorted(group.values(), key=lambda c: c.seed) for key, group in groups.items()}


def _names(cells: Sequence[Cell]) -> dict[str, str]:
    """Return recipe → name: what it is, and a piece of its digest only where that does not tell it apart."""
    plain = {
        cell.recipe: ", ".join(part for part in (cell.train, cell.adaptation, cell.head) if part)
        for cell in cells
    }
    several = len({cell.backbone for cell in cells}) > 1
    if several:
        plain = {cell.recipe: f"{plain[cell.recipe]}, {cell.backbone}" for cell in cells}
    texts = list(plain.values())
    return {r: text if texts.count(text) == 1 else f"{text} ({r[:6]})" for r, text in plain.items()}


def _blocks(cells: Sequence[Cell]) -> list[int]:
    """Return the blocks of the slices that all cells share in one order; UsageError if they don't."""
    rows = [[(image.id, image.block) for image in cell.images] for cell in cells]
    if any(each != rows[0] for each in rows):
        raise UsageError("runs were not scored on the same slices", where=cells[0].test, todo="use --again")
    return [block for _, block in rows[0]]


def _options(config: EvalConfig) -> dict[str, Any]:
    return {"samples": config.samples, "level": config.level, "seed": config.seed}


def mean_over_seeds(cells: Sequence[Cell], config: EvalConfig) -> list[RecipeScore]:
    """Return one score a recipe and test set, in the order of the cells."""
    names, scores = _names(cells), []
    for (recipe, test), group in _groups(cells).items():
        counts = [[image.counts for image in cell.images] for cell in group]
        blocks = _blocks(group)
        values = [cell.iou.value for cell in group]
        scores.append(
            RecipeScore(
                recipe=recipe,
                name=names[recipe],
                train=group[0].train,
                test=test,
                seeds=tuple(cell.seed for cell in group),
                iou=mean_of_runs(counts, blocks, **_options(config)),
                dice=mean_of_runs(counts, blocks, statistic="dice", **_options(config)),
                spread=float(np.std(values, ddof=1)) if len(values) > 1 else None,
            )
        )
    return scores


def _pairs(first: Sequence[Cell], second: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    by_seed = {cell.seed: cell for cell in second}
    shared = [(cell, by_seed[cell.seed]) for cell in first if cell.seed in by_seed]
    return shared or list(zip(first, second, strict=False))


def compare_recipes(cells: Sequence[Cell], config: EvalConfig) -> list[Difference]:
    """Return how each recipe differs from the first one, on each test set that both were scored on."""
    names, groups, found = _names(cells), _groups(cells), []
    if not names:
        return []
    baseline, *others = names
    for recipe in others:
        for test in dict.fromkeys(cell.test for cell in cells):
            if (recipe, test) not in groups or (baseline, test) not in groups:
                continue
            pairs = _pairs(groups[recipe, test], groups[baseline, test])
            blocks = _blocks([cell for pair in pairs for cell in pair])
            first, second = ([[i.counts for i in pair[k].images] for pair in pairs] for k in (0, 1))
            tested = exchange_test(first, second, blocks, level=config.level, seed=config.seed)
            found.append(
                Difference(
                    first=names[recipe],
                    second=names[baseline],
                    test=test,
                    seeds=tuple((a.seed, b.seed) for a, b in pairs),
                    difference=paired_difference(first, second, blocks, **_options(config)),
                    p_value=tested.p_value,
                    p_corrected=tested.p_value,
                    smallest=tested.smallest,
                    method=tested.method,
                )
            )
    corrected = holm([each.p_value for each in found])
    return [replace(each, p_corrected=p) for each, p in zip(found, corrected, strict=True)]
