"""A sheet of small images with their masks outlined, for the eye to check what the audit says."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emvfm.datasets.manifest import Dataset, Sample
from emvfm.errors import EmvfmError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["choose_samples", "draw_contact_sheet"]

TILE, CAPTION, MARGIN, COLUMNS = 240, 22, 8, 6
_PAPER, _INK, _OUTLINE, _FLAG = (250, 250, 248), (40, 40, 40), (255, 176, 0), (214, 40, 57)


def choose_samples(dataset: Dataset, limit: int, flagged: Sequence[str] = ()) -> list[Sample]:
    """Return at most `limit` samples: flagged ones first, then annotated ones spread over the dataset."""
    order = {name: n for n, name in enumerate(flagged)}
    first = sorted((s for s in dataset.samples if s.id in order), key=lambda s: order[s.id])[:limit]
    rest = [s for s in dataset.samples if s.id not in order]
    rest = [s for s in rest if s.mask is not None] or rest
    room = limit - len(first)
    if len(rest) > room:
        rest = [rest[i] for i in np.linspace(0, len(rest) - 1, room).round().astype(int)] if room else []
    return first + rest


def _outlined(image: np.ndarray, mask: np.ndarray | None) -> Image.Image:
    """Return a tile with the outline of the mask; grey is stretched between the 0.5 and 99.5 % quantiles."""
    from PIL import Image
    from scipy.ndimage import binary_dilation

    grey = image.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    low, high = np.quantile(grey[::4, ::4], [0.005, 0.995])
    grey = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1)
    scale = TILE / max(grey.shape)
    size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
    smaller, larger = Image.Resampling.BOX, Image.Resampling.BICUBIC
    tile = Image.fromarray((grey * 255).astype(np.uint8)).resize(size, smaller if scale < 1 else larger)
    pixels = np.stack([np.asarray(tile)] * 3, axis=-1)
    if mask is not None and mask.any():
        small = (
            np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)) > 127
        )
        pixels[binary_dilation(small, iterations=1) & ~small] = _OUTLINE
    return Image.fromarray(pixels)


def _tile(dataset: Dataset, sample: Sample) -> Image.Image:
    from PIL import Image

    from emvfm.datasets.images import read_image
    from emvfm.datasets.masks import read_mask

    try:
        image = read_image(dataset.image_path(sample))
        path = dataset.mask_path(sample)
        mask = None if path is None else read_mask(path)
        return _outlined(image, mask if mask is not None and mask.shape == image.shape[:2] else None)
    except EmvfmError:  # the audit reports it; the sheet shows a blank
        return Image.new("RGB", (TILE, TILE), (200, 200, 200))


def _shortened(text: str, font: Any, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[: len(text) // 2 - 1] + "…" + text[len(text) // 2 + 2 :] if len(text) > 6 else text[:-1]
    return text


def draw_contact_sheet(dataset: Dataset, limit: int = 24, flagged: Sequence[str] = ()) -> bytes:
    """Return the sheet as PNG bytes."""
    from PIL import Image, ImageDraw, ImageFont

    samples = choose_samples(dataset, max(limit, 1), flagged)
    columns = max(1, min(COLUMNS, len(samples)))
    tiles = [_tile(dataset, sample) for sample in samples]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [max(tiles[n].height for n in row) + CAPTION + 2 * MARGIN for row in rows]
    width = TILE + 2 * MARGIN
    sheet = Image.new("RGB", (columns * width, max(sum(heights), TILE)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, n in enumerate(row):
            sample, tile = samples[n], tiles[n]
            left = column * width + MARGIN
            sheet.paste(tile, (left, top))
            if sample.id in flagged:
                frame = (left - 3, top - 3, left + tile.width + 2, top + tile.height + 2)
                draw.rectangle(frame, outline=_FLAG, width=3)
            caption = _shortened(f"{sample.id}  {sample.split}", font, TILE)
            draw.text((left, top + tile.height + 4), caption, fill=_INK, font=font)
        top += height
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
