"""The options of ``domain ood`` and ``domain ood-compare``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.config import FORBID_EXTRA, Doc
from emvfm.studies.options import DomainOptions

__all__ = ["OutlierCompareOptions", "OutlierOptions", "Score"]

Score = Literal[
    "mahalanobis", "mahalanobis-oas", "relative", "knn", "knn-cosine", "cosine", "residual", "norm"
]


@dataclass(frozen=True)
class OutlierOptions(DomainOptions):
    """How ``domain ood`` fits, calibrates and tests."""

    preset: Annotated[
        Literal["none", "reference"],
        Doc("reference: its own definition, whole datasets, circular threshold."),
    ] = "none"
    scores: Annotated[
        tuple[str, ...], Doc("Which scores, repeatable; all without it. The first one's maps are drawn.")
    ] = ()
    k: Annotated[int, Ge(1), Doc("Neighbour whose distance counts.")] = 5
    explained: Annotated[
        float, Gt(0), Le(1), Doc("Share of the variance of the first principal components.")
    ] = 0.9
    parts: Annotated[
        Literal["auto", "splits", "blocks"],
        Doc(
            "Fit, calibration and test: the dataset's train, val and test, or blocks of slices dealt by seed."
        ),
    ] = "auto"
    calibration: Annotated[float, Gt(0), Lt(1), Doc("Share of the blocks to calibrate on.")] = 0.3
    test: Annotated[float, Gt(0), Lt(1), Doc("Share of the blocks to test on.")] = 0.3
    gap: Annotated[int, Ge(0), Doc("Slices left out between blocks of two parts.")] = 1
    false_alarms: Annotated[float, Gt(0), Lt(1), Doc("Rate of false alarms asked of the threshold.")] = 0.05
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the intervals.")] = 0.95
    bootstrap: Annotated[int, Ge(99), Doc("Draws of blocks for the intervals.")] = 1000
    patches: Annotated[bool, Doc("Also score every patch, with heat maps.")] = False
    patch_sample: Annotated[int, Ge(10), Doc("Patches to fit on, drawn evenly from the blocks.")] = 20_000
    bank: Annotated[int, Ge(2), Doc("Patches that kNN scores compare with, drawn from those.")] = 2_000
    maps: Annotated[int, Ge(1), Le(8), Doc("Most and least outlying images to draw with heat maps.")] = 4
    quantile: Annotated[
        float, Gt(0), Lt(1), Doc("Threshold of --preset reference: this quantile of the fitted images.")
    ] = 0.95


@dataclass(frozen=True)
class OutlierCompareOptions:
    """What ``domain ood-compare`` takes from each run."""

    __pydantic_config__ = FORBID_EXTRA

    score: Annotated[Score, Doc("Which score; a run by the reference preset has one.")] = "mahalanobis"
    scale: Annotated[
        Literal["image", "patch mean", "patch p95"], Doc("What the score of an image is made from.")
    ] = "image"
    labels: Annotated[tuple[str, ...], Doc("Names for the runs, in their order.")] = ()
