"""Pixel sizes as files state them, in nanometres: units, OME-XML, ImageJ, TIFF tags, array attributes.

What is not stated with a unit, or by a convention that fixes one, stays unknown: a pixel size that was
guessed is worse than none.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from emvfm.errors import RefusedError

__all__ = [
    "UNKNOWN",
    "Spacing",
    "agree",
    "nanometres",
    "ome_scale",
    "side_of_pixel",
    "spacing_of_attributes",
    "tiff_spacing",
]

#: Distances between the pixels along (z, y, x) in nm, None where unknown.
Spacing = tuple[float | None, float | None, float | None]

UNKNOWN: Spacing = (None, None, None)

_NANOMETRES = {
    **dict.fromkeys(("m", "meter", "metre"), 1e9),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e7),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e6),
    **dict.fromkeys(("um", "µm", "μm", "micrometer", "micrometre", "micron"), 1e3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1.0),
    **dict.fromkeys(("å", "a", "angstrom", "ångström"), 0.1),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-3),
}
#: TIFF resolution is first of all print resolution; only what is finer than this, in nm, is a microscope's.
_LARGEST_TIFF_PIXEL = 1e4
#: Two lengths are the same if they differ by less than this share: formats round.
_SAME = 0.005


def nanometres(length: object, unit: object) -> float | None:
    """Return `length` in nm, None unless it is a positive finite number and `unit` one of length.

    >>> nanometres(0.004, "µm"), nanometres(4, "pixel"), nanometres("4", "nm")
    (4.0, None, 4.0)
    """
    name = _text(unit).strip().lower().replace("\\u00b5", "µ")
    factor = _NANOMETRES.get(name, _NANOMETRES.get(name.removesuffix("s")))
    try:
        value = float(length) * (factor or math.nan)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return float(f"{value:.9g}") if 0 < value < math.inf else None


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def agree(one: float, other: float) -> bool:
    """Tell whether two pixel sizes are the same but for rounding."""
    return math.isclose(one, other, rel_tol=_SAME)


def side_of_pixel(spacing: Spacing, where: object) -> float | None:
    """Return the side of a square pixel in nm, None where unknown.

    Raises
    ------
    RefusedError
        The pixels are not square.
    """
    _, height, width = spacing
    if height is None or width is None:
        return None
    if not agree(height, width):
        raise RefusedError(
            "the pixels are not square",
            where=where,
            got=f"{height:g} x {width:g} nm (y, x)",
            todo="resample the images, or give --pixel-size",
        )
    return width


def ome_scale(axes: Sequence[tuple[str, object]], transformations: Sequence[object]) -> dict[str, float]:
    """Return nm by axis name from OME-Zarr axes (name, unit) and lists of coordinate transformations."""
    scale = [1.0] * len(axes)
    found = False
    for listed in transformations:
        for item in listed if isinstance(listed, list) else ():
            factors = item.get("scale") if isinstance(item, Mapping) and item.get("type") == "scale" else None
            if isinstance(factors, list) and len(factors) == len(axes):
                found = True
                for n, factor in enumerate(factors):
                    scale[n] *= factor if isinstance(factor, (int, float)) else math.nan
    sizes = {name: nanometres(factor, unit) for (name, unit), factor in zip(axes, scale, strict=True)}
    return {name: size for name, size in sizes.items() if size is not None} if found else {}


def _lengths(values: Any, units: Any, axes: str) -> dict[str, float]:
    """Return nm by axis for as many numbers as there are axes; `units` is one or one for each."""
    values = values.tolist() if hasattr(values, "tolist") else values
    units = units.tolist() if hasattr(units, "tolist") else units
    if not isinstance(values, (list, tuple)) or len(values) != len(axes):
        return {}
    each = list(units) if isinstance(units, (list, tuple)) else [units] * len(axes)
    if len(each) != len(axes):
        return {}
    sizes = {axis: nanometres(v, unit) for axis, v, unit in zip(axes, values, each, strict=True)}
    return {axis: size for axis, size in sizes.items() if size is not None}


def _all_one(values: Any) -> bool:
    try:
        return all(float(v) == 1 for v in values)
    except (TypeError, ValueError):
        return False


def spacing_of_attributes(attributes: Mapping[str, Any], axes: str, *, bare: str | None) -> Spacing:
    """Return the spacing from the attributes of an array.

    Read are ``pixelResolution`` (N5: dimensions and unit), ``transform`` (scale and units),
    ``element_size_um`` (Fiji, z y x in µm), ``resolution`` and ``voxel_size`` with ``unit`` or ``units``.

    Parameters
    ----------
    attributes
        Of the array, values as JSON or NumPy.
    axes
        Names of the array's axes as its numbers are listed, such as ``zyx``; N5 lists ``xyz``.
    bare
        Unit of a ``resolution`` without one: nm by the CREMI convention; None for unknown. Ones throughout
        and without a unit are a default that nobody set, and unknown.
    """
    space = "".join(axis for axis in axes if axis in "zyx")
    sizes: dict[str, float] = {}
    if isinstance(given := attributes.get("pixelResolution"), Mapping):
        sizes = _lengths(given.get("dimensions"), given.get("unit"), space)
    if not sizes and isinstance(given := attributes.get("transform"), Mapping):
        order = given.get("axes")
        named = "".join(map(_text, order)) if isinstance(order, list) else space
        if sorted(named) == sorted(space):
            sizes = _lengths(given.get("scale"), given.get("units"), named)
    if not sizes and (given := attributes.get("element_size_um")) is not None and not _all_one(given):
        sizes = _lengths(given, "um", "zyx") or _lengths(given, "um", space)
    for name in ("resolution", "voxel_size"):
        given = attributes.get(name)
        if sizes or given is None:
            continue
        unit = attributes.get("units", attributes.get("unit"))
        if unit is None and not _all_one(given):
            unit = bare
        sizes = _lengths(given, unit, space) or _lengths(given, unit, axes)
    return sizes.get("z"), sizes.get("y"), sizes.get("x")


def _ome_xml_spacing(xml: str) -> Spacing:
    found = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", xml)
    given = dict(re.findall(r"([\w:]+)\s*=\s*\"([^\"]*)\"", found[1])) if found else {}
    z, y, x = (
        nanometres(
            given.get(f"PhysicalSize{axis}"), html.unescape(given.get(f"PhysicalSize{axis}Unit", "µm"))
        )
        for axis in "ZYX"
    )
    return z, y, x


def _per_pixel(tag: Any) -> float | None:
    """Return the units a pixel spans, from a TIFF resolution (pixels a unit as a fraction)."""
    try:
        count, length = tag.value
        return length / count
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None


def tiff_spacing(file: Any) -> Spacing:
    """Return the spacing of an open `tifffile.TiffFile`: OME-XML, else ImageJ, else tags in cm.

    Tags in inches are print resolutions, and so are those of pixels above 10 µm: both are unknown.
    """
    if file.is_ome and isinstance(file.ome_metadata, str):
        return _ome_xml_spacing(file.ome_metadata)
    tags = file.pages[0].tags
    x, y = (_per_pixel(tags.get(f"{axis}Resolution")) for axis in "XY")
    if file.is_imagej:
        given = file.imagej_metadata or {}
        unit = given.get("unit", "")
        return (
            nanometres(given.get("spacing"), given.get("zunit", unit)),
            nanometres(y, given.get("yunit", unit)),
            nanometres(x, unit),
        )
    unit = tags.get("ResolutionUnit")
    if unit is None or unit.value != 3:  # 3: centimetre
        return UNKNOWN
    height, width = nanometres(y, "cm"), nanometres(x, "cm")
    if height is None or width is None or max(height, width) > _LARGEST_TIFF_PIXEL:
        return UNKNOWN
    return None, height, width
