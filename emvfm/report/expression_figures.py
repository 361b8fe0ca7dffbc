"""Figures of gene expression and of audits: models with intervals, genes against rivals, maps, verdicts.

Every function takes arrays or plain values and returns the bytes of a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = ["expression_maps", "gene_correlations", "model_scores", "verdict_bars"]

_KIND_COLOURS = {
    "backbone": "vermilion",
    "untrained": "orange",
    "pixel": "sky",
    "structure": "green",
    "confound": "purple",
    "circular": "soft",
    "permuted": "soft",
    "mean": "soft",
}
_SERIES = ("orange", "sky", "green", "purple", "blue", "vermilion")
_MARKS = "sD^vPo"
_LONGEST = 44


def _shortened(name: str) -> str:
    half = (_LONGEST - 1) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


def model_scores(panels: Sequence[Mapping[str, Any]], folds: Sequence[str], measure: str) -> bytes:
    """Draw the score of every model with its interval, and each fold as a small dot; one panel a head.

    Parameters
    ----------
    panels
        ``title`` and ``models``; of each ``name``, ``kind``, ``value``, ``low``, ``high`` and ``folds`` (None where
        there is none).
    """
    if not panels or not panels[0]["models"]:
        raise ValueError("no models to draw")
    n = len(panels[0]["models"])
    with styled():
        figure, axes = canvas(3.2 + 3.4 * len(panels), 0.42 * n + 1.3, 1, len(panels))
        for number, (place, panel) in enumerate(zip(axes[0], panels, strict=True)):
            place.axvline(0, color=COLOURS["soft"], linewidth=0.8)
            for y, model in zip(range(n)[::-1], panel["models"], strict=True):
                colour = COLOURS[_KIND_COLOURS.get(model["kind"], "soft")]
                known = [v for v in model["folds"] if v is not None]
                offsets = ((np.arange(len(known)) * 0.618034) % 1 - 0.5) * 0.4
                place.scatter(known, y + offsets, s=11, color=colour, alpha=0.45, linewidths=0)
                if model["low"] is not None:
                    place.plot([model["low"], model["high"]], [y, y], color=colour, linewidth=1.8)
                if np.isfinite(model["value"]):
                    place.scatter([model["value"]], [y], s=40, marker="D", color=colour, zorder=3)
                else:
                    place.text(0, y, "  undefined", va="center", color=COLOURS["soft"], size=9)
            labels = [_shortened(str(m["name"])) for m in panel["models"]] if number == 0 else [""] * n
            place.set_yticks(range(n)[::-1], labels)
            place.tick_params(axis="y", length=0)
            place.set_ylim(-0.6, n - 0.4)
            place.set_title(str(panel["title"]))
            place.grid(axis="x")
        figure.supxlabel(f"{measure}; small: {len(folds)} folds", fontsize=9.5)
        return png(figure)


def gene_correlations(own: Mapping[str, float], rivals: Mapping[str, Mapping[str, float]]) -> bytes:
    """Draw each gene's correlation by the model in question, in descending order, and by its rivals."""
    if not own:
        raise ValueError("no genes to draw")
    genes = sorted(own, key=lambda gene: -own[gene])
    with styled():
        figure, axes = canvas(max(6.0, 0.16 * len(genes) + 1.6), 3.7)
        place = axes[0, 0]
        x = np.arange(len(genes))
        place.axhline(0, color=COLOURS["soft"], linewidth=0.8)
        place.plot(
            x,
            [own[g] for g in genes],
            color=COLOURS["vermilion"],
            linewidth=1.6,
            label="the model in question",
        )
        for i, (name, values) in enumerate(rivals.items()):
            place.scatter(
                x, [values.get(g, np.nan) for g in genes], s=15, marker=_MARKS[i % len(_MARKS)], linewidths=0,
                alpha=0.8, color=COLOURS[_SERIES[i % len(_SERIES)]], label=_shortened(name),
            )  # fmt: skip
        place.set_ylabel("Pearson correlation")
        if len(genes) <= 80:
            place.set_xticks(x, genes, rotation=90, fontsize=7)
        else:
            place.set_xlabel(f"{len(genes)} genes")
        place.set_xlim(-0.7, len(genes) - 0.3)
        place.grid(axis="y")
        figure.legend(loc="outside upper left", ncols=min(3, len(rivals) + 1), fontsize=8.5)
        return png(figure)


