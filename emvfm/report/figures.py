"""Figures as PNG bytes, in one quiet style that survives grey print and colour blindness.

Every function takes arrays or plain result values and returns the bytes of a PNG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, grey, png, styled

__all__ = [
    "bars_with_intervals",
    "iou_matrix",
    "montage",
    "overlay",
    "overlay_grid",
    "trends",
]

#: Truth and prediction agree, prediction too much, prediction too little.
_PARTS = (
    ("found", COLOURS["green"]),
    ("wrongly found", COLOURS["vermilion"]),
    ("missed", COLOURS["sky"]),
)


def _blended(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return RGB ``(h, w, 3)`` with true and false positives and false negatives tinted."""
    from matplotlib.colors import to_rgb

    truth, prediction = np.asarray(truth) > 0, np.asarray(prediction) > 0
    if truth.shape != np.shape(image)[:2] or prediction.shape != truth.shape:
        raise ValueError(
            f"sizes differ: image {np.shape(image)[:2]}, truth {truth.shape}, prediction {prediction.shape}"
        )
    shades = grey(image)
    step = max(1, -(-max(truth.shape) // 900))
    truth, prediction = truth[::step, ::step], prediction[::step, ::step]
    picture = np.repeat(0.12 + 0.88 * shades[..., None], 3, axis=2)
    for part, (_, colour) in zip(
        (truth & prediction, prediction & ~truth, truth & ~prediction), _PARTS, strict=True
    ):
        picture[part] = 0.5 * picture[part] + 0.5 * np.array(to_rgb(colour))
    return picture


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _part_legend(figure: Any) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=name) for name, colour in _PARTS]
    figure.legend(handles=patches, loc="outside lower left", ncols=3, handlelength=1.1, handleheight=1.0)


def _fitted(line: str, width: float) -> str:
    """Return a line of a title without its middle where it is longer than `width` inches."""
    most = int(12 * width)
    return line if len(line) <= most else f"{line[: most // 2 - 1]} … {line[len(line) - most // 2 + 2 :]}"


def overlay_grid(items: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, str]], columns: int = 3) -> bytes:
    """Draw overlays in a grid.

    Parameters
    ----------
    items
        (image ``(H, W[, 3])``, truth ``(H, W)``, prediction ``(H, W)``, title); masks are > 0 inside.
    columns
        Overlays in a row.

    Raises
    ------
    ValueError
        No items, or masks of another size than their image.
    """
    if not items:
        raise ValueError("no overlays to draw")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    tallest = max(np.shape(i[0])[0] / np.shape(i[0])[1] for i in items)
    width = 9.0 / max(columns, 2)
    with styled():
        head = 0.15 + 0.25 * max(len(title.splitlines()) for *_, title in items)
        figure, axes = canvas(width * columns, (width * tallest + head) * rows + 0.35, rows, columns)
        for place in axes.ravel():
            _bare(place)
        for place, (image, truth, prediction, title) in zip(axes.ravel(), items, strict=False):
            place.imshow(_blended(image, truth, prediction), interpolation="antialiased")
            place.set_title("\n".join(_fitted(line, width) for line in title.splitlines()))
        _part_legend(figure)
        return png(figure)


def overlay(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, title: str = "") -> bytes:
    """Draw one image with what was found, wrongly found and missed; see `overlay_grid`."""
    return overlay_grid([(image, truth, prediction, title)], columns=1)


