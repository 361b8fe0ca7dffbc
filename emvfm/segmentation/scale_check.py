"""Does an input have the pixel size that a run was trained on? A run at native size takes pixels as they come."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emvfm.datasets.manifest import Dataset
from emvfm.datasets.scales import Spacing

__all__ = ["scale_remarks", "trained_pixel_sizes"]

#: Relative difference of pixel sizes from which on it is told.
TOLERANCE = 0.1


def trained_pixel_sizes(datasets: Sequence[Dataset]) -> list[float]:
    """Return the sides of pixels in nm that slices of `datasets` have, rising; those not known are left out."""
    sizes = {s.pixel_size_nm for d in datasets for s in d.samples if s.pixel_size_nm is not None}
    return sorted(sizes)


def scale_remarks(
    trained: Sequence[float], images: Sequence[tuple[str, Spacing]], input_size: str
) -> list[str]:
    """Return a sentence for each pixel size of the input that is not among those of the training.

    Parameters
    ----------
    trained
        Of `trained_pixel_sizes`; none, if they are not known.
    images
        Name of each image with the distances of its pixels along (z, y, x) in nm, None where unknown.
    input_size
        How the run gives images to its model, as `Preprocess.input_size`: only ``native`` and factors ``x…`` pass
        the size of pixels on.
    """
    if not trained or not (input_size == "native" or input_size.startswith("x")):
        return []
    found: dict[float, list[str]] = {}
    for name, (_, down, across) in images:
        if down is not None and across is not None:
            found.setdefault(math.sqrt(down * across), []).append(name)
    known = ", ".join(f"{size:.4g}" for size in trained)
    remarks = []
    for size, names in sorted(found.items()):
        nearest = min(trained, key=lambda own: abs(math.log(own / size)))
        if max(size / nearest, nearest / size) <= 1 + TOLERANCE:
            continue
        which = names[0] if len(names) == 1 else f"{len(names)} images ({names[0]} …)"
        remarks.append(
            f"{which}: pixels of {size:.4g} nm, but the run was trained at native size on pixels of {known} nm; "
            f"what is there looks {nearest / size:.2f} times as large as it should"
        )
    return remarks
