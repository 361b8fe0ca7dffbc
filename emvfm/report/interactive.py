"""A scatter of images or patches as one HTML file: zoom, pan, colours, and the picture under the pointer.

Nothing is loaded from anywhere, which a content security policy within the page enforces. Names reach the
page as JSON and are shown as text, never as markup. The pictures of the images share a fixed number of
bytes, so that a page of many images has smaller ones, never more bytes.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from emvfm.errors import EmvfmError, UsageError
from emvfm.report.drawing import grey
from emvfm.report.map_parts import MAP_SCRIPT, MAP_STYLE

__all__ = ["MAX_BYTES", "MapImage", "map_page", "thumbnails"]

MAX_BYTES = 10_000_000
#: Of the pictures before base64, which adds a third.
PICTURE_BYTES = 5_000_000
#: A picture of fewer bytes shows nothing.
_FEWEST_BYTES = 900
_LONGEST = 640
#: Sides of the crop around a patch, in patches.
CONTEXT = 9
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class MapImage:
    """An image of a map.

    Attributes
    ----------
    z
        None for single images.
    picture
        JPEG, or None where there was no room for it.
    patch
        Height and width of a patch as parts of the image's.
    """

    id: str
    domain: str
    volume: str
    split: str
    z: int | None
    picture: bytes | None = None
    patch: tuple[float, float] = (1.0, 1.0)


def _jpeg(image: np.ndarray, side: int, quality: int) -> bytes:
    from PIL import Image

    picture = Image.fromarray((255 * grey(image, longest=2048)).astype(np.uint8))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def thumbnails(images: Iterable[np.ndarray], n: int, budget: int = PICTURE_BYTES) -> list[bytes | None]:
    """Return a small grey JPEG of each image, all together within `budget` bytes.

    Parameters
    ----------
    images
        `n` images (H, W[, 3]), one in memory at a time.

    Returns
    -------
    One for every image; None for evenly spread ones where there are too many for pictures that show anything.
    """
    share = budget // max(n, 1)
    every = 1 if share >= _FEWEST_BYTES else math.ceil(_FEWEST_BYTES / max(share, 1))
    room = budget // math.ceil(max(n, 1) / every)
    found: list[bytes | None] = []
    for i, image in enumerate(images):
        picture = None
        if i % every == 0:
            # Half a byte a pixel is what noisy micrographs take at this quality.
            side = min(_LONGEST, max(32, round(math.sqrt(2 * room))))
            picture = _jpeg(image, side, 72)
            while len(picture) > room and side > 16:
                side = max(16, int(side * min(0.9, math.sqrt(room / len(picture)))))
                picture = _jpeg(image, side, 60)
        found.append(picture if picture is None or len(picture) <= room else None)
    return found


def _json(value: Any) -> str:
    """Return JSON that no parser of HTML takes for markup."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _rounded(values: np.ndarray, digits: int) -> list[float | None]:
    """Return plain numbers with so many significant digits of the largest; None for what is no number."""
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    places = digits - 1 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [round(v, places) if math.isfinite(v) else None for v in values.tolist()]


def map_page(
    title: str,
    images: Sequence[MapImage],
    coordinates: ArrayLike,
    image: ArrayLike,
    *,
    axes: Sequence[str],
    subtitle: str = "",
    remark: str = "",
    foreground: ArrayLike | None = None,
    centres: ArrayLike | None = None,
    cells: ArrayLike | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    coordinates
        ``(N, k)``, with one name in `axes` for each column.
    image
        ``(N,)``: which of `images` a point belongs to.
    remark
        What must be known before anything is read off the map.
    foreground
        ``(N,)`` in [0, 1], NaN where there is no mask.
    centres, cells
        ``(N, 2)``, for points that are patches: their centres as parts of height and width, and their rows
        and columns in the grid.

    Raises
    ------
    UsageError
        Arrays of different length, or coordinates that are not finite.
    EmvfmError
        The page is larger than `MAX_BYTES`.
    """
    points, index = np.asarray(coordinates, np.float64), np.asarray(image)
    if points.ndim != 2 or points.shape != (len(index), len(axes)) or not len(index):
        raise UsageError("not the coordinates of a map", got=points.shape, expected=(len(index), len(axes)))
    if not np.isfinite(points).all():
        raise UsageError("coordinates are not finite", where=title)
    if index.min() < 0 or index.max() >= len(images):
        raise UsageError("a point belongs to no image", got=f"{index.min()} to {index.max()}")
    for name, column in (("foreground", foreground), ("centres", centres), ("cells", cells)):
        if column is not None and len(np.asarray(column)) != len(index):
            raise UsageError(f"{name} of another length", got=len(np.asarray(column)), expected=len(index))
    if (centres is None) != (cells is None):
        raise UsageError("patches have centres and cells", got="one of them")
    masks = None if foreground is None else np.asarray(foreground, np.float64)
    shown = masks is not None and bool(np.isfinite(masks).any())
    data = {
        "axes": list(axes),
        "coordinates": [_rounded(column, 5) for column in points.T],
        "image": index.tolist(),
        "foreground": _rounded(masks, 3) if shown and masks is not None else None,
        "centres": None if centres is None else [_rounded(c, 4) for c in np.asarray(centres, np.float64).T],
        "cells": None if cells is None else np.asarray(cells).T.tolist(),
        "context": CONTEXT,
        "images": [
            {
                "id": m.id, "domain": m.domain, "volume": m.volume, "split": m.split, "z": m.z,
                "patch": [round(part, 6) for part in m.patch],
                "picture": None if m.picture is None else base64.b64encode(m.picture).decode(),
            }
            for m in images
        ],
    }  # fmt: skip
    what = "Scatter of " + ("patches" if centres is not None else "images")
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="generator" content="emvfm">
<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{MAP_STYLE}</style></head><body><main>
<header><h1>{escape(title)}</h1>{f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""}
{f'<p class="remark">{escape(remark)}</p>' if remark else ""}</header>
<noscript><p>This map needs JavaScript; the same numbers are in coordinates.csv beside it.</p></noscript>
<div class="bar"><label>Colour <select id="colour"></select></label>
<span id="axes" class="bar" style="margin:0"><label>Across <select id="across"></select></label>
<label>Up <select id="up"></select></label></span>
<label id="joined"><input type="checkbox" id="path"> Join slices</label>
<button type="button" id="reset">Whole map</button></div>
<div class="stage"><div><div class="plot">
<canvas id="plot" tabindex="0" role="img" aria-label="{what}; arrow keys step through the points"></canvas></div>
<div id="legend" aria-label="Legend"></div></div>
<aside aria-live="polite"><p class="hint" id="hint">Point at a dot, or tap it, to see its image.</p>
<canvas id="crop" hidden role="img" aria-label="Image of the chosen point"></canvas><dl id="facts"></dl></aside></div>
<p class="keys">Wheel or pinch zooms, dragging moves, a click holds a point, a double click shows the whole map.
Keys: ← → next point, + − zoom, 0 whole map, Esc lets go.</p>
</main><script type="application/json" id="data">{_json(data)}</script><script>{MAP_SCRIPT}</script></body></html>
"""
    if (size := len(page.encode())) > MAX_BYTES:
        raise EmvfmError(
            "map too large",
            where=title,
            got=f"{size / 1e6:.1f} MB",
            expected=f"at most {MAX_BYTES / 1e6:.0f} MB",
            todo="show fewer points",
        )
    return page
