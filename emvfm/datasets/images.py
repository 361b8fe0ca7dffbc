"""Reading microscopy images: PNG, JPEG, TIFF and slices of volumes, decoded by content and never trusted.

An image keeps its native type. Three equal channels collapse to one, because EM is often stored as
RGB, but never where channels have names (`read_channels`).
Whatever is empty, cut off, too large or not what its name says is a `CorruptError` naming the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emvfm.datasets.scales import side_of_pixel, tiff_spacing
from emvfm.datasets.tiff import Planes, open_tiff
from emvfm.datasets.volumes import Volume, open_volume, volume_format
from emvfm.errors import CorruptError, MissingError
from emvfm.workspace import write_bytes

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "image_size",
    "is_volume",
    "list_images",
    "native_pixels",
    "natural_key",
    "open_raster",
    "page_count",
    "pixel_size_nm",
    "read_channels",
    "read_image",
    "read_page",
    "read_plane",
    "read_raster",
    "sniff_format",
    "write_channels",
    "write_image",
]

#: File endings that are read, with the format that must be inside.
IMAGE_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}

#: Largest accepted image in px (23 170 squared); larger ones are whole slides or decompression bombs.
MAX_PIXELS = 2**29

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)

T = TypeVar("T")


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``2.png`` before ``10.png``."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), part) if n % 2 else (1, 0, part) for n, part in enumerate(parts))


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in `folder` in natural order; hidden and other files are left out."""
    if not folder.is_dir():
        raise MissingError("no such folder of images", where=folder)
    files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted((p for p in files if not p.name.startswith(".")), key=lambda p: natural_key(p.name))


