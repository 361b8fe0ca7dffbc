"""Corrections of batch effects and typical variation, fitted on controls and applied to all rows.

==========  ===========================================================================================
``none``    nothing
``center``  the mean of controls taken off, of each batch if there are batches
``sphere``  centred, then whitened along the axes of the controls, turned back (ZCA)
``tvn``     standardised, axes of the controls, standardised, each batch whitened with a ridge
            (Ando et al. 2017, doi:10.1101/161422; as in EFAAR, Celik et al. 2024)
``pca-cs``  axes of the controls, centred and scaled on the controls of each batch (RxRx3-core)
``coral``   each batch's covariance of controls replaced by that of all (Sun et al. 2016, arXiv 1511.05547)
``combat``  location and scale of each batch, shrunk by empirical Bayes (Johnson et al. 2007,
            doi:10.1093/biostatistics/kxj037), estimated on controls
==========  ===========================================================================================

Every one of them is an affine map a batch. What controls do not vary along is left out (sphere, tvn, pca-cs), never
divided by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.representations.correction_fits import (
    CorrectionOptions,
    Fitted,
    fit_center,
    fit_combat,
    fit_coral,
    fit_none,
    fit_pca_cs,
    fit_sphere,
    fit_tvn,
)
from emvfm.representations.whitening import Affine

__all__ = ["CORRECTIONS", "Correction", "CorrectionOptions", "correct", "fit_correction"]

Floats = NDArray[np.float64]
_ALL = ""


@dataclass(frozen=True)
class Correction:
    """A fitted correction.

    Parameters
    ----------
    name, options
        Which and how.
    n_controls, dimensions
        Rows it was fitted on, and their length.
    batches
        Controls of each batch; empty where all rows are one.
    rank, condition
        Axes of the controls that are kept and the ratio of the largest variance to the smallest of them; None where
        no axes are computed.
    maps
        One a batch.
    """

    name: str
    options: CorrectionOptions
    n_controls: int
    dimensions: int
    batches: dict[str, int]
    rank: int | None
    condition: float | None
    maps: dict[str, Affine]

    def apply(self, features: ArrayLike, batches: Sequence[object] | None = None) -> Floats:
        """Return corrected rows ``(n, K)``.

        Raises
        ------
        UsageError
            For a batch that was not fitted, rows of another length, or labels that are missing.
        """
        x = _checked(features)
        if x.shape[1] != self.dimensions:
            raise UsageError("embeddings of different length", got=x.shape[1], expected=self.dimensions)
        labels = _labels(batches if self.batches else None, len(x))
        strangers = sorted(set(labels) - set(self.maps))
        if strangers:
            raise UsageError("not a batch that was fitted", where=self.name, got=", ".join(strangers[:5]))
        order = np.array(labels)
        width = len(next(iter(self.maps.values())).offset)
        out = np.empty((len(x), width))
        for batch, mapped in self.maps.items():
            own = order == batch
            out[own] = mapped(x[own])
        return out

    def to_json(self) -> dict[str, Any]:
        """Return all but the maps."""
        fields = ("name", "n_controls", "dimensions", "batches", "rank", "condition")
        return {name: getattr(self, name) for name in fields} | {"options": asdict(self.options)}


def _checked(features: ArrayLike) -> Floats:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not x.size:
        raise UsageError("not a set of embeddings", got=x.shape, expected="(n, D)")
    if not np.isfinite(x).all():
        raise UsageError("embeddings are not finite", where="correction")
    return x


def _labels(batches: Sequence[object] | None, n: int) -> list[str]:
    if batches is None:
        return [_ALL] * n
    if len(batches) != n:
        raise UsageError("one batch per row", where="batches", got=len(batches), expected=n)
    return [str(batch) for batch in batches]


@dataclass(frozen=True)
class _Row:
    """How a correction is fitted, how many controls a batch needs, and whether it needs batches."""

    fit: Callable[[dict[str, Floats], CorrectionOptions], Fitted]
    least: int
    batches: bool = False


CORRECTIONS: dict[str, _Row] = {
    "none": _Row(fit_none, 0),
    "center": _Row(fit_center, 1),
    "sphere": _Row(fit_sphere, 2),
    "tvn": _Row(fit_tvn, 2),
    "pca-cs": _Row(fit_pca_cs, 2),
    "coral": _Row(fit_coral, 2, batches=True),
    "combat": _Row(fit_combat, 2, batches=True),
}


def fit_correction(
    name: str,
    features: ArrayLike,
    controls: ArrayLike,
    batches: Sequence[object] | None = None,
    *,
    options: CorrectionOptions | None = None,
) -> Correction:
    """Fit a correction on the controls among `features`.

    Parameters
    ----------
    name
        A row of the table above.
    features
        ``(n, D)``.
    controls
        ``(n,)`` bool.
    batches
        Label of each row; every batch needs controls. Without it all rows are one batch.
    options
        Ranks, shrinkage and ridges.

    Raises
    ------
    UsageError
        An unknown name, arrays that do not fit together, or no batches where they are needed.
    RefusedError
        Too few controls in a batch, or controls that do not vary.
    """
    if name not in CORRECTIONS:
        raise UsageError("no such correction", where="correct", got=name, expected=", ".join(CORRECTIONS))
    x, mask = _checked(features), np.asarray(controls, bool)
    if mask.shape != (len(x),):
        raise UsageError("one flag per row", where="controls", got=mask.shape, expected=(len(x),))
    row = CORRECTIONS[name]
    labels = _labels(batches, len(x))
    names = sorted(set(labels))
    if row.batches and len(names) < 2:
        raise UsageError(
            "nothing to bring together", where=name, got=f"{len(names)} batch", expected="2 or more"
        )
    order = np.array(labels)
    groups = {batch: x[mask & (order == batch)] for batch in names}
    for batch, rows in groups.items():
        if len(rows) < row.least:
            raise RefusedError(
                "too few controls",
                where=f"{name}, batch {batch}" if batch else name,
                got=len(rows),
                expected=f"{row.least} or more",
                todo="drop the batch, or use another correction",
            )
    chosen = options or CorrectionOptions()
    maps, rank, condition = row.fit(groups, chosen)
    counts = {} if batches is None else {batch: len(rows) for batch, rows in groups.items()}
    return Correction(name, chosen, int(mask.sum()), x.shape[1], counts, rank, condition, maps)


def correct(
    name: str,
    features: ArrayLike,
    controls: ArrayLike,
    batches: Sequence[object] | None = None,
    *,
    options: CorrectionOptions | None = None,
) -> Floats:
    """Fit a correction on the controls and return all rows corrected; see :func:`fit_correction`."""
    return fit_correction(name, features, controls, batches, options=options).apply(features, batches)
