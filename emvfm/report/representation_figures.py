"""Figures of what representations are good for: retrieval, relations, layers, similarity and geometry.

Every function takes plain values and returns the bytes of a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = ["group_bars", "group_precisions"]

_LONGEST = 34


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def group_precisions(
    rows: Sequence[Mapping[str, Any]], overall: Mapping[str, float], what: str, alpha: float
) -> bytes:
    """Draw the mean average precision of all groups in order, and the histogram of their p-values.

    Parameters
    ----------
    rows
        One a group: ``value``, ``expected`` (of a random order), ``p`` and ``q``.
    overall
        ``value`` and ``expected``, means over groups.
    what
        Name of the groups.
    alpha
        False discovery rate; groups at or below it are filled.
    """
    order = sorted(rows, key=lambda row: row["value"])
    places = np.arange(1, len(order) + 1)
    values = np.array([row["value"] for row in order])
    below = np.array([row["q"] is not None and row["q"] <= alpha for row in order], bool)
    with styled():
        figure, axes = canvas(8.4, 3.5, 1, 2)
        ranked, histogram = axes[0]
        ranked.scatter(
            places, [row["expected"] for row in order], s=8, marker="_", color=COLOURS["soft"],
            label="random order",
        )  # fmt: skip
        size = 26 if len(order) <= 80 else 9
        for chosen, colour, label in (
            (below, "blue", f"q ≤ {alpha:g}"),
            (~below, "orange", f"q > {alpha:g}"),
        ):
            if chosen.any():
                ranked.scatter(
                    places[chosen], values[chosen], s=size, color=COLOURS[colour], linewidths=0,
                    label=f"{label}: {int(chosen.sum())}",
                )  # fmt: skip
        ranked.axhline(overall["value"], color=COLOURS["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
        ranked.annotate(
            f"mean {overall['value']:.3f}", (places[0], overall["value"]), xytext=(2, 4),
            textcoords="offset points", size=9,
        )  # fmt: skip
        ranked.set_ylim(0, 1.03)
        ranked.set_xlabel(f"{what}, in order")
        ranked.set_ylabel("mean average precision")
        ranked.grid(axis="y")
        ranked.legend(loc="upper left", fontsize=8.5, bbox_to_anchor=(0, 0.93))
        counts, _, _ = histogram.hist(
            [row["p"] for row in order], bins=np.linspace(0, 1, 21), color=COLOURS["blue"], edgecolor="white"
        )
        even = len(order) / 20
        histogram.axhline(even, color=COLOURS["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
        histogram.annotate(
            "even, as for noise", (1, even), xytext=(0, 4), textcoords="offset points", ha="right", size=9
        )
        histogram.set_ylim(0, max(float(counts.max()), 2 * even) * 1.05)
        histogram.set_xlabel("p-value")
        histogram.set_ylabel("groups")
        return png(figure)


def group_bars(
    rows: Sequence[Mapping[str, Any]], alpha: float, measure: str = "mean average precision"
) -> bytes:
    """Draw a bar with its interval for each row, and a tick where a random order would be.

    Parameters
    ----------
    rows
        ``group``, ``value``, ``low`` and ``high`` (or None), ``expected`` (or None), ``n``, and ``q`` (or None:
        neither below nor above `alpha`, drawn in grey).
    """
    with styled():
        figure, axes = canvas(6.6, 0.33 * len(rows) + 1.15)
        place = axes[0, 0]
        heights = np.arange(len(rows))[::-1]
        for y, row in zip(heights, rows, strict=True):
            known = row.get("q") is not None
            colour = ("blue" if row["q"] <= alpha else "sky") if known else "soft"
            place.barh(y, row["value"], height=0.66, color=COLOURS[colour])
            if row.get("low") is not None and row.get("high") is not None:
                place.plot([row["low"], row["high"]], [y, y], color=COLOURS["ink"], linewidth=1.3)
            if row.get("expected") is not None:
                place.plot(
                    [row["expected"]] * 2, [y - 0.4, y + 0.4], color=COLOURS["vermilion"], linewidth=1.6
                )
        place.set_yticks(heights, [f"{_short(str(row['group']))}  (n = {row['n']})" for row in rows])
        place.tick_params(axis="y", length=0)
        place.set_ylim(-0.6, len(rows) - 0.4)
        place.set_xlim(left=0)
        place.set_xlabel(f"{measure}; red: random order; pale: q > {alpha:g}")
        place.grid(axis="x")
        return png(figure)