def sniff_format(path: Path) -> str:
    """Return ``PNG``, ``JPEG`` or ``TIFF`` by the first bytes, which must agree with the file's ending."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except FileNotFoundError:
        raise MissingError("no such image", where=path) from None
    if not head:
        raise CorruptError("empty file (0 bytes)", where=path)
    expected = IMAGE_SUFFIXES.get(path.suffix.lower())
    found = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    if found is None:
        raise CorruptError(
            "not an image this program reads", where=path, got=head[:4].hex(" "), expected="PNG, JPEG or TIFF"
        )
    if expected is not None and found != expected:
        raise CorruptError("the content is not what the name says", where=path, got=found, expected=expected)
    return found


def _check_size(path: Path, height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise CorruptError(
            "unusable image size",
            where=path,
            got=f"{height}x{width} px",
            expected=f"1 to {MAX_PIXELS} px",
            todo="cut larger images into tiles",
        )


def open_raster(path: Path, use: Callable[[Any], T]) -> T:
    """Open a PNG or JPEG with Pillow, check its size before decoding, and return ``use(image)``.

    Whatever Pillow raises on a damaged file becomes a `CorruptError`.
    """
    import struct
    import zlib

    from PIL import Image

    kind = sniff_format(path)
    try:
        with Image.open(path, formats=[kind]) as image:
            _check_size(path, image.height, image.width)
            return use(image)
    except Image.DecompressionBombError as error:
        raise CorruptError("decompression bomb", where=path, got=error) from None
    except CorruptError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, OverflowError) as error:
        raise CorruptError("damaged image", where=path, got=error) from None


def read_raster(path: Path) -> np.ndarray:
    """Decode a PNG or JPEG to (H, W) or (H, W, 3), uint8 or uint16; alpha is dropped."""
    import numpy as np

    def decode(image: Any) -> np.ndarray:
        image.load()
        if image.mode in ("1", "LA", "La"):
            return np.array(image.convert("L"))
        if image.mode in ("L", "RGB"):
            return np.array(image)
        if image.mode.startswith("I"):  # 16-bit grey; older files decode to 32-bit integers
            return np.array(image).astype(np.uint16)
        if image.mode == "P" and "transparency" in image.info:
            return np.array(image.convert("RGBA"))[..., :3]
        return np.array(image.convert("RGB"))

    return open_raster(path, decode)


def is_volume(path: Path) -> bool:
    """Tell whether a path names a volume (HDF5, Zarr, N5), perhaps with a name inside it after a colon."""
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():  # spares most images the closer look
        return False
    return volume_format(path) is not None


def pixel_size_nm(path: Path) -> float | None:
    """Return the side of a pixel in nm as a TIFF or a volume states it, None where it is unknown.

    Raises
    ------
    RefusedError
        The pixels are not square.
    """
    path = Path(path)
    if is_volume(path):
        return open_volume(path, lambda volume: volume.pixel_size_nm)
    if sniff_format(path) != "TIFF":
        return None
    return side_of_pixel(open_tiff(path, lambda planes: tiff_spacing(planes.keyframe.parent)), path)


def page_count(path: Path) -> int:
    """Return how many images a file holds: 1 for PNG and JPEG, the number of planes for a TIFF or volume."""
    path = Path(path)
    if is_volume(path):
        return open_volume(path, lambda volume: volume.count)
    return open_tiff(path, lambda planes: planes.count) if sniff_format(path) == "TIFF" else 1


def _plane(planes: Planes | Volume, page: int | None) -> np.ndarray:
    _check_size(planes.path, planes.height, planes.width * getattr(planes, "channels", 1))
    if page is None and planes.count != 1:
        raise CorruptError(
            "a stack where a single image is expected",
            where=planes.path,
            got=f"{planes.count} pages",
            todo="compose it: `emvfm data compose NAME --images STACK --masks MASKS`",
        )
    if not 0 <= (page or 0) < planes.count:
        raise CorruptError("no such page", where=planes.path, got=page, expected=f"0 to {planes.count - 1}")
    return planes.read(page or 0)


def native_type(path: Path, values: np.ndarray) -> np.ndarray:
    """Return uint8, uint16 or finite float32 pixels of the same shape."""
    import numpy as np

    if values.dtype.kind == "b":
        values = values.astype(np.uint8) * np.uint8(255)
    elif values.dtype.kind == "f":
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise CorruptError("pixels that are not finite numbers", where=path)
    elif values.dtype not in (np.uint8, np.uint16):
        if values.dtype.kind not in "iu":
            raise CorruptError("unusable pixel type", where=path, got=values.dtype)
        small = values.dtype.itemsize <= 2 and values.min() >= 0
        values = values.astype(np.uint16 if small else np.float32)
    return values


def native_pixels(path: Path, values: np.ndarray) -> np.ndarray:
    """Return uint8, uint16 or float32 pixels, with equal channels collapsed."""
    import numpy as np

    values = native_type(path, values)
    if values.ndim == 3 and (values[..., :1] == values).all():
        values = values[..., 0]
    return np.ascontiguousarray(values)


def read_plane(path: Path, page: int | None) -> np.ndarray:
    """Read page `page` of a file as `read_page` does, but in the type the file has."""
    path = Path(path)
    if is_volume(path):
        return open_volume(path, lambda volume: _plane(volume, page))
    if sniff_format(path) == "TIFF":
        return open_tiff(path, lambda planes: _plane(planes, page))
    return read_raster(path)


def read_page(path: Path, page: int | None) -> np.ndarray:
    """Read page `page` of a file as `read_image` does; None means the file must hold one image."""
    return native_pixels(Path(path), read_plane(path, page))


def read_image(path: Path) -> np.ndarray:
    """Read a single image.

    Returns
    -------
    np.ndarray
        (H, W), or (H, W, C) where the channels differ (three of a colour image, as many as a TIFF with an
        axis of channels has); uint8, uint16 or float32 in the file's own
        range. Palettes are resolved to colours, alpha is dropped, signed and wide integers become
        float32 (16-bit ones without negative values uint16), 1-bit becomes 0 and 255.

    Raises
    ------
    MissingError
        There is no such file.
    CorruptError
        The file is empty, damaged, larger than `MAX_PIXELS`, a stack, has non-finite pixels, or is
        not what its name says.
    """
    return read_page(path, None)


def read_channels(path: Path) -> np.ndarray:
    """Read a single image as ``(C, H, W)``, channels in the order of the file; see `read_image`.

    Grey is one channel, colour three, and a TIFF with an axis of channels (OME-TIFF, ImageJ) has its own. No
    channels collapse.
    """
    import numpy as np

    values = native_type(Path(path), read_plane(path, None))
    return np.ascontiguousarray(values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0))


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in px from the header, without decoding."""
    path = Path(path)
    if sniff_format(path) == "TIFF":
        height, width = open_tiff(path, lambda planes: (planes.height, planes.width))
        _check_size(path, height, width)
        return height, width
    return open_raster(path, lambda image: (image.height, image.width))


def write_image(path: Path, values: np.ndarray) -> Path:
    """Write (H, W) or (H, W, 3) pixels: PNG for uint8 and 16-bit grey, else TIFF, as the ending must say."""
    import io

    stream = io.BytesIO()
    if path.suffix == ".png":
        from PIL import Image

        Image.fromarray(values).save(stream, format="PNG")
    else:
        import tifffile

        tifffile.imwrite(
            stream, values, compression="zlib", photometric="rgb" if values.ndim == 3 else "minisblack"
        )
    return write_bytes(path, stream.getvalue())


def write_channels(path: Path, values: np.ndarray) -> Path:
    """Write ``(C, H, W)`` pixels as a TIFF with an axis of channels, which `read_channels` gives back."""
    import io

    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, values, compression="zlib", photometric="minisblack", metadata={"axes": "CYX"})
    return write_bytes(path, stream.getvalue())
