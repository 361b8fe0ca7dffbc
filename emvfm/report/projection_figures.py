"""Figures of projections: scatters by domain, slice and foreground, variance curves, and colour maps.

Every function takes arrays and returns the bytes of a PNG. Points are drawn in a fixed random order, so that
no domain covers the others because it came last; both axes have one scale, because distances are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emvfm.report.drawing import COLOURS, canvas, grey, png, styled

__all__ = [
    "ColourMap",
    "Stack",
    "colour_maps",
    "layer_scatters",
    "scatter_by_domain",
    "scatter_by_slice",
    "scatter_by_value",
    "variance_curves",
]

_GROUPS = tuple(COLOURS[name] for name in ("blue", "orange", "green", "vermilion", "sky", "purple"))
_MARKERS = "osD^vP"
#: Marks of different shape are told apart up to about so many points.
_SHAPED = 600


@dataclass(frozen=True)
class Stack:
    """The slices of one stack in a projection: ``(n, 2)`` points and their z ``(n,)``."""

    name: str
    domain: str
    points: ArrayLike
    z: ArrayLike


@dataclass(frozen=True)
class ColourMap:
    """One image with the colours of its patches.

    Attributes
    ----------
    image
        (H, W[, 3]).
    colours
        ``(h, w, 3)`` in [0, 1], NaN where there is only padding.
    extent
        Height and width that the grid of patches covers, in pixels of the image.
    mask
        ``(H, W)``, > 0 inside, or None.
    """

    image: np.ndarray
    colours: np.ndarray
    extent: tuple[float, float]
    title: str
    mask: np.ndarray | None = None


def _size(n: int) -> float:
    """Return the area of a mark in points², smaller where there are many."""
    return float(np.clip(9000 / max(n, 1), 3, 34))


def _squared(axes: Any, names: tuple[str, str]) -> None:
    axes.margins(0.06)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])


def _checked(points: ArrayLike) -> np.ndarray:
    values = np.asarray(points, np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or not len(values):
        raise ValueError(f"not points of a plane: {values.shape}, expected (n, 2) with n >= 1")
    return values[:, :2]


def _note(figure: Any, remark: str) -> None:
    if remark:
        figure.supxlabel(remark, fontsize=8.5, color=COLOURS["soft"], x=0.01, ha="left")


def _groups(axes: Any, points: np.ndarray, labels: Sequence[str]) -> list[Any]:
    """Draw points coloured by label and return the handles of a legend."""
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(labels))
    codes = np.array([names.index(label) for label in labels])
    shaped = len(points) <= _SHAPED
    order = np.random.default_rng(0).permutation(len(points))
    colours = np.array([_GROUPS[code % len(_GROUPS)] for code in codes])
    style = {"s": _size(len(points)), "linewidths": 0, "alpha": 0.85 if shaped else 0.55}
    marks = [_MARKERS[(k + k // len(_GROUPS)) % len(_MARKERS)] if shaped else "o" for k in range(len(names))]
    if shaped:
        for k in range(len(names)):
            axes.scatter(*points[codes == k].T, c=colours[codes == k], marker=marks[k], **style)
    else:
        axes.scatter(*points[order].T, c=colours[order], **style, rasterized=True)
    return [
        Line2D([], [], linestyle="", marker=mark, color=_GROUPS[k % len(_GROUPS)], label=name, markersize=6)
        for k, (name, mark) in enumerate(zip(names, marks, strict=True))
    ]


def _near(cloud: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the part of a cloud that lies around some points, which would be a speck within all of it."""
    low, high = points.min(axis=0), points.max(axis=0)
    reach = 0.75 * float((high - low).max())
    return cloud[(np.abs(cloud - (low + high) / 2) <= reach).all(axis=1)]


def scatter_by_domain(
    points: ArrayLike, labels: Sequence[str], axes: tuple[str, str], title: str = "", remark: str = ""
) -> bytes:
    """Draw ``(n, 2)`` points coloured by label.

    Raises
    ------
    ValueError
        No points, or as many labels as there are not points.
    """
    values = _checked(points)
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels for {len(values)} points")
    with styled():
        figure, places = canvas(6.4, 5.2)
        handles = _groups(places[0, 0], values, labels)
        _squared(places[0, 0], axes)
        places[0, 0].set_title(title)
        figure.legend(handles=handles, loc="outside upper left", ncols=3, handletextpad=0.2)
        _note(figure, remark)
        return png(figure)


