"""Test-time augmentation: the mean of what a model says of an image turned and mirrored, turned back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError

__all__ = ["TURNS", "mean_over_turns"]

#: Name → (quarter turns, mirrored first) of each view.
TURNS: dict[str, tuple[tuple[int, bool], ...]] = {
    "none": ((0, False),),
    "flips": ((0, False), (2, False), (0, True), (2, True)),
    "turns": tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4)),
}


def mean_over_turns(
    predict: Callable[[NDArray[Any]], NDArray[np.floating[Any]]], image: NDArray[Any], turns: str
) -> NDArray[np.float32]:
    """Return the mean ``(H, W)`` float32 of `predict` over views of an image ``(H, W[, 3])``.

    Parameters
    ----------
    predict
        From an image to a probability ``(H, W)`` of its size, which may be turned from the image's.
    turns
        ``none``, ``flips`` (4 views of the same size) or ``turns`` (all 8).

    Raises
    ------
    UsageError
        Unknown `turns`.
    """
    if turns not in TURNS:
        raise UsageError("unknown views", where="tta", got=repr(turns), expected=" | ".join(TURNS))
    total = np.zeros(image.shape[:2], np.float64)
    for quarters, mirrored in TURNS[turns]:
        view = np.rot90(image[:, ::-1] if mirrored else image, quarters)
        answer = np.rot90(predict(np.ascontiguousarray(view)), -quarters)
        total += answer[:, ::-1] if mirrored else answer
    return (total / len(TURNS[turns])).astype(np.float32)
