"""Figures of probes: who is told apart and against what null, where a probe carries over, and in which layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, png, styled
from emvfm.report.figures import iou_matrix

__all__ = ["domain_probe_bars", "layer_curves", "task_matrix"]

_MARKERS = "osD^vP*X"


def domain_probe_bars(
    rows: Sequence[Mapping[str, Any]], measure: str = "balanced accuracy of the domain probe"
) -> bytes:
    """Draw how well domains are told apart, with the null and what a constant answer gives.

    Parameters
    ----------
    rows
        One a set of domains: ``label``, ``value``, optionally ``low`` and ``high``, ``null`` (values under
        relabelling, any number), ``chance`` (of a constant answer), and optionally ``ends`` (label and value
        of two ends of one stack, any number).
    """
    if not rows:
        raise ValueError("no probes to draw")
    names = list(dict.fromkeys(name for row in rows for name in row.get("ends", {})))
    markers = {name: _MARKERS[n % len(_MARKERS)] for n, name in enumerate(names)}
    with styled():
        from matplotlib.patheffects import withStroke

        figure, axes = canvas(7.2, 0.66 * len(rows) + 1.35)
        place = axes[0, 0]
        for n, row in enumerate(rows):
            y = len(rows) - 1 - n
            place.barh(y, row["value"], height=0.56, color=COLOURS["sky"], alpha=0.6, zorder=1)
            null = np.asarray(row["null"], float)
            null = null[np.isfinite(null)]
            # Even ranks in place of random jitter: the same picture every time.
            offsets = ((np.arange(len(null)) * 0.618034) % 1 - 0.5) * 0.42
            place.scatter(
                np.sort(null), y + offsets, s=7, color=COLOURS["soft"], alpha=0.5, linewidths=0, zorder=2
            )
            place.plot(
                [row["chance"]] * 2, [y - 0.36, y + 0.36], color=COLOURS["ink"], linewidth=1.6, zorder=3
            )
            end = row["value"]
            if row.get("low") is not None and row.get("high") is not None:
                place.errorbar(
                    row["value"], y, xerr=[[max(0, row["value"] - row["low"])], [max(0, row["high"] - end)]],
                    fmt="none", ecolor=COLOURS["ink"], elinewidth=1.2, capsize=3, zorder=4,
                )  # fmt: skip
                end = max(end, row["high"])
            for name, value in row.get("ends", {}).items():
                place.scatter(
                    value, y, s=40, marker=markers[name], facecolor="white", edgecolor=COLOURS["vermilion"],
                    linewidths=1.5, zorder=5,
                )  # fmt: skip
            shown = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "size": 9}
            label = place.annotate(f"{row['value']:.2f}", (end, y), **shown)
            label.set_path_effects([withStroke(linewidth=3, foreground="white")])
        place.plot([], [], color=COLOURS["ink"], linewidth=1.6, label="always the largest domain")
        if any(len(row["null"]) for row in rows):
            place.scatter([], [], s=12, color=COLOURS["soft"], label="null: parts exchanged")
        for name in names:
            place.scatter(
                [], [], s=40, marker=markers[name], facecolor="white", edgecolor=COLOURS["vermilion"],
                linewidths=1.5, label=f"two ends of {name}",
            )  # fmt: skip
        place.set_yticks(range(len(rows))[::-1], [str(row["label"]) for row in rows])
        place.set_ylim(-0.6, len(rows) - 0.4)
        place.tick_params(axis="y", length=0)
        place.set_xlim(0, 1.08)
        place.set_xticks(np.linspace(0, 1, 6))
        place.set_xlabel(measure)
        place.grid(axis="x")
        figure.legend(loc="outside lower center", ncols=2)
        return png(figure)


def task_matrix(
    values: np.ndarray,
    names: Sequence[str],
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    measure: str = "AUROC of the task probe",
) -> bytes:
    """Draw the train × test matrix of the task probe; the diagonal is cross-validated.

    Parameters
    ----------
    values, low, high
        ``(len(names), len(names))`` in 0 to 1, NaN where not possible.
    """
    return iou_matrix(values, names, names, low, high, measure)


def layer_curves(
    layers: Sequence[int], panels: Mapping[str, Sequence[Mapping[str, Any]]], chance: float = 0.5
) -> bytes:
    """Draw scores over the layers of a backbone, one panel a probe.

    Parameters
    ----------
    layers
        Block numbers.
    panels
        Curves by title of the panel: ``label``, ``values``, and optionally ``low`` and ``high``, each as long
        as `layers`, with None or NaN where there is none.
    chance
        Drawn as a line.
    """
    shown = {title: curves for title, curves in panels.items() if curves}
    if not shown:
        raise ValueError("no curves to draw")
    colours = [COLOURS[c] for c in ("blue", "orange", "green", "vermilion", "purple", "sky", "soft")]
    with styled():
        figure, axes = canvas(4.5 * len(shown), 3.6, 1, len(shown))
        for place, (title, curves) in zip(axes[0], shown.items(), strict=True):
            place.axhline(chance, color=COLOURS["soft"], linewidth=0.9, linestyle=(0, (3, 3)))
            for n, curve in enumerate(curves):
                colour, values = colours[n % len(colours)], np.asarray(curve["values"], float)
                bounded = curve.get("low") is not None and curve.get("high") is not None
                if bounded and len(curves) <= 4:  # more bands than that hide each other
                    ends = np.asarray(curve["low"], float), np.asarray(curve["high"], float)
                    place.fill_between(layers, *ends, color=colour, alpha=0.14, linewidth=0)
                place.plot(
                    layers, values, color=colour, linewidth=1.6, marker=_MARKERS[n % len(_MARKERS)],
                    markersize=4, linestyle=curve.get("line", "-"), label=curve["label"],
                )  # fmt: skip
            place.set_title(title)
            place.set_xlabel("block")
            place.set_xticks(layers[:: max(1, len(layers) // 8)])
            place.set_ylim(min(0.4, *_lowest(curves)), 1.02)
            place.grid(axis="y")
            place.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1 + (len(curves) > 3), fontsize=8.5
            )
        return png(figure)


def _lowest(curves: Sequence[Mapping[str, Any]]) -> list[float]:
    found = np.concatenate(
        [np.asarray(c[key], float) for c in curves for key in ("values", "low") if c.get(key) is not None]
    )
    found = found[np.isfinite(found)]
    return [float(found.min()) - 0.03, 0.4] if len(found) else [0.4, 0.4]
