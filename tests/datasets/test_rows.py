"""Rows of an image are those of the image read at once, and of a large TIFF no more is decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from emvfm.datasets.images import read_image
from emvfm.datasets.rows import ArrayRows, open_rows
from emvfm.errors import CorruptError, MissingError

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 255, (100, 70)).astype(np.uint8)
COLOUR = DRAW.integers(0, 255, (100, 70, 3)).astype(np.uint8)

TIFFS = {
    "strips": (GREY, {"rowsperstrip": 16}),
    "deflate": (GREY, {"rowsperstrip": 7, "compression": "zlib"}),
    "tiles": (GREY, {"tile": (32, 32), "compression": "lzw"}),
    "16-bit": (GREY.astype(np.uint16) * 200, {"rowsperstrip": 16}),
    "signed": (GREY.astype(np.int16) - 100, {"rowsperstrip": 16}),
    "float": (GREY.astype(np.float32) / 7, {"tile": (16, 48)}),
    "big": (GREY, {"bigtiff": True, "rowsperstrip": 10}),
    "big-endian": (GREY.astype(np.uint16), {"byteorder": ">", "rowsperstrip": 10}),
    "colour": (COLOUR, {"photometric": "rgb", "tile": (32, 32)}),
    "grey as colour": (np.stack([GREY] * 3, axis=-1), {"photometric": "rgb", "rowsperstrip": 9}),
    "planar": (np.moveaxis(COLOUR, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
    "white is zero": (GREY, {"photometric": "miniswhite"}),
    "bool": (GREY > 100, {}),
}
WHOLE = ("planar", "white is zero")


def _write(
    folder: Path, values: np.ndarray, bigtiff: bool = False, byteorder: str | None = None, **options: object
) -> Path:
    path = folder / "image.tif"
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as file:
        file.write(values, **{"photometric": "minisblack", **options})  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("kind", TIFFS)
def test_rows_of_a_tiff_are_those_of_the_whole(tmp_path: Path, kind: str) -> None:
    values, options = TIFFS[kind]
    path = _write(tmp_path, values, **options)  # type: ignore[arg-type]
    whole = read_image(path)
    with open_rows(path) as image:
        assert isinstance(image, ArrayRows) == (kind in WHOLE)
        assert image.shape[:2] == whole.shape[:2]
        for start, stop in ((0, 100), (13, 14), (30, 71), (99, 100)):
            np.testing.assert_array_equal(image.rows(start, stop), whole[start:stop])
        assert (image.dtype == np.uint8) == (whole.dtype == np.uint8)


def test_rows_of_a_png_are_those_of_the_whole(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    with open_rows(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(image.rows(20, 30), COLOUR[20:30])


def test_only_the_strips_asked_for_are_decoded(tmp_path: Path) -> None:
    path = _write(tmp_path, GREY, rowsperstrip=10, compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset, count = (file.pages[0].tags[name].value[5] for name in ("StripOffsets", "StripByteCounts"))
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = b"\xff" * count  # rows 50 to 59 are damaged
    path.write_bytes(content)
    with open_rows(path) as image:
        np.testing.assert_array_equal(image.rows(0, 50), GREY[:50])
        np.testing.assert_array_equal(image.rows(60, 100), GREY[60:])
        with pytest.raises(CorruptError, match=r"image\.tif: damaged TIFF"):
            image.rows(45, 55)


def test_a_cut_off_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = _write(tmp_path, GREY, rowsperstrip=10)
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(CorruptError, match=r"image\.tif"), open_rows(path):
        pass
    with pytest.raises(MissingError), open_rows(tmp_path / "none.tif"):
        pass
