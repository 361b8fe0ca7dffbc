"""Counts of genes made comparable between spots."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError

__all__ = ["NORMALISATIONS", "Normalisation", "checked_counts", "normalise"]

Normalisation = Literal["log1p-total", "log1p", "none"]
#: What each name means, for tables and errors.
NORMALISATIONS = {
    "log1p-total": "log(1 + 10 000 x count / all counts of the spot)",
    "log1p": "log(1 + count), so that a spot's depth stays in",
    "none": "as given",
}
#: Fixed, not the median of the data: a median over all sections would know the test section.
_TOTAL = 1e4


def checked_counts(counts: ArrayLike, *, where: object = "counts") -> NDArray[np.float32]:
    """Return ``(N, G)`` float32 counts; refuse what can be none.

    Raises
    ------
    RefusedError
        A value is negative, infinite or not a number.
    """
    table = np.asarray(counts, np.float32)
    if table.ndim != 2 or not table.size:
        raise RefusedError(
            "not a table of counts", where=where, got=f"shape {table.shape}", expected="spots x genes"
        )
    if not np.isfinite(table).all():
        raise RefusedError("counts that are not finite numbers", where=where)
    if table.min() < 0:
        raise RefusedError(
            "negative counts", where=where, got=float(table.min()), todo="give counts, not scores"
        )
    return table


def normalise(counts: ArrayLike, how: Normalisation = "log1p-total") -> NDArray[np.float32]:
    """Return ``(N, G)`` float32 expression; a spot's values depend on that spot alone.

    Parameters
    ----------
    counts
        ``(N, G)``, of all genes: the library size is their sum.
    how
        One of `NORMALISATIONS`. What HEST's code does is ``log1p`` (its text promises totals).

    Raises
    ------
    RefusedError
        A spot has no counts at all and is to be divided by them.
    UsageError
        There is no such normalisation.
    """
    table = checked_counts(counts)
    if how == "none":
        return table
    if how == "log1p":
        return np.log1p(table)
    if how != "log1p-total":
        raise UsageError(
            "no such normalisation", where="normalise", got=how, expected=", ".join(NORMALISATIONS)
        )
    totals = table.sum(axis=1, dtype=np.float64)
    if empty := int((totals == 0).sum()):
        raise RefusedError("spots without a single count", got=empty, todo="leave them out")
    return np.log1p(table * (_TOTAL / totals)[:, None].astype(np.float32))
