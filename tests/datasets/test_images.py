from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from emvfm.datasets.images import (
    MAX_PIXELS,
    image_size,
    list_images,
    natural_key,
    page_count,
    read_image,
    read_page,
    write_image,
)
from emvfm.errors import CorruptError, MissingError


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_comes_back_as_written(tmp_path, grey, suffix, dtype):
    values = grey.astype(dtype) * dtype(257 if dtype is np.uint16 else 1)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(values).save(path)
    else:
        tifffile.imwrite(path, values)
    back = read_image(path)
    assert back.dtype == dtype
    assert np.array_equal(back, values)
    assert image_size(path) == (24, 40)


def test_rgb_of_equal_channels_collapses_and_others_stay(tmp_path, grey):
    colour = np.stack([grey, grey, grey], -1)
    Image.fromarray(colour).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), grey)
    colour[3, 3, 1] ^= 1
    Image.fromarray(colour).save(tmp_path / "colour.png")
    assert np.array_equal(read_image(tmp_path / "colour.png"), colour)


def test_palette_means_its_colours_and_alpha_is_dropped(tmp_path, grey):
    index = Image.new("P", (40, 24))
    index.putdata((grey % 4).ravel().tolist())
    index.putpalette([9, 9, 9, 80, 80, 80, 120, 120, 120, 200, 200, 200])
    index.save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.array([9, 80, 120, 200], np.uint8)[grey % 4])
    Image.fromarray(np.stack([grey, grey, grey, 255 - grey], -1)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), grey)
    Image.fromarray(np.stack([grey, grey], -1)).save(tmp_path / "la.png")
    assert np.array_equal(read_image(tmp_path / "la.png"), grey)


def test_jpeg_grey_is_close(tmp_path):
    ramp = np.tile(np.arange(0, 200, 5, dtype=np.uint8), (24, 1))
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - ramp).max() < 8


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.linspace(0, 1, 60).reshape(6, 10), np.float32),
        (np.arange(60).reshape(6, 10).astype(np.int16), np.uint16),
        (np.arange(-30, 30).reshape(6, 10).astype(np.int16), np.float32),
        (np.arange(60).reshape(6, 10).astype(np.uint32), np.float32),
    ],
)
def test_tiff_types(tmp_path, values, dtype):
    tifffile.imwrite(tmp_path / "a.tif", values)
    back = read_image(tmp_path / "a.tif")
    assert back.dtype == dtype
    assert np.allclose(back, values)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_tiff_planar_and_contiguous_rgb(tmp_path, compression):
    colour = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb", compression=compression)
    assert np.array_equal(read_image(tmp_path / "c.tif"), colour)
    tifffile.imwrite(
        tmp_path / "p.tif", colour.transpose(2, 0, 1), photometric="rgb", planarconfig="separate"
    )
    assert np.array_equal(read_image(tmp_path / "p.tif"), colour)


def test_tiff_white_is_zero(tmp_path, grey):
    tifffile.imwrite(tmp_path / "w.tif", grey, photometric="miniswhite")
    assert np.array_equal(read_image(tmp_path / "w.tif"), 255 - grey)


def test_ome_tiff_single_page(tmp_path, grey):
    tifffile.imwrite(tmp_path / "a.ome.tif", grey[None], metadata={"axes": "ZYX"}, ome=True)
    assert np.array_equal(read_image(tmp_path / "a.ome.tif"), grey)


@pytest.mark.parametrize("kind", ["plain", "ome", "imagej"])
def test_stack_is_refused_whole_and_read_by_page(tmp_path, kind):
    stack = np.random.default_rng(2).integers(0, 256, (5, 16, 18), dtype=np.uint8)
    path = tmp_path / "stack.tif"
    if kind == "plain":
        with tifffile.TiffWriter(path) as writer:
            for page in stack:
                writer.write(page, contiguous=False)
    else:
        tifffile.imwrite(path, stack, ome=kind == "ome", imagej=kind == "imagej", metadata={"axes": "ZYX"})
    assert page_count(path) == 5
    assert image_size(path) == (16, 18)
    for n, page in enumerate(stack):
        assert np.array_equal(read_page(path, n), page)
    with pytest.raises(CorruptError, match="5 pages"):
        read_image(path)
    with pytest.raises(CorruptError, match="no such page"):
        read_page(path, 5)


def test_stack_with_one_directory_is_read_by_offset(tmp_path):
    stack = np.random.default_rng(3).integers(0, 60_000, (7, 12, 14), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "s.tif", stack, metadata={"axes": "ZYX"}, truncate=True, byteorder=">")
    assert page_count(tmp_path / "s.tif") == 7
    for n in range(7):
        assert np.array_equal(read_page(tmp_path / "s.tif", n), stack[n])
    data = (tmp_path / "s.tif").read_bytes()
    (tmp_path / "s.tif").write_bytes(data[:-200])
    with pytest.raises(CorruptError, match=r"s\.tif"):
        read_page(tmp_path / "s.tif", 6)


def test_several_channels_of_several_planes_are_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "c.tif", np.zeros((3, 2, 8, 8), np.uint8), ome=True, metadata={"axes": "ZCYX"}
    )
    with pytest.raises(CorruptError, match="channels"):
        read_image(tmp_path / "c.tif")


