"""Single images with their channels, a composite, and what was true and what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.report.drawing import COLOURS, canvas, grey, png, styled

__all__ = ["composite", "image_panels"]

_LINE = 30  # characters of a label column


def composite(channels: Mapping[str, np.ndarray], colours: Mapping[str, str]) -> np.ndarray:
    """Return channels ``(H, W)`` in their colours as RGB ``(H, W, 3)`` in 0 to 1, each stretched between quantiles.

    Parameters
    ----------
    colours
        Channel by colour: ``red``, ``green``, ``blue``; a colour without a channel stays dark.
    """
    shape = next(iter(channels.values())).shape
    planes = [grey(channels[colours[c]]) if c in colours else None for c in ("red", "green", "blue")]
    first = next((plane for plane in planes if plane is not None), None)
    empty = np.zeros(shape if first is None else first.shape, np.float32)
    return np.stack([empty if plane is None else plane for plane in planes], axis=-1)


def _wrapped(labels: Sequence[str]) -> str:
    lines: list[str] = []
    for label in labels or ["none"]:
        if lines and len(lines[-1]) + len(label) + 2 <= _LINE:
            lines[-1] += f", {label}"
        else:
            lines.append(label)
    return ",\n".join(lines)


def image_panels(items: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Draw one row an image.

    Parameters
    ----------
    items
        ``id``; ``channels`` (name to ``(H, W)``, any number); ``composite`` ``(H, W, 3)`` in 0 to 1, or None;
        ``true`` (labels); ``predicted`` (label to probability); ``right`` (whether they agree).
    """
    if not items:
        raise ValueError("no images to draw")
    names = list(dict.fromkeys(name for item in items for name in item["channels"]))
    joined = any(item["composite"] is not None for item in items)
    columns = len(names) + joined
    with styled():
        figure, axes = canvas(1.65 * columns + 3.2, 1.72 * len(items) + 0.4, len(items), columns + 1)
        for row, item in zip(axes, items, strict=True):
            pictures = [item["channels"].get(name) for name in names]
            for place, picture in zip(row, pictures, strict=False):
                if picture is not None:
                    place.imshow(grey(picture), cmap="gray", vmin=0, vmax=1)
            if joined and item["composite"] is not None:
                row[len(names)].imshow(np.clip(item["composite"], 0, 1))
            for place in row:
                place.set_axis_off()
            text, colour = row[-1], COLOURS["green"] if item["right"] else COLOURS["vermilion"]
            said = _wrapped([f"{name} {p:.2f}" for name, p in item["predicted"].items()])
            style: dict[str, Any] = {"transform": text.transAxes, "va": "top", "size": 8, "linespacing": 1.35}
            text.text(0, 0.98, str(item["id"])[:_LINE], color=COLOURS["soft"], **style)
            text.text(0, 0.80, "true\n" + _wrapped(item["true"]), **style)
            text.text(
                0,
                0.42,
                ("predicted\n" if item["right"] else "predicted, wrong\n") + said,
                color=colour,
                **style,
            )
        for place, name in zip(axes[0], [*names, *(["composite"] if joined else [])], strict=False):
            place.set_title(name[:18])
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
        return png(figure)