def scatter_by_slice(
    stacks: Sequence[Stack],
    axes: tuple[str, str],
    cloud: ArrayLike | None = None,
    remark: str = "",
    title: str = "",
) -> bytes:
    """Draw a path through each stack, one panel a domain, coloured by z.

    Parameters
    ----------
    cloud
        ``(m, 2)`` points shown in grey behind, such as the patches whose means the slices are.
    """
    if not stacks:
        raise ValueError("no stacks to draw")
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    paths = [(s, _checked(s.points), np.asarray(s.z, np.float64)) for s in stacks]
    everything = np.concatenate([p for _, p, _ in paths])
    names = list(dict.fromkeys(s.domain for s in stacks))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with styled():
        figure, places = canvas(4.4 * columns, 0.5 + 3.7 * rows, rows, columns)
        for place in places.ravel()[len(names) :]:
            place.set_visible(False)
        for place, name in zip(places.ravel(), names, strict=False):
            own = np.concatenate([z for s, _, z in paths if s.domain == name])
            scale = Normalize(own.min(), own.max())
            shown = None
            behind = everything if cloud is None else _near(_checked(cloud), everything)
            place.scatter(
                *behind.T, s=_size(len(behind)) / 2, c=COLOURS["line"], linewidths=0, rasterized=True
            )
            for stack, points, z in paths:
                if stack.domain != name:
                    continue
                order = np.argsort(z, kind="stable")
                place.plot(*points[order].T, color=COLOURS["soft"], linewidth=0.8, alpha=0.7, zorder=2)
                shown = place.scatter(
                    *points[order].T, c=z[order], cmap="viridis", norm=scale,
                    s=_size(len(everything)), linewidths=0, zorder=3,
                )  # fmt: skip
                first = points[order[0]]
                place.scatter(
                    *first, s=62, facecolors="none", edgecolors=COLOURS["ink"], linewidths=1, zorder=4
                )
            _squared(place, axes)
            place.set_title(name)
            figure.colorbar(
                shown,
                ax=place,
                label="z",
                shrink=0.7,
                aspect=30,
                pad=0.02,
                ticks=MaxNLocator(6, integer=True),
            )
        _note(figure, " ".join(part for part in ("The first slice of a stack is circled.", remark) if part))
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
        return png(figure)


def scatter_by_value(
    points: ArrayLike, values: ArrayLike, label: str, axes: tuple[str, str], title: str = "", remark: str = ""
) -> bytes:
    """Draw ``(n, 2)`` points coloured by values ``(n,)``: high ones in front, NaN grey and behind all."""
    places_of, numbers = _checked(points), np.asarray(values, np.float64)
    if len(numbers) != len(places_of):
        raise ValueError(f"{len(numbers)} values for {len(places_of)} points")
    known = np.isfinite(numbers)
    # What is sought is rare: drawn in any other order, it vanishes behind the rest.
    order = np.flatnonzero(known)[np.argsort(numbers[known], kind="stable")]
    size = _size(len(places_of))
    with styled():
        figure, places = canvas(6.4, 4.9)
        place = places[0, 0]
        if not known.all():
            place.scatter(*places_of[~known].T, s=size, c="#c3c8cb", linewidths=0, label="no mask")
            figure.legend(loc="outside upper left", handletextpad=0.2, markerscale=(36 / size) ** 0.5)
        shown = place.scatter(
            *places_of[order].T, c=numbers[order], s=size, cmap="viridis", linewidths=0, alpha=0.85, rasterized=True
        )  # fmt: skip
        bar = figure.colorbar(shown, ax=place, label=label, shrink=0.7, aspect=30)
        bar.solids.set_alpha(1)
        _squared(place, axes)
        place.set_title(title)
        _note(figure, remark)
        return png(figure)


def variance_curves(spectra: Mapping[str, ArrayLike], shown: int = 50, title: str = "") -> bytes:
    """Draw the share of variance of each component, and cumulated, for one or several spectra.

    Parameters
    ----------
    spectra
        Falling variances ``(D,)`` by name, such as one a layer.
    """
    if not spectra:
        raise ValueError("no spectra to draw")
    from matplotlib import colormaps

    shade = colormaps["viridis"]
    with styled():
        figure, places = canvas(9.0, 3.6, 1, 2)
        each, whole = places[0]
        for k, (name, spectrum) in enumerate(spectra.items()):
            values = np.asarray(spectrum, np.float64)
            total = values.sum()
            shares = values / total if total > 0 else values
            colour = COLOURS["blue"] if len(spectra) == 1 else shade(0.9 * k / (len(spectra) - 1))
            style = {"color": colour, "linewidth": 1.5, "label": name}
            numbers = 1 + np.arange(min(shown, len(shares)))
            mark = "o" if len(numbers) <= 50 else None
            each.plot(numbers, 100 * shares[: len(numbers)], marker=mark, markersize=3, **style)
            whole.plot(1 + np.arange(len(shares)), 100 * np.cumsum(shares), **style)
        each.set_title("of each component")
        each.set_ylim(bottom=0)
        whole.set_title("of the first components together")
        whole.set_xscale("log")
        whole.xaxis.set_major_formatter("{x:g}")
        whole.set_ylim(0, 102)
        whole.axhline(90, color=COLOURS["soft"], linewidth=0.8, linestyle=(0, (4, 3)))
        whole.annotate(
            "90 %", (1, 90), (2, 3), textcoords="offset points", color=COLOURS["soft"], fontsize=8.5
        )
        for place in places[0]:
            place.set_xlabel("component")
            place.set_ylabel("variance, %")
            place.grid(axis="y")
        if len(spectra) > 1:
            whole.legend(loc="lower right", fontsize=9)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
        return png(figure)


