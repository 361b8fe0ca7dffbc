"""Labels of tables: nothing disappears without being said."""

from __future__ import annotations

import numpy as np
import pytest

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.labels import (
    drop_grades,
    drop_rare,
    label_matrix,
    map_labels,
    split_labels,
)


def test_cells_are_split_and_what_is_unknown_is_no_label() -> None:
    found = split_labels(["a;b", " b ; a;b", "", "Unknown", "Unknown;c", ";"], unknown=["Unknown"])
    assert found == (("a", "b"), ("b", "a"), (), (), ("c",), ())


def test_grades_keep_what_is_good_enough_and_say_the_rest() -> None:
    labels = (("a", "b"), ("a",), ("b",))
    found, step = drop_grades(labels, [[3, 1], [2], [1]], 2)
    assert found == (("a",), ("a",), ())
    assert step.dropped == {"b": 2}
    assert step.emptied == 1
    assert step.text() == "grade 2 or better: dropped b (2); 1 rows have no label left"
    with pytest.raises(RefusedError, match="2 labels and 1 grades in row 1"):
        drop_grades(labels, [[3], [2], [1]], 2)


def test_a_map_translates_joins_and_drops() -> None:
    labels = (("Cytosol", "Actin"), ("Actin", "Microtubules"), ("Aggresome",), ("Rods",))
    mapping = {"Cytosol": "cytoplasmic", "Actin": "cytoskeleton", "Microtubules": "cytoskeleton", "Rods": ""}
    found, step = map_labels(labels, mapping)
    assert found == (("cytoplasmic", "cytoskeleton"), ("cytoskeleton",), (), ())
    assert step.dropped == {"Aggresome": 1, "Rods": 1}
    assert step.renamed == {k: v for k, v in mapping.items() if v}
    assert step.emptied == 2
    assert "3 labels became 2" in str(step.text())
    same, nothing = map_labels(labels, {name: name for own in labels for name in own})
    assert (same, nothing.text()) == (labels, None)


def test_rare_is_counted_in_groups_not_in_rows() -> None:
    labels = (("a",), ("a",), ("b",), ("b",), ("a", "b"))
    found, step = drop_rare(labels, ["p", "p", "q", "r", "p"], 2)
    assert found == ((), (), ("b",), ("b",), ("b",))
    assert step.dropped == {"a": 3}


def test_the_matrix_is_that_of_the_names() -> None:
    names, table = label_matrix((("b", "a"), (), ("c",)))
    assert names == ("a", "b", "c")
    np.testing.assert_array_equal(table, [[1, 1, 0], [0, 0, 0], [0, 0, 1]])
    with pytest.raises(UsageError, match="no row has a label"):
        label_matrix(((), ()))
