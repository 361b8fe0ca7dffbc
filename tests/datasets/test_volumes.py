from __future__ import annotations

import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore
import tifffile
import typer
import zarr
from typer.testing import CliRunner

from emvfm.cli.data import register
from emvfm.datasets.images import MAX_PIXELS, page_count, pixel_size_nm, read_page
from emvfm.datasets.layouts import layout_of_pair, stated_pixel_size
from emvfm.datasets.manifest import load_dataset
from emvfm.datasets.masks import read_mask
from emvfm.datasets.volumes import Volume, open_volume, split_inner, volume_format
from emvfm.errors import CorruptError, EmvfmError, MissingError, RefusedError, UsageError

NM = 4.0  # side of a pixel
Z_NM = 30.0
SHAPE = (5, 18, 23)


def _noise(dtype: str = "uint8", shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def _tiff(path: Path, values: np.ndarray, **options: object) -> Path:
    imagej = {
        "imagej": True,
        "resolution": (1000 / NM, 1000 / NM),
        "metadata": {"axes": "ZYX", "unit": "um", "spacing": Z_NM / 1000},
    }
    tifffile.imwrite(path, values, **(options or imagej))
    return path


def _bigtiff(path: Path, values: np.ndarray) -> Path:
    return _tiff(
        path,
        values,
        bigtiff=True,
        resolution=(1e7 / NM, 1e7 / NM),
        resolutionunit="CENTIMETER",
        photometric="minisblack",
    )


def _ome_tiff(path: Path, values: np.ndarray) -> Path:
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": NM / 1000,
        "PhysicalSizeY": NM / 1000,
        "PhysicalSizeZ": Z_NM,
        "PhysicalSizeZUnit": "nm",
    }
    return _tiff(path, values, ome=True, metadata=metadata, photometric="minisblack")


def _hdf5(path: Path, values: np.ndarray, name: str = "volumes/raw", **options: object) -> Path:
    with h5py.File(path, "a") as file:
        options = {"chunks": (1, 7, 8), "compression": "gzip", "fletcher32": True} | options
        file.create_dataset(name, data=values, **options).attrs["resolution"] = [Z_NM, NM, NM]
    return path


def _fiji(path: Path, values: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("t0/channel0", data=values).attrs["element_size_um"] = [
            Z_NM / 1e3,
            NM / 1e3,
            NM / 1e3,
        ]
    return path


def _zarr2(path: Path, values: np.ndarray) -> Path:
    array = zarr.open_group(path, mode="w", zarr_format=2).create_array(
        "raw", shape=values.shape, dtype=values.dtype, chunks=(1, 7, 8)
    )
    array[:] = values
    array.attrs.update({"resolution": [Z_NM, NM, NM], "units": ["nm"] * 3})
    return path


def _zarr3(path: Path, values: np.ndarray) -> Path:
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, 6, 8),
        shards=(5, 18, 24),
        dimension_names=["z", "y", "x"],
    )
    array[:] = values
    array.attrs["resolution"] = [Z_NM, NM, NM]
    return path


def _multiscales(
    version: str, axes: str = "zyx", scale: tuple[float, ...] = (Z_NM / 1e3, NM / 1e3, NM / 1e3)
) -> dict:
    kinds = {"t": "time", "c": "channel"}
    listed = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({} if axis in kinds else {"unit": "micrometer"})
        for axis in axes
    ]
    levels = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [s * 2**n for s in scale]}]}
        for n in range(2)
    ]
    image = {"axes": listed, "datasets": levels, "name": "image"}
    if version == "0.4":
        return {"multiscales": [image | {"version": "0.4"}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}


def _ome_zarr(path: Path, values: np.ndarray, version: str = "0.5", **given: object) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for n in range(2):
        level = values[..., :: 2**n, :: 2**n]
        group.create_array(
            str(n), shape=level.shape, dtype=level.dtype, chunks=(*[1] * (level.ndim - 2), 7, 8)
        )[:] = level
    group.attrs.update(_multiscales(version, **given))
    labels = zarr.open_group(path / "labels" / "mito", mode="w", zarr_format=2 if version == "0.4" else 3)
    labels.create_array("0", shape=(2, 2), dtype="uint8")
    labels.attrs.update(_multiscales(version, "yx", (0.1, 0.1)))
    return path


def _n5(path: Path, values: np.ndarray, name: str = "em/s0") -> Path:
    metadata = {
        "dimensions": list(values.shape[::-1]),
        "blockSize": [8, 7, 2][: values.ndim],
        "dataType": values.dtype.name,
        "compression": {"type": "gzip"},
    }
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/{name}/"}, "metadata": metadata}
    tensorstore.open(spec, create=True).result()[...] = values.T
    attributes = json.loads((path / name / "attributes.json").read_text())
    attributes["pixelResolution"] = {"dimensions": [NM, NM, Z_NM][: values.ndim], "unit": "nm"}
    (path / name / "attributes.json").write_text(json.dumps(attributes))
    (path / "attributes.json").write_text('{"n5": "2.5.0"}')
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], Path]]] = {
    "TIFF": ("v.tif", _tiff),
    "BigTIFF": ("v.tif", _bigtiff),
    "OME-TIFF": ("v.ome.tif", _ome_tiff),
    "HDF5": ("v.h5", _hdf5),
    "Fiji HDF5": ("v.h5", _fiji),
    "Zarr v2": ("v.zarr", _zarr2),
    "Zarr v3 sharded": ("v.zarr", _zarr3),
    "OME-Zarr 0.4": ("v.zarr", lambda path, values: _ome_zarr(path, values, "0.4")),
    "OME-Zarr 0.5": ("v.zarr", _ome_zarr),
    "N5": ("v.n5", _n5),
}
VOLUMES = [name for name in WRITERS if "TIFF" not in name]


