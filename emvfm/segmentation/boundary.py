"""How far apart two outlines are: boundary F1 at a tolerance, average and 95 % Hausdorff distance.

An outline is what the mask loses when it is eroded by its four neighbours, as in MONAI and torchmetrics;
where an object is cut off by the image's frame, the frame counts as outline unless it is told not to.
Distances run between centres of outline pixels, along both directions; definitions follow Metrics Reloaded
(Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z, arXiv 2206.01653). Numpy and scipy only.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = ["BoundaryScore", "boundary_score", "outline", "outline_distances"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class BoundaryScore:
    """Outlines of one image, or of several added up; distances are in the unit of the spacing.

    Nothing to outline in truth and prediction alike is agreement: F1 1, distances 0. An outline in only one
    of them gives F1 0 and no distance, because there is none: such images are counted in `one_sided`, and
    means leave them out.

    Parameters
    ----------
    near_predicted, predicted
        Outline pixels of the prediction within the tolerance of the true outline, and all of them.
    near_true, true
        Outline pixels of the truth within the tolerance of the predicted outline, and all of them.
    assd, hausdorff
        Sums over images of the average symmetric surface distance and of the Hausdorff distance.
    defined
        Images that have these distances.
    one_sided
        Images with an outline in either truth or prediction, not in both.
    """

    near_predicted: int = 0
    predicted: int = 0
    near_true: int = 0
    true: int = 0
    assd: float = 0.0
    hausdorff: float = 0.0
    defined: int = 0
    one_sided: int = 0

    def __add__(self, other: BoundaryScore) -> BoundaryScore:
        return BoundaryScore(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of outline pixels, in [0, 1]."""
        return float(boundary_f1(np.array(astuple(self), dtype=np.float64)))

    @property
    def mean_assd(self) -> float:
        """Mean over images of the average symmetric surface distance; NaN where no image has one."""
        return self.assd / self.defined if self.defined else float("nan")

    @property
    def mean_hausdorff(self) -> float:
        """Mean over images of the Hausdorff distance; NaN where no image has one."""
        return self.hausdorff / self.defined if self.defined else float("nan")


def boundary_f1(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F1 of rows ``(..., 8)`` in the order of :class:`BoundaryScore`'s fields; 1 without any outline."""
    near_predicted, predicted, near_true, true = np.moveaxis(table[..., :4], -1, 0)
    precision = np.divide(near_predicted, predicted, out=np.zeros_like(predicted), where=predicted > 0)
    recall = np.divide(near_true, true, out=np.zeros_like(true), where=true > 0)
    whole = precision + recall
    f1 = np.divide(2 * precision * recall, whole, out=np.zeros_like(whole), where=whole > 0)
    return np.where(predicted + true == 0, 1.0, f1)


def outline(mask: Mask, *, frame: bool = True) -> Mask:
    """Return the pixels ``(H, W)`` of a mask that have a 4-neighbour outside it.

    Parameters
    ----------
    mask
        ``(H, W)`` bool.
    frame
        Count what lies beyond the image as outside. A mask that fills the image has no outline without it.
    """
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask, border_value=not frame)


def outline_distances(
    prediction: Mask, truth: Mask, *, spacing: tuple[float, float] = (1.0, 1.0), frame: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure from each outline pixel of either mask the distance to the other mask's outline.

    Parameters
    ----------
    prediction, truth
        ``(H, W)`` bool.
    spacing
        Height and width of a pixel, such as in nm; distances are in its unit.
    frame
        See :func:`outline`.

    Returns
    -------
    predicted, true
        ``(n,)`` and ``(m,)`` float64, infinite where the other mask has no outline.

    Raises
    ------
    UsageError
        When a mask is not bool, the shapes differ, or a side of a pixel is not positive.
    """
    from scipy.ndimage import distance_transform_edt

    for name, mask in {"prediction": prediction, "truth": truth}.items():
        if mask.dtype != np.bool_:
            raise UsageError("wrong dtype", where=name, got=mask.dtype, expected="bool")
        if mask.ndim != 2 or mask.shape != truth.shape:
            raise UsageError("wrong shape", where=name, got=mask.shape, expected=truth.shape)
    if not all(np.isfinite(side) and side > 0 for side in spacing):
        raise UsageError("not a pixel size", where="spacing", got=spacing, expected="two positive numbers")
    outlines = [outline(mask, frame=frame) for mask in (prediction, truth)]
    both = outlines[0] | outlines[1]
    if not both.any():
        return np.zeros(0), np.zeros(0)
    # Outlines outside of their common rectangle don't exist, so nothing else needs a distance.
    box = tuple(slice(where.min(), where.max() + 1) for where in np.nonzero(both))
    measured = []
    for own, other in ((outlines[0], outlines[1]), (outlines[1], outlines[0])):
        if not other.any():
            measured.append(np.full(np.count_nonzero(own), np.inf))
            continue
        distance = distance_transform_edt(~other[box], sampling=spacing)
        measured.append(distance[own[box]])
    return measured[0], measured[1]


def boundary_score(
    prediction: Mask,
    truth: Mask,
    *,
    tolerance: float = 2.0,
    percentile: float = 95.0,
    spacing: tuple[float, float] = (1.0, 1.0),
    frame: bool = True,
) -> BoundaryScore:
    """Compare the outlines of one image.

    F1 is that of Csurka et al. (2013, doi:10.5244/C.27.32): precision is the share of the predicted outline
    within the tolerance of the true one, recall the share of the true outline within the tolerance of the
    predicted one. ASSD is the mean of the distances of both directions together. The Hausdorff distance is
    the greater of the two directions' percentiles, as in MONAI.

    Parameters
    ----------
    prediction, truth
        ``(H, W)`` bool.
    tolerance
        Largest distance that counts as agreement, at least 0, in the unit of `spacing`.
    percentile
        Of the Hausdorff distance, in (0, 100]; 100 is the classical one.
    spacing
        Height and width of a pixel.
    frame
        See :func:`outline`.

    Raises
    ------
    UsageError
        For masks that don't go together, or an option out of range.
    """
    if not tolerance >= 0 or not 0 < percentile <= 100:
        got = f"tolerance {tolerance}, percentile {percentile}"
        raise UsageError("out of range", where="boundary", got=got, expected="at least 0; above 0 to 100")
    predicted, true = outline_distances(prediction, truth, spacing=spacing, frame=frame)
    counts: dict[str, Any] = {
        "near_predicted": int(np.count_nonzero(predicted <= tolerance)),
        "predicted": len(predicted),
        "near_true": int(np.count_nonzero(true <= tolerance)),
        "true": len(true),
    }
    if len(predicted) == 0 and len(true) == 0:
        return BoundaryScore(defined=1)
    if len(predicted) == 0 or len(true) == 0:
        return BoundaryScore(**counts, one_sided=1)
    assd = float((predicted.sum() + true.sum()) / (len(predicted) + len(true)))
    hausdorff = float(max(np.percentile(predicted, percentile), np.percentile(true, percentile)))
    return BoundaryScore(**counts, assd=assd, hausdorff=hausdorff, defined=1)
