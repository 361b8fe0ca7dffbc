"""Figures of gene expression and of audits: models with intervals, genes against rivals, maps, verdicts.

Every function takes arrays or plain values and returns the bytes of a PNG.
"""

from __future__ import annotations

import textwrap
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
_LINE = 38


def _shortened(name: str, longest: int = 44) -> str:
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def _wrapped(name: str) -> str:
    """Return a name on two lines at most; what is longer loses its middle."""
    return "\n".join(textwrap.wrap(_shortened(name, 2 * _LINE - 8), _LINE, break_on_hyphens=False)[:2])


def model_scores(panels: Sequence[Mapping[str, Any]], folds: Sequence[str], measure: str) -> bytes:
    """Draw the score of every model with its interval, and each fold as a small dot; one panel a head, on one scale.

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
        figure, axes = canvas(3.2 + 3.0 * len(panels), 0.42 * n + 1.3, 1, len(panels))
        for number, (place, panel) in enumerate(zip(axes[0], panels, strict=True)):
            if number:
                place.sharex(axes[0, 0])
            place.axvline(0, color=COLOURS["soft"], linewidth=0.8)
            for y, model in zip(range(n)[::-1], panel["models"], strict=True):
                colour = COLOURS[_KIND_COLOURS.get(model["kind"], "soft")]
                known = [v for v in model["folds"] if v is not None]
                # Under the interval, where they hide nothing and nothing hides them.
                offsets = -0.22 - 0.06 * (np.arange(len(known)) % 3)
                place.scatter(known, y + offsets, s=11, color=colour, alpha=0.6, linewidths=0)
                if model["low"] is not None:
                    place.plot([model["low"], model["high"]], [y, y], color=colour, linewidth=1.8)
                if np.isfinite(model["value"]):
                    place.scatter([model["value"]], [y], s=40, marker="D", color=colour, zorder=3)
                else:
                    place.text(0, y, "  undefined", va="center", color=COLOURS["soft"], size=9)
            labels = [_wrapped(str(m["name"])) for m in panel["models"]] if number == 0 else [""] * n
            place.set_yticks(range(n)[::-1], labels, fontsize=9)
            place.tick_params(axis="y", length=0)
            place.set_ylim(-0.7, n - 0.4)
            place.set_title(str(panel["title"]))
            place.grid(axis="x")
        figure.supxlabel(f"{measure}; small: {len(folds)} folds", fontsize=9.5)
        return png(figure)


def gene_correlations(model: str, own: Mapping[str, float], rivals: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw each gene's correlation by the model in question over that by a rival, one panel a rival.

    Parameters
    ----------
    own
        Gene to correlation.
    rivals
        ``name``, ``kind`` and ``genes``, gene to correlation; genes that only one of both has are not drawn.
    """
    if not own or not rivals:
        raise ValueError("no genes to draw")
    every = [*own.values(), *(value for rival in rivals for value in rival["genes"].values())]
    ends = min(every) - 0.05, max(every) + 0.05
    with styled():
        figure, axes = canvas(max(4.4, 2.6 * len(rivals) + 0.6), 3.5, 1, len(rivals))
        for place, rival in zip(axes[0], rivals, strict=True):
            genes = [gene for gene in own if gene in rival["genes"]]
            x, y = np.array([rival["genes"][g] for g in genes]), np.array([own[g] for g in genes])
            place.plot(ends, ends, color=COLOURS["soft"], linewidth=0.8)
            colour = COLOURS[_KIND_COLOURS.get(rival["kind"], "soft")]
            place.scatter(x, y, s=18, color=colour, alpha=0.75, linewidths=0)
            order = np.argsort(y - x)
            # The genes furthest from the diagonal, written away from it, where there are no others.
            for i, side in ((order[-1], 1), (order[0], -1)) if len(genes) > 1 else ():
                inside = x[i] - ends[0] > 0.4 * (ends[1] - ends[0])
                place.annotate(
                    genes[i], (x[i], y[i]), xytext=(-3 if inside else 3, 4 * side), textcoords="offset points",
                    ha="right" if side > 0 and inside else "left", va="bottom" if side > 0 else "top", size=7.5,
                )  # fmt: skip
            place.set(xlim=ends, ylim=ends, aspect="equal")
            place.set_title(f"higher in {int((y > x).sum())} of {len(genes)} genes", fontsize=9.5)
            place.set_xlabel(textwrap.fill(_shortened(str(rival["name"])), 34), fontsize=9)
        for place in axes[0, 1:]:
            place.tick_params(labelleft=False)
        axes[0, 0].set_ylabel("Pearson correlation")
        title = f"{_shortened(model, 60)} over its rivals, gene by gene"
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
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
        figure, axes = canvas(max(4.0, 1.95 * len(maps)), 4.7, 2, len(maps))
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
                place.set_aspect("equal", adjustable="datalim")  # boxes of one size keep titles in line
                place.invert_yaxis()
                place.set_xticks([])
                place.set_yticks([])
                for spine in place.spines.values():
                    spine.set_visible(False)
            r = item["pearson"]
            axes[0, i].set_title(f"{item['gene']}, {item['section']}", fontsize=9.5)
            says = "no correlation" if r is None or not np.isfinite(r) else f"r = {round(r, 2) + 0.0:.2f}"
            axes[1, i].set_xlabel(says, fontsize=9)
        axes[0, 0].set_ylabel("measured")
        axes[1, 0].set_ylabel("predicted")
        figure.suptitle(_shortened(model, 80), fontsize=10.5, x=0.01, ha="left")
        scale = "each map from its own 2nd percentile (dark) to its 98th (bright)"
        figure.supxlabel(textwrap.fill(scale, int(28 * max(2, len(maps)))), fontsize=9, color=COLOURS["soft"])
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