def _write(kind: str, folder: Path, values: np.ndarray) -> Path:
    name, writer = WRITERS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    return writer(folder / name, values)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_slices_and_the_pixel_size_that_were_written(tmp_path, kind, dtype):
    values = _noise(dtype)
    path = _write(kind, tmp_path, values)
    assert page_count(path) == len(values)
    for k, plane in enumerate(values):
        found = read_page(path, k)
        assert found.dtype == values.dtype
        assert np.array_equal(found, plane)
    assert pixel_size_nm(path) == pytest.approx(NM)
    with pytest.raises(CorruptError, match="no such page"):
        read_page(path, len(values))


@pytest.mark.parametrize("kind", VOLUMES)
def test_a_volume_says_what_it_is(tmp_path, kind):
    path = _write(kind, tmp_path, _noise("uint16"))

    def facts(v: Volume) -> tuple[object, ...]:
        return v.path, v.count, v.height, v.width, v.dtype, sorted(v.axes), v.pixel_size_nm, v.z_nm

    assert open_volume(path, facts) == (path, *SHAPE, "uint16", ["x", "y", "z"], NM, Z_NM)
    named = open_volume(path, lambda v: Path(v.name))
    assert open_volume(named, facts) == open_volume(path, facts)
    assert np.array_equal(read_page(named, 1), read_page(path, 1))


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "uint32", "int64", "float32", "float64", ">u2", ">f4", "bool"]
)
@pytest.mark.parametrize("kind", ["HDF5", "Zarr v2", "Zarr v3 sharded"])
def test_types_become_what_they_become_from_a_tiff(tmp_path, kind, dtype):
    values = (_noise() % 2 if dtype == "bool" else _noise() % 100).astype(dtype)
    if kind == "HDF5":
        path = _hdf5(tmp_path / "v.h5", values)
    else:
        path = _write(kind, tmp_path, values)
    tiff = tmp_path / "one.tif"
    tifffile.imwrite(tiff, values[2], photometric="minisblack")
    expected, found = read_page(tiff, None), read_page(path, 2)
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("kind", ["HDF5", "Zarr v2", "Zarr v3 sharded", "N5"])
def test_a_single_image_is_a_volume_of_one_slice(tmp_path, kind):
    values = _noise(shape=SHAPE[1:])
    if kind == "HDF5":
        path = _hdf5(tmp_path / "v.h5", values, chunks=(7, 8))
    elif kind == "N5":
        path = _n5(tmp_path / "v.n5", values)
    else:
        path = tmp_path / "v.zarr"
        zarr.create_array(path, shape=values.shape, dtype="u1", zarr_format=2 if "v2" in kind else 3)[:] = (
            values
        )
    assert page_count(path) == 1
    assert np.array_equal(read_page(path, 0), values)
    assert [entry.page for entry in layout_of_pair(path, None).parts[0].images] == [0]


# Names inside


