"""How much of the variance principal components hold, and how much of it lies between domains.

Intervals come from leaving out one block of neighbouring slices at a time, with the basis held fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.pca import Basis

__all__ = ["ComponentShare", "ProjectionSummary", "summarise"]

Floats = NDArray[np.float64]
_FEWEST_BLOCKS = 3


@dataclass(frozen=True)
class ComponentShare:
    """One principal component.

    Attributes
    ----------
    variance, share
        Along it, and the part of the whole variance that is.
    low, high
        Interval of `share`; None with fewer than three blocks in a domain.
    between
        Part of the variance along it that lies between the means of the domains, each counting the same;
        None for one domain.
    between_low, between_high
        Its interval.
    """

    variance: float
    share: float
    low: float | None
    high: float | None
    between: float | None
    between_low: float | None
    between_high: float | None


@dataclass(frozen=True)
class ProjectionSummary:
    """What a PCA of domains says in numbers.

    Attributes
    ----------
    names, n, blocks
        Domains, and the rows and blocks of slices of each that the shares come from.
    basis_n
        Rows that the basis was made from.
    dimension, effective_dimension, needed_for_90
        Of the embeddings; participation ratio of the spectrum; components that hold 90 % of the variance.
    """

    names: tuple[str, ...]
    unit: str
    n: tuple[int, ...]
    blocks: tuple[int, ...]
    basis_n: int
    dimension: int
    effective_dimension: float
    needed_for_90: int
    components: tuple[ComponentShare, ...]
    level: float
    protocol: str
    seed: int
    ddof: int = 1

    @property
    def verdict(self) -> str:
        """One sentence a person can quote, or why little can be said."""
        first = self.components[:2]
        held = sum(c.share for c in first)
        names = ", ".join(self.names[:-1]) + (" and " if len(self.names) > 1 else "") + self.names[-1]
        text = f"{names}: {'PC1' if len(first) == 1 else 'PC1 and PC2'} hold{'s' * (len(first) == 1)} {100 * held:.0f} %"
        text += f" of the variance, {self.needed_for_90} of {self.dimension} components hold 90 %"
        strongest = max(
            (k for k, c in enumerate(self.components) if c.between is not None),
            key=lambda k: self.components[k].between or 0.0,
            default=None,
        )
        if strongest is not None:
            between = self.components[strongest].between or 0.0
            text += f"; the domains differ most along PC{strongest + 1}, where {100 * between:.0f} % of the variance"
            text += " lies between them"
        if min(self.blocks) < _FEWEST_BLOCKS:
            return f"{text} (too few blocks of slices for an interval: {', '.join(map(str, self.blocks))})"
        return text + (" (a picture, not a test: see `domain fd`)" if strongest is not None else "")

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        return {**asdict(self), "verdict": self.verdict}


def _between(sums: Floats, squares: Floats, counts: Floats) -> Floats:
    """Return ``(k,)`` shares between groups of equal weight from sums ``(g, k)``, squares and counts ``(g,)``."""
    means = sums / counts[:, None]
    inner = np.clip(squares / counts[:, None] - means**2, 0, None).mean(axis=0)
    outer = means.var(axis=0)
    whole = inner + outer
    return np.divide(outer, whole, out=np.zeros_like(whole), where=whole > 0)


def _held(sums: Floats, squares: Floats, counts: Floats, whole_squares: Floats, whole_sums: Floats) -> Floats:
    """Return ``(k,)`` shares of the whole variance of all groups together."""
    n = counts.sum()
    along = squares.sum(axis=0) / n - (sums.sum(axis=0) / n) ** 2
    whole = whole_squares.sum() / n - float(((whole_sums.sum(axis=0) / n) ** 2).sum())
    return np.clip(along, 0, None) / whole if whole > 0 else np.zeros_like(along)


def _jackknife_errors(
    basis: Basis, rows: Sequence[Floats], coordinates: Sequence[Floats], blocks: Sequence[Sequence[int]]
) -> tuple[Floats, Floats, int] | None:
    """Return standard errors of the shares and of the parts between groups, and degrees of freedom."""
    parts: list[list[tuple[Any, ...]]] = []
    for x, c, labels in zip(rows, coordinates, map(np.asarray, blocks), strict=True):
        own = []
        for label in np.unique(labels):
            inside = labels == label
            centred = x[inside] - basis.mean
            own.append((
                c[inside].sum(axis=0), (c[inside] ** 2).sum(axis=0), float(inside.sum()),
                float((centred**2).sum()), centred.sum(axis=0),
            ))  # fmt: skip
        if len(own) < _FEWEST_BLOCKS:
            return None
        parts.append(own)
    totals = [[np.sum([p[i] for p in own], axis=0) for i in range(5)] for own in parts]
    variances = [np.zeros(len(basis.variances)), np.zeros(len(basis.variances))]
    freedom = 0
    for g, own in enumerate(parts):
        left_out: list[list[Floats]] = [[], []]
        for part in own:
            kept = [list(t) for t in totals]
            kept[g] = [t - p for t, p in zip(totals[g], part, strict=True)]
            sums, squares, counts, whole, whole_sums = (np.array([k[i] for k in kept]) for i in range(5))
            left_out[0].append(_held(sums, squares, counts, whole, whole_sums))
            left_out[1].append(_between(sums, squares, counts))
        for which in (0, 1):
            values = np.array(left_out[which])
            variances[which] += (len(own) - 1) / len(own) * ((values - values.mean(axis=0)) ** 2).sum(axis=0)
        freedom += len(own) - 1
    return np.sqrt(variances[0]), np.sqrt(variances[1]), freedom


def summarise(
    names: Sequence[str],
    basis: Basis,
    rows: Sequence[ArrayLike],
    blocks: Sequence[Sequence[int]],
    *,
    unit: str = "image",
    protocol: str = "",
    level: float = 0.95,
    seed: int = 0,
) -> ProjectionSummary:
    """Say how much of the variance each component holds, and how much of that lies between the domains.

    Parameters
    ----------
    rows, blocks
        ``(n_g, D)`` embeddings of each domain, and the block of slices of each row.
    unit, protocol
        What a row is, and how the rows of the basis were chosen, in words.
    """
    from scipy.stats import t

    values = [np.asarray(x, np.float64) for x in rows]
    coordinates = [basis.transform(x) for x in values]
    errors = _jackknife_errors(basis, values, coordinates, blocks)
    between = None
    if len(values) > 1:
        between = _between(
            np.array([c.sum(axis=0) for c in coordinates]),
            np.array([(c**2).sum(axis=0) for c in coordinates]),
            np.array([len(c) for c in coordinates], np.float64),
        )

    def ends(value: float | None, which: int, k: int) -> tuple[float | None, float | None]:
        if errors is None or value is None:
            return None, None
        width = float(t.ppf((1 + level) / 2, errors[2])) * float(errors[:2][which][k])
        return max(0.0, value - width), min(1.0, value + width)

    components = []
    for k, (variance, share) in enumerate(zip(basis.variances, basis.shares, strict=True)):
        part = None if between is None else float(between[k])
        components.append(
            ComponentShare(float(variance), float(share), *ends(float(share), 0, k), part, *ends(part, 1, k))
        )
    effective = basis.effective_dimension
    return ProjectionSummary(
        names=tuple(names),
        unit=unit,
        n=tuple(map(len, values)),
        blocks=tuple(len(set(b)) for b in blocks),
        basis_n=basis.n,
        dimension=len(basis.mean),
        effective_dimension=effective if math.isfinite(effective) else 0.0,
        needed_for_90=basis.needed_for(0.9),
        components=tuple(components),
        level=level,
        protocol=protocol,
        seed=seed,
    )
