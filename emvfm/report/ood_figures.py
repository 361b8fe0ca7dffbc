"""Figures of outlier scores: distributions with their threshold, ROC curves, comparisons, heat maps on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, grey, png, styled

__all__ = [
    "auroc_by_layer",
    "auroc_by_score",
    "heat_limits",
    "outlier_heat_maps",
    "outlier_roc",
    "outlier_runs",
    "score_distributions",
]

_SETS = ("vermilion", "orange", "purple", "sky", "ink")
_OWN = {"fit": "soft", "test": "blue"}
#: Sampled from paper to ink by way of the colour of outliers: grey print keeps the order.
_HEAT = ["#fff7e8", "#f5c77a", "#D55E00", "#6b1f14"]


def _panels(n: int, width: float, height: float, columns: int) -> tuple[Any, Any]:
    columns = min(columns, n)
    rows = -(-n // columns)
    figure, axes = canvas(width * columns, height * rows + 0.45, rows, columns)
    for place in axes.ravel()[n:]:
        place.set_visible(False)
    return figure, axes.ravel()[:n]


def _colour_of(names: Sequence[str]) -> dict[str, str]:
    return {name: COLOURS[_SETS[i % len(_SETS)]] for i, name in enumerate(names)}


def _lanes(panels: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for panel in panels for name in panel["outside"]))


def score_distributions(panels: Sequence[Mapping[str, Any]], caption: str | None = None) -> bytes:
    """Draw the scores of fitted, held-out and outlying images, every image a point, one panel a score.

    Parameters
    ----------
    panels
        ``title``, ``fit`` and ``test`` (scores of the in-distribution images), ``outside`` (scores by name),
        ``threshold``, and ``promised`` (rate of false alarms the threshold promises).
    caption
        What the dashed line and the bar are, where the threshold promises nothing.
    """
    if not panels:
        raise ValueError("no scores to draw")
    outside = _lanes(panels)
    own = [name for name in ("fit", "test") if any(len(panel[name]) for panel in panels)]
    colours, lanes = _colour_of(outside), [*own, *outside]
    with styled():
        figure, axes = _panels(len(panels), 3.7, 0.42 * len(lanes) + 0.75, 2)
        for place, panel in zip(axes, panels, strict=True):
            for lane, name in enumerate(lanes):
                values = np.sort(
                    np.asarray(panel[name] if lane < len(own) else panel["outside"].get(name, ()), float)
                )
                if not len(values):
                    continue
                y = len(lanes) - 1 - lane
                colour = COLOURS[_OWN[name]] if lane < len(own) else colours[name]
                # Even ranks in place of random jitter: the same picture every time.
                offsets = ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 0.5
                alpha = float(np.clip(40 / len(values), 0.18, 0.75))
                place.scatter(values, y + offsets, s=10, color=colour, alpha=alpha, linewidths=0)
                place.plot([np.median(values)] * 2, [y - 0.36, y + 0.36], color=COLOURS["ink"], linewidth=1.3)
            place.axvline(panel["threshold"], color=COLOURS["ink"], linewidth=1, linestyle=(0, (4, 3)))
            place.set_yticks(
                range(len(lanes))[::-1],
                [*("fitted" if name == "fit" else "held out" for name in own), *outside],
            )
            place.set_ylim(-0.6, len(lanes) - 0.4)
            place.tick_params(axis="y", length=0)
            place.set_title(panel["title"])
            place.grid(axis="x")
        if caption is None:
            promised = sorted({f"{panel['promised']:.2g}" for panel in panels})
            caption = f"dashed: threshold that promises {' or '.join(promised)} false alarms; bar: median"
        figure.supxlabel(caption, size=9, color=COLOURS["soft"])
        return png(figure)


def outlier_roc(panels: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw ROC curves, one panel a set of outliers, one curve a score.

    Parameters
    ----------
    panels
        ``title`` and ``curves``: by label, in-distribution scores and outlying scores.
    """
    if not panels:
        raise ValueError("no curves to draw")
    labels = list(dict.fromkeys(label for panel in panels for label in panel["curves"]))
    names = ("blue", "orange", "green", "vermilion", "purple", "sky", "ink", "soft")
    strokes = ((0, ()), (0, (5, 1.5)), (0, (1.5, 1.2)))
    with styled():
        figure, axes = _panels(len(panels), 3.6, 3.6 + 0.08 * len(labels), 3)
        for place, panel in zip(axes, panels, strict=True):
            place.plot([0, 1], [0, 1], color=COLOURS["line"], linewidth=1)
            for label, (inside, outside) in panel["curves"].items():
                i = labels.index(label)
                ends = np.unique(np.concatenate([inside, outside]))[::-1]
                own, other = np.sort(inside), np.sort(outside)
                fpr = 1 - np.searchsorted(own, ends) / len(own)
                tpr = 1 - np.searchsorted(other, ends) / len(other)
                place.plot(
                    np.append(0, fpr), np.append(0, tpr), color=COLOURS[names[i % len(names)]], linewidth=1.5,
                    linestyle=strokes[i % len(strokes)], label=label, clip_on=False,
                )  # fmt: skip
            place.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=panel["title"])
            place.set_xlabel("in-distribution images flagged")
            place.set_ylabel("outliers found")
            place.set_xticks([0, 0.5, 1])
            place.set_yticks([0, 0.5, 1])
        handles = {h.get_label(): h for place in axes for h in place.get_lines()[1:]}
        columns = max(1, int(len(axes[:3]) * 1.6 + 0.5))
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, handlelength=2.6)
        return png(figure)


