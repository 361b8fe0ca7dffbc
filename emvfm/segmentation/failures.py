"""What went wrong, object by object: true objects that were missed and predicted ones that aren't there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emvfm.segmentation.instances import InstanceMatch

__all__ = ["ObjectFailure", "object_failures"]


@dataclass(frozen=True)
class ObjectFailure:
    """One object without a partner.

    Parameters
    ----------
    kind
        ``missed``: in the truth only; ``false``: in the prediction only.
    row, column
        Its centre of mass in px, counted from the centre of the first pixel.
    area_px, area_nm2
        Its size; in nm² where the pixel size is known.
    best_iou
        IoU with the object of the other side that overlaps it best, in [0, 0.5].
    score
        Mean probability of foreground over a predicted object, None for a missed one.
    """

    image: str
    source: str
    kind: Literal["missed", "false"]
    row: float
    column: float
    area_px: int
    area_nm2: float | None
    best_iou: float
    score: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


def object_failures(
    match: InstanceMatch,
    truth: NDArray[np.int32],
    prediction: NDArray[np.int32],
    *,
    image: str,
    source: str,
    pixel_size_nm: float | None = None,
) -> list[ObjectFailure]:
    """List the objects of one image whose IoU with any other is at most one half, missed ones first.

    Parameters
    ----------
    match
        Of these very labels.
    truth, prediction
        ``(H, W)`` int32, 1 … n without gaps.
    """
    from scipy.ndimage import center_of_mass

    failures: list[ObjectFailure] = []
    for kind, labels, best in (
        ("missed", truth, match.true_iou),
        ("false", prediction, match.predicted_iou),
    ):
        alone = np.flatnonzero(best <= 0.5)
        areas = np.bincount(labels.ravel(), minlength=len(best) + 1)
        centres = center_of_mass(labels > 0, labels, alone + 1) if len(alone) else []
        for i, (row, column) in zip(alone.tolist(), centres, strict=True):
            area = int(areas[i + 1])
            failures.append(
                ObjectFailure(
                    image=image,
                    source=source,
                    kind=kind,  # type: ignore[arg-type]
                    row=float(row),
                    column=float(column),
                    area_px=area,
                    area_nm2=None if pixel_size_nm is None else area * pixel_size_nm**2,
                    best_iou=float(best[i]),
                    score=float(match.score[i]) if kind == "false" else None,
                )
            )
    return failures
