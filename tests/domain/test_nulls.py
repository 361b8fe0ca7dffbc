"""Two stacks of one kind whose slices depend on each other: p-values are uniform where blocks are long enough.

Every distance and the probe, over many seeded draws of two stacks of one first-order process. Where blocks are shorter
than slices depend on each other, p-values are too small; that is shown for kernels, as it is what the caveat says. The
probe exchanges whole parts, which are longer than its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.stats import kstest

from emvfm.domain.dependence import Dependence, blocks_of_length, dependence_length
from emvfm.domain.folds import plan_folds
from emvfm.domain.probe import ProbeSettings, probe_domains
from emvfm.domain.results import compare_coverage, compare_discrepancies, compare_frechet
from tests.domain.test_dependence import stack

EXCHANGES, DRAWS = 19, 80
Blocks = Callable[[np.ndarray], list[int]]
PValues = Callable[[np.ndarray, np.ndarray, list[int], list[int], int], Sequence[float]]


def _of(length: int) -> Blocks:
    return lambda x: blocks_of_length(["v"] * len(x), range(len(x)), length)


def _measured(x: np.ndarray) -> list[int]:
    """Blocks as ``--block-length 0`` makes them."""
    length = dependence_length(x, ["v"] * len(x), range(len(x)))
    needed = Dependence("", length, 0, 0, len(x)).needed
    assert needed is not None
    return _of(needed)(x)


def _frechet(x: np.ndarray, y: np.ndarray, bx: list[int], by: list[int], seed: int) -> list[float]:
    return [compare_frechet(("a", "b"), x, y, bx, by, permutations=EXCHANGES, repeats=1, seed=seed).p_value]


def _kernels(x: np.ndarray, y: np.ndarray, bx: list[int], by: list[int], seed: int) -> list[float]:
    found = compare_discrepancies(
        ("a", "b"), x, y, bx, by, projections=8, permutations=EXCHANGES, repeats=1, seed=seed
    )
    return [c.p_value for c in found]


def _coverage(x: np.ndarray, y: np.ndarray, bx: list[int], by: list[int], seed: int) -> list[float]:
    found = compare_coverage(("a", "b"), x, y, bx, by, k=3, permutations=EXCHANGES, repeats=1, seed=seed)
    return [c.p_value for c in found]


def _probe(x: np.ndarray, y: np.ndarray, bx: list[int], by: list[int], seed: int) -> list[float]:
    settings = ProbeSettings("linear", pca=2, permutations=EXCHANGES, draws=2, seed=seed)
    plans = [plan_folds(b, ["v"] * len(b), range(len(b)), parts=3, gap=0) for b in (bx, by)]
    found = probe_domains("ab", [x, y], plans, settings)
    assert found.auroc.p_value is not None
    return [found.auroc.p_value]


def p_values(distance: PValues, blocks: Blocks, rho: float, n: int, draws: int) -> np.ndarray:
    """Return ``(draws, measures)`` for pairs of stacks of one kind."""
    rng = np.random.default_rng(17)
    found = []
    for seed in range(draws):
        x, y = stack(rng, n, rho), stack(rng, n, rho)
        found.append(distance(x, y, blocks(x), blocks(y), seed))
    return np.array(found)


def _smoothed(p: np.ndarray) -> np.ndarray:
    """p is one of 1/20 … 20/20; uniform noise within each step makes it continuous for the KS test."""
    return p - np.random.default_rng(0).uniform(size=p.shape) / (EXCHANGES + 1)


DISTANCES = {"fd": _frechet, "kd": _kernels, "prdc": _coverage, "probe": _probe}
_PROBE = pytest.param("probe", marks=pytest.mark.slow)  # refits a classifier for every exchange


@pytest.mark.parametrize("name", ["fd", "kd", "prdc", _PROBE])
@pytest.mark.parametrize("blocks", [_of(10), _measured], ids=["long enough", "measured"])
def test_p_values_are_uniform_on_dependent_slices_of_one_kind(name: str, blocks: Blocks) -> None:
    # Neighbours correlate at 0.6, so that slices depend on each other over 4 and blocks of 10 are long enough.
    found = p_values(DISTANCES[name], blocks, rho=0.6, n=60, draws=DRAWS if name != "probe" else 30)
    for p in found.T:
        # Ties of shares make some p-values larger than uniform ones, which is no harm.
        harm = "two-sided" if name in ("fd", "kd") else "greater"
        assert kstest(_smoothed(p), "uniform", alternative=harm).pvalue > 0.01, p.mean()
        assert np.mean(p <= 0.05) <= 0.16


def test_blocks_that_are_too_short_make_p_values_too_small() -> None:
    found = p_values(_kernels, _of(4), rho=0.9, n=60, draws=30)
    assert np.mean(found[:, 0] <= 0.1) > 0.25
    assert kstest(_smoothed(found[:, 0]), "uniform", alternative="greater").pvalue < 0.01
