"""Figures of a study: arms with intervals and seeds, seeds in pairs, a trend over a quantity, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled
from emvfm.report.training_figures import smoothed

__all__ = ["Curve", "Mark", "Pairs", "Series", "arm_bars", "learning_curves", "paired_dots", "trend"]

_CYCLE = tuple(COLOURS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky"))
_MARKERS = "osD^vP"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.3)))


@dataclass(frozen=True)
class Mark:
    """A mean with its interval (NaN: none) and the values of its seeds."""

    label: str
    value: float
    low: float
    high: float
    dots: Sequence[float] = ()


@dataclass(frozen=True)
class Series:
    """Marks along a quantity: `x` holds one number a mark."""

    label: str
    x: Sequence[float]
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Pairs:
    """Values of the same seeds on two sides: ``(second, first)`` a seed, and the difference in words."""

    title: str
    sides: tuple[str, str]
    values: Sequence[tuple[float, float]]
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """A run's loss by step, and what validation slices said."""

    group: str
    steps: Sequence[int]
    losses: Sequence[float]
    judged: Sequence[tuple[int, float]] = field(default_factory=tuple)


def arm_bars(panels: Mapping[str, Sequence[Mark]], measure: str = "foreground IoU") -> bytes:
    """Draw horizontal bars with intervals and the seeds as dots, a panel a test set, the first on top.

    Parameters
    ----------
    panels
        Title → marks; all panels have the same labels in the same order.

    Raises
    ------
    ValueError
        Nothing to draw.
    """
    if not panels or not all(panels.values()):
        raise ValueError("no bars to draw")
    marks = next(iter(panels.values()))
    labels = [mark.label for mark in marks]
    shared = [part for part in labels[0].split(", ") if all(part in label.split(", ") for label in labels)]
    if len(labels) > 1 and shared:  # what all bars have in common is said by the text around the figure
        labels = [", ".join(part for part in label.split(", ") if part not in shared) for label in labels]
    longest = max(map(len, labels))
    with styled():
        from matplotlib.ticker import MaxNLocator

        width = min(12.0, 0.075 * longest + 3.6 * len(panels) + 0.4)
        figure, axes = canvas(width, 0.36 * len(marks) + 0.95, 1, len(panels))
        y = np.arange(len(marks))[::-1]
        for place, (title, own) in zip(axes[0], panels.items(), strict=True):
            values = np.array([mark.value for mark in own])
            place.barh(y, values, height=0.6, color=COLOURS["sky"], alpha=0.55)
            for at, mark in zip(y, own, strict=True):
                if np.isfinite(mark.low):
                    place.plot([mark.low, mark.high], [at, at], color=COLOURS["ink"], linewidth=1.2)
                    for end in (mark.low, mark.high):
                        place.plot([end, end], [at - 0.13, at + 0.13], color=COLOURS["ink"], linewidth=1.2)
                spread = np.linspace(-0.16, 0.16, len(mark.dots)) if len(mark.dots) > 1 else [0.0]
                place.plot(
                    mark.dots, at + np.asarray(spread[: len(mark.dots)]), "o", markersize=3.6,
                    markerfacecolor="white", markeredgecolor=COLOURS["blue"], markeredgewidth=1.1,
                    clip_on=False,
                )  # fmt: skip
                place.annotate(
                    f"{mark.value:.3f}", (1.01, at), xycoords=("axes fraction", "data"), va="center", size=8.5,
                    color=COLOURS["ink"], annotation_clip=False,
                )  # fmt: skip
            top = max([*values, *(mark.high for mark in own if np.isfinite(mark.high))])
            place.set(xlim=(0, min(1.0, max(0.1, 1.05 * top))), ylim=(-0.6, len(marks) - 0.4), title=title)
            place.set_xlabel(measure)
            place.xaxis.set_major_locator(MaxNLocator(5))
            place.tick_params(axis="y", length=0)
            place.set_yticks(y, labels if place is axes[0, 0] else [""] * len(marks))
            place.grid(axis="x")
        return png(figure)


def paired_dots(pairs: Sequence[Pairs], measure: str = "foreground IoU", columns: int = 4) -> bytes:
    """Draw both sides of each comparison, a line a seed; steep lines that agree are an effect.

    Raises
    ------
    ValueError
        Nothing to draw.
    """
    if not pairs:
        raise ValueError("no pairs to draw")
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    with styled():
        figure, axes = canvas(max(3.2, 2.35 * columns), 2.75 * rows, rows, columns)
        low = min(v for each in pairs for pair in each.values for v in pair)
        high = max(v for each in pairs for pair in each.values for v in pair)
        margin = max(0.02, 0.08 * (high - low))
        for place in axes.ravel()[len(pairs) :]:
            place.set_visible(False)
        for n, (place, each) in enumerate(zip(axes.ravel(), pairs, strict=False)):
            for pair in each.values:
                place.plot([0, 1], pair, color=COLOURS["soft"], linewidth=1, zorder=1)
            for side, colour in ((0, COLOURS["orange"]), (1, COLOURS["blue"])):
                own = [pair[side] for pair in each.values]
                place.plot([side] * len(own), own, "o", color=colour, markersize=5, zorder=2)
                place.plot(
                    [side - 0.14, side + 0.14], [np.mean(own)] * 2, color=COLOURS["ink"], linewidth=1.6
                )
            place.set_xticks([0, 1], [_folded(side) for side in each.sides])
            place.set(xlim=(-0.45, 1.45), ylim=(max(0.0, low - margin), min(1.0, high + margin)))
            place.set_title(_folded(each.title, 30), size=9)
            if each.note:
                place.set_xlabel(each.note, size=8.5, color=COLOURS["soft"])
            if n % columns == 0:
                place.set_ylabel(measure)
            place.grid(axis="y")
        return png(figure)


