"""The options of spots and their expression, which several commands share; light enough for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from emvfm.config import Doc

__all__ = ["SpotOptions"]


@dataclass(frozen=True)
class SpotOptions:
    """Which spots have which expression, of which genes, and what is left out together."""

    counts: Annotated[
        tuple[Path, ...],
        Doc(
            "Table of counts, or a folder with one a section named after it; .csv, .tsv, .txt, .gz; repeatable."
        ),
    ] = ()
    section: Annotated[str, Doc("Fact that names the section of a spot; else the volume.")] = "section"
    spot: Annotated[str, Doc("Fact that names the spot in its table of counts; else the id.")] = "spot"
    position: Annotated[str, Doc("Facts with the position, in pixels or any unit: X,Y.")] = "x,y"
    transform: Annotated[
        Literal["log1p-total", "log1p", "none"], Doc("log1p-total: log(1 + count per 10 000 of the spot).")
    ] = "log1p-total"
    genes: Annotated[int, Gt(0), Doc("So many that vary most within training sections.")] = 50
    gene: Annotated[tuple[str, ...], Doc("Gene to predict instead, by name; repeatable.")] = ()
    gene_list: Annotated[Path | None, Doc("File with one name a line, instead of --gene.")] = None
    detected: Annotated[float, Ge(0), Le(1), Doc("Least share of training spots with the gene.")] = 0.1
    pca: Annotated[int, Ge(0), Doc("Principal components before the head, 0: none.")] = 256
    block: Annotated[
        float, Gt(0), Doc("Side of the blocks drawn for intervals, in distances of neighbours.")
    ] = 4.0
    strips: Annotated[int, Ge(2), Doc("Folds where there is one section.")] = 5
    buffer: Annotated[float, Ge(0), Doc("Kept free around a strip, in distances of neighbours.")] = 2.0
