"""Reading masks of every kind met in the wild as one boolean array, and refusing what is no mask.

Grey masks are cut at half of their full scale (``> 127``), which is what the common
``convert("L") > 127`` does for 0/255 and antialiased masks; 0/1 masks and label maps are cut at zero,
where the common rule would lose everything. Which of the two a file is, its values and their shapes
say; a file that could be read in two ways is an error, never a guess.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emvfm.datasets.images import is_volume, native_pixels, open_raster, read_plane, sniff_format
from emvfm.errors import CorruptError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["mask_from_colours", "mask_from_values", "read_mask"]

#: Greys this close (as a share of full scale) to black or white count as such: JPEG rings by a few per cent.
_NEAR = 1 / 8
#: An antialiased border is thin; a larger share of greys between black and white is an image.
_MAX_BETWEEN = 0.15
#: Solid areas of intermediate grey above this share of the foreground are further classes, not borders.
_MAX_SOLID = 0.01
#: Share of horizontally equal neighbours above which values are labels; EM noise stays below 0.2.
_LABEL_SMOOTHNESS = 0.8
_FULL_SCALES = ((250, 255), (65000, 65535))


def _solid(values: np.ndarray) -> np.ndarray:
    """Return the centres of 3x3 blocks of one value, (H-2, W-2) bool; a thin border has none."""
    import numpy as np

    height, width = values.shape
    if height < 3 or width < 3:
        return np.zeros((max(height - 2, 0), max(width - 2, 0)), bool)
    same_row = (values[:, 1:-1] == values[:, :-2]) & (values[:, 1:-1] == values[:, 2:])
    same_column = (values[1:-1] == values[:-2]) & (values[1:-1] == values[2:])
    return same_row[:-2] & same_row[1:-1] & same_row[2:] & same_column[:, 1:-1]


def mask_from_values(values: np.ndarray, where: object = None) -> np.ndarray:
    """Return the foreground of a grey mask or label map.

    Parameters
    ----------
    values
        (H, W) bool, integer, or float (in 0..1, or whole numbers).
    where
        What to name in an error.

    Returns
    -------
    np.ndarray
        (H, W) bool.

    Raises
    ------
    CorruptError
        `values` could mean several things, or are an image.
    """
    import numpy as np

    if values.dtype.kind == "b":
        return values
    if values.dtype.kind == "f":
        if not (values == np.round(values)).all():
            if values.min() < 0 or values.max() > 1:
                raise CorruptError(
                    "not a mask", where=where, got="fractions outside 0..1", expected="0/1, 0/255 or labels"
                )
            return mask_from_values(np.round(values * 255).astype(np.uint8), where)
        values = values.astype(np.int64)
    present = np.unique(values)
    low, top = int(present[0]), int(present[-1])
    if low < 0:
        raise CorruptError("negative mask values", where=where, got=low, expected="0 for background")
    full = next((scale for start, scale in _FULL_SCALES if start <= top <= scale), None)
    if len(present) == 1:
        if top in (0, 1, 255, 65535):
            return values > 0
        raise CorruptError(
            "a constant mask that is neither background nor foreground", where=where, got=f"{top} everywhere"
        )
    if len(present) == 2 and low == 0:
        return values > 0
    scale = top if full is None else full
    near_low, near_high = values <= scale * _NEAR, values >= scale * (1 - _NEAR)
    between = ~(near_low | near_high)
    inner = _solid(values)
    solid_between = int((inner & between[1:-1, 1:-1]).sum())
    solid_high = int((inner & near_high[1:-1, 1:-1]).sum())
    smooth = float((values[:, 1:] == values[:, :-1]).mean()) if values.shape[1] > 1 else 1.0
    graded = between.mean() <= _MAX_BETWEEN and solid_between <= _MAX_SOLID * max(near_high.sum(), 1)
    consecutive = low == 0 and len(present) == top + 1
    labels = low == 0 and smooth >= _LABEL_SMOOTHNESS

    if full is not None:
        if graded and near_low.any():
            return values > full / 2
        if labels and consecutive:
            return values > 0
    elif labels:
        if consecutive or solid_between or not graded:
            return values > 0
        if solid_high:  # a soft mask whose white is not 255
            return values > top / 2
    shown = ", ".join(map(str, present[:6])) + (", …" if len(present) > 6 else "")
    if labels and full is not None:
        raise CorruptError(
            "several grey classes, which one is foreground is not clear",
            where=where,
            got=shown,
            expected="0/255 or labels 0, 1, 2, …",
        )
    if smooth < _LABEL_SMOOTHNESS:
        raise CorruptError(
            "looks like an image, not like a mask",
            where=where,
            got=f"{len(present)} greys, {100 * between.mean():.0f} % of the pixels neither black nor white",
            todo="check that images and masks are not exchanged",
        )
    raise CorruptError(
        "which value is background is not clear", where=where, got=shown, expected="0 for background"
    )


def mask_from_colours(colours: np.ndarray, where: object = None) -> np.ndarray:
    """Return the foreground of (H, W, 3) colours: grey as `mask_from_values`, else all that is not black."""
    import numpy as np

    if (colours[..., :1] == colours).all():
        return mask_from_values(colours[..., 0], where)
    brightest = colours.max(axis=-1)
    black = brightest == 0
    if not black.any():
        raise CorruptError("a coloured mask without black background", where=where)
    packed = colours.reshape(-1, 3).astype(np.int64) @ np.array([1 << 32, 1 << 16, 1])
    if len(np.unique(packed)) <= 64 and (packed[1:] == packed[:-1]).mean() >= _LABEL_SMOOTHNESS:
        return ~black
    return mask_from_values(brightest, where)


def _constant(values: np.ndarray) -> bool:
    return bool((values == values.reshape(-1, *values.shape[2:])[0]).all())


def _mask_with_alpha(colours: np.ndarray, alpha: np.ndarray, where: object) -> np.ndarray:
    """Decide whether a mask lies in the colours or in alpha.

    An opaque file has it in the colours; one colour throughout has it in alpha; where both vary
    they must tell the same.
    """
    if _constant(alpha) and (alpha.flat[0] != 0 or _constant(colours)):
        if alpha.flat[0] == 0:
            return mask_from_values(alpha, where)
        return mask_from_colours(colours, where)
    if _constant(colours):
        return mask_from_values(alpha, where)
    problem = "the mask in alpha and the mask in the colours differ"
    try:
        drawn = mask_from_colours(colours, where)
        opaque = mask_from_values(alpha, where)
    except CorruptError:
        raise CorruptError(problem, where=where, todo="save it as 0/255 grey") from None
    # Antialiased borders may fall on different sides of the cut; anything more is a contradiction.
    if (drawn ^ opaque).sum() > 0.02 * max(int((drawn | opaque).sum()), 1):
        raise CorruptError(problem, where=where, todo="save it as 0/255 grey")
    return opaque


def _mask_from_palette(image: Any, where: object) -> np.ndarray:
    """Read a palette image: a palette of greys only compresses a grey mask, one of colours names classes.

    Classes are background where the colour is black. Index 0 is background too if none is black and
    it is there, as in label maps whose palette was chosen for display.
    """
    import numpy as np

    index = np.array(image)
    palette = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    used = np.unique(index)
    if used.max() >= len(palette):
        raise CorruptError("palette index without a colour", where=where, got=int(used.max()))
    if "transparency" in image.info:
        rgba = np.array(image.convert("RGBA"))
        if not _constant(rgba[..., 3]):
            return _mask_with_alpha(rgba[..., :3], rgba[..., 3], where)
    colours = palette[used]
    if (colours[:, :1] == colours).all():
        return mask_from_values(palette[index][..., 0], where)
    black = used[(colours == 0).all(axis=1)]
    if len(black):
        return ~np.isin(index, black)
    if 0 in used and len(used) > 1:
        return index > 0
    raise CorruptError(
        "a palette mask without background",
        where=where,
        got=f"indices {used[:6].tolist()}, none of them black",
    )


def _wide_labels(values: np.ndarray, where: object) -> np.ndarray | None:
    """Return the foreground of a slice of labels of 32 or 64 bits, None if `values` are none.

    No grey mask is that wide, so that any number above zero is a label, whichever occur in this slice.
    """
    import numpy as np

    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 4:
        return None
    if values.shape[1] > 1 and (values[:, 1:] == values[:, :-1]).mean() < _LABEL_SMOOTHNESS:
        return None
    low, top = int(values.min()), int(values.max())
    if low < 0:
        raise CorruptError("negative mask values", where=where, got=low, expected="0 for background")
    if top == np.iinfo(np.uint64).max:  # CREMI's clefts: all that is none
        raise CorruptError(
            "which value is background is not clear", where=where, got=top, expected="0 for background"
        )
    return values > 0


def read_mask(path: Path, page: int | None = None) -> np.ndarray:
    """Read a mask as foreground.

    Reads 1-bit, 0/1, 0/255, 0/65535, antialiased grey, JPEG, labels (all above 0), palettes, RGB and
    RGBA (mask in the colours or in alpha), and page `page` of a TIFF stack or a volume.

    Returns
    -------
    np.ndarray
        (H, W) bool.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        The file is damaged, could be read in two ways, or is an image and no mask.
    """
    import numpy as np

    path = Path(path)
    if is_volume(path) or sniff_format(path) == "TIFF":
        plane = read_plane(path, page)
        if plane.ndim == 3 and plane.shape[2] != 3:
            raise CorruptError("a mask with several channels", where=path, got=f"{plane.shape[2]} channels")
        labels = _wide_labels(plane, path)
        if labels is not None:
            return labels
        values = native_pixels(path, plane)
        return mask_from_colours(values, path) if values.ndim == 3 else mask_from_values(values, path)

    def decode(image: Any) -> np.ndarray:
        image.load()
        if image.mode == "1":
            return np.array(image, dtype=bool)
        if image.mode == "P":
            return _mask_from_palette(image, path)
        if image.mode in ("LA", "RGBA"):
            values = np.array(image.convert("RGBA"))
            return _mask_with_alpha(values[..., :3], values[..., 3], path)
        if image.mode == "L" or image.mode.startswith("I"):
            return mask_from_values(np.array(image), path)
        return mask_from_colours(np.array(image.convert("RGB")), path)

    return open_raster(path, decode)