def expression_maps(maps: Sequence[Mapping[str, Any]], model: str) -> bytes:
    """Draw measured over predicted expression at the spots of sections, one column a gene and section.

    Parameters
    ----------
    maps
        ``section``, ``gene``, ``pearson``, and per spot ``x``, ``y``, ``measured`` and ``predicted``; colours span
        each map's own 2nd to 98th percentile.
    """
    if not maps:
        raise ValueError("no maps to draw")
    with styled():
        figure, axes = canvas(max(4.0, 1.95 * len(maps)), 4.6, 2, len(maps))
        for i, item in enumerate(maps):
            x, y = np.asarray(item["x"], float), np.asarray(item["y"], float)
            size = float(np.clip(6000 / max(len(x), 1), 1.0, 26.0))
            for place, key in zip(axes[:, i], ("measured", "predicted"), strict=True):
                values = np.asarray(item[key], float)
                low, high = np.percentile(values, [2, 98])
                place.scatter(
                    x,
                    y,
                    c=values,
                    s=size,
                    cmap="viridis",
                    vmin=low,
                    vmax=max(high, low + 1e-12),
                    linewidths=0,
                )
                place.set_aspect("equal")
                place.invert_yaxis()
                place.set_xticks([])
                place.set_yticks([])
                for spine in place.spines.values():
                    spine.set_visible(False)
            r = item["pearson"]
            axes[0, i].set_title(f"{item['gene']}, {item['section']}", fontsize=9.5)
            says = "no correlation" if r is None or not np.isfinite(r) else f"r = {r:.2f}"
            axes[1, i].set_xlabel(says, fontsize=9)
        axes[0, 0].set_ylabel("measured")
        axes[1, 0].set_ylabel("predicted")
        figure.suptitle(_shortened(model), fontsize=10.5, x=0.01, ha="left")
        return png(figure)


def verdict_bars(rows: Sequence[Mapping[str, Any]], metric: str) -> bytes:
    """Draw differences of a model from its rivals with their intervals; hollow where they cover 0.

    Parameters
    ----------
    rows
        ``trained``, ``rival``, ``role``, ``kind``, ``value``, ``low`` and ``high`` (None without an interval).
    """
    if not rows:
        raise ValueError("no verdicts to draw")
    colours = {"untrained": "orange", "baseline": "sky", "confound": "purple"}
    with styled():
        figure, axes = canvas(7.4, 0.55 * len(rows) + 1.3)
        place = axes[0, 0]
        place.axvline(0, color=COLOURS["ink"], linewidth=0.9)
        several = len({row["trained"] for row in rows}) > 1
        labels = []
        for y, row in zip(range(len(rows))[::-1], rows, strict=True):
            colour = COLOURS[colours.get(row["kind"], "blue")]
            covers = row["low"] is None or row["low"] <= 0 <= row["high"]
            if row["low"] is not None:
                place.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=2)
            face = "white" if covers else colour
            place.scatter(
                [row["value"]], [y], s=44, facecolor=face, edgecolor=colour, linewidth=1.6, zorder=3
            )
            first = f"{_shortened(str(row['trained']))}\n" if several else ""
            labels.append(f"{first}minus {row['role']}:\n{_shortened(str(row['rival']))}")
        place.set_yticks(range(len(rows))[::-1], labels, fontsize=8.5)
        place.tick_params(axis="y", length=0)
        place.set_ylim(-0.6, len(rows) - 0.4)
        figure.supxlabel(f"difference of {metric}\nhollow: the interval covers 0", fontsize=9.5)
        place.grid(axis="x")
        return png(figure)
