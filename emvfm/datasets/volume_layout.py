"""What an open volume is, and what an array may declare to become one.

Declared numbers cost nothing and may be anything; they are held against bounds before a byte is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emvfm.datasets.scales import UNKNOWN, Spacing, side_of_pixel
from emvfm.errors import CorruptError, MissingError, UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Volume", "check_declared", "choose", "make_volume", "need"]

#: Most slices of a volume: each becomes a file, and a declared number costs nothing.
MAX_SLICES = 2**20
#: Largest chunk in bytes, which is decoded as a whole for each slice it lies in.
MAX_CHUNK = 2**30


@dataclass(frozen=True)
class Volume:
    """An open volume: `count` slices of (height, width) px, each fetched when it is read.

    Parameters
    ----------
    path, inner
        The file or folder, and the name of the array in it, which starts with ``/``.
    count, height, width
        Slices and their size in px.
    dtype
        Name of the NumPy type, such as ``uint16``.
    axes
        Names of the array's axes in their order: ``z``, ``y``, ``x``; ``t`` and ``c`` of length 1.
    spacing
        Distances of the pixels along (z, y, x) in nm, None where unknown.
    fetch
        Returns the part of the array for an index with one item (number or slice) an axis.
    """

    path: Path
    inner: str
    count: int
    height: int
    width: int
    dtype: str
    axes: str
    spacing: Spacing = UNKNOWN
    fetch: Callable[[tuple[Any, ...]], Any] = field(default=lambda index: None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The path and the name inside, as an error shows it."""
        return f"{self.path}:{self.inner}"

    @property
    def pixel_size_nm(self) -> float | None:
        """Side of a pixel in nm, None where unknown; pixels that are not square are a `RefusedError`."""
        return side_of_pixel(self.spacing, self.name)

    @property
    def z_nm(self) -> float | None:
        """Distance of slices in nm, None where unknown."""
        return self.spacing[0]

    def read(self, plane: int) -> np.ndarray:
        """Read a slice to (H, W) in the file's own type and this machine's byte order."""
        import numpy as np

        whole = slice(None)
        index = tuple(plane if axis == "z" else whole if axis in "yx" else 0 for axis in self.axes)
        values = np.asarray(self.fetch(index))
        if self.axes.index("x") < self.axes.index("y"):
            values = values.T
        if values.shape != (self.height, self.width) or values.dtype.newbyteorder("=").name != self.dtype:
            raise CorruptError(
                "a slice is not what the volume declares",
                where=self.name,
                got=f"{values.shape} {values.dtype}",
                expected=f"{(self.height, self.width)} {self.dtype}",
            )
        return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def choose(path: Path, names: Iterable[str]) -> str:
    """Return the only one of the arrays in a file.

    Raises
    ------
    MissingError
        There is none.
    UsageError
        There are several.
    """
    found = sorted(set(names))
    if not found:
        raise MissingError("no image array here", where=path, expected="2 or 3 axes of numbers")
    if len(found) > 1:
        shown = ", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
        raise UsageError("several arrays", where=path, got=shown, todo=f"name one, as in {path}:{found[0]}")
    return found[0]


def check_declared(
    where: str, shape: object, dtype: Any, chunk: object = None, axes: str | None = None
) -> tuple[tuple[int, ...], str]:
    """Check what an array declares before anything of it is read; return its shape and its axes.

    Parameters
    ----------
    where
        What to name in an error.
    shape, chunk
        Lengths as the file gives them; `chunk` is what is decoded at once, None for no chunks.
    dtype
        The NumPy type.
    axes
        Names of the axes if the file gives them, else None for ``zyx`` or ``yx``.
    """
    for lengths in (shape,) if chunk is None else (shape, chunk):
        if not isinstance(lengths, (list, tuple)) or not all(type(n) is int and n >= 0 for n in lengths):
            raise CorruptError("unusable shape", where=where, got=lengths)
    assert isinstance(shape, (list, tuple))
    shape = tuple(shape)
    size = "x".join(map(str, shape))
    if dtype.kind not in "buif" or dtype.itemsize > 8 or dtype.fields or dtype.subdtype:
        raise CorruptError("unusable type", where=where, got=dtype, expected="integers, floats or booleans")
    if axes is None:
        if len(shape) not in (2, 3):
            raise CorruptError("unknown axes", where=where, got=size, expected="(z, y, x) or (y, x)")
        if len(shape) == 3 and shape[2] in (3, 4) and shape[0] > 4:
            raise CorruptError("colours or slices of 3 or 4 px, which is not clear", where=where, got=size)
        axes = "zyx"[-len(shape) :]
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise CorruptError(
            "unusable axes", where=where, got=f"{axes or 'none'} of {size}", expected="z, y, x; t and c of 1"
        )
    lengths = dict(zip(axes, shape, strict=True))
    for axis, word in (("t", "time points"), ("c", "channels")):
        if lengths.get(axis, 1) != 1:
            raise CorruptError(f"a volume with several {word}", where=where, got=f"{axes} {size}")
    if 0 in shape or lengths.get("z", 1) > MAX_SLICES:
        raise CorruptError("unusable size", where=where, got=size, expected=f"1 to {MAX_SLICES} slices")
    if chunk is not None:
        assert isinstance(chunk, (list, tuple))
        if len(chunk) != len(shape) or 0 in chunk or math.prod(chunk) * dtype.itemsize > MAX_CHUNK:
            raise CorruptError(
                "unusable chunks",
                where=where,
                got="x".join(map(str, chunk)),
                expected=f"1 to {MAX_CHUNK} bytes",
                todo="rewrite the volume in smaller chunks",
            )
    return shape, axes


def make_volume(
    path: Path,
    inner: str,
    declared: tuple[tuple[int, ...], str],
    dtype: Any,
    spacing: Spacing,
    fetch: Callable[[tuple[Any, ...]], Any],
) -> Volume:
    """Return the volume of a shape and axes that `check_declared` accepted."""
    shape, axes = declared
    lengths = dict(zip(axes, shape, strict=True))
    name = dtype.newbyteorder("=").name
    return Volume(path, inner, lengths.get("z", 1), lengths["y"], lengths["x"], name, axes, spacing, fetch)


def need(package: str, path: Path) -> Any:
    """Import an optional package, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingError(
            f"the package {package} is not installed", where=path, todo="pip install 'emvfm[volumes]'"
        ) from None
