"""What the audit needs to know of one sample, measured once while its files are in memory.

Images are read one by one; what stays is a handful of numbers, a thumbnail, and (for annotated
samples) the small maps on which images and masks are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import EmvfmError
from emvfm.provenance import sha256_file

__all__ = ["Facts", "Measured", "measure", "thumbnail"]

THUMBNAIL = 48


@dataclass(frozen=True)
class Facts:
    """One sample's numbers.

    Parameters
    ----------
    sample
        The manifest row.
    problems
        Sentences about files that are missing, damaged, or not those of the manifest: (code, text).
    shape, dtype
        Of the image, (H, W) and the type's name; None if it can't be read.
    spread
        Standard deviation of the grey values over their range, 0 for a constant image.
    at_limit
        Share of pixels at the smallest or the largest value of the image, whichever is larger.
    mask_shape
        (H, W) of the mask, None without one.
    foreground
        Share of foreground in 0 to 1, None without a readable mask.
    """

    sample: Sample
    problems: tuple[tuple[str, str], ...]
    shape: tuple[int, int] | None
    dtype: str | None
    spread: float
    at_limit: float
    mask_shape: tuple[int, int] | None
    foreground: float | None


@dataclass(frozen=True)
class Measured:
    """`Facts` with the arrays that comparisons between samples need (None where there is nothing)."""

    facts: Facts
    thumbnail: np.ndarray | None
    maps: np.ndarray | None
    bins: np.ndarray | None


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Return a small version ``(p,)`` float32 of an image (H, W[, C]) with mean 0 and length 1."""
    grey = image.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    rows = np.array_split(np.arange(grey.shape[0]), min(THUMBNAIL, grey.shape[0]))
    columns = np.array_split(np.arange(grey.shape[1]), min(THUMBNAIL, grey.shape[1]))
    small = np.add.reduceat(grey, [r[0] for r in rows], axis=0)
    small = np.add.reduceat(small, [c[0] for c in columns], axis=1)
    small /= np.outer([len(r) for r in rows], [len(c) for c in columns])
    flat = (small - small.mean()).ravel()
    return flat / (np.linalg.norm(flat) + 1e-12)


def _limits(image: np.ndarray) -> tuple[float, float]:
    """Return spread and share of pixels at a limit."""
    low, high = float(image.min()), float(image.max())
    if low == high:
        return 0.0, 1.0
    at_limit = max(float(np.mean(image == low)), float(np.mean(image == high)))
    return float(image.std() / (high - low)), at_limit


def _verified(dataset: Dataset, name: str, expected: str | None, what: str) -> tuple[str, str] | None:
    path = dataset.root / name
    if not path.is_file():
        return "missing-file", f"{what} {name} is missing"
    if expected and sha256_file(path) != expected:
        return "changed-file", f"{what} {name} is not the file the manifest describes (SHA-256 differs)"
    return None


def measure(dataset: Dataset, sample: Sample) -> Measured:
    """Read one sample and measure it; what can't be read becomes a problem, not an exception."""
    from emvfm.datasets.images import read_image
    from emvfm.datasets.masks import read_mask
    from emvfm.datasets.pair_agreement import image_maps, mask_bins

    problems: list[tuple[str, str] | None] = [_verified(dataset, sample.image, sample.image_sha256, "image")]
    if sample.mask is not None:
        problems.append(_verified(dataset, sample.mask, sample.mask_sha256, "mask"))
    image = mask = None
    try:
        image = read_image(dataset.image_path(sample))
    except EmvfmError as error:
        problems.append(("unreadable", str(error)))
    mask_path = dataset.mask_path(sample)
    if mask_path is not None:
        try:
            mask = read_mask(mask_path)
        except EmvfmError as error:
            problems.append(("unreadable", str(error)))
    spread, at_limit = (0.0, 0.0) if image is None else _limits(image)
    comparable = (
        image is not None
        and mask is not None
        and image.shape[:2] == mask.shape
        and bool(mask.any())
        and not bool(mask.all())
    )
    facts = Facts(
        sample=sample,
        problems=tuple(p for p in problems if p is not None),
        shape=None if image is None else (int(image.shape[0]), int(image.shape[1])),
        dtype=None if image is None else str(image.dtype),
        spread=spread,
        at_limit=at_limit,
        mask_shape=None if mask is None else (int(mask.shape[0]), int(mask.shape[1])),
        foreground=None if mask is None else float(mask.mean()),
    )
    return Measured(
        facts=facts,
        thumbnail=None if image is None else thumbnail(image),
        maps=image_maps(image) if comparable and image is not None else None,
        bins=mask_bins(mask) if comparable and mask is not None else None,
    )
