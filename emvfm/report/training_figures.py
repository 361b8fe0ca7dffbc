"""The learning curve of a run: its loss step by step, and what validation slices said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = ["learning_curve", "smoothed"]


def smoothed(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Return the centred moving average over `share` of ``(n,)`` values; shorter windows at both ends."""
    half = max(1, round(share * len(values) / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    first = np.maximum(np.arange(len(values)) - half, 0)
    return (total[last] - total[first]) / (last - first)


def learning_curve(steps: Sequence[Any], history: Sequence[Mapping[str, Any]], kept: int) -> bytes:
    """Draw loss and validation IoU over the steps, with the kept step marked, as a PNG.

    Parameters
    ----------
    steps
        Objects with ``step`` and ``loss``.
    history
        Rows with ``step``, ``val_loss`` and ``val_iou``, which may be None.
    kept
        The step whose weights are the run's result.
    """
    judged = [row for row in history if row["val_iou"] is not None]
    with styled():
        figure, axes = canvas(7.4 if judged else 4.4, 2.9, 1, 2 if judged else 1)
        loss = axes[0, 0]
        x, y = np.array([s.step for s in steps]), np.array([s.loss for s in steps])
        loss.plot(x, y, color=COLOURS["blue"], alpha=0.25, linewidth=0.7)
        if len(x):
            loss.plot(x, smoothed(y), color=COLOURS["blue"], linewidth=1.6, label="training, smoothed")
        if judged:
            at = [row["step"] for row in judged]
            values = [row["val_loss"] for row in judged]
            loss.plot(at, values, color=COLOURS["vermilion"], marker="o", markersize=3, label="validation")
        loss.set(xlabel="step", ylabel="loss", xlim=(0, None), ylim=(0, None))
        if loss.get_legend_handles_labels()[0]:
            loss.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
        if judged:
            iou = axes[0, 1]
            scores = [row["val_iou"] for row in judged]
            best = at.index(kept)
            iou.plot(at, scores, color=COLOURS["vermilion"], marker="o", markersize=3)
            iou.plot(at[best], scores[best], "o", color=COLOURS["ink"], markersize=7, fillstyle="none")
            iou.annotate(
                f"{scores[best]:.3f} at step {kept}, kept",
                (at[best], scores[best]),
                xytext=(0, 9 if scores[best] < 0.9 else -18),
                textcoords="offset points",
                ha="right" if at[best] > 0.6 * max(at) else "left",
            )
            iou.set(xlabel="step", ylabel="validation IoU, foreground", xlim=(0, None), ylim=(0, 1))
        return png(figure)