def auroc_by_score(rows: Sequence[Mapping[str, Any]], measure: str = "AUROC") -> bytes:
    """Draw values with intervals: a line a score, a mark a set of outliers.

    Parameters
    ----------
    rows
        ``label`` (the line), ``set`` (the mark), ``value`` in 0 to 1, ``low`` and ``high`` or None.
    """
    if not rows:
        raise ValueError("no values to draw")
    labels, sets = ([*dict.fromkeys(row[key] for row in rows)] for key in ("label", "set"))
    colours, marks = _colour_of(sets), "osD^v"
    with styled():
        figure, axes = canvas(7.2, 0.16 * len(labels) * (len(sets) + 1) + 1.2)
        place = axes[0, 0]
        for row in rows:
            i = sets.index(row["set"])
            y = len(labels) - 1 - labels.index(row["label"]) - (i - (len(sets) - 1) / 2) * 0.8 / len(sets)
            if row.get("low") is not None and row.get("high") is not None:
                place.plot([row["low"], row["high"]], [y, y], color=colours[row["set"]], linewidth=1.6)
            place.scatter([row["value"]], [y], s=34, color=colours[row["set"]], marker=marks[i % 5], zorder=3)
        place.axvline(0.5, color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (3, 3)))
        for i, name in enumerate(sets):
            place.scatter([], [], s=34, color=colours[name], marker=marks[i % 5], label=name)
        place.set_yticks(range(len(labels))[::-1], labels)
        place.set_ylim(-0.6, len(labels) - 0.4)
        place.set_xlim(min(0.4, min(min(row["value"], row.get("low") or 1) for row in rows) - 0.03), 1.02)
        place.tick_params(axis="y", length=0)
        place.set_xlabel(f"{measure} (dashed: chance)")
        place.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=min(len(sets), 4))
        return png(figure)


def auroc_by_layer(panels: Sequence[Mapping[str, Any]], measure: str = "AUROC") -> bytes:
    """Draw how well each score tells outliers at each layer, one panel a set of outliers.

    Parameters
    ----------
    panels
        ``title``, ``layers`` and ``lines`` (values in 0 to 1 by label, one a layer).
    """
    if not panels:
        raise ValueError("no values to draw")
    names = ("blue", "orange", "green", "vermilion", "purple", "sky", "ink", "soft")
    lowest = min((v for panel in panels for line in panel["lines"].values() for v in line), default=0.5)
    with styled():
        figure, axes = _panels(len(panels), 4.2, 2.9, 2)
        for place, panel in zip(axes, panels, strict=True):
            place.axhline(0.5, color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (3, 3)))
            for i, (label, values) in enumerate(panel["lines"].items()):
                place.plot(
                    panel["layers"], values, color=COLOURS[names[i % len(names)]], marker="osD^v"[i % 5],
                    markersize=4, linewidth=1.4, label=label,
                )  # fmt: skip
            place.set(title=panel["title"], ylim=(min(0.45, lowest - 0.03), 1.02))
            place.set_xlabel("block of the backbone")
            place.set_ylabel(measure)
            place.set_xticks(panel["layers"])
            place.grid(axis="y")
        handles = {h.get_label(): h for place in axes for h in place.get_lines()[1:]}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=2 * min(2, len(panels)))
        return png(figure)


