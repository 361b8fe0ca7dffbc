"""The phantom: deterministic, exact, continuous in z, and not solved by a threshold."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from emvfm.datasets.phantom import DOMAINS, make_phantom, write_phantom
from emvfm.errors import UsageError


@pytest.fixture(scope="module")
def phantoms():
    return {name: make_phantom(name, 8, 192, seed=1) for name in DOMAINS}


def _iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_shapes_types_and_a_foreground_that_can_be_learned(phantoms, name):
    phantom = phantoms[name]
    assert phantom.images.shape == phantom.masks.shape == (8, 192, 192)
    assert phantom.images.dtype == np.uint8
    assert phantom.masks.dtype == bool
    assert 0.02 < phantom.masks.mean() < 0.3
    assert phantom.images.std() > 15
    assert np.mean((phantom.images == 0) | (phantom.images == 255)) < 0.05


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_no_threshold_finds_the_mitochondria(phantoms, name):
    phantom = phantoms[name]
    best = 0.0
    for threshold in range(0, 256, 4):
        for found in (phantom.images < threshold, phantom.images >= threshold):
            best = max(best, _iou(found, phantom.masks))
    assert best < 0.45


@pytest.mark.parametrize("name", sorted(DOMAINS))
def test_neighbouring_slices_resemble_each_other(phantoms, name):
    masks = phantoms[name].masks
    near = np.mean([_iou(masks[k], masks[k + 1]) for k in range(7)])
    far = np.mean([_iou(masks[k], masks[k + 5]) for k in range(3)])
    assert near > 0.5
    assert near > far


def test_mask_edges_lie_on_image_edges(phantoms):
    """The drawn membrane is dark where the mask ends: a ring of 2 px is darker than its surroundings."""
    from scipy.ndimage import binary_dilation, binary_erosion

    for phantom in phantoms.values():
        ring = phantom.masks & ~np.stack([binary_erosion(m, iterations=2) for m in phantom.masks])
        outside = (
            np.stack([binary_dilation(m, iterations=5) for m in phantom.masks])
            & ~np.stack([binary_dilation(m, iterations=2) for m in phantom.masks])
        )  # fmt: skip
        assert phantom.images[ring].mean() < phantom.images[outside].mean() - 15


def test_domains_differ_and_seeds_differ(phantoms):
    a, b = phantoms["a"].images, phantoms["b"].images
    assert b.std() > 1.2 * a.std()  # contrast
    noise = [np.abs(np.diff(x.astype(float), axis=2)).mean() for x in (a, b)]
    assert noise[1] > 1.3 * noise[0]
    assert not np.array_equal(make_phantom("a", 1, 64, 1).images, make_phantom("a", 1, 64, 2).images)


def test_same_bytes_in_another_process():
    code = (
        "import hashlib; from emvfm.datasets.phantom import make_phantom as m;"
        "p = m('b', 2, 64, 7); print(hashlib.sha256(p.images.tobytes() + p.masks.tobytes()).hexdigest())"
    )
    phantom = make_phantom("b", 2, 64, 7)
    expected = hashlib.sha256(phantom.images.tobytes() + phantom.masks.tobytes()).hexdigest()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == expected


@pytest.mark.parametrize("size", [16, 33, 50])
def test_any_size(size):
    phantom = make_phantom("a", 1, size, 0)
    assert phantom.images.shape == (1, size, size)


def test_written_files_are_the_arrays_and_tell_the_truth(tmp_path):
    truth = write_phantom(tmp_path / "p", "a", 3, 64, seed=5)
    phantom = make_phantom("a", 3, 64, seed=5)
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["images", "masks", "phantom.json"]
    for k in range(3):
        image = np.array(Image.open(tmp_path / "p" / "images" / f"slice_{k:03d}.png"))
        mask = np.array(Image.open(tmp_path / "p" / "masks" / f"slice_{k:03d}.png"))
        assert np.array_equal(image, phantom.images[k])
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(mask > 127, phantom.masks[k])
    assert json.loads((tmp_path / "p" / "phantom.json").read_text()) == truth
    assert truth["pixel_size_nm"] == DOMAINS["a"].pixel_size_nm
    assert truth["foreground_share"] == pytest.approx(phantom.masks.mean(), abs=1e-6)


@pytest.mark.parametrize(("name", "n", "size"), [("c", 4, 64), ("a", 0, 64), ("a", 4, 8), ("a", 4, 10**6)])
def test_what_cannot_be_drawn_is_refused(name, n, size):
    with pytest.raises(UsageError):
        make_phantom(name, n, size)
