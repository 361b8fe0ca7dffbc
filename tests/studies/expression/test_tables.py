"""Tables of counts as published, and as nobody should publish them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from emvfm.errors import CorruptError, EmvfmError, MissingError, UsageError
from emvfm.studies.expression.tables import find_tables, read_counts, table_stem


def _file(folder: Path, text: str, name: str = "t.tsv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\tg1\tg2\na\t1\t2\nb\t3\t4.5\n", "t.tsv"),
        ("\tg1\tg2\r\na\t1\t2\r\nb\t3\t4.5\r\n", "t.tsv.gz"),
        ("g1\tg2\na\t1\t2\nb\t3\t4.5\n", "t.txt"),
        (',"g1","g2"\n"a",1,2\n"b",3,4.5\n', "t.csv"),
        ("g1 g2\na 1 2\nb 3 4.5\n", "t.txt"),
        ("\ufeffid\tg1\tg2\na\t1\t2\n\nb\t3\t4.5\n", "t.tsv"),
    ],
)
def test_the_ways_in_which_counts_are_published(tmp_path: Path, text: str, name: str) -> None:
    table = read_counts(_file(tmp_path, text, name))
    assert (table.rows, table.columns) == (("a", "b"), ("g1", "g2"))
    assert table.values.tolist() == [[1, 2], [3, 4.5]]
    assert table.values.dtype == np.float32


def test_spots_may_be_columns(tmp_path: Path) -> None:
    table = read_counts(_file(tmp_path, "c1\tc2\tc3\nA\t1\t2\t3\nB\t4\t5\t6\n"))
    turned = table.by_spot(["c3", "c1"])
    assert turned.rows == ("c1", "c2", "c3")
    assert turned.values.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert table.by_spot(["A"]) is table
    with pytest.raises(UsageError, match="none of the spots"):
        table.by_spot(["x"])


@pytest.mark.parametrize(
    "text",
    [
        "", "\n\n", "a\tb\n", "just words", "\tg1\tg2\na\t1\n", "\tg1\tg2\na\t1\t2\t3\n", "\tg1\tg2\na\t1\tx\n",
        "\tg1\tg2\na\t1\t-2\n", "\tg1\tg2\na\t1\tnan\n", "\tg1\tg2\na\t1\tinf\n", "\tg1\tg2\na\t1\t1e300\n",
        "\tg1\tg1\na\t1\t2\n", "\tg1\tg2\na\t1\t2\na\t1\t2\n", "\tg1\t\na\t1\t2\n", "\tg1\tg2\na\t\t2\n",
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(CorruptError) as caught:
        read_counts(_file(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_damaged_archives_and_bytes(tmp_path: Path) -> None:
    whole = gzip.compress(b"\tg1\na\t1\n" * 400)
    for name, data in (
        ("cut.tsv.gz", whole[:-9]),
        ("no.tsv.gz", b"not gzip"),
        ("bin.tsv", b"\xff\xfe\x00" * 9),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(EmvfmError) as caught:
            read_counts(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_folders_and_names(tmp_path: Path) -> None:
    for name in ("C2.tsv.gz", "B1.csv", "read.me"):
        _file(tmp_path, "\tg\na\t1\n", name)
    assert [p.name for p in find_tables([tmp_path])] == ["B1.csv", "C2.tsv.gz"]
    assert [table_stem(Path(n)) for n in ("C2.tsv.gz", "a.b.CSV", "x")] == ["C2", "a.b", "x"]
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "lost.csv"):
        with pytest.raises(MissingError):
            find_tables([path])


def test_the_real_tables(shared_data: Path) -> None:
    table = read_counts(shared_data / "osmfish" / "osmFISH_prep_expression.txt")
    assert (len(table.rows), len(table.columns)) == (33, 5328)
    assert table.rows[0] == "Gad2"