def heat_limits(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the scores of the first and the last colour for these rows of `outlier_heat_maps`."""
    values = np.concatenate([i[1][np.isfinite(i[1])] for row in rows for i in row["items"]])
    low, high = np.quantile(values, [0.02, 0.995])
    return float(low), max(float(high), float(low) + 1e-12)


def outlier_heat_maps(
    rows: Sequence[Mapping[str, Any]], measure: str, limits: tuple[float, float] | None = None
) -> bytes:
    """Draw images with the outlier scores of their patches laid over them, in one scale of colour.

    Parameters
    ----------
    rows
        ``label`` and ``items``: (image ``(H, W[, 3])``, scores ``(h, w)`` with NaN where there is only padding,
        size of the image in patches as (rows, columns), title).
    measure
        What the colours mean.
    limits
        From `heat_limits` of several figures that are to share their colours.
    """
    rows = [row for row in rows if row["items"]]
    if not rows:
        raise ValueError("no maps to draw")
    columns = max(len(row["items"]) for row in rows)
    tallest = max(np.shape(i[0])[0] / np.shape(i[0])[1] for row in rows for i in row["items"])
    width = 9.6 / max(columns, 3)
    low, high = limits or heat_limits(rows)
    with styled():
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("heat", _HEAT).with_extremes(bad=(0, 0, 0, 0))
        figure, axes = canvas(
            width * columns + 0.8, (2 * width * tallest + 0.32) * len(rows) + 0.1, 2 * len(rows), columns
        )
        drawn = None
        for place in axes.ravel():
            place.set_xticks([])
            place.set_yticks([])
            for spine in place.spines.values():
                spine.set_visible(False)
        for n, row in enumerate(rows):
            for column, (image, scores, (height, length), title) in enumerate(row["items"]):
                above, below = axes[2 * n, column], axes[2 * n + 1, column]
                extent = (0, length, height, 0)
                shown = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "antialiased"}
                for place in (above, below):
                    place.imshow(grey(image), extent=extent, **shown)
                drawn = below.imshow(
                    np.ma.masked_invalid(scores), extent=(0, scores.shape[1], scores.shape[0], 0), cmap=shades,
                    vmin=low, vmax=high, alpha=0.62, interpolation="nearest",
                )  # fmt: skip
                for place in (above, below):
                    place.set(xlim=(0, length), ylim=(height, 0))
                above.set_title(title, size=8.5)
            axes[2 * n, 0].set_ylabel(row["label"])
            axes[2 * n + 1, 0].set_ylabel("patch scores", color=COLOURS["soft"])
        bar = figure.colorbar(drawn, ax=axes, shrink=0.5, aspect=26, pad=0.015)
        bar.outline.set_visible(False)
        bar.set_label(measure, color=COLOURS["soft"])
        return png(figure)


def outlier_runs(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw several runs side by side: shares flagged, and scores over the threshold.

    Parameters
    ----------
    rows
        ``label``, ``inside`` and ``outside`` (scores over the threshold, 1 is the threshold), and
        ``inside_rate`` and ``outside_rate`` in 0 to 1.
    """
    if not rows:
        raise ValueError("no runs to draw")
    with styled():
        figure, axes = canvas(9.2, 0.62 * len(rows) + 1.3, 1, 2)
        rates, ratios = axes[0]
        for n, row in enumerate(rows):
            y = len(rows) - 1 - n
            for side, colour, lift in (("inside", "blue", 0.18), ("outside", "vermilion", -0.18)):
                rate, values = float(row[f"{side}_rate"]), np.sort(np.asarray(row[side], float))
                rates.barh(y + lift, rate, height=0.3, color=COLOURS[colour], alpha=0.85)
                rates.annotate(
                    f"{rate:.0%}", (rate, y + lift), xytext=(4, 0), textcoords="offset points", va="center",
                    size=8.5,
                )  # fmt: skip
                if not len(values):
                    continue
                offsets = ((np.arange(len(values)) * 0.618034) % 1 - 0.5) * 0.26
                alpha = float(np.clip(40 / len(values), 0.15, 0.7))
                ratios.scatter(
                    values, y + lift + offsets, s=8, color=COLOURS[colour], alpha=alpha, linewidths=0
                )
                ratios.plot([np.median(values)] * 2, [y + lift - 0.16, y + lift + 0.16], color=COLOURS["ink"])
        ratios.axvline(1, color=COLOURS["ink"], linewidth=1, linestyle=(0, (4, 3)))
        for place in (rates, ratios):
            place.set_yticks(range(len(rows))[::-1], [str(row["label"]) for row in rows])
            place.set_ylim(-0.6, len(rows) - 0.4)
            place.tick_params(axis="y", length=0)
            place.grid(axis="x")
        ratios.set_yticklabels([])
        rates.set(xlim=(0, 1.1), xlabel="share flagged", xticks=[0, 0.5, 1])
        ratios.set_xlabel("score over threshold (dashed: 1; bar: median)")
        for side, colour in (("in-distribution", "blue"), ("outliers", "vermilion")):
            rates.barh([0], [0], color=COLOURS[colour], label=side)
        figure.legend(loc="outside lower center", ncols=2)
        return png(figure)