def test_a_name_after_the_colon_chooses_among_several(tmp_path):
    raw, labels = _noise(), _noise(seed=1)
    path = _hdf5(_hdf5(tmp_path / "v.h5", raw), labels, "volumes/labels/mito")
    folder = _n5(_n5(tmp_path / "v.n5", raw, "a/raw"), labels, "a/labels")
    _zarr2(tmp_path / "v.zarr", raw)
    zarr.open_group(tmp_path / "v.zarr", mode="a").create_array("labels", data=labels)
    for outer, one, other in (
        (path, "/volumes/raw", "volumes/labels/mito"),
        (folder, "/a/raw", "a//labels/"),
        (tmp_path / "v.zarr", "/raw", "labels"),
    ):
        assert np.array_equal(read_page(Path(f"{outer}:{one}"), 2), raw[2])
        assert np.array_equal(read_page(Path(f"{outer}:{other}"), 2), labels[2])
        with pytest.raises(UsageError, match=r"several arrays .*labels.*raw.*name one"):
            page_count(outer)
        with pytest.raises(MissingError, match="no such array"):
            page_count(Path(f"{outer}:/nothing"))
        with pytest.raises(UsageError, match="not the name of an array"):
            page_count(Path(f"{outer}:/a/../../x"))
    assert np.array_equal(read_page(Path(f"{path}:/volumes/labels"), 0), labels[0])  # the only one below


def test_a_colon_in_the_name_of_a_file_is_part_of_it(tmp_path):
    odd = tmp_path / "a:b.h5"
    _hdf5(odd, _noise())
    assert split_inner(odd) == (odd, None)
    assert split_inner(Path(f"{odd}:/volumes/raw")) == (odd, "/volumes/raw")
    assert page_count(Path(f"{odd}:volumes")) == len(_noise())
    assert split_inner(tmp_path / "no.h5:/raw") == (tmp_path / "no.h5:/raw", None)
    with pytest.raises(MissingError):
        page_count(tmp_path / "no.h5:/raw")


def test_folders_and_files_are_recognised_by_their_content(tmp_path):
    for kind, expected in (("HDF5", "HDF5"), ("Zarr v2", "Zarr"), ("Zarr v3 sharded", "Zarr"), ("N5", "N5")):
        path = _write(kind, tmp_path / kind, _noise())
        other = path.rename(path.with_name("plain"))
        assert volume_format(other) == expected
        assert page_count(other) == SHAPE[0]
    with h5py.File(tmp_path / "u.bin", "w", userblock_size=512) as file:
        file["raw"] = _noise()
    assert volume_format(tmp_path / "u.bin") == "HDF5"
    (tmp_path / "images").mkdir()
    assert volume_format(tmp_path / "images") is None
    assert volume_format(_tiff(tmp_path / "s.tif", _noise())) is None
    with pytest.raises(UsageError, match="not a volume"):
        open_volume(tmp_path / "images", lambda v: v.count)


# Axes and pixel sizes


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_axes_of_length_one_go_and_longer_ones_are_refused(tmp_path, version):
    values = _noise()
    scale = (1.0, 1.0, Z_NM / 1e3, NM / 1e3, NM / 1e3)
    path = _ome_zarr(tmp_path / "v.zarr", values[None, None], version, axes="tczyx", scale=scale)
    assert np.array_equal(read_page(path, 3), values[3])
    assert (page_count(path), pixel_size_nm(path)) == (5, pytest.approx(NM))
    two = np.stack([values, values])[None]
    path = _ome_zarr(tmp_path / "w.zarr", two, version, axes="tczyx", scale=scale)
    with pytest.raises(CorruptError, match="several channels"):
        page_count(path)


def test_the_scale_of_the_whole_image_multiplies_that_of_the_level(tmp_path):
    path = _ome_zarr(tmp_path / "v.zarr", _noise())
    meta = json.loads((path / "zarr.json").read_text())
    image = meta["attributes"]["ome"]["multiscales"][0]
    image["coordinateTransformations"] = [{"type": "scale", "scale": [1, 2, 2]}]
    (path / "zarr.json").write_text(json.dumps(meta))
    assert pixel_size_nm(path) == pytest.approx(2 * NM)
    assert pixel_size_nm(path / "0") == pytest.approx(2 * NM)  # its own folder, below the image's
    assert pixel_size_nm(Path(f"{path}:/1")) is None  # half as fine, and no array says so itself


