"""Datasets of single images from a table: what comes in comes back, and what is wrong is one line."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from emvfm.cli.app import app
from emvfm.datasets.channel_names import channel_names, channels_text, parse_channels
from emvfm.datasets.compose import compose
from emvfm.datasets.images import read_channels, read_image, write_channels
from emvfm.datasets.manifest import Dataset, load_dataset
from emvfm.datasets.masks import read_mask
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.rows import open_rows
from emvfm.datasets.table_splits import grouped_split
from emvfm.errors import CorruptError, EmvfmError, MissingError, RefusedError, UsageError
from emvfm.workspace import Workspace

N = 12


def _images(shape=(2, 9, 11), dtype="uint16", n=N) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (n, *shape)).astype(dtype)


def _table(path: Path, columns: dict[str, list], *, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def _columns(n: int = N) -> dict[str, list]:
    return {
        "row": list(range(n)),
        "well": [f"{'AB'[i % 2]}{i % 4:02d}" for i in range(n)],
        "label": ["nucleus", "cytosol|nucleus", ""] * (n // 3),
        "note": ["a, b", "µ", "x"] * (n // 3),
    }


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Compose ``made`` from an array and columns, both with changes; the audit has tests of its own."""
    fake = types.ModuleType("emvfm.datasets.audit")
    report = types.SimpleNamespace(verdict="passed", errors=(), to_json=dict)
    vars(fake).update(
        audit_dataset=lambda dataset, seed=0: report,
        write_contact_sheet=lambda dataset, path, flagged=(): path.write_bytes(b""),
    )
    monkeypatch.setitem(sys.modules, "emvfm.datasets.audit", fake)

    def build(images=None, columns=None, **options) -> Dataset:
        file = tmp_path / "crops.npz"
        if isinstance(images, Path):
            file = images
        else:
            np.savez_compressed(file, images=_images() if images is None else images)
        table = options.pop("table", None) or _table(tmp_path / "t.csv", columns or _columns())
        settings = ComposeOptions(**{"images": file, "table": table, "val": 0, "replace": True, **options})
        return compose("made", [], Workspace(tmp_path / "ws"), settings)

    return build


# What comes in comes back


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(2, 9, 11), (9, 11), (1, 9, 11), (9, 11, 3), (5, 9, 11)])
def test_arrays_come_back_in_their_type(make, shape, dtype):
    values = _images(shape, dtype)
    made = make(values)
    expected = (
        values[:, None] if values.ndim == 3 else np.moveaxis(values, -1, 1) if shape[-1] == 3 else values
    )
    assert len(made) == N
    for i, sample in enumerate(made.samples):
        found = read_channels(made.image_path(sample))
        np.testing.assert_array_equal(found, expected[i])
        assert found.dtype == dtype
        assert (sample.height, sample.width, sample.z, sample.mask) == (9, 11, None, None)
        assert sample.id == f"made-{i:06d}"


def test_columns_become_facts_and_channels_are_told(make):
    made = make(channels="gfp:FKHR-GFP:509,dna", split_by=("well=B01,B03",), labels="label")
    assert channel_names(made) == ("gfp", "dna")
    assert channels_text(made.meta["channels"]) == "gfp (FKHR-GFP, 509 nm), dna"
    first, second = made.samples[:2]
    assert dict(first.facts) == {"row": "0", "well": "A00", "label": "nucleus", "note": "a, b"}
    assert second.facts["label"] == "cytosol;nucleus"
    assert {s.facts["well"] for s in made.split("test").samples} == {"B01", "B03"}
    assert {s.volume for s in made.samples} == {f"made-{w}" for w in ("A00", "B01", "A02", "B03")}
    assert made.meta["split"]["scheme"] == "values of well"
    rows = list(csv.DictReader((made.root / "mapping.csv").open()))
    assert rows[3]["src_image_abs"].endswith("crops.npz#3")
    again = load_dataset(made.root)
    assert again.digest == made.digest
    merged = compose("merged", ["made"], Workspace(made.root.parents[1]), ComposeOptions(allow_unmasked=True))
    assert channel_names(merged) == ("gfp", "dna")
    assert [dict(s.facts) for s in merged.samples] == [dict(s.facts) for s in made.samples]
    assert merged.digest == made.digest


