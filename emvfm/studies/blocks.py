"""Blocks of slices as the options ask for them, and whether they are long enough for what the data show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from emvfm.domain.dependence import Dependence, blocks_of_length, dependence_length
from emvfm.studies.domains import Domain, chosen_layers
from emvfm.studies.options import DomainOptions

__all__ = ["settle_blocks"]


def _places(domain: Domain) -> tuple[list[str], list[int | None]]:
    samples = domain.embeddings.samples
    return [s.volume for s in samples], [s.z for s in samples]


def _length(domain: Domain, options: DomainOptions, layers: Sequence[int]) -> float | None:
    """Return the longest dependence at any of the layers: all layers share their blocks."""
    places = _places(domain)
    found = [dependence_length(domain.vectors(options, layer), *places) for layer in layers]
    known = [length for length in found if length is not None]
    return max(known) if known else None


def _described(domain: Domain, length: float | None) -> Dependence:
    slices = {(s.volume, s.z) if s.z is not None else i for i, s in enumerate(domain.embeddings.samples)}
    blocks = len(set(domain.blocks))
    stacks = Counter(
        volume for volume, _ in {(s.volume, s.z) for s in domain.embeddings.samples if s.z is not None}
    )
    longest = max(stacks.values(), default=0)
    return Dependence(domain.name, length, len(slices) / blocks, blocks, longest)


def settle_blocks(
    domains: Sequence[Domain], options: DomainOptions
) -> tuple[list[Domain], tuple[Dependence, ...]]:
    """Return the domains with blocks of ``options.block_length``, and how long their slices depend on each other.

    Parameters
    ----------
    domains
        With blocks of the default length, which stay without the option; with 0 they stay where they are long enough,
        or where stacks are too short to tell.

    Raises
    ------
    UsageError
        There is no such layer.
    """
    layers = chosen_layers(options, domains)
    settled, dependences = [], []
    for domain in domains:
        length = _length(domain, options, layers)
        own, found = domain, _described(domain, length)
        wanted = options.block_length
        if wanted == 0:
            wanted = None if found.enough else found.needed
        if wanted is not None:
            own = replace(domain, blocks=blocks_of_length(*_places(domain), wanted))
            found = _described(own, length)
        settled.append(own)
        dependences.append(found)
    return settled, tuple(dependences)