def montage(
    images: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    masks: Sequence[np.ndarray | None] | None = None,
    columns: int = 4,
) -> bytes:
    """Draw images ``(H, W[, 3])`` side by side, with their masks outlined where given."""
    if not images:
        raise ValueError("no images to draw")
    titles = titles or [""] * len(images)
    masks = masks or [None] * len(images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    tallest = max(np.shape(i)[0] / np.shape(i)[1] for i in images)
    width = 9.0 / max(columns, 3)
    with styled():
        figure, axes = canvas(width * columns, (width * tallest + 0.3 * any(titles)) * rows, rows, columns)
        for place in axes.ravel():
            _bare(place)
        for place, image, title, mask in zip(axes.ravel(), images, titles, masks, strict=False):
            shown = grey(image)
            place.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="antialiased")
            if mask is not None and np.any(mask):
                step = max(1, -(-max(np.shape(image)[:2]) // 900))
                inside = np.asarray(mask)[::step, ::step] > 0
                place.contour(inside, levels=[0.5], colors=[COLOURS["orange"]], linewidths=1.1)
            place.set_title(title)
        return png(figure)


def iou_matrix(
    values: np.ndarray,
    train: Sequence[str],
    test: Sequence[str],
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    measure: str = "foreground IoU",
) -> bytes:
    """Draw the train × test matrix as a heat map with values and intervals written in the cells.

    Parameters
    ----------
    values, low, high
        ``(len(train), len(test))`` in 0 to 1, NaN where not evaluated; ends of the intervals, or None.
    """
    values = np.asarray(values, float)
    if values.shape != (len(train), len(test)):
        raise ValueError(f"matrix {values.shape} for {len(train)} trained and {len(test)} tested sets")
    with styled():
        from matplotlib.colors import LinearSegmentedColormap

        # From paper to blue in equal steps of lightness: grey print keeps the order.
        shades = LinearSegmentedColormap.from_list(
            "iou", ["#f7f8f6", "#bcd7e6", "#5b9fc4", "#0a4a73"]
        ).with_extremes(bad="#efefec")
        longest = max(len(name) for name in train)
        width = max(3.4, 1.45 * len(test) + 0.085 * longest + 1.4)
        figure, axes = canvas(width, 0.72 * len(train) + 1.25)
        place = axes[0, 0]
        drawn = place.imshow(np.ma.masked_invalid(values), cmap=shades, vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            if not np.isfinite(value):
                place.text(j, i, "–", ha="center", va="center", color=COLOURS["soft"])
                continue
            colour = "white" if value > 0.55 else COLOURS["ink"]
            bounded = low is not None and high is not None and np.isfinite(low[i][j])
            place.text(j, i - 0.1 * bounded, f"{value:.3f}", ha="center", va="center", color=colour, size=12)
            if bounded and low is not None and high is not None:
                text = f"{low[i][j]:.2f} to {high[i][j]:.2f}"
                place.text(j, i + 0.22, text, ha="center", va="center", color=colour, size=8)
        place.set_xticks(range(len(test)), test)
        place.set_yticks(range(len(train)), train)
        place.xaxis.tick_top()
        place.xaxis.set_label_position("top")
        place.set_xlabel("tested on", color=COLOURS["soft"])
        place.set_ylabel("trained on", color=COLOURS["soft"])
        place.tick_params(length=0)
        for edge in range(1, len(train)):
            place.axhline(edge - 0.5, color="white", linewidth=2)
        for edge in range(1, len(test)):
            place.axvline(edge - 0.5, color="white", linewidth=2)
        for spine in place.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(drawn, ax=place, shrink=0.9, aspect=14, ticks=[0, 0.5, 1])
        bar.outline.set_visible(False)
        bar.set_label(measure, color=COLOURS["soft"])
        return png(figure)


def bars_with_intervals(
    labels: Sequence[str],
    values: Sequence[float],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    measure: str = "foreground IoU",
    limits: tuple[float, float] | None = (0.0, 1.0),
) -> bytes:
    """Draw horizontal bars with intervals, the first on top; `limits` None fits the axis to the data."""
    heights = np.asarray(values, float)
    place_of = np.arange(len(heights))[::-1]
    ends = heights.copy()
    with styled():
        figure, axes = canvas(7.2, 0.42 * len(heights) + 0.75)
        place = axes[0, 0]
        drawn = np.nan_to_num(heights)
        place.barh(place_of, drawn, height=0.62, color=COLOURS["blue"], alpha=0.85)
        if low is not None and high is not None:
            below, above = np.asarray(low, float), np.asarray(high, float)
            errors = np.clip(np.nan_to_num(np.stack([heights - below, above - heights])), 0, None)
            whiskers = {"fmt": "none", "ecolor": COLOURS["ink"], "elinewidth": 1.1, "capsize": 2.5}
            place.errorbar(drawn, place_of, xerr=errors, **whiskers)
            ends = np.fmax(heights, above)
        for value, end, y in zip(heights, np.nan_to_num(ends), place_of, strict=True):
            text = f"{value:.3f}" if np.isfinite(value) else "not evaluated"
            place.annotate(text, (end, y), xytext=(5, 0), textcoords="offset points", va="center", size=9)
        place.set_yticks(place_of, labels)
        place.tick_params(axis="y", length=0)
        place.set_xlabel(measure)
        if limits is not None:
            place.set_xlim(*limits)
        place.grid(axis="x")
        return png(figure)


def trends(
    lines: Mapping[str, Sequence[tuple[float, float, float | None, float | None]]],
    horizontal: str,
    vertical: str,
    *,
    log: bool = False,
) -> bytes:
    """Draw values with their intervals over a number, a line for each name.

    Parameters
    ----------
    lines
        By name, points of x, value, and the ends of its interval or None.
    horizontal, vertical
        What the axes show.
    log
        Equal steps of the horizontal axis are equal factors; every x that occurs is marked.
    """
    if not any(lines.values()):
        raise ValueError("no trend to draw")
    palette = [COLOURS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky")]
    with styled():
        figure, axes = canvas(6.0, 3.4)
        place = axes[0, 0]
        for n, (name, points) in enumerate(lines.items()):
            colour, marker = palette[n % len(palette)], "osD^vP"[n % 6]
            x, value = [p[0] for p in points], [p[1] for p in points]
            place.plot(x, value, color=colour, marker=marker, markersize=4.5, linewidth=1.5, label=name)
            known = [(p[0], p[2], p[3]) for p in points if p[2] is not None and p[3] is not None]
            if known:
                at, low, high = zip(*known, strict=True)
                place.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        if log:
            occurring = sorted({p[0] for points in lines.values() for p in points})
            place.set_xscale("log")
            place.set_xticks(occurring, [f"{x:g}" for x in occurring])
            place.minorticks_off()
        place.set_xlabel(horizontal)
        place.set_ylabel(vertical)
        place.grid(axis="y")
        place.legend()
        return png(figure)