def test_rows_may_be_in_any_order_and_left_out(make, tmp_path):
    columns = _columns()
    columns["row"] = columns["row"][::-1]
    made = make(columns=columns, where=("well=A00,A02",), test=0)
    wanted = [r for r, w in zip(columns["row"], columns["well"], strict=True) if w[0] == "A"]
    for row, sample in zip(wanted, made.samples, strict=True):
        np.testing.assert_array_equal(read_channels(made.image_path(sample)), _images()[row])


def test_padding_is_cut_away(make):
    columns = _columns() | {"h": [5] * N, "w": [3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 2, 1]}
    made = make(columns=columns, crop="h,w")
    assert [(s.height, s.width) for s in made.samples] == [(5, w) for w in columns["w"]]
    np.testing.assert_array_equal(read_channels(made.image_path(made.samples[0])), _images()[0, :, :5, :3])
    with pytest.raises(CorruptError, match="beyond the image"):
        make(columns={**columns, "h": [99] * N}, crop="h,w")


def _files(folder: Path, n: int = N) -> Path:
    folder.mkdir()
    for i, values in enumerate(_images((2, 9, 11), "uint8", n)):
        for name, plane in zip(("g", "d"), values, strict=True):
            Image.fromarray(plane).save(folder / f"{i}_{name}.png")
    return folder


def test_files_named_in_a_column_and_one_file_a_channel(make, tmp_path):
    folder = _files(tmp_path / "files")
    columns = {"file": [f"{i}_g.png" for i in range(N)], "other": [f"{i}_d.png" for i in range(N)]}
    made = make(folder, columns)
    np.testing.assert_array_equal(read_image(made.image_path(made.samples[4])), _images(dtype="uint8")[4, 0])
    both = make(folder, columns, image_column=("file", "other"), channels="gfp,dna")
    for i, sample in enumerate(both.samples):
        np.testing.assert_array_equal(read_channels(both.image_path(sample)), _images(dtype="uint8")[i])


def test_ids_splits_domains_and_sizes_of_the_table(make):
    columns = _columns() | {
        "id": [f"cell.{i}" for i in range(N)],
        "split": (["train"] * 6 + ["Test"] * 6),
        "domain": ["u2os", "hek"] * (N // 2),
        "pixel_size_nm": ["325", ""] * (N // 2),
        "height": ["7"] * N,
    }
    made = make(columns=columns)
    assert [s.id for s in made.samples] == columns["id"]
    assert [s.split for s in made.samples] == ["train"] * 6 + ["test"] * 6
    assert {(s.domain, s.pixel_size_nm) for s in made.samples} == {("u2os", 325.0), ("hek", None)}
    assert made.samples[0].facts["source_height"] == "7"


def test_tab_separated_and_packed_tables(make, tmp_path):
    text = _table(tmp_path / "t.tsv", _columns(), delimiter="\t").read_bytes()
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + text))
    first = make(table=tmp_path / "t.tsv")
    assert make(table=tmp_path / "t.tsv.gz").digest == first.digest


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 9), min_size=4, max_size=60).filter(lambda g: len(set(g)) >= 3),
    st.integers(0, 5),
    st.randoms(),
)
def test_no_group_is_on_two_sides(groups, seed, shuffle):
    names = [f"g{g}" for g in groups]
    splits = grouped_split(names, val=0.1, test=0.2, seed=seed)
    sides = {g: {s for s, name in zip(splits, names, strict=True) if name == g} for g in names}
    assert all(len(side) == 1 for side in sides.values())
    assert {s for side in sides.values() for s in side} == {"train", "val", "test"}
    order = list(range(len(names)))
    shuffle.shuffle(order)
    turned = grouped_split([names[i] for i in order], val=0.1, test=0.2, seed=seed)
    assert turned == [splits[i] for i in order]


