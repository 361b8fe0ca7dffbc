"""The options that all domain commands share, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from emvfm.backbones.options import BackboneOptions, ChannelOptions
from emvfm.config import Doc

__all__ = ["DomainOptions"]


@dataclass(frozen=True)
class DomainOptions(ChannelOptions, BackboneOptions):
    """Which embeddings of the datasets are looked at."""

    pool: Annotated[Literal["mean", "cls", "mean+cls"], Doc("One vector an image: which.")] = "mean"
    layer: Annotated[int, Doc("Position among the stored layers; -1 is the last.")] = -1
    all_layers: Annotated[bool, Doc("Every stored layer instead of one.")] = False
    block_length: Annotated[
        int | None,
        Ge(0),
        Doc(
            "Least slices of a block of neighbours, else about the root of their number; 0: more where slices are "
            "measured to depend on each other over more than a third of that."
        ),
    ] = None
    seed: int = 0