def _folded(text: str, width: int = 14) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_long_words=False)) or text


def trend(
    panels: Mapping[str, Sequence[Series]], title: str, *, apart: Mapping[str, Mark] | None = None
) -> bytes:
    """Draw means with intervals and seeds along a quantity, a panel a measure.

    Parameters
    ----------
    panels
        Measure → series; series of one label look alike in all panels.
    title
        Of the quantity.
    apart
        Label → mark of what has no place on the quantity, drawn as a line across the first panel.

    Raises
    ------
    ValueError
        Nothing to draw.
    """
    if not panels or not all(panels.values()):
        raise ValueError("no series to draw")
    labels = list(dict.fromkeys(series.label for own in panels.values() for series in own))
    look = {label: (_CYCLE[n % len(_CYCLE)], _MARKERS[n % len(_MARKERS)]) for n, label in enumerate(labels)}
    with styled():
        longest = max((len(label) for label in labels), default=0)
        beside = max(1, min(len(labels), int(4.6 * len(panels) * 11 // (longest + 12))))
        height = 3.4 + 0.22 * -(-len(labels) // beside)
        figure, axes = canvas(4.6 * len(panels), height, 1, len(panels))
        for place, (measure, own) in zip(axes[0], panels.items(), strict=True):
            for series in own:
                _draw_series(place, series, *look[series.label])
            place.set(xlabel=title, ylabel=measure)
            place.set_ylim(bottom=min(0.0, place.get_ylim()[0]))
            place.grid(axis="y")
        first = axes[0, 0]
        for label, mark in (apart or {}).items():
            first.axhline(mark.value, color=COLOURS["soft"], linewidth=1, linestyle=(0, (4, 3)))
            first.annotate(
                f"{label}: {mark.value:.2f}", (1, mark.value), xycoords=("axes fraction", "data"), ha="right",
                va="bottom", size=8, color=COLOURS["soft"], xytext=(-2, 1), textcoords="offset points",
            )  # fmt: skip
        if any(labels):
            handles = [
                axes[0, 0].plot([], [], color=colour, marker=marker, markersize=5, label=label)[0]
                for label, (colour, marker) in look.items()
                if label
            ]
            figure.legend(handles=handles, loc="outside lower left", ncols=beside)
        return png(figure)


def _draw_series(place: Any, series: Series, colour: str, marker: str) -> None:
    order = np.argsort(series.x, kind="stable")
    x = np.asarray(series.x, float)[order]
    marks = [series.marks[i] for i in order]
    low, high = np.array([m.low for m in marks]), np.array([m.high for m in marks])
    if np.isfinite(low).any():
        place.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    place.plot(x, [m.value for m in marks], color=colour, marker=marker, markersize=5, linewidth=1.6)
    for at, mark in zip(x, marks, strict=True):
        place.plot(
            [at] * len(mark.dots), mark.dots, marker, color=colour, markersize=3, alpha=0.45, linestyle=""
        )


def learning_curves(curves: Sequence[Curve]) -> bytes:
    """Draw smoothed training loss, and validation IoU where there is any, a colour a group, a line a run.

    Raises
    ------
    ValueError
        Nothing to draw.
    """
    drawn = [curve for curve in curves if len(curve.steps)]
    if not drawn:
        raise ValueError("no curves to draw")
    groups = list(dict.fromkeys(curve.group for curve in drawn))
    judged = any(curve.judged for curve in drawn)
    with styled():
        longest = max(len(group) for group in groups)
        width = 8.4 if judged else 6.4
        beside = max(1, min(len(groups), int(width * 11 // (longest + 12))))
        figure, axes = canvas(width, 3.1 + 0.22 * -(-len(groups) // beside), 1, 2 if judged else 1)
        seen = set()
        for curve in drawn:
            n = groups.index(curve.group)
            colour, dash = _CYCLE[n % len(_CYCLE)], _DASHES[n // len(_CYCLE) % len(_DASHES)]
            label = None if curve.group in seen else curve.group
            seen.add(curve.group)
            losses = smoothed(np.asarray(curve.losses, float), 0.1)
            look = {"color": colour, "linestyle": dash, "linewidth": 1.3, "alpha": 0.85}
            axes[0, 0].plot(curve.steps, losses, label=label, **look)
            if curve.judged:
                axes[0, 1].plot(*zip(*curve.judged, strict=True), marker="o", markersize=2.5, **look)
        axes[0, 0].set(xlabel="step", ylabel="training loss, smoothed", xlim=(0, None), ylim=(0, None))
        axes[0, 0].grid(axis="y")
        if judged:
            axes[0, 1].set(xlabel="step", ylabel="validation IoU", xlim=(0, None), ylim=(0, 1))
            axes[0, 1].grid(axis="y")
        if len(groups) > 1:
            figure.legend(loc="outside lower left", ncols=beside)
        return png(figure)
