"""Which genes are predicted: chosen by training spots alone, or named."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import MissingError, RefusedError, UsageError

__all__ = ["named_genes", "variable_genes", "within_variance"]


def within_variance(values: ArrayLike, sections: Sequence[object]) -> NDArray[np.float64]:
    """Return ``(G,)``: variance around the mean of each section, pooled over sections.

    The plain variance would choose genes for how much sections differ in staining or depth, which no tile can be
    asked to tell.

    Parameters
    ----------
    values
        ``(N, G)`` expression.
    sections
        Section of each spot.
    """
    table = np.asarray(values)
    labels = np.unique(np.asarray(sections, str), return_inverse=True)[1]
    total = np.zeros(table.shape[1])
    for label in range(labels.max() + 1):
        own = table[labels == label]
        total += own.var(axis=0, dtype=np.float64) * len(own)
    return total / max(len(table), 1)


def variable_genes(
    values: ArrayLike, sections: Sequence[object], n: int, *, detected: float = 0.1
) -> NDArray[np.intp]:
    """Return positions of the `n` genes that vary most within sections, the most variable first.

    Parameters
    ----------
    values
        ``(N, G)`` expression of training spots only.
    sections
        Section of each spot.
    detected
        Share of spots in which a gene must be above zero.

    Raises
    ------
    RefusedError
        Fewer than two spots, or no gene varies and is detected.
    UsageError
        `n` or `detected` is out of range.
    """
    table = np.asarray(values)
    if n < 1 or not 0 <= detected <= 1:
        raise UsageError("not a choice of genes", got=f"{n} genes, detected in {detected:g} of spots")
    if len(table) < 2:
        raise RefusedError("too few spots to choose genes by", got=len(table), expected="2 or more")
    variance = within_variance(table, sections)
    usable = (variance > 0) & ((table > 0).mean(axis=0) >= detected)
    order = np.lexsort((np.arange(len(variance)), -variance))
    chosen = order[usable[order]][:n]
    if not len(chosen):
        raise RefusedError(
            "no gene varies and is detected", expected=f"in {detected:.0%} of training spots",
            todo="lower --detected",
        )  # fmt: skip
    return chosen


def named_genes(names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.intp]:
    """Return positions of the `wanted` genes, in that order.

    Raises
    ------
    MissingError
        One of them was not measured.
    UsageError
        None is wanted, or one twice.
    """
    if not wanted or len(set(wanted)) < len(wanted):
        raise UsageError("genes must be named, each once", where="genes", got=", ".join(wanted) or "none")
    places = {name: i for i, name in enumerate(names)}
    if lost := [name for name in wanted if name not in places]:
        raise MissingError(
            f"{len(lost)} of {len(wanted)} genes were not measured", where="genes", got=", ".join(lost[:5])
        )
    return np.array([places[name] for name in wanted], np.intp)
