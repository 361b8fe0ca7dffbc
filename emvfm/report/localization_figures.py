"""Figures of localisation: grids of runs, confusion and co-occurrence of labels, calibration, label efficiency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = [
    "calibration_curves",
    "class_scores",
    "confusion_matrix",
    "efficiency_curves",
    "label_pairs",
    "score_bars",
]

_CYCLE = ("blue", "orange", "green", "vermilion", "purple", "sky", "soft")
_MARKERS = "osD^vP*X"


def _colour(n: int) -> str:
    return COLOURS[_CYCLE[n % len(_CYCLE)]]


def _short(name: str, longest: int = 42) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def score_bars(rows: Sequence[Mapping[str, Any]], measure: str, spread: str) -> bytes:
    """Draw the score of each run, grouped by the way of channels where there are several.

    Parameters
    ----------
    rows
        One a run: ``backbone`` and ``channels`` (text), ``value``, ``low`` and ``high`` (ends of the error bar, None
        without one), ``folds`` (values of the folds, drawn as points).
    spread
        What the error bars are, in words.
    """
    if not rows:
        raise ValueError("no runs to draw")
    backbones = list(dict.fromkeys(str(row["backbone"]) for row in rows))
    ways = list(dict.fromkeys(str(row["channels"]) for row in rows))
    grouped = len(ways) > 1
    with styled():
        if grouped:
            figure, axes = canvas(max(5.0, 1.1 + 0.62 * len(rows) + 0.4 * len(ways)), 4.0)
        else:
            figure, axes = canvas(7.2, 0.46 * len(rows) + 1.3)
        place = axes[0, 0]
        for row in rows:
            n, way = backbones.index(str(row["backbone"])), ways.index(str(row["channels"]))
            width = 0.8 / len(backbones)
            there = [str(other["backbone"]) for other in rows if other["channels"] == row["channels"]]
            beside = there.index(str(row["backbone"])) - (len(there) - 1) / 2
            at = way + beside * width if grouped else len(backbones) - 1 - n
            value = float(row["value"])
            error = None
            if row.get("low") is not None and row.get("high") is not None:
                error = [[max(0.0, value - row["low"])], [max(0.0, row["high"] - value)]]
            points = np.asarray(row.get("folds", ()), float)
            offsets = np.linspace(-0.22, 0.22, len(points)) * (width if grouped else 0.7)
            bar: dict[str, Any] = {
                "color": _colour(n) if grouped else COLOURS["sky"],
                "alpha": 0.55,
                "zorder": 1,
            }
            line: dict[str, Any] = {
                "fmt": "none", "ecolor": COLOURS["ink"], "elinewidth": 1.2, "capsize": 3, "zorder": 3,
            }  # fmt: skip
            dots: dict[str, Any] = {
                "s": 9,
                "color": COLOURS["ink"],
                "alpha": 0.6,
                "linewidths": 0,
                "zorder": 2,
            }
            if grouped:
                place.bar(at, value, width=0.9 * width, **bar)
                place.scatter(at + offsets, points, **dots)
                if error is not None:
                    place.errorbar(at, value, yerr=error, **line)
            else:
                place.barh(at, value, height=0.6, **bar)
                place.scatter(points, at + offsets, **dots)
                if error is not None:
                    place.errorbar(value, at, xerr=error, **line)
        if grouped:
            for n, name in enumerate(backbones):
                place.bar(0, 0, color=_colour(n), alpha=0.55, label=_short(name))
            place.set_xticks(range(len(ways)), [way or "as it is" for way in ways])
            place.set_xlim(-0.6, len(ways) - 0.4)
            place.tick_params(axis="x", length=0)
            place.set_ylim(0, 1.02)
            place.set_ylabel(measure)
            place.grid(axis="y")
            figure.legend(loc="outside upper left", ncols=1 + (len(backbones) > 3))
        else:
            place.set_yticks(range(len(backbones))[::-1], [_short(name) for name in backbones])
            place.set_ylim(-0.6, len(backbones) - 0.4)
            place.tick_params(axis="y", length=0)
            place.set_xlim(0, 1.02)
            place.set_xlabel(measure)
            place.grid(axis="x")
        figure.supxlabel(spread, fontsize=8, color=COLOURS["soft"], x=0.01, ha="left")
        return png(figure)


def _cells(
    place: Any, shares: np.ndarray, texts: Sequence[Sequence[str]] | None, names: Sequence[str]
) -> None:
    """Draw a matrix of shares in 0 to 1, NaN grey, with a text in each cell."""
    from matplotlib import colormaps

    map_of = colormaps["Blues"].with_extremes(bad=COLOURS["line"])
    place.imshow(np.ma.masked_invalid(shares), cmap=map_of, vmin=0, vmax=1)
    size = max(5.0, 9.0 - 0.22 * len(names))
    for i in range(len(names) if texts is not None else 0):
        for j in range(len(names)):
            if texts is not None and texts[i][j]:
                dark = np.isfinite(shares[i, j]) and shares[i, j] > 0.55
                colour = "white" if dark else COLOURS["ink"]
                place.text(j, i, texts[i][j], ha="center", va="center", size=size, color=colour)
    place.set_xticks(range(len(names)), [_short(n, 22) for n in names], rotation=45, ha="right", size=size)
    place.set_yticks(range(len(names)), [_short(n, 22) for n in names], size=size)
    place.tick_params(length=0)
    for side in place.spines.values():
        side.set_visible(False)


def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """Draw counts ``(L, L)`` of true (rows) and predicted (columns) classes, coloured by the share of the row."""
    table = np.asarray(counts, float)
    total = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, total, out=np.full(table.shape, np.nan), where=total > 0)
    side = 2.2 + 0.42 * len(names)
    with styled():
        figure, axes = canvas(side, side)
        place = axes[0, 0]
        _cells(place, shares, [[f"{n:.0f}" if n else "" for n in row] for row in table], names)
        place.set_title(title)
        place.set_xlabel("predicted")
        place.set_ylabel("true")
        return png(figure)


def label_pairs(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> bytes:
    """Draw which labels come together: of the rows with one label, the share with the other, true and predicted.

    Parameters
    ----------
    truth, predicted
        ``(L, L)`` counts of rows with both labels; the diagonal counts the rows with the label.
    """
    side = 2.0 + 0.3 * len(names)
    with styled():
        figure, axes = canvas(2 * side, side, 1, 2)
        for place, counts, title in zip(axes[0], (truth, predicted), ("true", "predicted"), strict=True):
            table = np.asarray(counts, float)
            own = np.diag(table)[:, None]
            shares = np.divide(table, own, out=np.full(table.shape, np.nan), where=own > 0)
            texts = [
                [
                    f"{100 * s:.0f}" if np.isfinite(s) and s >= 0.005 and i != j else ""
                    for j, s in enumerate(row)
                ]
                for i, row in enumerate(shares)
            ]
            _cells(place, shares, texts, names)
            place.set_title(f"{title}: % of the rows with one label that have the other")
            place.set_ylabel("of the rows with")
        return png(figure)


def calibration_curves(curves: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw how often a class is there against how probable it was said to be.

    Parameters
    ----------
    curves
        One a run: ``label``, ``said`` and ``found`` (means of each bin, NaN for empty ones), ``counts``, ``error``.
    """
    with styled():
        figure, axes = canvas(5.0, 5.2, 2, 1)
        place, below = axes[:, 0]
        place.plot([0, 1], [0, 1], color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (3, 3)))
        for n, curve in enumerate(curves):
            said, found = np.asarray(curve["said"], float), np.asarray(curve["found"], float)
            style: dict[str, Any] = {"color": _colour(n), "linewidth": 1.4}
            label = f"{_short(str(curve['label']), 64)} (ECE {curve['error']:.3f})"
            kept = np.isfinite(said)
            place.plot(
                said[kept],
                found[kept],
                marker=_MARKERS[n % len(_MARKERS)],
                markersize=4,
                label=label,
                **style,
            )
            counts = np.asarray(curve["counts"], float)
            edges = np.linspace(0, 1, len(counts) + 1)
            below.stairs(counts / counts.sum(), edges, **style)
        place.set_ylabel("share that is there")
        place.set_xlim(0, 1)
        place.set_ylim(0, 1.02)
        figure.legend(*place.get_legend_handles_labels(), loc="outside upper left", fontsize=8.5)
        below.set_yscale("log")
        below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # mathtext is off
        below.yaxis.set_minor_formatter(lambda value, _: "")
        below.set_xlim(0, 1)
        below.set_xlabel("probability that was said, of all rows and classes")
        below.set_ylabel("share of rows × classes")
        return png(figure)


