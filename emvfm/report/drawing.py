"""One quiet style for all figures, that survives grey print and colour blindness, and PNG bytes as result.

Colours are those of Okabe and Ito (2008). Nothing keeps state, and no window is ever opened.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["COLOURS", "STYLE", "canvas", "grey", "png", "styled"]

#: Okabe and Ito's colours that are told apart with any colour vision.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "ink": "#22272b",
    "soft": "#6a737b",
    "line": "#d8dbd8",
}
STYLE: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "Helvetica Neue", "Segoe UI", "Roboto", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "regular",
    "axes.titlelocation": "left",
    "axes.edgecolor": COLOURS["soft"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["soft"],
    "ytick.color": COLOURS["soft"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.labelcolor": COLOURS["ink"],
    "legend.frameon": False,
    "text.color": COLOURS["ink"],
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "text.parse_math": False,  # names may hold a dollar sign
    "savefig.dpi": 160,
    "figure.dpi": 160,
}


@contextmanager
def styled() -> Iterator[None]:
    import logging

    from matplotlib import rc_context

    finder = logging.getLogger("matplotlib.font_manager")
    level = finder.level
    finder.setLevel(logging.ERROR)  # absent system fonts are expected, the last one ships with matplotlib
    try:
        with rc_context(dict(STYLE)):
            yield
    finally:
        finder.setLevel(level)


def canvas(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure of `width` × `height` inches and its axes ``(rows, columns)``, unknown to pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": "emvfm"})
    return stream.getvalue()


def grey(image: np.ndarray, longest: int = 900) -> np.ndarray:
    """Return an image (H, W[, 3]) as grey in 0 to 1 between two quantiles, thinned to at most `longest`."""
    image = np.asarray(image)
    step = max(1, -(-max(image.shape[:2]) // longest))
    grey = image[::step, ::step].astype(np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    low, high = np.quantile(grey, [0.005, 0.995])
    return np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