# What is wrong is one line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": ["a"] * N}, "an id twice"),
        ({"id": ["../x"] * N}, "unusable id"),
        ({"id": [*"abcdefghijk", "A"]}, "upper and lower"),
        ({"row": [0] * N}, "an image twice"),
        ({"row": [*range(N - 1), 12]}, "no such image in the array"),
        ({"row": [*range(N - 1), -1]}, "no such image in the array"),
        ({"row": [*range(N - 1), "1e1"]}, "no such image in the array"),
        ({"a=b": ["x"] * N}, "name of a column"),
        ({"pixel_size_nm": ["nan"] * N}, "pixel size"),
        ({"split": ["holdout"] * N}, "not a split"),
        ({"note": ["a\x00b"] * N}, "value of a column"),
        ({"domain": ["a/b"] * N}, "domain name"),
    ],
)
def test_hostile_tables(make, changes, said):
    with pytest.raises(EmvfmError, match=said) as caught:
        make(columns={**_columns(), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "without rows"),
        (b"a,b\n", "without rows"),
        (b"a,a\n1,2\n", "a column twice"),
        (b"a,\n1,2\n", "without a name"),
        (b"a,b\n1\n", "another length"),
        (b"a,b\n1,2,3\n", "another length"),
        (b'a,b\n"1,2\n', "not a table"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_damaged_tables(make, tmp_path, data, said):
    (tmp_path / "bad.csv").write_bytes(data)
    with pytest.raises(CorruptError, match=said):
        make(table=tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((9,), {}, "no array of images"),
        ((2, 2, 9, 11), {}, "no array of images"),
        ((100, 99, 11), {}, "no axis of channels"),
        ((2, 9, 11), {"channels": "a,b,c"}, "no axis of channels"),
        ((9, 11), {"channels": "a,b"}, "not the channels"),
        ((2, 0, 11), {}, "no array of images"),
    ],
)
def test_arrays_of_the_wrong_shape(make, shape, options, said):
    with pytest.raises(CorruptError, match=said):
        make(_images(shape), **options)


def test_damaged_arrays(make, tmp_path):
    whole = tmp_path / "crops.npz"
    np.savez_compressed(whole, images=_images())
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(CorruptError, match="damaged array"):
        make(cut)
    noise = tmp_path / "noise.npy"
    noise.write_bytes(b"\x93NUMPY" + bytes(50))
    with pytest.raises(CorruptError, match="damaged array"):
        make(noise)
    np.save(tmp_path / "short.npy", _images())
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:-7])
    with pytest.raises(CorruptError, match="damaged array"):
        make(tmp_path / "short.npy")
    np.save(tmp_path / "objects.npy", np.array([{}] * N, dtype=object), allow_pickle=True)
    with pytest.raises(CorruptError, match="damaged array"):
        make(tmp_path / "objects.npy")
    with pytest.raises(CorruptError, match="not finite"):
        make(np.full((N, 9, 11), np.nan, np.float32))
    with pytest.raises(CorruptError, match="type complex"):
        make(np.zeros((N, 9, 11), complex))
    np.savez(tmp_path / "two.npz", a=_images(), b=_images())
    with pytest.raises(UsageError, match="which array"):
        make(tmp_path / "two.npz")
    assert len(make(tmp_path / "two.npz:b")) == N
    with pytest.raises(MissingError, match="no such array"):
        make(tmp_path / "two.npz:c")
    with pytest.raises(MissingError):
        make(tmp_path / "absent.npz")
    with pytest.raises(UsageError, match="not one row an image"):
        make(_images(n=15), {k: v for k, v in _columns().items() if k != "row"})