def layer_scatters(
    panels: Sequence[tuple[str, ArrayLike]],
    labels: Sequence[str],
    axes: tuple[str, str] = ("PC1", "PC2"),
    remark: str = "",
) -> bytes:
    """Draw one small scatter a layer, of the same rows coloured by the same labels.

    Parameters
    ----------
    panels
        Title and ``(n, 2)`` points of each layer.
    """
    if not panels:
        raise ValueError("no layers to draw")
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with styled():
        figure, places = canvas(max(5.0, 2.9 * columns), 0.6 + 2.9 * rows, rows, columns)
        for place in places.ravel()[len(panels) :]:
            place.set_visible(False)
        handles: list[Any] = []
        for place, (title, points) in zip(places.ravel(), panels, strict=False):
            values = _checked(points)
            handles = _groups(place, values, labels)
            _squared(place, axes)
            place.set_title(title)
            place.tick_params(labelsize=8)
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handletextpad=0.2)
        _note(figure, remark)
        return png(figure)


def _pair(left: Any, right: Any, item: ColourMap) -> None:
    height, width = np.shape(item.image)[:2]
    box = (-0.5, width - 0.5, height - 0.5, -0.5)
    reach = (-0.5, item.extent[1] - 0.5, item.extent[0] - 0.5, -0.5)
    left.imshow(grey(item.image), cmap="gray", vmin=0, vmax=1, extent=box, interpolation="antialiased")
    colours = np.asarray(item.colours, np.float64)
    missing = np.isnan(colours).any(axis=-1, keepdims=True)
    opaque = np.concatenate([np.nan_to_num(colours), np.where(missing, 0.0, 1.0)], axis=-1)
    right.imshow(opaque, extent=reach, interpolation="nearest")
    for place, colour in ((left, COLOURS["orange"]), (right, "white")):
        if item.mask is not None and np.any(item.mask):
            step = max(1, -(-max(height, width) // 900))
            inside = np.asarray(item.mask)[::step, ::step] > 0
            if inside.shape[0] > 1 and inside.shape[1] > 1 and not inside.all():
                x, y = step * np.arange(inside.shape[1]), step * np.arange(inside.shape[0])
                place.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=0.9)
        place.set_xlim(-0.5, width - 0.5)
        place.set_ylim(height - 0.5, -0.5)
        place.set_xticks([])
        place.set_yticks([])
        for spine in place.spines.values():
            spine.set_visible(False)
    left.set_title(item.title, fontsize=8.5)


def colour_maps(
    items: Sequence[ColourMap],
    columns: int = 3,
    note: str = "PC1, PC2, PC3 as red, green, blue; one basis and scale for all",
) -> bytes:
    """Draw images and beside each the colours of its patches; `columns` such pairs in a row.

    Raises
    ------
    ValueError
        No images.
    """
    if not items:
        raise ValueError("no maps to draw")
    columns = min(columns, len(items))
    rows = -(-len(items) // columns)
    tallest = max(np.shape(i.image)[0] / np.shape(i.image)[1] for i in items)
    width = min(2.6, 13.0 / (2 * columns)) if len(items) > 1 else 4.2
    with styled():
        figure, places = canvas(width * 2 * columns, (width * tallest + 0.26) * rows + 0.3, rows, 2 * columns)
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.01, hspace=0.01)
        for place in places.ravel():
            place.axis("off")
        for k, item in enumerate(items):
            row, column = k // columns, 2 * (k % columns)
            for place in places[row, column : column + 2]:
                place.axis("on")
            _pair(places[row, column], places[row, column + 1], item)
        _note(figure, note)
        return png(figure)
