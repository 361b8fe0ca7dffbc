"""Images that give some of their rows at a time, so that a large one need not be in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from emvfm.datasets.images import native_pixels, read_image, sniff_format
from emvfm.datasets.tiff import TIFF_DAMAGE, single_page
from emvfm.errors import CorruptError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ArrayRows", "ImageRows", "open_rows"]


class ImageRows(Protocol):
    """An image of ``shape`` (H, W) or (H, W, 3) and ``dtype`` that gives some of its rows."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop`; three channels may have become one where they are equal."""
        ...


class ArrayRows:
    """An image in memory."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.shape, self.dtype = values, values.shape, values.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._values[start:stop]


class _TiffRows:
    """A page of a TIFF, of which only the strips or tiles asked for are decoded."""

    def __init__(self, path: Path, page: Any) -> None:
        import numpy as np
        import zarr

        self._path, self._array = path, zarr.open_array(page.aszarr(), mode="r")
        self.shape: tuple[int, ...] = self._array.shape
        eight_bit = self._array.dtype in (np.dtype(np.uint8), np.dtype(np.bool_))
        self.dtype = np.dtype(np.uint8) if eight_bit else self._array.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        try:
            values = self._array[start:stop]
        except TIFF_DAMAGE as error:
            raise CorruptError(
                "damaged TIFF", where=self._path, got=str(error) or type(error).__name__
            ) from None
        return native_pixels(self._path, values)  # type: ignore[arg-type]


@contextmanager
def open_rows(path: Path) -> Iterator[ImageRows]:
    """Open a single image to read its rows; a TIFF is decoded as they are asked for, others at once.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        The file is damaged, or no single image.
    """
    reopen = single_page(path) if sniff_format(path) == "TIFF" else None
    if reopen is None:
        yield ArrayRows(read_image(path))
        return
    file, page = reopen()
    with file:
        yield _TiffRows(path, page)
