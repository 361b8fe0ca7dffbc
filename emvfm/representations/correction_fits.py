"""How each correction becomes an affine map a batch, from the controls of every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.representations.combat import combat_maps
from emvfm.representations.whitening import Affine, power, spectrum

__all__ = [
    "CorrectionOptions",
    "Fitted",
    "fit_center",
    "fit_combat",
    "fit_coral",
    "fit_none",
    "fit_pca_cs",
    "fit_sphere",
    "fit_tvn",
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CorrectionOptions:
    """How corrections are kept finite.

    Parameters
    ----------
    eps
        Axes with less than this share of the largest variance of controls are left out.
    shrinkage
        Share in [0, 1] by which the variances are drawn towards their mean before `sphere` divides by them.
    ridge
        Weight of the prior in the covariance of a batch: of the mean variance of an axis (`tvn`), of the covariance
        of all controls (`coral`).
    components
        Most axes of `tvn` and `pca-cs`, None for all.
    """

    eps: float = 1e-6
    shrinkage: float = 0.0
    ridge: float = 0.5
    components: int | None = None

    def __post_init__(self) -> None:
        if not (0 < self.eps < 1 and 0 <= self.shrinkage <= 1 and self.ridge > 0):
            raise UsageError(
                "out of range", where="correction", got=self, expected="0<eps<1, 0<=shrinkage<=1, ridge>0"
            )
        if self.components is not None and self.components < 1:
            raise UsageError("out of range", where="components", got=self.components, expected="1 or more")


def _centred(groups: dict[str, Floats]) -> tuple[dict[str, Floats], Floats, int]:
    """Return the mean of each batch's controls, all controls less them, and the degrees of freedom."""
    means = {batch: rows.mean(axis=0) for batch, rows in groups.items()}
    centred = np.concatenate([rows - means[batch] for batch, rows in groups.items()])
    return means, centred, len(centred) - len(groups)


def _scale(rows: Floats) -> Floats:
    """Return standard deviations ``(D,)``, one where controls do not vary; such axes fall away later."""
    spread = rows.std(axis=0)
    return np.where(spread > 1e-12 * np.abs(rows).max(initial=0), spread, 1.0)


#: Map of each batch; kept axes and their condition, None where none are computed.
Fitted = tuple[dict[str, Affine], int | None, float | None]


def fit_none(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Leave rows as they are."""
    d = next(iter(groups.values())).shape[1]
    return {batch: Affine(np.zeros(d), np.ones(d), np.zeros(d)) for batch in groups}, None, None


def fit_center(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Take off the mean of each batch's controls."""
    means, _, _ = _centred(groups)
    d = next(iter(groups.values())).shape[1]
    return {batch: Affine(mean, np.ones(d), np.zeros(d)) for batch, mean in means.items()}, None, None


def fit_sphere(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Centre each batch, then whiten along the axes of all controls and turn back."""
    means, centred, freedom = _centred(groups)
    found = spectrum(centred, freedom, eps=options.eps)
    matrix = (found.vectors / np.sqrt(found.shrunk(options.shrinkage))) @ found.vectors.T
    offset = np.zeros(len(matrix))
    return {batch: Affine(mean, matrix, offset) for batch, mean in means.items()}, found.rank, found.condition


def _by_axes(groups: dict[str, Floats], matrix: Floats, shift: Floats) -> dict[str, tuple[Floats, Floats]]:
    """Return mean and standard deviation of each batch's controls along the axes."""
    found = {}
    pooled = ((np.concatenate(list(groups.values())) - shift) @ matrix).std(axis=0)
    for batch, rows in groups.items():
        along = (rows - shift) @ matrix
        spread = along.std(axis=0)
        if (spread <= 1e-6 * pooled).any():
            raise RefusedError(
                "controls of a batch do not vary along an axis",
                where=batch or "all rows",
                got=f"{len(rows)} controls",
                todo="lower components, or give the batch more controls",
            )
        found[batch] = along.mean(axis=0), spread
    return found


def fit_pca_cs(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Axes of all controls, centred and scaled on each batch's."""
    rows = np.concatenate(list(groups.values()))
    shift = rows.mean(axis=0)
    found = spectrum(rows - shift, len(rows) - 1, eps=options.eps, components=options.components)
    maps = {}
    for batch, (mean, spread) in _by_axes(groups, found.vectors, shift).items():
        maps[batch] = Affine(shift, found.vectors / spread, -mean / spread)
    return maps, found.rank, found.condition


def fit_tvn(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Whitened axes of all controls, then each batch's covariance along them divided out; its mean stays, as there."""
    rows = np.concatenate(list(groups.values()))
    shift, scale = rows.mean(axis=0), _scale(rows)
    found = spectrum((rows - shift) / scale, len(rows) - 1, eps=options.eps, components=options.components)
    axes = found.vectors / scale[:, None]
    axes = axes / ((rows - shift) @ axes).std(axis=0)
    maps = {}
    for batch, own in groups.items():
        covariance = np.atleast_2d(np.cov((own - shift) @ axes, rowvar=False))
        # Variances of all controls are one by now, so the ridge as it stands is a share of them.
        root = power(covariance + options.ridge * np.eye(len(covariance)), -0.5)
        maps[batch] = Affine(shift, axes @ root, np.zeros(len(root)))
    return maps, found.rank, found.condition


def fit_coral(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Give each batch the mean and the covariance of all controls."""
    means, centred, freedom = _centred(groups)
    found = spectrum(centred, freedom, eps=options.eps)  # refuses controls that do not vary
    target = centred.T @ centred / freedom
    target += options.eps * np.trace(target) / len(target) * np.eye(len(target))
    colour = power(target, 0.5)
    offset = np.concatenate(list(groups.values())).mean(axis=0)
    maps = {}
    for batch, rows in groups.items():
        # Drawn towards the target, not towards a sphere: a direction in which a batch of few controls happens not
        # to vary would else be stretched to the target's full variance. Nothing grows by more than sqrt(1 + 1/ridge).
        own = (np.atleast_2d(np.cov(rows, rowvar=False)) + options.ridge * target) / (1 + options.ridge)
        maps[batch] = Affine(means[batch], power(own, -0.5) @ colour, offset)
    return maps, found.rank, found.condition


def fit_combat(groups: dict[str, Floats], options: CorrectionOptions) -> Fitted:
    """Shrunk location and scale of each batch."""
    return combat_maps(groups), None, None
