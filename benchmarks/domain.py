"""How long distances between domains take, against the way their authors' code computes them.

``python -m benchmarks.domain`` needs nothing but emvfm: embeddings are correlated noise (speed does not depend on
their values). Each function writes a section of the page.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.document import Document
from benchmarks.projections import streamed
from benchmarks.timing import paired
from emvfm.domain.frechet import frechet_distance, frechet_from_moments
from emvfm.domain.moments import streamed_moments
from emvfm.domain.results import compare_coverage, compare_discrepancies, compare_frechet

COMMAND = "nox -s domain_speed"
IMAGE_TOKENS = 1369  # patches of an image of 518 px


def embeddings(n: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Return ``(n, dimension)`` float32 noise whose deviations fall over two decades, as those of backbones do."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, dimension), dtype=np.float32)
    values *= (10 ** np.linspace(0, -2, dimension)).astype(np.float32)
    return values


def square_root_form(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the Fréchet distance as pytorch-fid and dgm-eval do: whole arrays and a matrix square root."""
    from scipy.linalg import sqrtm

    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = sqrtm(cov_x.dot(cov_y))
    if not np.isfinite(root).all():
        offset = 1e-6 * np.eye(len(cov_x))
        root = sqrtm((cov_x + offset).dot(cov_y + offset))
    cross = np.trace(np.real(root))
    return float(((mean_x - mean_y) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def _blocks(x: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(x), IMAGE_TOKENS):
        yield x[start : start + IMAGE_TOKENS]


def streamed_form(x: np.ndarray, y: np.ndarray) -> float:
    """Compute the Fréchet distance from the patches of one image after the other."""
    a, b = streamed_moments(_blocks(x)), streamed_moments(_blocks(y))
    return frechet_from_moments(a.mean, a.covariance(), b.mean, b.covariance())


def frechet_of_images(page: Document, rounds: int) -> None:
    """Compare the distance of 165 and 20 image embeddings in 768 dimensions with the square-root form."""
    x, y = embeddings(165, 768, 0), embeddings(20, 768, 1) + 0.05
    times = paired(
        {"square root": lambda: square_root_form(x, y), "emvfm": lambda: frechet_distance(x, y)},
        rounds,
        pause=0.3,
    )
    faster, slowest, fastest = times.ratio("square root", "emvfm")
    apart = abs(square_root_form(x, y) / frechet_distance(x, y) - 1)
    page.section(
        "Fréchet distance of images",
        f"165 × 20 embeddings in 768 dimensions, {rounds} paired rounds: covariances of ddof 1 and "
        "`scipy.linalg.sqrtm` as in pytorch-fid, against the singular values of the centred cross-Gram matrix.",
    )
    page.table(
        ["what", "measured", "rounds", "expected"],
        [["square-root form, ms", 1e3 * times.median("square root"), "", ""],
         ["emvfm, ms", 1e3 * times.median("emvfm"), "", ""],
         ["times faster", faster, f"{slowest:.0f} – {fastest:.0f}", "≥ 50"],
         ["relative difference of the two values", f"{apart:.1e}", "", "≤ 1e-6"]],
    )  # fmt: skip


def frechet_of_patches(page: Document, n: int = 100_000, dimension: int = 1024, rounds: int = 2) -> None:
    """Compare streaming the moments of n patch embeddings a domain with covariances of the whole arrays."""
    x, y = embeddings(n, dimension, 0), embeddings(n, dimension, 1) + np.float32(0.05)
    times = paired(
        {"whole": lambda: square_root_form(x, y), "streamed": lambda: streamed_form(x, y)}, rounds, pause=0.3
    )
    faster, slowest, fastest = times.ratio("whole", "streamed")
    apart = abs(square_root_form(x, y) / streamed_form(x, y) - 1)
    peaks = []
    for share in (0.25, 1.0):
        tracemalloc.start()
        streamed_form(x[: int(share * n)], y[: int(share * n)])
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
        tracemalloc.stop()
    page.section(
        "Fréchet distance of patches",
        f"{n} × {n} patch embeddings in {dimension} dimensions (float32, {2 * x.nbytes / 1e6:.0f} MB), {rounds} paired "
        "rounds: `numpy.cov` of the whole arrays and `scipy.linalg.sqrtm` as in dgm-eval, against moments accumulated "
        f"image by image ({IMAGE_TOKENS} patches) and a Cholesky root. Memory is what the computation allocates.",
    )
    page.table(
        ["what", "measured", "rounds", "expected"],
        [["whole arrays, s", times.median("whole"), "", ""],
         ["streamed, s", times.median("streamed"), "", ""],
         ["times faster", faster, f"{slowest:.2f} – {fastest:.2f}", "≥ 3"],
         ["relative difference of the two values", f"{apart:.1e}", "", "≤ 1e-6"],
         [f"peak for {n // 4} a domain, MB", f"{peaks[0]:.0f}", "", ""],
         [f"peak for {n} a domain, MB", f"{peaks[1]:.0f}", "", "the same"]],
    )  # fmt: skip


def whole_comparisons(page: Document, permutations: int = 999) -> None:
    """Time each command's comparison of 165 and 20 images in 768 dimensions: null, halves and interval included."""
    x, y = embeddings(165, 768, 0), embeddings(20, 768, 1) + 0.05
    blocks = [(np.arange(n) * count // n).tolist() for n, count in ((165, 13), (20, 4))]
    names = ("x", "y")
    times = paired(
        {
            "Fréchet distance": lambda: compare_frechet(names, x, y, *blocks, permutations=permutations),
            "kernel (two), energy, sliced Wasserstein": lambda: compare_discrepancies(
                names, x, y, *blocks, permutations=permutations
            ),
            "precision, recall, density, coverage": lambda: compare_coverage(
                names, x, y, *blocks, permutations=permutations
            ),
        },
        rounds=1,
    )
    page.section(
        "Whole comparisons",
        f"165 × 20 images in 768 dimensions with {permutations} exchanges of blocks, 100 draws of halves and the block "
        "jackknife.",
    )
    page.table(["measures", "s"], [[name, times.median(name)] for name in times.seconds])


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.domain", description=__doc__)
    parser.add_argument("--patches", type=int, default=100_000, help="patch embeddings of either domain")
    parser.add_argument("--dimension", type=int, default=1024, help="dimensions of the patch embeddings")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds of the patch embeddings")
    parser.add_argument("--projected", type=int, default=1_000_000, help="patch embeddings of the PCA")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of performance-domains.md")
    given = parser.parse_args()
    page = Document(
        "Performance: domains",
        COMMAND,
        "Candidates of a comparison take turns within one run, the Fréchet distances with a pause of 0.3 s between them. "
        "Embeddings are noise: time does not depend on their values.",
    )
    frechet_of_images(page, rounds=9)
    frechet_of_patches(page, given.patches, given.dimension, given.rounds)
    streamed(page, given.projected, given.rounds)
    whole_comparisons(page)
    page.write(given.out / "performance-domains.md")


if __name__ == "__main__":
    main()
