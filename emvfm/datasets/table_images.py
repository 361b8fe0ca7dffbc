"""The images that a table describes: rows of an array in a file, or files named in a column."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from emvfm.datasets.images import MAX_PIXELS, native_type, read_channels
from emvfm.datasets.tables import Table
from emvfm.datasets.tiff import MAX_CHANNELS
from emvfm.errors import CorruptError, MissingError, UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["ArrayImages", "FileImages", "TableImages", "open_images"]

_FILE_COLUMNS = ("image", "file", "filename", "path", "image_path", "filepath", "file_name")
_ROW_COLUMNS = ("row", "index")
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
)
_MOST_ARRAY_BYTES = 2**36


class TableImages(Protocol):
    """Gives the image of each row of a table."""

    used: tuple[str, ...]

    def planes(self, n: int) -> np.ndarray:
        """Return the image of row `n` as ``(C, H, W)``: uint8, uint16 or float32."""
        ...

    def file(self, n: int) -> Path | None:
        """Return the one file that holds the image of row `n` alone, None if there is no such file."""
        ...

    def origin(self, n: int) -> str:
        """Return where the image of row `n` comes from."""
        ...


class ArrayImages:
    """Rows of an array ``(N, C, H, W)``, ``(N, H, W)`` or, of colour images, ``(N, H, W, 3)``."""

    def __init__(self, path: Path, table: Table, channels: int | None) -> None:
        values = _read_array(path)
        self._path, self._values = path, values
        self._last = _channels_last(path, values.shape, channels)
        self._rows = _array_rows(path, table, len(values))
        self.used: tuple[str, ...] = ()

    def planes(self, n: int) -> np.ndarray:
        import numpy as np

        values = native_type(self._path, np.asarray(self._values[self._rows[n]]))
        planes = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0) if self._last else values
        return np.ascontiguousarray(planes)

    def file(self, n: int) -> Path | None:
        return None

    def origin(self, n: int) -> str:
        return f"{self._path.absolute()}#{self._rows[n]}"


class FileImages:
    """Files named in a column, or one file a channel named in several columns."""

    def __init__(self, folder: Path, table: Table, columns: Sequence[str]) -> None:
        self._folder, self._table = folder, table
        chosen = (
            tuple(columns)
            or tuple(c for name in _FILE_COLUMNS for c in table.columns if c.lower() == name)[:1]
        )
        if not chosen:
            expected = "one of " + ", ".join(table.columns)
            todo = "name the column of the files with --image-column"
            raise UsageError("which column names the files?", where=table.path, expected=expected, todo=todo)
        for column in chosen:
            table.column(column, "--image-column")
        self.used, self._columns = chosen, chosen
        self._paths = [[self._path(n, row[column]) for column in chosen] for n, row in enumerate(table.rows)]

    def _path(self, n: int, name: str) -> Path:
        path = self._folder / name
        inside = path.resolve().is_relative_to(self._folder.resolve()) and "\0" not in name
        if not name or not inside:
            raise CorruptError(
                "a file outside the folder of images", where=self._table.where(n), got=repr(name)[:80]
            )
        if not path.is_file():
            raise MissingError("no such image", where=self._table.where(n), got=path)
        return path

    def planes(self, n: int) -> np.ndarray:
        import numpy as np

        parts = [read_channels(path) for path in self._paths[n]]
        if len(parts) == 1:
            return parts[0]
        for path, part in zip(self._paths[n], parts, strict=True):
            if (part[:1] != part).any():
                raise CorruptError("a colour image where one channel is expected", where=path)
            if (part.shape[1:], part.dtype) != (parts[0].shape[1:], parts[0].dtype):
                raise CorruptError(
                    "channels of different size or type",
                    where=path,
                    got=f"{part.shape[1]}x{part.shape[2]} {part.dtype}",
                    expected=f"{parts[0].shape[1]}x{parts[0].shape[2]} {parts[0].dtype}",
                )
        return np.stack([part[0] for part in parts])

    def file(self, n: int) -> Path | None:
        return self._paths[n][0] if len(self._paths[n]) == 1 else None

    def origin(self, n: int) -> str:
        return ";".join(str(path.absolute()) for path in self._paths[n])


def open_images(
    images: Path, table: Table, columns: Sequence[str] = (), channels: int | None = None
) -> TableImages:
    """Return the images of a table: `images` is a folder, or ``FILE.npy``, ``FILE.npz`` or ``FILE.npz:name``.

    Parameters
    ----------
    columns
        Of a folder: the column that names the files; several are one file a channel.
    channels
        How many channels are expected, if that is known: tells ``(N, C, H, W)`` from ``(N, H, W, C)``.

    Raises
    ------
    MissingError
        The folder, the file or an image is not there.
    CorruptError
        The file is damaged, holds no images, or names and rows leave what is there.
    UsageError
        Rows and images do not fit.
    """
    if images.is_dir():
        return FileImages(images, table, columns)
    if columns:
        raise UsageError("a column of files goes with a folder of images", where="--image-column", got=images)
    return ArrayImages(images, table, channels)


def _array_rows(path: Path, table: Table, length: int) -> list[int]:
    """Return the position in the array of each row of the table."""
    column = next((c for name in _ROW_COLUMNS for c in table.columns if c.lower() == name), None)
    if column is None:
        if max(table.numbers) >= length or (len(table) == max(table.numbers) + 1 != length):
            raise UsageError(
                "the table has not one row an image",
                where=table.path,
                got=f"{max(table.numbers) + 1} rows, {length} images",
                todo="say which image a row means in a column named row",
            )
        return list(table.numbers)
    rows, seen = [], set()
    for n, row in enumerate(table.rows):
        text = row[column]
        if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) >= length:
            expected = f"0 to {length - 1}"
            raise CorruptError(
                "no such image in the array", where=table.where(n), got=text, expected=expected
            )
        if int(text) in seen:
            raise CorruptError("an image twice", where=table.where(n), got=f"{column} {text}")
        seen.add(int(text))
        rows.append(int(text))
    return rows


def _channels_last(path: Path, shape: tuple[int, ...], channels: int | None) -> bool:
    """Return whether the channels are the last axis; refuse what holds no images."""
    if len(shape) not in (3, 4) or min(shape) < 1:
        got = f"shape {'x'.join(map(str, shape)) or '()'}"
        raise CorruptError("no array of images", where=path, got=got, expected="(N, C, H, W) or (N, H, W)")
    if len(shape) == 3:
        count, last, size = 1, False, (shape[1], shape[2])
    else:
        first_fits, last_fits = shape[1] <= MAX_CHANNELS, shape[3] == 3
        if channels is not None:
            first_fits, last_fits = shape[1] == channels, shape[3] == channels
        last = last_fits and not (first_fits and shape[1] <= 4)
        count, size = (shape[3], (shape[1], shape[2])) if last else (shape[1], (shape[2], shape[3]))
        if not first_fits and not last_fits:
            raise CorruptError(
                "no axis of channels",
                where=path,
                got=f"shape {'x'.join(map(str, shape))}",
                expected=f"{channels or 'a few'} channels: (N, C, H, W) or (N, H, W, C)",
            )
    if math.prod(size) * count > MAX_PIXELS:
        raise CorruptError("unusable image size", where=path, got="x".join(map(str, size)))
    return last


def _checked(path: Path, values: Any) -> np.ndarray:
    if values.dtype.kind not in "buif":
        raise CorruptError("no array of images", where=path, got=f"values of type {values.dtype}")
    found: np.ndarray = values
    return found


def _read_array(path: Path) -> np.ndarray:
    """Read ``FILE.npy`` by mapping it, ``FILE.npz`` or ``FILE.npz:name`` whole; nothing is unpickled."""
    import numpy as np

    file, name = path, ""
    if not path.exists() and ":" in path.name:
        file, name = path.with_name(path.name.partition(":")[0]), path.name.partition(":")[2].lstrip("/")
    if not file.is_file():
        raise MissingError("no such file of images", where=file, expected="a folder, .npy or .npz")
    if file.suffix.lower() not in (".npy", ".npz"):
        expected = ".npy or .npz, or a folder"
        raise UsageError("not an array of images", where="--images", got=file.name, expected=expected)
    try:
        if file.suffix.lower() == ".npy":
            return _checked(file, np.load(file, mmap_mode="r", allow_pickle=False))
        with zipfile.ZipFile(file) as archive:
            members = [m.removesuffix(".npy") for m in archive.namelist() if m.endswith(".npy")]
            if not name and len(members) != 1:
                raise UsageError(
                    "which array?",
                    where=file,
                    got=", ".join(members[:8]) or "none",
                    todo=f"write {file.name}:NAME",
                )
            chosen = name or members[0]
            if chosen not in members:
                expected = ", ".join(members[:8])
                raise MissingError("no such array", where=file, got=chosen, expected=expected)
            with archive.open(f"{chosen}.npy") as stream:
                _check_claim(file, stream, archive.getinfo(f"{chosen}.npy").file_size)
        with np.load(file, allow_pickle=False) as arrays:
            return _checked(file, arrays[chosen])
    except (MissingError, CorruptError, UsageError):
        raise
    except (*_DAMAGE, zipfile.BadZipFile, MemoryError) as error:
        reason = str(error).split("\n", 1)[0][:120] or type(error).__name__
        raise CorruptError("damaged array of images", where=file, got=reason) from None


def _check_claim(path: Path, stream: IO[bytes], size: int) -> None:
    """Refuse a header that claims more than its archive says it holds, before memory is taken for it."""
    import numpy as np

    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    claimed = math.prod(shape) * dtype.itemsize
    if claimed > size or size > _MOST_ARRAY_BYTES:
        raise CorruptError("damaged array of images", where=path, got=f"{size} bytes", expected=f"{claimed}")