def test_pages_of_different_size_are_refused(tmp_path, grey):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(grey)
        writer.write(grey[:10])
    with pytest.raises(CorruptError, match="different size"):
        read_image(tmp_path / "a.tif")


def _bytes(values: np.ndarray, kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "TIFF":
        tifffile.imwrite(stream, values)
    elif kind == "TIFF-zlib":
        tifffile.imwrite(stream, values, compression="zlib", rowsperstrip=4)
    else:
        Image.fromarray(values).save(stream, format=kind)
    return stream.getvalue()


_SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "TIFF-zlib": ".tif"}


@pytest.mark.parametrize("kind", list(_SUFFIX))
def test_empty_and_cut_off_files_name_themselves(tmp_path, grey, kind):
    path = tmp_path / f"bad{_SUFFIX[kind]}"
    path.write_bytes(b"")
    with pytest.raises(CorruptError, match=r"bad\.\w+: empty file"):
        read_image(path)
    data = _bytes(grey, kind)
    for keep in (9, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:keep])
        with pytest.raises(CorruptError, match="bad"):
            read_image(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(_SUFFIX)), data=st.data())
def test_damaged_bytes_give_an_image_or_a_corrupt_error(tmp_path, kind, data):
    content = bytearray(_bytes(np.tile(np.arange(32, dtype=np.uint8), (24, 1)), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"x{_SUFFIX[kind]}"
    path.write_bytes(bytes(content))
    try:
        values = read_image(path)
    except CorruptError as error:
        message = str(error)
    else:
        message = f"{path}: read"
        assert values.ndim in (2, 3)
    assert message.startswith(f"{path}: ")


def test_wrong_ending_and_other_formats_are_refused(tmp_path, grey):
    (tmp_path / "a.png").write_bytes(_bytes(grey, "JPEG"))
    with pytest.raises(CorruptError, match="JPEG, expected PNG"):
        read_image(tmp_path / "a.png")
    (tmp_path / "b.tif").write_bytes(b"P5 2 2 255 abcd")
    with pytest.raises(CorruptError, match="not an image"):
        read_image(tmp_path / "b.tif")
    with pytest.raises(MissingError):
        read_image(tmp_path / "none.png")


def test_decompression_bombs_are_refused_before_decoding(tmp_path):
    def chunk(tag: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    side = 60_000
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    data = bytearray(_bytes(np.zeros((8, 8), np.uint8), "TIFF"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tags = file.pages[0].tags
        for name in ("ImageWidth", "ImageLength"):
            tag = tags[name]
            size = {3: "H", 4: "I"}[int(tag.dtype)]
            data[tag.valueoffset : tag.valueoffset + struct.calcsize(size)] = struct.pack("<" + size, side)
    (tmp_path / "bomb.tif").write_bytes(bytes(data))
    assert side * side > MAX_PIXELS
    for name in ("bomb.png", "bomb.tif"):
        with pytest.raises(CorruptError, match=name):
            read_image(tmp_path / name)
        with pytest.raises(CorruptError, match=name):
            image_size(tmp_path / name)


def test_not_finite_pixels_are_refused(tmp_path):
    values = np.ones((5, 5), np.float32)
    values[2, 2] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", values)
    with pytest.raises(CorruptError, match="not finite"):
        read_image(tmp_path / "nan.tif")


def test_listing_is_natural_and_leaves_out_other_files(tmp_path, grey):
    for name in ("10.png", "2.png", "1.png"):
        Image.fromarray(grey).save(tmp_path / name)
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    assert [p.name for p in list_images(tmp_path)] == ["1.png", "2.png", "10.png"]
    with pytest.raises(MissingError):
        list_images(tmp_path / "absent")


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=2))
def test_natural_order_is_numeric_order(numbers):
    names = [f"s{n}" for n in numbers]
    assert sorted(names, key=natural_key) == [f"s{n}" for n in sorted(numbers)]


@pytest.mark.parametrize(
    ("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.float32)]
)
def test_written_images_come_back(tmp_path, grey, name, dtype):
    values = grey.astype(dtype)
    assert np.array_equal(read_image(write_image(tmp_path / name, values)), values)


def test_real_sections_decode(shared_data):
    for folder, shape in (("lucchi++/Train_In", (768, 1024)), ("vnc/stack1/raw", (1024, 1024))):
        for path in list_images(shared_data / folder)[:3]:
            values = read_image(path)
            assert values.shape == shape
            assert values.dtype == np.uint8
            assert np.array_equal(values, np.asarray(Image.open(path)))


def test_absent_strips_are_not_read_as_black(tmp_path, grey):
    data = bytearray(_bytes(grey, "TIFF-zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags["StripByteCounts"]
        width = {3: 2, 4: 4}[int(tag.dtype)]
    data[tag.valueoffset : tag.valueoffset + width] = bytes(width)  # the first strip holds 0 bytes
    path = tmp_path / "sparse.tif"
    path.write_bytes(bytes(data))
    assert (tifffile.imread(path)[:4] == 0).all()  # what the library makes of it
    with pytest.raises(CorruptError, match=r"sparse\.tif: cut off"):
        read_image(path)
