"""Objects of masks against scikit-image, closed forms and turned copies of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label
from skimage.measure import regionprops

from emvfm.backbones.baselines.structure.objects import SHAPES, Objects, objects_of
from emvfm.backbones.baselines.structure.presets import PRESETS, describe, feature_names
from emvfm.errors import CorruptError


def blobs(seed: int = 0, side: int = 90) -> np.ndarray:
    """Labels of smooth random shapes of many sizes."""
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).standard_normal((side, side)), 3)
    return np.asarray(label(field > 0.03)[0])


@pytest.mark.parametrize("seed", range(3))
def test_shapes_are_scikit_images(seed: int) -> None:
    labels = blobs(seed)
    found, theirs = objects_of(labels), regionprops(labels)
    assert found.shapes is not None
    names = list(SHAPES)

    def column(name: str) -> np.ndarray:
        assert found.shapes is not None
        return found.shapes[:, names.index(name)]

    np.testing.assert_array_equal(column("area"), [r.area for r in theirs])
    np.testing.assert_allclose(column("perimeter"), [r.perimeter for r in theirs])
    np.testing.assert_allclose(found.points[:, ::-1] - 0.5, [r.centroid for r in theirs])
    # A pixel is a square here and a point there: 16 / 12 more along each axis of the ellipse, squared.
    for name in ("major", "minor"):
        axis = np.array([getattr(r, f"axis_{name}_length") for r in theirs])
        theirs_squared = axis**2 + (16 / 12 if _points_only() else 0)
        np.testing.assert_allclose(column(f"{name}-axis") ** 2, theirs_squared, rtol=1e-6, atol=1e-6)
    large = column("area") > 100
    solidity = np.array([r.solidity for r in theirs])
    np.testing.assert_allclose(column("solidity")[large], solidity[large], atol=0.03)


def _points_only() -> bool:
    """Whether this scikit-image takes pixels as points."""
    return regionprops(np.ones((1, 1), int))[0].axis_major_length == 0


def test_a_rectangle_and_a_disc() -> None:
    labels = np.zeros((60, 60), int)
    labels[5:15, 10:50] = 3
    y, x = np.mgrid[:60, :60]
    labels[(y - 38) ** 2 + (x - 30) ** 2 <= 15**2] = 9  # numbers need not be consecutive
    found = objects_of(labels)
    assert found.shapes is not None
    of = [dict(zip(SHAPES, row, strict=True)) for row in found.shapes]
    assert of[0]["area"] == 400
    assert of[0]["major-axis"] == pytest.approx(40 * 2 / np.sqrt(3))
    assert of[0]["eccentricity"] == pytest.approx(np.sqrt(1 - 1 / 16))
    assert of[0]["solidity"] == 1
    assert of[1]["eccentricity"] < 0.05
    assert of[1]["circularity"] > 0.9
    assert found.points[0].tolist() == [30, 10]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_change_nothing(turns: int) -> None:
    labels = blobs()
    np.testing.assert_allclose(
        describe(objects_of(np.rot90(labels, turns)), "all"),
        describe(objects_of(labels), "all"),
        rtol=2e-3,
        atol=2e-4,
    )


def test_the_numbers_of_labels_do_not_matter() -> None:
    labels = blobs()
    order = np.concatenate([[0], 7 + 3 * np.random.default_rng(0).permutation(labels.max())])
    np.testing.assert_allclose(
        describe(objects_of(order[labels]), "all"), describe(objects_of(labels), "all"), rtol=1e-5
    )


def test_units_scale_what_has_a_length_and_nothing_else() -> None:
    found = objects_of(blobs())
    names = feature_names("all", unit="nm")
    assert len(names) == len(describe(found, "all"))
    change = describe(found.scaled(10), "all") - describe(found, "all")
    for name, difference in zip(names, change, strict=True):
        power = (
            0 if "log" not in name or "-std" in name else -2 if "1/nm²" in name else 2 if "nm²" in name else 1
        )
        if "log(1+n)" in name:
            power = 0
        assert difference == pytest.approx(power, abs=1e-4), name


@pytest.mark.parametrize("labels", [np.zeros((20, 20), int), np.ones((4, 4), bool), np.eye(20, dtype=int)])
@pytest.mark.parametrize("preset", [p for p in PRESETS if p != "composition"])
def test_few_objects_have_finite_numbers(labels: np.ndarray, preset: str) -> None:
    assert np.isfinite(describe(objects_of(labels), preset)).all()


def test_objects_on_the_border_do_not_count_for_shapes() -> None:
    labels = np.zeros((40, 40), int)
    labels[:2, :30] = 1
    labels[15:25, 15:25] = 2
    inner = np.where(labels == 2, labels, 0)
    np.testing.assert_allclose(describe(objects_of(labels), "shape"), describe(objects_of(inner), "shape"))


def test_wrong_masks_and_cells_are_refused() -> None:
    with pytest.raises(CorruptError, match="negative"):
        objects_of(np.array([[-1, 0], [1, 2]]))
    with pytest.raises(CorruptError, match="label mask"):
        objects_of(np.zeros((3, 3)))
    for wrong in ([[5.0, -0.1]], [[11.0, 1.0]], [[np.nan, 1.0]]):
        with pytest.raises(CorruptError, match="outside"):
            Objects.of_cells(np.array(wrong), (10.0, 10.0))
