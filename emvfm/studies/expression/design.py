"""Who is tested and which genes are predicted: folds of sections, groups or strips, and a choice within each fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import MissingError, UsageError
from emvfm.expression.folds import Fold, block_folds, leave_one_out, pitch, spatial_blocks
from emvfm.expression.genes import named_genes, variable_genes
from emvfm.studies.expression.spot_options import SpotOptions
from emvfm.studies.expression.spots import Spots

__all__ = ["Design", "design_of"]

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Design:
    """How spots are tested.

    Attributes
    ----------
    unit
        Usual distance of neighbours, in the unit of positions.
    blocks
        ``(N,)`` of each spot.
    group
        What is left out together: a fact, ``sections`` or strips.
    choose
        Gives positions of genes from the expression and the sections of training spots.
    """

    unit: float
    blocks: Rows
    folds: tuple[Fold, ...]
    group: str
    choose: Callable[[NDArray[Any], Sequence[str]], Rows]


def _wanted(options: SpotOptions) -> tuple[str, ...]:
    if options.gene_list is None:
        return options.gene
    if options.gene:
        raise UsageError("genes are named twice", where="--gene-list", todo="give it or --gene")
    try:
        text = options.gene_list.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingError("no such list of genes", where=options.gene_list) from None
    except UnicodeDecodeError as error:
        raise UsageError("not a list of genes", where=options.gene_list, got=error) from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _chooser(options: SpotOptions, spots: Spots) -> Callable[[NDArray[Any], Sequence[str]], Rows]:
    wanted = _wanted(options)
    if wanted or options.gene_list is not None:
        named = named_genes(spots.genes, wanted)
        return lambda values, sections: named
    return lambda values, sections: variable_genes(values, sections, options.genes, detected=options.detected)


def _folds(
    spots: Spots, options: SpotOptions, group: str | None, flag: str, unit: float, blocks: Rows
) -> tuple[tuple[Fold, ...], str]:
    if group is not None:
        return leave_one_out(spots.column(group, flag)), group
    if len(set(spots.sections)) > 1:
        return leave_one_out(spots.sections), "sections"
    folds = block_folds(
        spots.x, spots.y, spots.sections, blocks, options.strips, buffer=options.buffer * unit
    )
    return folds, f"strips, {options.buffer:g} distances of neighbours around them kept free"


def design_of(spots: Spots, options: SpotOptions, group: str | None, flag: str = "--group") -> Design:
    """Return folds, blocks and the choice of genes that the options ask for.

    Parameters
    ----------
    group
        Fact that is left out as a whole; None for sections, or strips of one.
    flag
        Option that names it.

    Raises
    ------
    UsageError, MissingError, RefusedError
        No such fact or gene, or nothing to leave out.
    """
    choose = _chooser(options, spots)
    unit = pitch(spots.x, spots.y, spots.sections)
    blocks = spatial_blocks(spots.x, spots.y, spots.sections, options.block * unit)
    folds, named = _folds(spots, options, group, flag, unit, blocks)
    return Design(unit, blocks, folds, named, choose)
