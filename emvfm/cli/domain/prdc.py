"""``emvfm domain prdc``: precision, recall, density and coverage, and whether they are less than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from annotated_types import Ge, Gt, Lt

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import finish_distances, open_blocked
from emvfm.config import Doc
from emvfm.studies.options import DomainOptions

__all__ = ["CoverageOptions", "prdc", "register"]


@dataclass(frozen=True)
class CoverageOptions(DomainOptions):
    """How ``domain prdc`` compares."""

    k: Annotated[int, Ge(1), Doc("Which nearest neighbour a ball reaches to.")] = 5
    neighbours: Annotated[
        Literal["other-blocks", "all"],
        Doc("Neighbours are images of other blocks of slices, or all (as published)."),
    ] = "other-blocks"
    permutations: Annotated[int, Ge(99), Doc("Exchanges of blocks for the null.")] = 999
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the interval.")] = 0.95


def prdc(
    call: Call,
    config: CoverageOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more datasets, each in turn the reference; name:split for one split.",
            autocompletion=complete_dataset,
        ),
    ],
) -> None:
    """Precision, recall, density and coverage of one dataset by another, with null, interval and verdict."""
    from emvfm.domain.results import compare_coverage
    from emvfm.studies.distances import compare_domains

    opened = open_blocked(call, config, datasets)
    found = compare_domains(
        opened.domains,
        config,
        lambda a, b, layer: compare_coverage(
            (a.name, b.name), a.vectors(config, layer), b.vectors(config, layer), a.blocks, b.blocks,
            k=config.k, neighbours=config.neighbours,
            permutations=config.permutations, level=config.level, seed=config.seed,
        ),
        dependences=opened.dependences,
        ordered=True,
    )  # fmt: skip
    finish_distances(call, "prdc", config, opened, found, "[dim]The first of a pair is the reference.[/]")


def register(domain: typer.Typer) -> None:
    command(domain, "prdc", CoverageOptions)(prdc)
