"""The options of ``bench audit``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["AuditOptions"]


@dataclass(frozen=True)
class AuditOptions:
    """Which run is what, and how they are compared."""

    __pydantic_config__ = FORBID_EXTRA

    role: Annotated[
        tuple[str, ...],
        Doc("RUN=trained, untrained, baseline or confound, where its options do not say it; repeatable."),
    ] = ()
    chosen: Annotated[
        str | None,
        Doc("The simple baseline that was chosen without these units; else the best after the fact."),
    ] = None
    test: Annotated[str | None, Doc("Test set of segmentation runs that were evaluated on several.")] = None
    samples: Annotated[int, Ge(100), Doc("Draws for intervals.")] = 2000
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of intervals.")] = 0.95
    seed: int = 0
