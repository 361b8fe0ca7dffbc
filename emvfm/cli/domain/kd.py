"""``emvfm domain kd``: kernel, energy and sliced Wasserstein distances, and whether they are more than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from annotated_types import Ge, Gt, Le, Lt

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import finish_distances, open_blocked
from emvfm.config import Doc
from emvfm.errors import UsageError
from emvfm.studies.options import DomainOptions

if TYPE_CHECKING:
    from emvfm.domain.results import Discrepancy

__all__ = ["KernelOptions", "kd", "register"]


@dataclass(frozen=True)
class KernelOptions(DomainOptions):
    """How ``domain kd`` compares."""

    measure: Annotated[
        tuple[str, ...] | None, Doc("polynomial, rbf, energy or sliced-wasserstein; repeatable, else all.")
    ] = None
    pairs: Annotated[
        Literal["all", "between-blocks"],
        Doc("Kernel and energy: all pairs of images, or only of different blocks of slices."),
    ] = "all"
    gamma: Annotated[float | None, Gt(0), Doc("Of the RBF kernel, else the median heuristic.")] = None
    projections: Annotated[int, Ge(1), Doc("Directions of the sliced Wasserstein distance.")] = 128
    order: Annotated[int, Ge(1), Le(2), Doc("Order of the sliced Wasserstein distance.")] = 2
    permutations: Annotated[int, Ge(99), Doc("Exchanges of blocks for the null.")] = 999
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the interval.")] = 0.95


def _kinds(config: KernelOptions) -> tuple[Discrepancy, ...]:
    from emvfm.domain.results import DISCREPANCIES

    unknown = [kind for kind in config.measure or () if kind not in DISCREPANCIES]
    if unknown:
        raise UsageError(
            "no such distance", where="--measure", got=unknown[0], expected=", ".join(DISCREPANCIES)
        )
    return tuple(kind for kind in DISCREPANCIES if kind in (config.measure or DISCREPANCIES))


def kd(
    call: Call,
    config: KernelOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more datasets; name:split for one split.", autocompletion=complete_dataset
        ),
    ],
) -> None:
    """Kernel (MMD, KID), energy and sliced Wasserstein distances, each with null, interval and verdict."""
    from emvfm.domain.results import compare_discrepancies
    from emvfm.studies.distances import compare_domains

    kinds = _kinds(config)
    opened = open_blocked(call, config, datasets)
    found = compare_domains(
        opened.domains,
        config,
        lambda a, b, layer: compare_discrepancies(
            (a.name, b.name), a.vectors(config, layer), b.vectors(config, layer), a.blocks, b.blocks,
            kinds=kinds, pairs=config.pairs, gamma=config.gamma,
            projections=config.projections, order=config.order,
            permutations=config.permutations, level=config.level, seed=config.seed,
        ),
        dependences=opened.dependences,
    )  # fmt: skip
    finish_distances(call, "kd", config, opened, found)


def register(domain: typer.Typer) -> None:
    command(domain, "kd", KernelOptions)(kd)
