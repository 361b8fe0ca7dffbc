"""PCA of patch embeddings against merely reading them: time, memory, and agreement with the whole array's PCA.

A section of the page that ``python -m benchmarks.domain`` writes; needs nothing but emvfm.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.document import Document
from benchmarks.performance import scratch
from benchmarks.timing import paired
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.domain.moments import streamed_moments
from emvfm.domain.pca import principal_components
from emvfm.store.identity import EmbeddingIdentity
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings
from emvfm.studies.domains import Domain
from emvfm.studies.projections import all_patches

GRID, WIDTH = (37, 37), 384
IN_AN_IMAGE = GRID[0] * GRID[1]


def filled_store(folder: Path, n: int, seed: int = 0) -> Domain:
    """Write a store of `n` images of 37 × 37 patches, with correlated noise for tokens, and return its view.

    What PCA costs depends on the number and length of the tokens, not on what they mean.
    """
    names = [f"{i:064x}" for i in range(n)]
    identity = EmbeddingIdentity(
        {"library": "timm", "model": "noise"}, "none", None, {"patch": 14, "input_size": "native"}, (11,),
        "float16", "float32",
    )  # fmt: skip
    store = EmbeddingStore.ensure(folder, identity, label="noise", width=WIDTH)
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0] * 0.98 ** np.arange(WIDTH)
    pool = [(rng.normal(size=(1, *GRID, WIDTH)) @ mixing.T).astype(np.float16) for _ in range(16)]
    for writer in store.claim(store.allocate(GRID, names)):
        if writer is None:
            break
        for _ in writer.shard.images:
            tokens = pool[rng.integers(len(pool))] * np.float16(rng.uniform(0.8, 1.2))
            mean = tokens.mean(axis=(1, 2), dtype=np.float32)
            writer.add(tokens, mean, mean, np.ones(GRID, np.float32))
        writer.publish()
    return reopened(folder, n)


def reopened(folder: Path, n: int) -> Domain:
    """Return the first `n` images of a store that `filled_store` wrote."""
    (path,) = (p for p in folder.iterdir() if (p / "zarr.json").is_file())
    samples = tuple(
        Sample(
            id=str(i), image="", mask=None, split="train", domain="noise", volume="noise", z=i,
            height=518, width=518, pixel_size_nm=None, image_sha256=f"{i:064x}", mask_sha256=None,
        )
        for i in range(n)
    )  # fmt: skip
    return Domain(
        "noise", Embeddings(EmbeddingStore(path), Dataset("noise", folder, samples, {})), list(range(n))
    )


def streamed(page: Document, patches: int, rounds: int) -> None:
    """Time the streamed PCA and a mere reading of the same patches in turns, and see how well it agrees."""
    n = max(2, round(patches / IN_AN_IMAGE))
    with scratch() as folder:
        domain = filled_store(folder, n)

        def read() -> int:
            return sum(len(block.astype(np.float32)) for block in domain.patches(0))

        def fit() -> None:
            principal_components(streamed_moments(all_patches(domain, 0, l2=False)), 50)

        times = paired({"read": read, "pca": fit}, rounds)
        few = zip(domain.patches(0), range(min(n, 40)), strict=False)
        some = np.concatenate([tokens.astype(np.float32) for tokens, _ in few])
        peaks = {m: _peak(folder, m) for m in (max(2, n // 10), n)}
    ours = principal_components(streamed_moments(np.array_split(some, 7)), 50)
    agreement = _agreement(some, ours.variances)
    ratio, low, high = times.ratio("pca", "read")
    (few, few_mb), (many, many_mb) = peaks.items()
    page.section(
        "PCA of patch embeddings",
        f"{n * IN_AN_IMAGE} embeddings of {WIDTH} dimensions, half precision in the store, read image by image with "
        "checksums verified from files that the system has in memory, and turned to the single precision that anything "
        f"computes in; all components, {rounds} paired rounds, ratio of times in each round. Memory is the "
        "peak of a process of its own. Agreement: largest relative difference of the first 50 variances from "
        f"scikit-learn's `PCA(svd_solver='full')` in double precision on {len(some)} of them.",
    )
    page.table(
        ["what", "measured", "rounds", "expected"],
        [["PCA over reading, times", ratio, f"{low:.2f} – {high:.2f}", "≤ 3"],
         ["reading, s", times.median("read"), "", ""],
         ["PCA, s", times.median("pca"), "", ""],
         [f"peak memory at {few * IN_AN_IMAGE}, MB", f"{few_mb:.0f}", "", ""],
         [f"peak memory at {many * IN_AN_IMAGE}, MB", f"{many_mb:.0f}", "", "within 10 % of the line above"],
         ["largest relative difference", f"{agreement:.1e}", "", "≤ 1e-6"]],
    )  # fmt: skip


def _agreement(rows: np.ndarray, variances: np.ndarray) -> float:
    from sklearn.decomposition import PCA

    theirs = PCA(len(variances), svd_solver="full").fit(rows.astype(np.float64)).explained_variance_
    return float(np.abs(variances / theirs - 1).max())


_PEAK = """
import json, sys
from pathlib import Path
from benchmarks.projections import reopened
from emvfm.domain.moments import streamed_moments
from emvfm.domain.pca import principal_components
from emvfm.provenance import peak_memory_mib
from emvfm.studies.projections import all_patches
principal_components(streamed_moments(all_patches(reopened(Path(sys.argv[1]), int(sys.argv[2])), 0, l2=False)), 50)
print(json.dumps(peak_memory_mib()))
"""


def _peak(folder: Path, n: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, str(folder), str(n)], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout))
