"""The options of ``bench expression``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from emvfm.config import Doc
from emvfm.studies.bench.options import FoldCorrectionOptions
from emvfm.studies.expression.spot_options import SpotOptions
from emvfm.studies.profiles import ProfileOptions

__all__ = ["PANELS", "ExpressionOptions"]


@dataclass(frozen=True)
class ExpressionOptions(SpotOptions, FoldCorrectionOptions, ProfileOptions):
    """What is predicted, by what, and what is left out together."""

    cell_type: Annotated[str | None, Doc("Fact with the type of the cell, for baselines of types.")] = None
    group: Annotated[
        str | None, Doc("Fact that is left out as a whole, such as patient; else sections, or strips of one.")
    ] = None
    unit: Annotated[str, Doc("Fact that says what is truly independent.")] = "patient"
    head: Annotated[tuple[str, ...], Doc("ridge, knn, 1nn or pls; repeatable.")] = ("ridge", "1nn")
    preset: Annotated[
        Literal["none", "hest", "hest-1nn"],
        Doc(
            "hest: log1p, PCA 256, ridge with alpha 100 / (D G); hest-1nn: the nearest spot in its components."
        ),
    ] = "none"
    alpha: Annotated[float | None, Ge(0), Doc("Penalty of ridge, else chosen within the training rows.")] = (
        None
    )
    k: Annotated[int, Gt(0), Doc("Neighbours of knn.")] = 20
    components: Annotated[int, Gt(0), Doc("Of pls.")] = 10
    untrained_seeds: Annotated[int, Gt(0), Doc("Untrained twins of the backbone.")] = 1
    samples: Annotated[int, Ge(100), Doc("Draws for intervals.")] = 2000
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of intervals.")] = 0.95


PANELS = {
    "Expression": ("counts", "section", "spot", "position", "cell_type", "transform", "genes", "gene", "gene_list",
                   "detected"),
    "Regression": ("head", "preset", "alpha", "k", "components", "pca", "untrained_seeds"),
    "Folds and intervals": ("group", "unit", "block", "strips", "buffer", "samples", "level"),
    "Correction": ("correct", "controls", "correct_by", "correct_axes", "correct_shrinkage", "correct_ridge",
                   "correct_eps", "transductive"),
}  # fmt: skip