def efficiency_curves(curves: Sequence[Mapping[str, Any]], measure: str, unit: str) -> bytes:
    """Draw a score against the number of training groups.

    Parameters
    ----------
    curves
        One a run: ``label``, ``groups``, ``values``, ``low`` and ``high``, NaN where there is none.
    unit
        What the groups are.
    """
    with styled():
        figure, axes = canvas(5.6, 3.9)
        place = axes[0, 0]
        for n, curve in enumerate(curves):
            groups, values = np.asarray(curve["groups"], float), np.asarray(curve["values"], float)
            ends = np.asarray(curve["low"], float), np.asarray(curve["high"], float)
            if len(curves) <= 4:
                place.fill_between(groups, *ends, color=_colour(n), alpha=0.14, linewidth=0)
            place.plot(
                groups, values, color=_colour(n), linewidth=1.6, marker=_MARKERS[n % len(_MARKERS)],
                markersize=4.5, label=_short(str(curve["label"]), 64),
            )  # fmt: skip
        place.set_xscale("log")
        ticks = sorted({round(float(g)) for curve in curves for g in curve["groups"]})
        place.set_xticks(ticks, [str(t) for t in ticks])
        place.minorticks_off()
        place.set_xlabel(f"{unit} learnt from")
        place.set_ylabel(measure)
        place.set_ylim(0, 1.02)
        place.grid(axis="y")
        figure.legend(*place.get_legend_handles_labels(), loc="outside upper left", fontsize=8.5)
        return png(figure)


def class_scores(rows: Sequence[Mapping[str, Any]], measure: str, title: str) -> bytes:
    """Draw the score of each class with its spread over folds, the class with most positives on top.

    Parameters
    ----------
    rows
        One a class: ``class``, ``support``, ``value`` (None where undefined), ``spread`` (None without).
    """
    ordered = sorted(rows, key=lambda row: row["support"])
    with styled():
        figure, axes = canvas(6.4, 0.27 * len(ordered) + 1.2)
        place = axes[0, 0]
        for y, row in enumerate(ordered):
            if row["value"] is None:
                continue
            place.plot([0, row["value"]], [y, y], color=COLOURS["line"], linewidth=1.4, zorder=1)
            place.errorbar(
                row["value"], y, xerr=row["spread"], fmt="o", markersize=5, color=COLOURS["blue"],
                ecolor=COLOURS["ink"], elinewidth=1.0, capsize=2, zorder=2,
            )  # fmt: skip
        place.set_yticks(
            range(len(ordered)), [f"{_short(row['class'])}  ({row['support']})" for row in ordered]
        )
        place.tick_params(axis="y", length=0)
        place.set_xlim(0, 1.02)
        place.set_ylim(-0.7, len(ordered) - 0.3)
        place.set_xlabel(measure)
        place.set_title(title)
        place.grid(axis="x")
        return png(figure)
