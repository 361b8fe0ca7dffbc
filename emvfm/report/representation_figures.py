"""Figures of what representations are good for: retrieval, relations, layers, similarity and geometry.

Every function takes plain values and returns the bytes of a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled

__all__ = [
    "geometry_figure",
    "group_bars",
    "group_precisions",
    "layer_lines",
    "odds_figure",
    "recall_bars",
    "similarity_map",
]

_LONGEST = 34
_SERIES = ("blue", "vermilion", "green", "orange", "purple", "sky")


def _short(name: str) -> str:
    """Return a name with its middle left out if it is long: what tells names apart is often at the end."""
    half = (_LONGEST - 1) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


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
        pale = f"; pale: q > {alpha:g}" if any(row.get("q") is not None for row in rows) else ""
        place.set_xlabel(f"{measure}; red: random order{pale}")
        place.grid(axis="x")
        return png(figure)


def recall_bars(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw recall of known relations at both ends, by source, with what a random map recalls.

    Parameters
    ----------
    rows
        ``source``, ``share`` (of pairs in the ends: what chance recalls), ``n`` pairs, ``left`` and ``right`` (recall at
        the lower and the upper end), ``low`` and ``high`` (interval of both together, or None).
    """
    shares = list(dict.fromkeys(row["share"] for row in rows))
    sources = list(dict.fromkeys(row["source"] for row in rows))
    with styled():
        figure, axes = canvas(3.6 + 2.6 * len(shares), 0.42 * len(sources) + 1.5, 1, len(shares))
        heights = {source: y for y, source in zip(range(len(sources))[::-1], sources, strict=True)}
        for place, share in zip(axes[0], shares, strict=True):
            for row in rows:
                if row["share"] != share:
                    continue
                y = heights[row["source"]]
                place.barh(y, row["right"], height=0.62, color=COLOURS["blue"])
                place.barh(y, row["left"], left=row["right"], height=0.62, color=COLOURS["sky"])
                if row["low"] is not None and row["high"] is not None:
                    place.plot([row["low"], row["high"]], [y, y], color=COLOURS["ink"], linewidth=1.3)
            place.axvline(share, color=COLOURS["vermilion"], linewidth=1.4)
            place.set_title(f"in {share:g} of all pairs")
            place.set_xlim(left=0)
            place.set_ylim(-0.6, len(sources) - 0.4)
            place.set_xlabel("recall")
            place.grid(axis="x")
            place.tick_params(axis="y", length=0)
            counts = {row["source"]: row["n"] for row in rows}
            named = [f"{_short(source)}  ({counts[source]} pairs)" for source in sources]
            place.set_yticks(list(heights.values()), named if share == shares[0] else [""] * len(sources))
        first = axes[0, 0]
        first.barh([0], [0], color=COLOURS["blue"], label="most alike")
        first.barh([0], [0], color=COLOURS["sky"], label="least alike")
        first.plot([], [], color=COLOURS["vermilion"], label="random map")
        figure.legend(loc="outside lower center", ncols=3)
        return png(figure)


