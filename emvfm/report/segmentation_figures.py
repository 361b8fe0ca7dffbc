"""Figures of segmentation scores: precision over recall, reliability of probabilities, differences of recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = ["differences", "precision_recall", "reliability"]

_CYCLE = tuple(COLOURS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky"))
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)))
_MARKERS = "osD^vP"
#: More curves than that can't be told apart.
MOST = len(_CYCLE) * len(_DASHES)


def _look(n: int) -> dict[str, Any]:
    return {"color": _CYCLE[n % len(_CYCLE)], "linestyle": _DASHES[n // len(_CYCLE) % len(_DASHES)]}


def _chosen(items: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not items:
        raise ValueError("no curves to draw")
    if len(items) > MOST:
        raise ValueError(f"{len(items)} curves can't be told apart, at most {MOST} can")
    return items


def _legend(figure: Any, items: Sequence[Mapping[str, Any]]) -> None:
    """Put a legend below, in as many columns as its longest text allows."""
    longest = max(len(str(item["label"])) for item in items)
    columns = max(1, min(len(items), int(figure.get_figwidth() * 11 // (longest + 16))))
    figure.legend(loc="outside lower left", ncols=columns, handlelength=2.2)


def precision_recall(items: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw precision over recall of foreground pixels, with lines of equal IoU.

    Parameters
    ----------
    items
        One a run and test set: ``label``; ``threshold``, ``precision``, ``recall`` (lists of equal length);
        ``area``, the average precision; ``at``, the threshold in use, marked on the curve.

    Raises
    ------
    ValueError
        No items, or too many to tell apart.
    """
    with styled():
        figure, axes = canvas(5.6, 5.1 + 0.24 * len(_chosen(items)))
        place = axes[0, 0]
        for iou in (0.5, 0.6, 0.7, 0.8, 0.9):
            # IoU = 1 / (1 / precision + 1 / recall - 1)
            recall = np.linspace(iou, 1, 100)
            precision = 1 / (1 / iou + 1 - 1 / recall)
            place.plot(recall, precision, color=COLOURS["line"], linewidth=0.8, zorder=1)
            place.annotate(
                f"IoU {iou:g}", (2 * iou / (1 + iou),) * 2, color=COLOURS["soft"], size=7.5, ha="center",
                va="center", rotation=-45, backgroundcolor="white", zorder=2,
            )  # fmt: skip
        for n, item in enumerate(items):
            look, threshold = _look(n), np.asarray(item["threshold"])
            recall, precision = np.asarray(item["recall"]), np.asarray(item["precision"])
            found = recall > 0  # precision without anything found is a convention, not a point of the curve
            threshold, recall, precision = threshold[found], recall[found], precision[found]
            label = f"{item['label']}, AP {item['area']:.3f}"
            point = [int(np.abs(threshold - item["at"]).argmin())] if len(threshold) else []
            place.plot(
                recall, precision, linewidth=1.7, marker=_MARKERS[n % len(_MARKERS)], markevery=point,
                markersize=6.5, markerfacecolor="white", markeredgewidth=1.6, label=label, zorder=3, **look,
            )  # fmt: skip
        place.set_xlim(0, 1.01)
        place.set_ylim(0, 1.01)
        place.set_aspect("equal")
        place.set_xlabel("recall of foreground pixels (marked: the threshold in use)")
        place.set_ylabel("precision of foreground pixels")
        _legend(figure, items)
        return png(figure)


def reliability(items: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the share of foreground over the predicted probability, and below how many pixels say so.

    Parameters
    ----------
    items
        One a run and test set: ``label``; ``rows`` with ``low``, ``high``, ``pixels``, ``predicted`` and
        ``observed`` (None without pixels); ``error``, the expected calibration error.

    Raises
    ------
    ValueError
        No items, or too many to tell apart.
    """
    with styled():
        from matplotlib.ticker import FuncFormatter

        figure, axes = canvas(5.6, 6.4 + 0.24 * len(_chosen(items)), 2, 1)
        above, below = axes[:, 0]
        above.get_subplotspec().get_gridspec().set_height_ratios([3.2, 1])
        above.plot([0, 1], [0, 1], color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (3, 3)))
        above.annotate(
            "as predicted", (0.9, 0.915), color=COLOURS["soft"], size=8.5, rotation=45, ha="right", va="bottom",
            transform_rotates_text=True, rotation_mode="anchor",
        )  # fmt: skip
        for n, item in enumerate(items):
            rows = [row for row in item["rows"] if row["pixels"]]
            predicted, observed = ([row[key] for row in rows] for key in ("predicted", "observed"))
            label = f"{item['label']}, error {item['error']:.3f}"
            above.plot(
                predicted, observed, linewidth=1.5, marker=_MARKERS[n % len(_MARKERS)], markersize=4.5,
                label=label, **_look(n),
            )  # fmt: skip
            whole = sum(row["pixels"] for row in rows)
            edges = [row["low"] for row in item["rows"]] + [item["rows"][-1]["high"]]
            shares = [row["pixels"] / whole for row in item["rows"]]
            below.stairs(shares, edges, linewidth=1.4, baseline=None, **_look(n))
        above.set_xlim(0, 1.01)
        above.set_ylim(0, 1.01)
        above.set_ylabel("share that is foreground")
        above.grid()
        below.set_yscale("log")
        below.set_xlim(0, 1.01)
        below.set_ylim(top=1)
        below.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
        below.set_ylabel("pixels")
        below.set_xlabel("predicted probability of foreground")
        below.grid(axis="y")
        _legend(figure, items)
        return png(figure)


def differences(items: Sequence[Mapping[str, Any]], measure: str = "difference of foreground IoU") -> bytes:
    """Draw differences with their intervals about the line of no difference, the first on top.

    Parameters
    ----------
    items
        One a difference: ``label``, ``value``, ``low`` and ``high`` (or None), ``note``, written at the right.

    Raises
    ------
    ValueError
        No items.
    """
    if not items:
        raise ValueError("no differences to draw")
    with styled():
        figure, axes = canvas(7.6, 0.42 * len(items) + 0.85)
        place = axes[0, 0]
        place.axvline(0, color=COLOURS["ink"], linewidth=0.9)
        for n, item in enumerate(items):
            y, value = len(items) - 1 - n, item["value"]
            clear = item["low"] is not None and (item["low"] > 0 or item["high"] < 0)
            colour = COLOURS["blue"] if clear else COLOURS["soft"]
            if item["low"] is not None:
                place.plot([item["low"], item["high"]], [y, y], color=colour, linewidth=2)
            place.plot(value, y, marker="o", markersize=6.5, color=colour)
            text = f"{value:+.3f}".replace("-", "−") + f"  {item['note']}"
            place.annotate(
                text,
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                size=9,
                annotation_clip=False,
            )
        place.set_yticks(range(len(items))[::-1], [str(item["label"]) for item in items])
        place.set_ylim(-0.6, len(items) - 0.4)
        place.tick_params(axis="y", length=0)
        place.margins(x=0.08)
        place.spines["left"].set_visible(False)
        place.set_xlabel(measure)
        place.grid(axis="x")
        return png(figure)