def test_axes_by_name_in_any_order(tmp_path):
    values = _noise()
    zarr.create_array(
        tmp_path / "v.zarr",
        data=np.ascontiguousarray(values.T),
        dimension_names=["x", "y", "z"],
        chunks=(8, 7, 1),
    )
    with h5py.File(tmp_path / "v.h5", "w") as file:
        data = file.create_dataset("exported_data", data=np.moveaxis(values, 0, -1)[None, ..., None])
        data.attrs["axistags"] = json.dumps({"axes": [{"key": key, "typeFlags": 2} for key in "tyxzc"]})
    for path in (tmp_path / "v.zarr", tmp_path / "v.h5"):
        assert page_count(path) == SHAPE[0]
        assert all(np.array_equal(read_page(path, k), values[k]) for k in range(SHAPE[0]))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, None),
        ({"resolution": [1, 1, 1]}, None),
        ({"resolution": [40, 4, 4]}, 4.0),
        ({"resolution": [0.04, 0.005, 0.005], "units": "um"}, 5.0),
        ({"resolution": [4, 4]}, None),
        ({"resolution": "fine"}, None),
        ({"resolution": [40, -4, float("nan")]}, None),
        ({"element_size_um": [1, 1, 1]}, None),
        ({"element_size_um": [0.03, 0.006, 0.006]}, 6.0),
    ],
)
def test_attributes_of_hdf5_in_common_use(tmp_path, attributes, expected):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("raw", data=_noise()).attrs.update(attributes)
    assert pixel_size_nm(tmp_path / "v.h5") == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (118.1, 118.1), "resolutionunit": "CENTIMETER"}, None),  # 300 dpi, a print
        ({"resolution": (2e6, 2e6), "resolutionunit": "CENTIMETER"}, 5.0),
        ({"resolution": (2, 2), "resolutionunit": "NONE"}, None),
        ({"resolution": (0.25, 0.25), "imagej": True, "metadata": {"axes": "ZYX", "unit": "nm"}}, 4.0),
        ({"resolution": (250, 250), "imagej": True, "metadata": {"axes": "ZYX", "unit": "\\u00B5m"}}, 4.0),
        ({"resolution": (0.25, 0.25), "imagej": True, "metadata": {"axes": "ZYX", "unit": "pixel"}}, None),
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 46, "PhysicalSizeXUnit": "Å"}}, None),
        (
            {
                "ome": True,
                "metadata": {
                    "axes": "ZYX",
                    **{f"PhysicalSize{a}": 46 for a in "XY"},
                    **{f"PhysicalSize{a}Unit": "Å" for a in "XY"},
                },
            },
            4.6,
        ),
        ({}, None),
    ],
)
def test_pixel_sizes_of_tiffs(tmp_path, options, expected):
    tifffile.imwrite(tmp_path / "v.tif", _noise(), **{"photometric": "minisblack"} | options)
    assert pixel_size_nm(tmp_path / "v.tif") == (expected and pytest.approx(expected, rel=1e-4))


def test_pixel_sizes_that_contradict_are_refused(tmp_path):
    images = _hdf5(tmp_path / "v.h5", _noise())
    masks = _ome_zarr(tmp_path / "m.zarr", _noise())
    assert stated_pixel_size(images, masks) == pytest.approx(NM)
    assert stated_pixel_size(images, None) == pytest.approx(NM)
    with h5py.File(images, "a") as file:
        file["volumes/raw"].attrs["resolution"] = [40, 8, 8]
    with pytest.raises(RefusedError, match=r"different pixel sizes .*got 8 nm, 4 nm in .*--pixel-size"):
        stated_pixel_size(images, masks)
    with h5py.File(images, "a") as file:
        file["volumes/raw"].attrs["resolution"] = [40, 8, 4]
    with pytest.raises(RefusedError, match=r"pixels are not square .*8 x 4 nm"):
        stated_pixel_size(images, None)


# One slice at a time


@pytest.mark.parametrize("kind", ["HDF5", "Zarr v2", "OME-Zarr 0.4", "OME-Zarr 0.5"])
def test_a_slice_is_read_where_all_others_are_destroyed(tmp_path, kind):
    values = _noise()
    path = _write(kind, tmp_path, values)
    if kind == "HDF5":
        with h5py.File(path) as file:
            data = file["volumes/raw"]
            chunks = [data.id.get_chunk_info(n) for n in range(data.id.get_num_chunks())]
        with path.open("r+b") as stream:
            for chunk in chunks:
                if chunk.chunk_offset[0] != 2:
                    stream.seek(chunk.byte_offset)
                    stream.write(b"\xff" * chunk.size)
    else:
        level = path / ("raw" if "v2" in kind else "0")
        files = [p for p in level.rglob("*") if p.is_file() and p.name[0] not in ".z"]
        for file in files:
            key = file.relative_to(level).as_posix().removeprefix("c/").replace(".", "/")
            if not key.startswith("2/"):
                file.write_bytes(b"damaged")
    assert np.array_equal(read_page(path, 2), values[2])
    for k in (0, 1, 3, 4):
        with pytest.raises(CorruptError, match="damaged"):
            read_page(path, k)


