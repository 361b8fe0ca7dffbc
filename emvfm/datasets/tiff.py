"""TIFF files as planes: single images and stacks, read one plane at a time and never beyond the file.

tifffile fills what it can't find with zeros and follows names to other files; here a file that is cut
off is an error, and only the file itself is read.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emvfm.errors import CorruptError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["MAX_CHANNELS", "TIFF_DAMAGE", "Planes", "open_tiff", "single_page"]

#: Most channels of one image; more is another axis under a wrong name.
MAX_CHANNELS = 64

_MIN_IS_WHITE, _MIN_IS_BLACK, _RGB, _PALETTE = 0, 1, 2, 3

T = TypeVar("T")


@dataclass(frozen=True)
class Planes:
    """The planes of an open TIFF: `count` of (height, width) px, by pages or by an offset in the file.

    With more than one of `channels` there is a single plane, of as many pages.
    """

    path: Path
    count: int
    height: int
    width: int
    keyframe: Any
    pages: tuple[Any, ...]  # one a plane; empty where one directory stands for a contiguous stack
    offset: int
    filehandle: Any
    channels: int = 1

    def read(self, plane: int) -> np.ndarray:
        """Decode a plane to (H, W), (H, W, 3) or, of named channels, (H, W, C) in its own type.

        Palettes are resolved, white is high.
        """
        import numpy as np

        if self.channels == 1:
            return self._page(plane)
        return np.stack([self._page(channel) for channel in range(self.channels)], axis=-1)

    def _page(self, plane: int) -> np.ndarray:
        import numpy as np

        page = self.pages[plane] if self.pages else self.keyframe
        if self.pages:
            self._check_segments(page)
            values = page.asarray()
        else:
            shape = (self.height, self.width, *((3,) if self.keyframe.samplesperpixel == 3 else ()))
            dtype = self.keyframe.dtype.newbyteorder(self.keyframe.parent.byteorder)
            size = math.prod(shape) * dtype.itemsize
            start = self.offset + plane * size
            if start + size > self.filehandle.size:
                raise self._cut_off(start + size)
            self.filehandle.seek(start)
            values = np.frombuffer(self.filehandle.read(size), dtype).reshape(shape)
            values = values.astype(dtype.newbyteorder("="))
        return self._oriented(page.keyframe, values)

    def _oriented(self, page: Any, values: np.ndarray) -> np.ndarray:
        import numpy as np

        size = (self.height, self.width)
        while values.ndim > 2 and values.shape[0] == 1:
            values = values[0]
        if values.ndim == 3 and values.shape[1:] == size and values.shape[::2] != size:  # planar samples
            values = np.moveaxis(values, 0, -1)
        if values.shape[:2] != size or values.ndim > 3:
            raise CorruptError("unusual TIFF layout", where=self.path, got="x".join(map(str, values.shape)))
        if page.photometric == _PALETTE and page.colormap is not None:
            return (page.colormap[:, values] >> 8).astype(np.uint8).transpose(1, 2, 0)
        # tifffile marks boolean arrays as white-is-zero but writes them unchanged: those are as meant.
        own_bool = values.dtype.kind == "b" and "tifffile" in (page.software or "")
        if page.photometric == _MIN_IS_WHITE and values.dtype.kind in "bu" and not own_bool:
            values = ~values
        if values.ndim == 3:  # grey with alpha, or colours with alpha
            values = values[..., :3] if values.shape[-1] >= 3 else values[..., 0]
        return values

    def _check_segments(self, page: Any) -> None:
        """Refuse segments that are absent or end after the file: the decoder would fill them with zeros."""
        ends = [
            offset + count
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
            if offset >= 8 and count >= 1
        ]
        if len(ends) < len(page.dataoffsets) or not ends or max(ends) > self.filehandle.size:
            raise self._cut_off(max(ends, default=0))

    def _cut_off(self, needed: int) -> CorruptError:
        return CorruptError(
            "cut off TIFF", where=self.path, got=f"{self.filehandle.size} bytes", expected=f"{needed} or more"
        )


def _planes(path: Path, file: Any) -> Planes:
    series = [s for s in file.series if not getattr(s.keyframe, "is_reduced", False)]
    if not series:
        raise CorruptError("a TIFF without images", where=path)
    first = series[0]
    if any((s.shape, s.dtype, s.axes) != (first.shape, first.dtype, first.axes) for s in series):
        raise CorruptError(
            "pages of different size or type in one TIFF",
            where=path,
            got=", ".join("x".join(map(str, s.shape)) for s in series[:4]),
            expected="one image or one stack",
        )
    lengths = dict(zip(first.axes, first.shape, strict=True))
    height, width = lengths.pop("Y", 0), lengths.pop("X", 0)
    samples, channels = lengths.pop("S", 1), lengths.pop("C", 1)
    count = math.prod(lengths.values()) * len(series)
    if channels > 1 and (count > 1 or samples > 1 or channels > MAX_CHANNELS):
        raise CorruptError(
            "a TIFF with several channels and more",
            where=path,
            got=f"axes {first.axes} of {'x'.join(map(str, first.shape))}",
            expected=f"one plane of at most {MAX_CHANNELS} channels",
        )
    pages = tuple(page for s in series for page in s.pages if page is not None)
    offset = 0
    if len(pages) != count * channels:
        if len(series) > 1 or first.dataoffset is None or first.keyframe.samplesperpixel not in (1, 3):
            raise CorruptError("unusual TIFF layout", where=path, got=f"axes {first.axes}")
        pages, offset = (), first.dataoffset
    return Planes(path, count, height, width, first.keyframe, pages, offset, file.filehandle, channels)


#: What tifffile and its codecs raise on damaged files.
TIFF_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a TIFF; what fails on a damaged file while it is open becomes a `CorruptError`."""
    import tifffile

    try:
        # A multi-file OME-TIFF names other files; only this one is meant.
        with tifffile.TiffFile(path, _multifile=False) as file:
            yield file
    except CorruptError:
        raise
    except TIFF_DAMAGE as error:
        raise CorruptError("damaged TIFF", where=path, got=str(error) or type(error).__name__) from None


def open_tiff(path: Path, use: Callable[[Planes], T]) -> T:
    """Open a TIFF and return ``use(planes)``; whatever fails on a damaged file becomes a `CorruptError`.

    Several pages of one size are one stack; reduced copies (pyramids, thumbnails) are left out.
    """
    with _opened(path) as file:
        return use(_planes(path, file))


def single_page(path: Path) -> Callable[[], Any] | None:
    """Return what opens the only page of a TIFF as ``(file, page)``, None if it can't be read in parts.

    In parts can be read: one plane of grey or RGB as it is displayed, whose strips or tiles all lie in
    the file.
    """

    def simple(planes: Planes) -> bool:
        if len(planes.pages) != 1 or planes.count != 1 or planes.channels != 1:
            return False
        page = planes.pages[0].keyframe
        planes._check_segments(page)
        plain = page.photometric in (_MIN_IS_BLACK, _RGB) and page.dtype is not None
        shape = (planes.height, planes.width, *((3,) if page.photometric == _RGB else ()))
        return plain and page.shape == shape and page.dtype.kind in "buif"

    def reopen() -> Any:
        import tifffile

        file = tifffile.TiffFile(path, _multifile=False)
        return file, next(p for s in file.series if not s.keyframe.is_reduced for p in s.pages)

    return reopen if open_tiff(path, simple) else None
