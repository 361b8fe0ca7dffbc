"""The options of ``emvfm eval``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt, MultipleOf

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["EvalConfig"]


@dataclass(frozen=True)
class EvalConfig:
    """How runs are scored."""

    __pydantic_config__ = FORBID_EXTRA

    data: Annotated[
        tuple[str, ...], Doc("Dataset to score on, test split unless name:split; repeatable.")
    ] = ()
    metrics: Annotated[
        Literal["basic", "full"],
        Doc("basic: overlap, precision-recall, calibration; full: also outlines and objects."),
    ] = "basic"
    threshold: Annotated[
        Annotated[float, Ge(0), Lt(1)] | Literal["validation"],
        Doc("Foreground is above it: a number, or validation: the best of the run's validation slices."),
    ] = 0.5
    tta: Annotated[
        Literal["none", "flips", "turns"],
        Doc("Average over 4 flips, or 8 flips and turns of each image; runs the backbone on each."),
    ] = "none"
    tolerance: Annotated[float, Ge(0), Doc("Distance in px up to which outlines agree.")] = 2.0
    objects: Annotated[
        Literal["components", "watershed"],
        Doc("Objects are connected parts, or such parts cut at their necks; in truth and prediction alike."),
    ] = "components"
    smallest: Annotated[int, Ge(1), Doc("Least pixels of an object; smaller ones are left out.")] = 25
    samples: Annotated[int, Gt(0), MultipleOf(1), Doc("Bootstrap resamples of blocks of slices.")] = 2000
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the intervals.")] = 0.95
    seed: int = 0
