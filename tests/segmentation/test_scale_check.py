"""Pixel sizes that differ from those of the training are told, with the numbers."""

from __future__ import annotations

import pytest

from emvfm.segmentation.scale_check import scale_remarks


def _of(size: float | None, name: str = "it") -> tuple[str, tuple[float | None, float | None, float | None]]:
    return name, (50.0, size, size)


@pytest.mark.parametrize("size", [None, 5.0, 5.5, 4.6, 8.0, 8.7])
def test_sizes_within_a_tenth_of_any_of_the_training_pass(size: float | None) -> None:
    assert scale_remarks([5.0, 8.0], [_of(size)], "native") == []


def test_another_size_is_told_with_numbers_once_for_all_images_of_it() -> None:
    images = [_of(10.0, "a"), _of(5.0, "b"), _of(10.0, "c"), _of(2.5, "d")]
    fine, coarse = scale_remarks([5.0], images, "native")
    assert fine.startswith("d: pixels of 2.5 nm, but the run was trained at native size on pixels of 5 nm")
    assert "2.00 times as large" in fine
    assert coarse.startswith("2 images (a …): pixels of 10 nm")
    assert "0.50 times as large" in coarse


def test_oblong_pixels_count_by_their_area() -> None:
    assert scale_remarks([4.0], [("it", (None, 2.0, 8.0))], "x2") == []
    assert len(scale_remarks([4.0], [("it", (None, 8.0, 8.0))], "x2")) == 1


@pytest.mark.parametrize("input_size", ["5nm", "518"])
def test_a_run_that_brings_images_to_a_size_needs_no_remark(input_size: str) -> None:
    assert scale_remarks([5.0], [_of(50.0)], input_size) == []


def test_without_known_sizes_nothing_is_said() -> None:
    assert scale_remarks([], [_of(50.0)], "native") == []
