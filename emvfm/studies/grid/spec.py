"""A study as its file states it: what is asked, what decides, and which runs answer. See `reading`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from emvfm.datasets.options import ComposeOptions
from emvfm.provenance import digest
from emvfm.segmentation.evaluation_options import EvalConfig

__all__ = ["Axis", "Claim", "Comparison", "Recipe", "Rule", "StudySpec", "Trend"]

Claim = Literal["not-lower", "lower", "higher", "same"]


@dataclass(frozen=True)
class Axis:
    """One dimension of the grid: labels in order, each with the options of ``train`` that it sets."""

    name: str
    values: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Comparison:
    """Two places on the same axes; what else varies in the grid is compared place by place."""

    first: Mapping[str, str]
    second: Mapping[str, str]
    test: str


@dataclass(frozen=True)
class Rule:
    """What decides, stated before the study runs.

    Parameters
    ----------
    subject
        What `first` is, as the subject of a sentence.
    metric
        ``iou`` or ``dice`` of foreground, pooled over test slices.
    claim
        Of first minus second: ``not-lower`` than -margin, ``lower`` than -margin, ``higher`` than +margin,
        or the ``same`` within the margin. It is shown, or refuted, when the whole interval says so.
    margin
        The least difference that matters.
    level
        Coverage of the intervals.
    shown, refuted
        What it means if the claim is shown, or refuted.
    """

    subject: str
    claim: Claim
    margin: float
    shown: str
    refuted: str
    compare: tuple[Comparison, ...]
    metric: Literal["iou", "dice"] = "iou"
    level: float = 0.95


@dataclass(frozen=True)
class Recipe:
    """How a dataset is composed; without sources it must be there."""

    sources: tuple[str, ...]
    options: ComposeOptions
    given: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of all that the file says of it."""
        return digest({"from": self.sources, **self.given})


@dataclass(frozen=True)
class Trend:
    """An axis as a quantity: the number that each label stands for."""

    axis: str
    title: str
    at: Mapping[str, float]


@dataclass(frozen=True)
class StudySpec:
    """A study's file, checked; `text` is the file as it stands."""

    name: str
    question: str
    rule: Rule
    data: Mapping[str, Recipe]
    train: Mapping[str, Any]
    grid: tuple[Axis, ...]
    tests: tuple[str, ...]
    seeds: tuple[int, ...]
    evaluate: EvalConfig
    notes: str = ""
    trend: Trend | None = None
    text: str = ""

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.grid)
