"""``emvfm domain fd``: the Fréchet distance, and whether it is more than chance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from annotated_types import Ge, Gt, Lt

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import finish_distances, open_blocked
from emvfm.config import Doc
from emvfm.errors import UsageError
from emvfm.studies.options import DomainOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emvfm.domain.comparison import Comparison
    from emvfm.domain.moments import Moments
    from emvfm.studies.domains import Domain

__all__ = ["FrechetOptions", "fd", "register"]


@dataclass(frozen=True)
class FrechetOptions(DomainOptions):
    """How ``domain fd`` compares."""

    permutations: Annotated[int, Ge(99), Doc("Exchanges of blocks for the null.")] = 999
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the interval.")] = 0.95
    shrinkage: Annotated[
        Literal["none", "ledoit-wolf"], Doc("Shrink covariances: for fewer images than dimensions.")
    ] = "none"
    equal_n: Annotated[bool, Doc("As many blocks and images from every dataset.")] = False
    infinity: Annotated[bool, Doc("Also the distance extrapolated to infinitely many images.")] = False
    points: Annotated[int, Ge(3), Doc("Subsamples of --infinity.")] = 15
    patches: Annotated[
        bool, Doc("Patch embeddings, streamed; each exchange then takes D x D eigenvalues.")
    ] = False
    preset: Annotated[
        Literal["none", "reference"], Doc("reference: raw image embeddings of the last layer, ddof 1.")
    ] = "none"


def _settled(config: FrechetOptions) -> FrechetOptions:
    """Return the options with the preset in them; refuse what does not go together."""
    if config.patches and (config.infinity or config.shrinkage != "none"):
        raise UsageError("patch embeddings are many: nothing to extrapolate or to shrink", where="--patches")
    if config.infinity and config.shrinkage != "none":
        raise UsageError("shrinking changes the bias that is extrapolated", where="--infinity")
    if config.preset == "none":
        return config
    changed = config.patches or config.infinity or config.equal_n or config.all_layers
    if changed or config.shrinkage != "none" or config.layer != -1:
        raise UsageError("the reference compares raw image embeddings of the last layer", where="--preset")
    # What the reference calls the embedding of an image is the mean of patches, but CLS for OpenCLIP.
    return replace(config, pool="cls" if config.backbone.startswith("openclip") else "mean")


class _Patches:
    """Comparisons of patch embeddings; the moments of a layer are read once for all pairs."""

    def __init__(self, config: FrechetOptions, rows: dict[str, Sequence[int]]) -> None:
        self.config, self.rows, self._layer = config, rows, -1
        self._moments: dict[str, dict[int, Moments]] = {}

    def _of(self, domain: Domain, layer: int) -> dict[int, Moments]:
        from emvfm.studies.distances import block_moments

        if layer != self._layer:
            self._layer = layer
            self._moments.clear()
        if domain.name not in self._moments:
            self._moments[domain.name] = block_moments(domain, layer, self.rows[domain.name])
        return self._moments[domain.name]

    def __call__(self, a: Domain, b: Domain, layer: int) -> list[Comparison]:
        from emvfm.domain.results import compare_moments

        config = self.config
        found = compare_moments(
            (a.name, b.name), self._of(a, layer), self._of(b, layer),
            permutations=config.permutations, level=config.level, seed=config.seed,
        )  # fmt: skip
        return [found]


def _compare_images(
    config: FrechetOptions, rows: dict[str, Sequence[int]], a: Domain, b: Domain, layer: int
) -> list[Comparison]:
    from emvfm.domain import results

    names = (a.name, b.name)
    x, y = (d.vectors(config, layer)[rows[d.name]] for d in (a, b))
    blocks = [[d.blocks[i] for i in rows[d.name]] for d in (a, b)]
    shared: results.Resampling = {
        "permutations": config.permutations, "level": config.level, "seed": config.seed,
    }  # fmt: skip
    plain = results.compare_shrunk_frechet if config.shrinkage != "none" else results.compare_frechet
    found: list[Comparison] = [plain(names, x, y, *blocks, **shared)]
    if config.infinity:
        found.append(
            results.compare_frechet_at_infinity(names, x, y, *blocks, points=config.points, **shared)
        )
    return found


def _lines(entries: Sequence[tuple[int, Comparison]]) -> bytes | None:
    """Draw the extrapolations, of the last layer where there are several."""
    from emvfm.report.distance_figures import extrapolations

    lines = [
        {**c.parameters, "label": " × ".join(c.names), "low": c.low, "high": c.high}
        for at, c in entries
        if c.key == "fd-infinity" and at == entries[-1][0]
    ]
    return extrapolations(lines) if lines else None


def fd(
    call: Call,
    config: FrechetOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more datasets; name:split for one split.", autocompletion=complete_dataset
        ),
    ],
) -> None:
    """Fréchet distance of image or patch embeddings, with its null, its interval and a verdict."""
    from emvfm.domain.resampling import equal_rows
    from emvfm.studies.distances import compare_domains

    config = _settled(config)
    opened = open_blocked(call, config, datasets)
    domains = opened.domains
    rows: dict[str, Sequence[int]] = {d.name: list(range(len(d))) for d in domains}
    if config.equal_n:
        chosen = equal_rows([d.blocks for d in domains], seed=config.seed)
        rows = {d.name: own.tolist() for d, own in zip(domains, chosen, strict=True)}
    method = _Patches(config, rows) if config.patches else partial(_compare_images, config, rows)
    found = compare_domains(domains, config, method, dependences=opened.dependences)
    lines = _lines(found.entries)
    files = {} if lines is None else {"figures/fd-infinity-lines.png": lines}
    finish_distances(call, "fd", config, opened, found, files=files)


def register(domain: typer.Typer) -> None:
    command(domain, "fd", FrechetOptions)(fd)