def test_a_slice_of_n5_and_of_shards_touches_its_own_chunks_only(tmp_path):
    values = _noise()
    path = _n5(tmp_path / "v.n5", values)  # blocks of two slices, the last index of a file's name
    for file in (path / "em" / "s0").rglob("*"):
        if file.is_file() and file.parent.parent.name in "012" and file.name != "1":
            file.write_bytes(b"damaged")
    assert np.array_equal(read_page(path, 3), values[3])
    with pytest.raises(CorruptError, match="damaged N5 volume"):
        read_page(path, 0)
    path = _zarr3(tmp_path / "v.zarr", values)
    (shard,) = (p for p in path.rglob("c/*/*/*") if p.is_file())
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[-15 * 3 * 16 - 4 : -4], "<u8").reshape(5, 9, 2)
    for offset, size in index[[0, 1, 3, 4]].reshape(-1, 2):
        data[int(offset) : int(offset + size)] = b"\xff" * int(size)
    shard.write_bytes(data)
    assert np.array_equal(read_page(path, 2), values[2])
    with pytest.raises(CorruptError, match="damaged Zarr volume"):
        read_page(path, 1)


def test_what_is_declared_is_never_allocated(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("raw", (8, 10**6, 10**6), "u1", chunks=(1, 64, 64))
    zarr.create_array(tmp_path / "v.zarr", shape=(8, 10**6, 10**6), dtype="u1", chunks=(1, 64, 64))
    for path in (tmp_path / "v.h5", tmp_path / "v.zarr"):
        assert page_count(path) == 8
        with pytest.raises(CorruptError, match=f"unusable image size .*{MAX_PIXELS}"):
            read_page(path, 0)
    zarr.create_array(tmp_path / "z.zarr", shape=(10**12, 8, 8), dtype="u1", chunks=(1, 8, 8))
    with pytest.raises(CorruptError, match="unusable size"):
        page_count(tmp_path / "z.zarr")
    zarr.create_array(tmp_path / "c.zarr", shape=(10**5, 800, 800), dtype="u1", chunks=(10**5, 800, 800))
    with pytest.raises(CorruptError, match="unusable chunks"):
        page_count(tmp_path / "c.zarr")


# Files that mean harm


def test_hdf5_leads_nowhere_else(tmp_path):
    secret = _hdf5(tmp_path / "secret.h5", _noise())
    (tmp_path / "bytes").write_bytes(_noise().tobytes())
    path = tmp_path / "v.h5"
    layout = h5py.VirtualLayout(shape=SHAPE, dtype="u1")
    layout[:] = h5py.VirtualSource(str(secret), "volumes/raw", shape=SHAPE)
    with h5py.File(path, "w") as file:
        file["outside"] = h5py.ExternalLink(str(secret), "volumes/raw")
        file["through"] = h5py.ExternalLink(str(secret), "volumes")
        file["soft"] = h5py.SoftLink("/through/raw")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset(
            "stored", SHAPE, "u1", external=[(str(tmp_path / "bytes"), 0, h5py.h5f.UNLIMITED)]
        )
        file["inside"] = _noise(seed=3)
    for name in ("outside", "through/raw", "soft"):
        with pytest.raises(CorruptError, match="a link that is not followed"):
            page_count(Path(f"{path}:/{name}"))
    for name in ("virtual", "stored"):
        with pytest.raises(CorruptError, match="lie in other files"):
            page_count(Path(f"{path}:/{name}"))
    with pytest.raises(UsageError, match=r"/inside, /stored, /virtual\); name one"):
        page_count(path)
    assert np.array_equal(read_page(Path(f"{path}:/inside"), 1), _noise(seed=3)[1])


def test_types_that_are_no_numbers_are_refused(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["compound"] = np.zeros((2, 8, 8), [("a", "u1"), ("b", "f4")])
        file.create_dataset("text", (2, 8, 8), h5py.string_dtype())
        file["complex"] = np.zeros((2, 8, 8), complex)
    for name in ("compound", "text", "complex"):
        with pytest.raises(CorruptError, match="unusable type"):
            page_count(tmp_path / f"v.h5:/{name}")
    with pytest.raises(MissingError, match="no image array here"):
        page_count(tmp_path / "v.h5")
    path = _zarr2(tmp_path / "v.zarr", _noise())
    for dtype in ("|O", "<c8", "<M8[ns]", [["a", "|u1"]], 3, "<U9", "|V4"):
        _change(path / "raw" / ".zarray", dtype=dtype)
        with pytest.raises(CorruptError, match="unusable type"):
            page_count(path)


def _change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_codecs_that_run_what_is_in_the_file_are_refused(tmp_path, monkeypatch):
    path = _zarr2(tmp_path / "v.zarr", _noise())
    monkeypatch.setattr("pickle.loads", lambda *a, **k: pytest.fail("unpickled"))
    for change in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}, {"filters": [3]}):
        shutil.copytree(path, tmp_path / "w.zarr", dirs_exist_ok=True)
        _change(tmp_path / "w.zarr" / "raw" / ".zarray", **change)
        with pytest.raises(CorruptError, match="unknown codec"):
            read_page(tmp_path / "w.zarr", 0)
    path = _zarr3(tmp_path / "x.zarr", _noise())
    meta = json.loads((path / "zarr.json").read_text())
    meta["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"})
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(CorruptError, match="unknown codec"):
        read_page(path, 0)