def test_files_that_are_not_there_or_elsewhere(make, tmp_path):
    folder = _files(tmp_path / "files")
    good = [f"{i}_g.png" for i in range(N)]
    for name, said in (("../x.png", "outside"), ("/etc/passwd", "outside"), ("", "outside")):
        with pytest.raises(CorruptError, match=said):
            make(folder, {"file": [*good[1:], name]})
    with pytest.raises(MissingError, match=r"t\.csv:13"):
        make(folder, {"file": [*good[1:], "absent.png"]})
    with pytest.raises(UsageError, match="which column"):
        make(folder, {"thing": good})
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "small.png")
    with pytest.raises(CorruptError, match="different size"):
        make(folder, {"g": good, "d": ["small.png"] * N}, image_column=("g", "d"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split_by": ("plate",)}, "no such column"),
        ({"split_by": ("well=Z9",)}, "no such value"),
        ({"split_by": ("well=A00", "note=x")}, "one column decides"),
        ({"split_by": ("well=A00", "well=val:A00")}, "two splits"),
        ({"split_by": ("well=A00,",)}, "not a choice"),
        ({"where": ("well=Z9",)}, "no row is so"),
        ({"where": ("well",)}, "no row is so"),
        ({"labels": "well"}, "column label already"),
        ({"channels": "a,a"}, "a channel twice"),
        ({"channels": "a/b"}, "channel name"),
        ({"channels": "a:x:blue,b"}, "not a wavelength"),
        ({"split": "block"}, "not a split of this table"),
        ({"masks": Path("m")}, "no masks to pair"),
        ({"crop": "h"}, "two columns"),
        ({"crop": "note,row"}, "not a size"),
    ],
)
def test_options_that_do_not_fit(make, options, said):
    with pytest.raises(EmvfmError, match=said):
        make(**options)


def test_too_few_groups():
    with pytest.raises(RefusedError, match="too few groups"):
        grouped_split(["a", "b"], val=0.1, test=0.2)


# Images of several channels


def test_channels_of_any_tiff_and_none_that_are_more_than_that(tmp_path):
    values = _images(n=1)[0]
    for name, options in {
        "ome.tif": {"ome": True, "metadata": {"axes": "CYX"}},
        "imagej.tif": {"imagej": True, "metadata": {"axes": "CYX"}},
        "tiled.tif": {"tile": (16, 16), "metadata": {"axes": "CYX"}, "photometric": "minisblack"},
    }.items():
        tifffile.imwrite(tmp_path / name, values, **options)
        np.testing.assert_array_equal(read_channels(tmp_path / name), values)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.moveaxis(values, 0, -1))
        with open_rows(tmp_path / name) as rows:
            assert rows.shape == (9, 11, 2)
        with pytest.raises(CorruptError, match="several channels"):
            read_mask(tmp_path / name)
    same = write_channels(tmp_path / "same.tif", np.repeat(values[:1], 3, axis=0))
    assert read_channels(same).shape == (3, 9, 11)
    assert read_image(same).shape == (9, 11)
    tifffile.imwrite(tmp_path / "z.tif", np.stack([values] * 3), imagej=True, metadata={"axes": "ZCYX"})
    with pytest.raises(CorruptError, match="several channels and more"):
        read_channels(tmp_path / "z.tif")
    whole = same.read_bytes()
    same.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptError):
        read_channels(same)


def test_what_is_said_of_channels(make):
    assert [c.stain for c in parse_channels("a, b:DAPI")] == [None, "DAPI"]
    made = make(channels="a,b")
    for wrong in ("ab", [{"name": "a"}, {"name": "a"}], [{"name": 3}], [], [[]]):
        with pytest.raises(CorruptError, match=r"dataset\.json"):
            channel_names(Dataset("x", made.root, made.samples, {"channels": wrong}))


# The command


def test_the_command_composes_lists_and_shows(tmp_path):
    np.savez_compressed(tmp_path / "crops.npz", images=_images())
    table = _table(tmp_path / "t.csv", _columns())
    run = lambda *words: CliRunner().invoke(app, ["data", *map(str, words), "--root", str(tmp_path / "ws")])  # noqa: E731
    found = run(
        "compose", "made", "--table", table, "--images", tmp_path / "crops.npz", "--channels", "gfp,dna",
        "--split-by", "well=B01",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "channels gfp, dna" in found.output
    assert "facts    row (12), well (4), label (2), note (3)" in found.output
    assert "gfp, dna" in run("list").output
    shown = json.loads(run("show", "made", "--json").output)
    assert shown["facts"] == ["row", "well", "label", "note"]
    assert shown["channels"][0] == {"name": "gfp", "stain": None, "wavelength_nm": None}
    wrong = run("compose", "other", "--images", tmp_path / "crops.npz", "--where", "well=B01")
    assert wrong.exit_code == 2
    assert "this goes with --table" in wrong.output
