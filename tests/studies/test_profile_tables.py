"""Tables of features from other hands: what is a feature, what a fact, and what is refused in one line."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from emvfm.errors import CorruptError, EmvfmError, MissingError, RefusedError, UsageError
from emvfm.studies import profile_tables
from emvfm.studies.profile_tables import is_table, read_feature_table, read_rows

TEXT = "Metadata_Plate,compound,f1,Metadata_Dose,f2\np1, a ,1.5,10,-2e3\np2,b,2,20,0.25\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_are_features_unless_the_name_says_metadata(tmp_path: Path) -> None:
    table = read_feature_table(write(tmp_path / "t.csv", TEXT))
    assert table.columns == ("f1", "f2")
    np.testing.assert_array_equal(table.features, np.float32([[1.5, -2e3], [2, 0.25]]))
    assert table.facts == {"Plate": ("p1", "p2"), "compound": ("a", "b"), "Dose": ("10", "20")}
    assert table.features.dtype == np.float32


def test_the_same_table_in_every_form(tmp_path: Path) -> None:
    plain = read_feature_table(write(tmp_path / "t.csv", TEXT))
    with gzip.open(tmp_path / "t.CSV.gz", "wt") as stream:
        stream.write(TEXT)
    write(tmp_path / "t.tsv", TEXT.replace(",", "\t"))
    write(tmp_path / "bom.csv", "\ufeff" + TEXT.replace("\n", "\r\n"))
    np.savez(
        tmp_path / "t.npz", features=plain.features, columns=["f1", "f2"], Metadata_Plate=["p1", "p2"],
        compound=np.array([b"a", b"b"]), Metadata_Dose=[10, 20], other=np.zeros(5), picture=np.zeros((2, 3, 4)),
    )  # fmt: skip
    for name in ("t.CSV.gz", "t.tsv", "bom.csv", "t.npz"):
        assert is_table(name)
        found = read_feature_table(tmp_path / name)
        assert (found.columns, found.facts) == (plain.columns, plain.facts), name
        np.testing.assert_array_equal(found.features, plain.features)


def test_columns_can_be_named_as_facts(tmp_path: Path) -> None:
    table = read_feature_table(write(tmp_path / "t.csv", TEXT), described=["f1", "Metadata_Plate"])
    assert table.columns == ("f2",)
    assert table.facts["f1"] == ("1.5", "2")
    with pytest.raises(UsageError, match="no such column"):
        read_feature_table(tmp_path / "t.csv", described=["f3"])


def test_text_far_down_makes_a_column_a_fact_with_all_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_tables, "_CHUNK", 4)
    rows = [[str(i), "7" if i < 17 else "x", str(i / 2), "" if i < 9 else "y"] for i in range(23)]
    text = "a,late,b,later\n" + "".join(",".join(row) + "\n" for row in rows)
    table = read_feature_table(write(tmp_path / "t.csv", text))
    assert table.columns == ("a", "b")
    np.testing.assert_array_equal(table.features[:, 0], np.arange(23))
    assert table.facts["late"] == tuple(row[1] for row in rows)
    assert table.facts["later"] == tuple(row[3] for row in rows)


def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(31, 5)).astype(np.float32)
    text = "n,a,b,c,d,e\n" + "".join(
        f"r{i}," + ",".join(map(repr, row.tolist())) + "\n" for i, row in enumerate(values)
    )
    path = write(tmp_path / "t.csv", text)
    whole = read_feature_table(path)
    monkeypatch.setattr(profile_tables, "_CHUNK", 3)
    parts = read_feature_table(path)
    np.testing.assert_array_equal(whole.features, values)
    np.testing.assert_array_equal(parts.features, values)
    assert parts.facts == whole.facts


def test_missing_values_are_refused_or_left_out_and_an_empty_column_is_no_feature(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b,c,d,empty\n1,,3,1e39,\n4,nan,6,2,NA\n7,8,9,3,\n")
    with pytest.raises(RefusedError, match=r"2 of 4 columns, the first is b.*--drop-missing"):
        read_feature_table(path)
    table = read_feature_table(path, drop_missing=True)
    assert table.columns == ("a", "c")
    assert table.facts == {"empty": ("", "", "")}
    only = write(tmp_path / "only.csv", "a\n1\nnan\n")
    with pytest.raises(RefusedError, match="mend the table"):
        read_feature_table(only, drop_missing=True)


def test_a_short_name_that_is_taken_stays_long(tmp_path: Path) -> None:
    table = read_feature_table(write(tmp_path / "t.csv", "Metadata_Plate,Plate,f\np,q,1\n"))
    assert table.facts == {"Metadata_Plate": ("p",), "Plate": ("q",)}


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("none.csv", None, MissingError, "no such table"),
        ("none.npz", None, MissingError, "no such table"),
        ("t.csv", b"", CorruptError, "empty table"),
        ("t.csv", b"a,b\n", CorruptError, "without rows"),
        ("t.csv", b"a,b\n1,2,3\n", CorruptError, "row 2: a row of another length"),
        ("t.csv", b"a,,c\n1,2,3\n", CorruptError, "column 2 of 3"),
        ("t.csv", b"a,b,a\n1,2,3\n", CorruptError, "name twice"),
        ("t.csv", b"a,b\n\xff\xfe,1\n", CorruptError, "not a readable table"),
        ("t.csv", b'a,b\n"1,2\n', CorruptError, "not a readable table"),
        ("t.csv", b"a,b\nx,y\n", UsageError, "no features"),
        ("t.csv", b"a,b\n1_0,y\n", UsageError, "no features"),
        ("t.csv", b"a\n" + b"1" * 200_000 + b"\n", CorruptError, "not a readable table"),
        ("t.csv.gz", b"not gzip at all", CorruptError, "not a readable table"),
        ("t.csv.gz", gzip.compress(TEXT.encode(), mtime=0)[:-12], CorruptError, "not a readable table"),
        ("t.npz", b"PK\x03\x04 cut", CorruptError, "not a readable archive"),
        ("t.npz", b"", CorruptError, "not a readable archive"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, error: type[EmvfmError], match: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=match) as caught:
        read_feature_table(path)
    assert "\n" not in str(caught.value)


def test_archives_that_hold_objects_or_too_many_matrices_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "objects.npz", features=np.array([[{}]], dtype=object))
    with pytest.raises(CorruptError, match="not a readable archive"):
        read_feature_table(tmp_path / "objects.npz")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 2)), b=np.zeros((2, 2)))
    with pytest.raises(UsageError, match="one named features"):
        read_feature_table(tmp_path / "two.npz")
    np.savez(tmp_path / "none.npz", features=np.zeros((0, 4)))
    with pytest.raises(CorruptError, match="without rows"):
        read_feature_table(tmp_path / "none.npz")


def test_a_table_that_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_tables, "MOST_CHARACTERS", 1000)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as stream:
        stream.write("a\n" + "1\n" * 5000)
    with pytest.raises(UsageError, match="too large"):
        read_feature_table(tmp_path / "t.csv.gz")
    monkeypatch.undo()
    monkeypatch.setattr(profile_tables, "MOST_VALUES", 100)
    with pytest.raises(UsageError, match="too large"):
        read_feature_table(tmp_path / "t.csv.gz")


def test_small_tables_are_read_as_text(tmp_path: Path) -> None:
    names, rows = read_rows(write(tmp_path / "t.tsv", "a\tb\n 1 \tx y\n\n2\t\n"))
    assert (names, rows) == (["a", "b"], [["1", "x y"], ["2", ""]])
    assert csv.field_size_limit() == 131072