def test_links_and_levels_that_lead_out_of_a_folder_are_refused(tmp_path):
    outside = _zarr2(tmp_path / "outside.zarr", _noise())
    path = tmp_path / "v.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    (path / "link").symlink_to(outside / "raw")
    with pytest.raises(CorruptError, match="a link out of the volume"):
        page_count(Path(f"{path}:/link"))
    with pytest.raises(MissingError, match="no image array here"):
        page_count(path)
    for level in ("../outside.zarr/raw", "/etc", "", "a//b", None, 3):
        meta = _multiscales("0.4")
        meta["multiscales"][0]["datasets"][0]["path"] = level
        group.attrs.update(meta)
        with pytest.raises(CorruptError, match="unusable multiscales"):
            page_count(path)


@pytest.mark.parametrize("package", ["h5py", "tensorstore"])
def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch, package):
    path = _write({"h5py": "HDF5", "tensorstore": "N5"}[package], tmp_path, _noise())
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingError, match=rf"{package} is not installed.*pip install 'emvfm\[volumes\]'"):
        page_count(path)


# Damage


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _outcome(path: Path, values: np.ndarray, k: int) -> str:
    """Return ``right``, ``wrong`` or ``refused``; any other exception fails the test."""
    try:
        count = page_count(path)
        pixel_size_nm(path)
        found = read_page(path, k % count)
    except EmvfmError as error:
        return "refused" if "\n" not in str(error) else "several lines"
    right = count == len(values) and found.dtype == values.dtype and np.array_equal(found, values[k])
    return "right" if right else "wrong"


@pytest.mark.parametrize("kind", VOLUMES)
def test_what_is_cut_off_is_refused_or_read_rightly(tmp_path, kind):
    values = _noise()
    path = _write(kind, tmp_path / "a", values)
    rng = np.random.default_rng(7)
    outcomes = set()
    for n in range(40):
        damaged = tmp_path / f"{n}" / path.name
        damaged.parent.mkdir()
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, damaged)
        victim = rng.choice(np.array(_files(damaged), dtype=object))
        data = victim.read_bytes()
        victim.write_bytes(data[: rng.integers(len(data))] if data else b"")
        outcomes.add(_outcome(damaged, values, int(rng.integers(len(values)))))
    assert outcomes <= {"right", "refused"}
    assert "refused" in outcomes


