"""The options of ``bench expression``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.config import Doc
from emvfm.studies.profiles import ProfileOptions

__all__ = ["PANELS", "ExpressionOptions"]


@dataclass(frozen=True)
class ExpressionOptions(ProfileOptions):
    """What is predicted, by what, and what is left out together."""

    counts: Annotated[
        tuple[Path, ...],
        Doc(
            "Table of counts, or a folder with one a section named after it; .csv, .tsv, .txt, .gz; repeatable."
        ),
    ] = ()
    section: Annotated[str, Doc("Fact that names the section of a spot; else the volume.")] = "section"
    spot: Annotated[str, Doc("Fact that names the spot in its table of counts; else the id.")] = "spot"
    position: Annotated[str, Doc("Facts with the position, in pixels or any unit: X,Y.")] = "x,y"
    cell_type: Annotated[str | None, Doc("Fact with the type of the cell, for baselines of types.")] = None
    group: Annotated[
        str | None, Doc("Fact that is left out as a whole, such as patient; else sections, or strips of one.")
    ] = None
    unit: Annotated[str, Doc("Fact that says what is truly independent.")] = "patient"
    transform: Annotated[
        Literal["log1p-total", "log1p", "none"], Doc("log1p-total: log(1 + count per 10 000 of the spot).")
    ] = "log1p-total"
    genes: Annotated[int, Gt(0), Doc("So many that vary most within training sections.")] = 50
    gene: Annotated[tuple[str, ...], Doc("Gene to predict instead, by name; repeatable.")] = ()
    gene_list: Annotated[Path | None, Doc("File with one name a line, instead of --gene.")] = None
    detected: Annotated[float, Ge(0), Le(1), Doc("Least share of training spots with the gene.")] = 0.1
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
    pca: Annotated[int, Ge(0), Doc("Principal components before the head, 0: none.")] = 256
    untrained_seeds: Annotated[int, Gt(0), Doc("Untrained twins of the backbone.")] = 1
    block: Annotated[
        float, Gt(0), Doc("Side of the blocks drawn for intervals, in distances of neighbours.")
    ] = 4.0
    strips: Annotated[int, Ge(2), Doc("Folds where there is one section.")] = 5
    buffer: Annotated[float, Ge(0), Doc("Kept free around a strip, in distances of neighbours.")] = 2.0
    samples: Annotated[int, Ge(100), Doc("Draws for intervals.")] = 2000
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of intervals.")] = 0.95


PANELS = {
    "Expression": ("counts", "section", "spot", "position", "cell_type", "transform", "genes", "gene", "gene_list",
                   "detected"),
    "Regression": ("head", "preset", "alpha", "k", "components", "pca", "untrained_seeds"),
    "Folds and intervals": ("group", "unit", "block", "strips", "buffer", "samples", "level"),
}  # fmt: skip