def odds_figure(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the distribution of log odds ratios of single rows, and their mean with its interval.

    Parameters
    ----------
    rows
        ``share`` of candidates that is near, ``odds`` of single rows, ``value``, ``low`` and ``high`` of the mean
        logarithm, and ``expected``, that of a random order.
    """
    with styled():
        figure, axes = canvas(3.2 * len(rows) + 0.8, 3.0, 1, len(rows))
        for place, row in zip(axes[0], rows, strict=True):
            logs = np.log(np.asarray(row["odds"], float))
            place.hist(logs, bins=30, color=COLOURS["sky"], edgecolor="white")
            place.axvline(row["expected"], color=COLOURS["ink"], linewidth=0.9, linestyle=(0, (4, 3)))
            place.axvline(row["value"], color=COLOURS["vermilion"], linewidth=1.6)
            if row["low"] is not None and row["high"] is not None:
                place.axvspan(row["low"], row["high"], color=COLOURS["vermilion"], alpha=0.25, linewidth=0)
            place.set_title(f"nearest {row['share']:.3g}: mean {row['value']:.2f}")
            place.set_xlabel("log odds ratio (dashed: random order)")
        axes[0, 0].set_ylabel("rows")
        return png(figure)


def layer_lines(
    lines: Mapping[str, Sequence[Mapping[str, Any]]],
    nested: Mapping[str, float | None],
    chance: float | None,
    metric: str,
    beside: Mapping[str, float] | None = None,
) -> bytes:
    """Draw a score along the blocks of a backbone, one line a pooling, and what choosing a block without the test gives.

    Parameters
    ----------
    lines
        Pooling to rows of ``layer``, ``value``, ``low``, ``high`` and ``chosen`` (folds that chose the block).
    nested
        ``value``, ``low`` and ``high``.
    beside
        Scores of what has no layers, by name.
    """
    with styled():
        figure, axes = canvas(6.6, 3.7 + 0.5 * bool(beside))
        place = axes[0, 0]
        for (pooling, rows), colour in zip(lines.items(), _SERIES, strict=False):
            x = [row["layer"] for row in rows]
            y = np.array([row["value"] for row in rows], float)
            place.plot(x, y, color=COLOURS[colour], marker="o", markersize=4, linewidth=1.4, label=pooling)
            known = [row for row in rows if row["low"] is not None and row["high"] is not None]
            place.fill_between(
                [row["layer"] for row in known], [row["low"] for row in known], [row["high"] for row in known],
                color=COLOURS[colour], alpha=0.13, linewidth=0,
            )  # fmt: skip
            for row in rows:
                if row["chosen"]:
                    place.scatter(
                        [row["layer"]], [row["value"]], s=110, facecolors="none", edgecolors=COLOURS["ink"]
                    )
                    place.annotate(
                        f"× {row['chosen']}", (row["layer"], row["value"]), xytext=(0, 8), textcoords="offset points",
                        ha="center", size=9,
                    )  # fmt: skip
        if nested["value"] is not None:
            place.axhline(
                nested["value"],
                color=COLOURS["ink"],
                linewidth=1,
                linestyle=(0, (4, 3)),
                label="chosen by the other folds",
            )
        if chance is not None:
            place.axhline(chance, color=COLOURS["soft"], linewidth=1, linestyle=":", label="chance")
        for (name, value), colour in zip((beside or {}).items(), ("green", "purple", "sky"), strict=False):
            place.axhline(value, color=COLOURS[colour], linewidth=1.1, linestyle="-.", label=name)
        place.scatter([], [], s=70, facecolors="none", edgecolors=COLOURS["ink"], label="chosen by × folds")
        place.xaxis.get_major_locator().set_params(integer=True)
        place.margins(y=0.12)
        place.set_xlabel("block")
        place.set_ylabel(metric)
        place.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=3 if beside else 4, fontsize=9)
        return png(figure)


def similarity_map(values: np.ndarray, names: Sequence[str], measure: str) -> bytes:
    """Draw a matrix of similarities in the order of a tree (average linkage of one less similarity), and the tree.

    Parameters
    ----------
    values
        ``(k, k)`` symmetric, ones on the diagonal; NaN where it is not defined, taken as 0 for the tree.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    k = len(names)
    distances = np.clip(1 - np.nan_to_num(values), 0, None)
    np.fill_diagonal(distances, 0)
    tree = dendrogram(linkage(squareform(distances, checks=False), "average"), no_plot=True)
    order = tree["leaves"]
    shown = values[np.ix_(order, order)]
    lowest = min(0.0, float(np.nanmin(values)))
    colours = LinearSegmentedColormap.from_list(
        "similarity", ["#ffffff", COLOURS["sky"], COLOURS["blue"], "#08203e"]
    )
    with styled():
        side, branch, text = max(2.4, 0.4 * k), 0.8, 2.7
        width, height = branch + side + text + 0.3, side + 1.1
        figure, axes = canvas(width, height, 1, 3)
        figure.set_layout_engine("none")  # the tree has to end where the rows of the matrix begin
        branches, cells, scale = axes[0]
        top = 0.65 / height
        branches.set_position((0.1 / width, top, branch / width, side / height))
        cells.set_position(((branch + 0.15) / width, top, side / width, side / height))
        scale.set_position(((branch + 0.15) / width, 0.3 / height, side / width, 0.1 / height))
        for xs, ys in zip(tree["icoord"], tree["dcoord"], strict=True):
            branches.plot(ys, [(x - 5) / 10 for x in xs], color=COLOURS["soft"], linewidth=1.1)
        branches.set_ylim(k - 0.5, -0.5)
        branches.set_xlim(max(float(np.max(tree["dcoord"])), 1e-9) * 1.03, 0)
        branches.axis("off")
        picture = cells.imshow(shown, cmap=colours, vmin=lowest, vmax=1, aspect="auto")
        cells.set_xticks(range(k), [str(i + 1) for i in order], size=8.5)
        cells.set_yticks(range(k), [f"{i + 1}  {_short(names[i])}" for i in order], size=8.5)
        cells.yaxis.tick_right()
        cells.tick_params(length=0)
        for spine in cells.spines.values():
            spine.set_visible(False)
        if k <= 14:
            for (i, j), value in np.ndenumerate(shown):
                dark = value > lowest + 0.55 * (1 - lowest)
                cells.text(
                    j, i, "—" if np.isnan(value) else f"{value:.2f}", ha="center", va="center", size=7.5,
                    color="white" if dark else COLOURS["ink"],
                )  # fmt: skip
        cells.set_title(measure)
        figure.colorbar(picture, cax=scale, orientation="horizontal").outline.set_visible(False)
        scale.tick_params(labelsize=8)
        return png(figure)


def geometry_figure(names: Sequence[str], panels: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw each measure of each representation with its interval, a panel a measure.

    Parameters
    ----------
    panels
        ``measure`` and ``values``, one ``(value, low, high)`` a representation; low and high may be None.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    heights = np.arange(len(names))[::-1]
    with styled():
        figure, axes = canvas(2.3 * columns + 2.2, rows * (0.27 * len(names) + 0.95), rows, columns)
        for index, place in enumerate(axes.ravel()):
            if index >= len(panels):
                place.axis("off")
                continue
            panel = panels[index]
            for y, (value, low, high) in zip(heights, panel["values"], strict=True):
                if low is not None and high is not None:
                    place.plot([low, high], [y, y], color=COLOURS["sky"], linewidth=2.2)
                place.scatter([value], [y], s=24, color=COLOURS["blue"], zorder=3)
            place.set_title(panel["measure"])
            place.set_yticks(
                heights, [_short(name) for name in names] if index % columns == 0 else [""] * len(names)
            )
            place.set_ylim(-0.6, len(names) - 0.4)
            place.tick_params(axis="y", length=0)
            place.grid(axis="both")
        return png(figure)
