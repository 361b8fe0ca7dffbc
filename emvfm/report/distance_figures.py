"""Figures of distances between domains: against their null, as a matrix, and along the layers of a backbone.

Every function takes arrays or plain values and returns the bytes of a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = ["distance_matrix", "distances_by_layer", "extrapolations", "values_with_nulls"]

_SERIES = ("blue", "vermilion", "green", "orange", "purple", "sky")
_MARKS = "osD^vP"


def _figure_number(value: float) -> str:
    """Return three digits without an exponent where that is short."""
    return f"{value:.3g}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.1e}"


def values_with_nulls(
    rows: Sequence[Mapping[str, Any]], measure: str, further: Literal["larger", "smaller"] = "larger"
) -> bytes:
    """Draw values against what exchanges of blocks between the two domains give by chance.

    Parameters
    ----------
    rows
        One a pair of domains: ``label``, ``value``, ``null`` (values under the null, any number), ``low`` and
        ``high`` (the interval, or None).
    further
        Which values mean further apart; the line of the null is its 95 % or its 5 % quantile.
    """
    if not rows:
        raise ValueError("no distances to draw")
    with styled():
        from matplotlib.patheffects import withStroke

        figure, axes = canvas(7.2, 0.52 * len(rows) + 1.25)
        place = axes[0, 0]
        for y, row in zip(range(len(rows))[::-1], rows, strict=True):
            null = np.sort(np.asarray(row["null"], float))
            if len(null):
                # Even ranks in place of random jitter: the same picture every time.
                offsets = ((np.arange(len(null)) * 0.618034) % 1 - 0.5) * 0.42
                place.scatter(null, y + offsets, s=8, color=COLOURS["soft"], alpha=0.35, linewidths=0)
                end = np.quantile(null, 0.95 if further == "larger" else 0.05)
                place.plot([end] * 2, [y - 0.3, y + 0.3], color=COLOURS["ink"], linewidth=1.2)
            if row.get("low") is not None and row.get("high") is not None:
                place.plot([row["low"], row["high"]], [y, y], color=COLOURS["vermilion"], linewidth=1.6)
            place.scatter([row["value"]], [y], s=42, marker="D", color=COLOURS["vermilion"], zorder=3)
            label = place.annotate(
                _figure_number(row["value"]), (row["value"], y), xytext=(0, 7), textcoords="offset points",
                ha="center", size=9,
            )  # fmt: skip
            label.set_path_effects([withStroke(linewidth=3, foreground="white")])
        place.scatter([], [], s=42, marker="D", color=COLOURS["vermilion"], label="between the domains")
        tail = "95 %" if further == "larger" else "5 %"
        place.scatter([], [], s=12, color=COLOURS["soft"], label=f"blocks exchanged (line: {tail})")
        place.set_yticks(range(len(rows))[::-1], [str(row["label"]) for row in rows])
        place.set_ylim(-0.6, len(rows) - 0.35)
        place.tick_params(axis="y", length=0)
        place.set_xlim(left=min(0.0, place.get_xlim()[0]))
        place.set_xlabel(measure if further == "larger" else f"{measure} (smaller is further apart)")
        place.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=2)
        return png(figure)


def distance_matrix(
    values: np.ndarray,
    names: Sequence[str],
    beyond: np.ndarray,
    measure: str,
    *,
    further: Literal["larger", "smaller"] = "larger",
    reference: bool = False,
    known: np.ndarray | None = None,
) -> bytes:
    """Draw all pairs of domains as a heat map; a frame marks the cells that are beyond their null.

    Parameters
    ----------
    values
        ``(N, N)``; NaN where there is none. The diagonal holds halves of one domain.
    beyond
        ``(N, N)`` bool: further apart than chance explains.
    further
        Which values mean further apart; those are dark.
    reference
        Whether rows are references and columns are evaluated, so that the matrix is not symmetric.
    known
        ``(N, N)`` bool: False where there are too few blocks to say anything; such values are in brackets.
    """
    values, beyond = np.asarray(values, float), np.asarray(beyond, bool)
    if values.shape != (len(names), len(names)) or beyond.shape != values.shape:
        raise ValueError(f"matrix {values.shape} and marks {beyond.shape} for {len(names)} domains")
    known = np.ones(values.shape, bool) if known is None else np.asarray(known, bool)
    with styled():
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Patch, Rectangle

        colours = ["#f7f8f6", "#bcd7e6", "#5b9fc4", "#0a4a73"]
        shades = LinearSegmentedColormap.from_list(
            "distance", colours if further == "larger" else colours[::-1]
        ).with_extremes(bad="#efefec")
        finite = values[np.isfinite(values)]
        low = min(0.0, float(finite.min())) if len(finite) else 0.0
        high = max(float(finite.max()), low + 1e-12) if len(finite) else 1.0
        longest = max(map(len, names))
        figure, axes = canvas(
            max(3.6, 1.1 * len(names) + 0.085 * longest + 1.5), max(2.5, 0.8 * len(names) + 1.35)
        )
        place = axes[0, 0]
        drawn = place.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if not np.isfinite(value):
                place.text(j, i, "–", ha="center", va="center", color=COLOURS["soft"])
                continue
            dark = (value - low) / (high - low) > 0.55
            colour = "white" if dark == (further == "larger") else COLOURS["ink"]
            text = _figure_number(value) if known[i, j] else f"({_figure_number(value)})"
            style = "italic" if i == j else "normal"
            place.text(j, i, text, ha="center", va="center", color=colour, size=11, style=style)
            if beyond[i, j] and i != j:
                place.add_patch(
                    Rectangle(
                        (j - 0.455, i - 0.44), 0.91, 0.88, fill=False, linewidth=2.2,
                        edgecolor=COLOURS["orange"], joinstyle="round",
                    )
                )  # fmt: skip
        place.set_xticks(range(len(names)), names, rotation=30 if longest > 12 else 0,
                         ha="left" if longest > 12 else "center")  # fmt: skip
        place.set_yticks(range(len(names)), names)
        place.xaxis.tick_top()
        if reference:
            place.xaxis.set_label_position("top")
            place.set_xlabel("evaluated", color=COLOURS["soft"])
            place.set_ylabel("reference", color=COLOURS["soft"])
        place.tick_params(length=0)
        for edge in range(1, len(names)):
            place.axhline(edge - 0.5, color="white", linewidth=2)
            place.axvline(edge - 0.5, color="white", linewidth=2)
        for spine in place.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(drawn, ax=place, shrink=0.9, aspect=14)
        bar.outline.set_visible(False)
        bar.set_label(measure, color=COLOURS["soft"])
        frame = Patch(fill=False, edgecolor=COLOURS["orange"], linewidth=2, label="beyond its null, p ≤ 0.05")
        handles = [frame, Patch(alpha=0, label="italic: halves of one domain")]
        if not known.all():
            handles.append(Patch(alpha=0, label="(in brackets): too few blocks to tell"))
        figure.legend(
            handles=handles,
            loc="outside lower left",
            ncols=1,
            handlelength=1.1,
            fontsize=8.5,
            labelspacing=0.25,
        )
        return png(figure)


def distances_by_layer(layers: Sequence[int], series: Sequence[Mapping[str, Any]], measure: str) -> bytes:
    """Draw a value along the layers of a backbone, with its interval and the bound of its null.

    Parameters
    ----------
    layers
        Block indices, increasing.
    series
        One a pair of domains: ``label``, and per layer ``value``, ``low``, ``high`` and ``bound`` (the value that
        95 % of the null do not go beyond), each None where there is none, and ``beyond`` (bool).
    """
    if not series or not layers:
        raise ValueError("no distances to draw")
    columns = min(3, len(series))
    rows = -(-len(series) // columns)
    with styled():
        figure, axes = canvas(max(4.6, 3.0 * columns), 2.5 * rows + 0.55, rows, columns)
        x = np.asarray(layers)
        for place in axes.ravel()[len(series) :]:
            place.set_axis_off()
        for i, (place, line) in enumerate(zip(axes.ravel(), series, strict=False)):
            value, low, high, bound = (
                np.array([np.nan if v is None else v for v in line[name]], float)
                for name in ("value", "low", "high", "bound")
            )
            colour = COLOURS[_SERIES[0]]
            place.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
            place.plot(x, bound, color=COLOURS["soft"], linewidth=1.2, linestyle=(0, (4, 2)))
            place.plot(x, value, color=colour, linewidth=1.7)
            marks = np.asarray(line["beyond"], bool)
            place.scatter(x[marks], value[marks], s=26, color=colour, zorder=3)
            place.scatter(
                x[~marks], value[~marks], s=26, facecolor="white", edgecolor=colour, linewidth=1.4, zorder=3
            )
            place.set_title(str(line["label"]))
            place.set_xticks(x if len(x) <= 12 else x[:: -(-len(x) // 8)])
            place.set_ylim(bottom=min(0.0, place.get_ylim()[0]))
            place.grid(axis="y")
            if i + columns >= len(series):
                place.set_xlabel("block of the backbone")
            if i % columns == 0:
                place.set_ylabel(measure)
        first = axes[0, 0]
        blue = COLOURS[_SERIES[0]]
        handles = [
            first.scatter([], [], s=26, color=blue, label="beyond its null"),
            first.scatter([], [], s=26, facecolor="white", edgecolor=blue, linewidth=1.4, label="within it"),
            first.plot(
                [], [], color=COLOURS["soft"], linewidth=1.2, linestyle=(0, (4, 2)), label="bound of the null"
            )[0],
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return png(figure)


def extrapolations(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the Fréchet distance of subsamples against 1/n with the line that leads to infinite n.

    Parameters
    ----------
    lines
        One a pair: ``label``, ``inverse_n``, ``distances``, ``value``, ``slope``, ``low`` and ``high`` (or None).
    """
    if not lines:
        raise ValueError("no distances to draw")
    with styled():
        figure, axes = canvas(6.4, 3.6)
        place = axes[0, 0]
        for i, line in enumerate(lines):
            colour, mark = COLOURS[_SERIES[i % len(_SERIES)]], _MARKS[i % len(_MARKS)]
            x = np.asarray(line["inverse_n"], float)
            place.scatter(x, line["distances"], s=20, marker=mark, color=colour, alpha=0.8, linewidths=0)
            ends = np.array([0.0, x.max()])
            place.plot(ends, line["value"] + line["slope"] * ends, color=colour, linewidth=1.4)
            if line.get("low") is not None and line.get("high") is not None:
                place.plot(
                    [0, 0], [line["low"], line["high"]], color=colour, linewidth=4, alpha=0.35,
                    solid_capstyle="butt", clip_on=False,
                )  # fmt: skip
            label = f"{line['label']}: {_figure_number(line['value'])}"
            place.scatter(
                [0], [line["value"]], s=46, marker=mark, color=colour, zorder=4, clip_on=False, label=label
            )
        place.set_xlim(left=0)
        if place.get_ylim()[0] < 0 < place.get_ylim()[1]:
            place.axhline(0, color=COLOURS["soft"], linewidth=0.8)
        place.set_xlabel("1 / images in the subsample (0: infinitely many)")
        place.set_ylabel("Fréchet distance")
        place.grid(axis="y")
        place.legend(loc="best")
        return png(figure)