@pytest.mark.parametrize("shards", [None, (1, 18, 24), (5, 18, 24)])
def test_blosc_frames_that_are_cut_off_show_no_memory(tmp_path, shards):
    values = _noise()
    path = tmp_path / "v.zarr"
    frames = zarr.codecs.BloscCodec(cname="lz4", typesize=1)
    array = zarr.create_array(
        path, shape=SHAPE, dtype="u1", chunks=(1, 6, 8), shards=shards, compressors=[frames]
    )
    array[:] = values
    assert all(np.array_equal(read_page(path, k), values[k]) for k in range(5))
    for victim in [p for p in path.rglob("c/*/*/*") if p.is_file()]:
        data = victim.read_bytes()
        cuts = (20, len(data) - 1) if shards is None else (8, len(data) // 2, len(data) - 1)
        for cut in cuts:
            victim.write_bytes(data[:cut])
            for k in range(5):
                assert _outcome(path, values, k) != "wrong"
        victim.write_bytes(data)


def test_frames_that_lie_within_a_shard_are_refused(tmp_path):
    """The index says where a frame ends; a frame that declares more would be read past its end."""
    for shards in ((1, 18, 24), (5, 18, 24)):
        path = tmp_path / f"{shards[0]}.zarr"
        frames = zarr.codecs.BloscCodec(cname="lz4", typesize=1)
        zarr.create_array(path, data=_noise(), chunks=(1, 6, 8), shards=shards, compressors=[frames])
        shard = path / "c" / "0" / "0" / "0"
        data = bytearray(shard.read_bytes())
        data[12:16] = (10**6).to_bytes(4, "little")  # compressed length of the first frame
        shard.write_bytes(data)
        with pytest.raises(CorruptError, match="no Blosc frame"):
            read_page(path, 0)


def test_blosc_below_another_codec_is_refused(tmp_path):
    path = _zarr2(tmp_path / "v.zarr", _noise())
    blosc = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    _change(path / "raw" / ".zarray", filters=[blosc], compressor={"id": "zlib", "level": 1})
    with pytest.raises(CorruptError, match="codecs after Blosc"):
        read_page(path, 0)


@pytest.mark.parametrize("kind", VOLUMES)
def test_flipped_bytes_raise_nothing_but_our_own_errors(tmp_path, kind):
    """Formats without checksums can't know; what they notice must become one of our errors."""
    values = _noise()
    path = _write(kind, tmp_path / "a", values)
    rng = np.random.default_rng(8)
    for n in range(60):
        damaged = tmp_path / f"{n}" / path.name
        damaged.parent.mkdir()
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, damaged)
        victim = rng.choice(np.array(_files(damaged), dtype=object))
        data = bytearray(victim.read_bytes())
        for position in rng.integers(len(data), size=rng.integers(1, 4)) if data else ():
            data[position] ^= int(rng.integers(1, 256))
        victim.write_bytes(data)
        _outcome(damaged, values, int(rng.integers(len(values))))


