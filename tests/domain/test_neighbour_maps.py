"""Maps of neighbours: repeatable, neighbours kept, and a plain word where a package is missing."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from emvfm.domain.neighbour_maps import REMARK, Method, neighbour_map, require_package
from emvfm.errors import MissingError, UsageError


def _groups(n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), n)
    return rng.normal(size=(3, 10))[label] * 8 + rng.normal(size=(3 * n, 10)), label


@pytest.mark.parametrize("method", ["umap", "tsne", "pacmap"])
def test_groups_stay_together_and_a_seed_repeats(method: Method) -> None:
    package = {"umap": "umap", "tsne": "openTSNE", "pacmap": "pacmap"}[method]
    pytest.importorskip(package)
    rows, label = _groups()
    found = neighbour_map(rows, method, neighbours=10, perplexity=10, seed=4)
    assert found.coordinates.shape == (90, 2)
    assert np.isfinite(found.coordinates).all()
    distance = np.linalg.norm(found.coordinates[:, None] - found.coordinates, axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (label[distance.argmin(axis=1)] == label).mean() > 0.95
    again = neighbour_map(rows, method, neighbours=10, perplexity=10, seed=4)
    np.testing.assert_array_equal(found.coordinates, again.coordinates)
    other = neighbour_map(rows, method, neighbours=10, perplexity=10, seed=5)
    assert method == "tsne" or not np.allclose(found.coordinates, other.coordinates)
    record = json.loads(json.dumps(found.to_json()))
    assert record["remark"] == REMARK
    assert record["seed"] == record["parameters"]["random_state"] == 4
    assert record["library"].split()[1][0].isdigit()


def test_other_libraries_keep_their_threads() -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            neighbour_map(_groups()[0][:30])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_few_rows_do() -> None:
    require_package("umap")
    assert neighbour_map(_groups()[0][:5]).coordinates.shape == (5, 2)


@pytest.mark.parametrize(
    ("method", "package"), [("tsne", "openTSNE"), ("pacmap", "pacmap"), ("umap", "umap")]
)
def test_a_missing_package_is_named(method: Method, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for attempt in (lambda: neighbour_map(_groups()[0], method), lambda: require_package(method)):
        with pytest.raises(MissingError) as caught:
            attempt()
        assert "pip install" in str(caught.value)
        assert method in str(caught.value)


@pytest.mark.parametrize("rows", [np.ones((3, 2)), np.ones(9), np.full((9, 2), np.nan)])
def test_what_has_no_map(rows: np.ndarray) -> None:
    with pytest.raises(UsageError):
        neighbour_map(rows)
    with pytest.raises(UsageError, match="no such method"):
        neighbour_map(np.ones((9, 2)), "isomap")  # type: ignore[arg-type]
