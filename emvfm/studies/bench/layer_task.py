"""What a task must give for a layer to be chosen by it: scores, folds, and a score that does not see a fold.

The items of a task are what is scored one by one (queries, known pairs, rows with labels), each in one fold. A layer
is chosen for a fold by a score of the other folds alone, in which the rows of this fold are neither queries nor
candidates nor taught from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emvfm.representations.estimates import Estimate
from emvfm.studies.profiles import Profiles

__all__ = ["Beside", "ItemTask", "LayerTask"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Beside:
    """What knows no image, scored once for all layers on the same folds.

    Attributes
    ----------
    score
        None where its score is not defined.
    metric, difference
        The chosen layers less this, and by what measure.
    """

    name: str
    score: Estimate | None
    metric: str
    difference: Estimate

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON values."""
        score = None if self.score is None else self.score.to_json()
        return {
            "name": self.name,
            "score": score,
            "metric": self.metric,
            "difference": self.difference.to_json(),
        }


class LayerTask(Protocol):
    """One task on one set of rows; a table is what it makes of one layer.

    Attributes
    ----------
    metric, chance
        Its name, and what a representation that knows nothing scores; None where that is not known.
    unit_name
        What is left out together.
    units, n_units
        What is resampled for intervals, in the plural, and how many there are.
    items, folds
        How many are scored, in how many folds.
    sources
        Digests of what was read beside the profiles, by name.
    """

    @property
    def metric(self) -> str: ...
    @property
    def chance(self) -> float | None: ...
    @property
    def unit_name(self) -> str: ...
    @property
    def units(self) -> str: ...
    @property
    def n_units(self) -> int: ...
    @property
    def items(self) -> int: ...
    @property
    def folds(self) -> int: ...
    @property
    def sources(self) -> Mapping[str, str]: ...

    def evaluate(self, own: Profiles, /) -> Any:
        """Return the table of a layer."""

    def choose(self, own: Profiles, fold: int, /) -> float:
        """Return a number by which a layer is chosen, without this fold; higher is better."""

    def nested(self, tables: Sequence[Any], chosen: Rows) -> Any:
        """Return the table in which each fold is that of the layer chosen for it."""

    def replicates(self, tables: Sequence[Any], resamples: int, seed: int) -> Floats:
        """Return scores ``(tables, 1 + resamples)``: of all, then of units drawn, the same for all tables."""

    def beside(self, nested: Any, resamples: int, level: float, seed: int) -> Sequence[Beside]:
        """Return what knows no image."""


@dataclass(frozen=True)
class ItemTask:
    """A task whose tables have a row an item.

    Attributes
    ----------
    fold, unit
        ``(items,)``: fold of each item, and number of what is resampled.
    evaluate
        From profiles the scores ``(items, …)`` that :attr:`summarise` makes one number of.
    summarise
        From scores of items, and how often each counts ``(items,)``, a number.
    """

    metric: str
    chance: float | None
    fold: Rows
    unit: Rows
    unit_name: str
    evaluate: Callable[[Profiles], Floats]
    choose: Callable[[Profiles, int], float]
    summarise: Callable[[Floats, Floats], float]
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def folds(self) -> int:
        return int(self.fold.max()) + 1

    @property
    def items(self) -> int:
        return len(self.fold)

    @property
    def units(self) -> str:
        return f"values of {self.unit_name}"

    @property
    def n_units(self) -> int:
        return len(np.unique(self.unit))

    def nested(self, tables: Sequence[Floats], chosen: Rows) -> Floats:
        return np.stack(tables)[chosen[self.fold], np.arange(len(self.fold))]

    def replicates(self, tables: Sequence[Floats], resamples: int, seed: int) -> Floats:
        units, place = np.unique(self.unit, return_inverse=True)
        rng = np.random.default_rng(seed)
        even = np.full(len(units), 1 / len(units))
        drawn = np.empty((len(tables), resamples + 1))
        drawn[:, 0] = [self.summarise(table, np.ones(len(place))) for table in tables]
        for i in range(1, resamples + 1):
            weights = rng.multinomial(len(units), even)[place].astype(np.float64)
            drawn[:, i] = [self.summarise(table, weights) for table in tables]
        return drawn

    def beside(self, nested: Floats, resamples: int, level: float, seed: int) -> Sequence[Beside]:
        return ()