def test_flipped_bytes_of_chunks_with_a_checksum_are_always_noticed(tmp_path):
    values = _noise()
    hdf = _hdf5(tmp_path / "v.h5", values)
    with h5py.File(hdf) as file:
        data = file["volumes/raw"].id
        chunks = [data.get_chunk_info(n) for n in range(data.get_num_chunks())]
    places = [(chunk.byte_offset, chunk.size, chunk.chunk_offset[0]) for chunk in chunks]
    rng = np.random.default_rng(9)
    original = hdf.read_bytes()
    for n in rng.integers(len(places), size=25):
        offset, size, k = places[n]
        changed = bytearray(original)
        changed[offset + int(rng.integers(size))] ^= int(rng.integers(1, 256))
        hdf.write_bytes(changed)
        assert _outcome(hdf, values, k) != "wrong"
    path = tmp_path / "v.zarr"
    zarr.create_array(
        path,
        data=values,
        chunks=(1, 18, 23),
        compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()],
    )
    for k in range(len(values)):
        chunk = path / "c" / str(k) / "0" / "0"
        original = chunk.read_bytes()
        for position in rng.integers(len(original), size=8):
            changed = bytearray(original)
            changed[position] ^= int(rng.integers(1, 256))
            chunk.write_bytes(changed)
            assert _outcome(path, values, k) == "refused"
        chunk.write_bytes(original)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", "{", '{"shape": 3}', "\xff", "[" * 100_000, '{"zarr_format": 2}']
)
@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs", "attributes.json"])
def test_metadata_of_any_content_is_one_of_our_errors(tmp_path, name, content):
    path = tmp_path / ("v.n5" if name == "attributes.json" else "v.zarr")
    path.mkdir()
    (path / name).write_text(content, encoding="latin-1")
    with pytest.raises(EmvfmError):
        page_count(path)


# Labels


@pytest.mark.parametrize("kind", ["BigTIFF", "HDF5", "Zarr v2", "Zarr v3 sharded", "N5"])
def test_labels_of_many_bits_are_foreground_above_zero(tmp_path, kind):
    labels = np.zeros((3, 24, 24), "uint32")
    labels[0, 3:9, 3:9], labels[0, 12:18, 3:9], labels[0, 12:20, 12:20] = 3, 200, 255
    labels[1] = 71_234
    path = _write(kind, tmp_path, labels)
    for k in range(3):
        assert np.array_equal(read_mask(path, k), labels[k] > 0)


def test_labels_that_are_none_are_refused(tmp_path):
    values = np.zeros((2, 24, 24), "int64")
    values[0, :12] = -1
    values[1] = np.random.default_rng(0).integers(0, 2**40, (24, 24))
    path = _hdf5(tmp_path / "v.h5", values)
    with pytest.raises(CorruptError, match="negative mask values"):
        read_mask(path, 0)
    with pytest.raises(CorruptError, match="looks like an image"):
        read_mask(path, 1)
    clefts = np.full((1, 24, 24), np.iinfo(np.uint64).max, np.uint64)
    clefts[0, :5] = 4
    with pytest.raises(CorruptError, match="which value is background"):
        read_mask(_hdf5(tmp_path / "c.h5", clefts), 0)


# From end to end


@pytest.fixture
def emvfm(tmp_path, monkeypatch):
    """Call ``emvfm data …`` in an empty workspace with an audit that passes; return what it prints."""
    report = types.SimpleNamespace(
        verdict="passed", errors=(), to_json=lambda: {"verdict": "passed", "findings": []}
    )
    audit = types.ModuleType("emvfm.datasets.audit")
    vars(audit).update(
        audit_dataset=lambda dataset, seed=0: report,
        write_contact_sheet=lambda dataset, path, flagged=(): path.write_bytes(b""),
    )
    monkeypatch.setitem(sys.modules, "emvfm.datasets.audit", audit)
    app = typer.Typer()
    register(app)
    monkeypatch.setenv("EMVFM_ROOT", str(tmp_path / "ws"))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # hundreds of files, and no power cut is meant

    def run(*arguments: object, code: int = 0) -> dict:
        result = CliRunner().invoke(app, ["data", *map(str, arguments), "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if code == 0 else {"error": str(result.exception)}

    return run


def _scene(n: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy slices with a bright blob that wanders, and its labels."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:48, :48]
    blob = np.stack([np.hypot(y - 24 - 8 * np.sin(k / 2), x - 24 - 8 * np.cos(k / 2)) < 9 for k in range(n)])
    images = 90 + 70 * blob + rng.normal(0, 8, blob.shape)
    return images.clip(0, 255).astype("uint8"), blob.astype("uint8")


def test_equal_slices_give_equal_datasets_whatever_the_format(tmp_path, emvfm):
    images, labels = _scene()
    digests, hashes = {}, {}
    for n, kind in enumerate(("BigTIFF", "HDF5", "Zarr v2", "Zarr v3 sharded", "OME-Zarr 0.5", "N5")):
        if kind == "Zarr v3 sharded":
            raw, mito = tmp_path / "a" / "v.zarr", tmp_path / "b" / "v.zarr"
            for path, values in ((raw, images), (mito, labels)):
                array = zarr.create_array(
                    path, shape=values.shape, dtype="u1", chunks=(1, 16, 16), shards=(4, 48, 48)
                )
                array[:] = values
                array.attrs["resolution"] = [Z_NM, NM, NM]
        else:
            raw, mito = _write(kind, tmp_path / f"{n}a", images), _write(kind, tmp_path / f"{n}b", labels)
        emvfm("compose", f"d{n}", "--images", raw, "--masks", mito, "--domain", "em")
        dataset = load_dataset(tmp_path / "ws" / "datasets" / f"d{n}")
        assert {s.pixel_size_nm for s in dataset.samples} == {NM}
        assert {s.volume for s in dataset.samples} == {"em-stack-v"}
        for sample in dataset.samples:
            assert np.array_equal(read_page(dataset.image_path(sample), None), images[sample.z])
            assert np.array_equal(read_mask(dataset.mask_path(sample)), labels[sample.z] > 0)
        digests[kind] = dataset.digest
        hashes[kind] = sorted((s.z, s.image_sha256, s.mask_sha256) for s in dataset.samples)
    assert len(set(digests.values())) == 1
    assert all(found == hashes["BigTIFF"] for found in hashes.values())


def test_composing_from_names_inside_one_file(tmp_path, emvfm):
    images, labels = _scene()
    path = _hdf5(_hdf5(tmp_path / "v.h5", images), labels, "volumes/labels/mito")
    given = ("--images", f"{path}:/volumes/raw", "--masks", f"{path}:/volumes/labels/mito")
    emvfm("compose", "d", *given)
    dataset = load_dataset(tmp_path / "ws" / "datasets" / "d")
    assert {s.domain for s in dataset.samples} == {"v.h5"}
    mapping = (dataset.root / "mapping.csv").read_text()
    assert f"{path}:/volumes/raw#3,{path}:/volumes/labels/mito#3" in mapping
    with h5py.File(path, "a") as file:
        file["volumes/raw"].attrs["resolution"] = [Z_NM, 8.0, 8.0]
    emvfm("compose", "e", *given, code=4)
    emvfm("compose", "e", *given, "--pixel-size", 8)
    assert {s.pixel_size_nm for s in load_dataset(tmp_path / "ws" / "datasets" / "e").samples} == {8.0}
    emvfm("compose", "f", "--images", path, "--masks", path, code=2)
    emvfm("compose", "f", "--images", f"{path}:/raw", "--masks", path, code=3)
