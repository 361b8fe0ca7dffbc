"""Peak memory and rate of embedding one large section."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.document import Document
from benchmarks.performance import scratch
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.provenance import sha256_file

__all__ = ["large_images"]


def write_section(path: Path, side: int) -> Dataset:
    """Write a tiled TIFF of `side` × `side` px in bounded memory and return it as a dataset."""
    import tifffile

    rng, tile = np.random.default_rng(0), 512
    count = -(-side // tile)

    def tiles() -> object:
        for _ in range(count * count):
            yield rng.integers(0, 256, (tile, tile), dtype=np.uint8)

    tifffile.imwrite(
        path, tiles(), shape=(side, side), dtype=np.uint8, tile=(tile, tile), photometric="minisblack"
    )
    sample = Sample(
        id="section", split="test", domain="noise", volume="noise", z=0, image=path.name, mask=None,
        image_sha256=sha256_file(path), mask_sha256=None, height=side, width=side, pixel_size_nm=None,
    )  # fmt: skip
    return Dataset("section", path.parent, (sample,), {})


_PEAK = """
import sys, json, time
from pathlib import Path
from benchmarks.large_images import write_section
from emvfm.backbones.loading import load_backbone
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.pipeline import embed_dataset
from emvfm.provenance import peak_memory_mib
from emvfm.workspace import Workspace
folder, side = Path(sys.argv[1]), int(sys.argv[2])
workspace = Workspace(folder / "workspace")
dataset = write_section(folder / "section.tif", side)
options = EmbedConfig(backbone="timm:test_vit", untrained=True, tile=448, tile_overlap=64)
backbone = load_backbone(options, workspace)
start = time.perf_counter()
found = embed_dataset(dataset, backbone, options, workspace)
seconds = time.perf_counter() - start
h, w = found.grid(0)
print(json.dumps([peak_memory_mib(), seconds, h * w,
                  h * w * len(found.layers) * found.width * 4 / 2**20]))
"""


def large_images(page: Document) -> None:
    """Measure sections of two sizes in processes of their own."""
    rows = []
    for side in (5000, 20000):
        with scratch() as folder:
            done = subprocess.run(
                [sys.executable, "-c", _PEAK, str(folder), str(side)],
                check=True,
                capture_output=True,
                text=True,
            )
            peak, seconds, tokens, size = json.loads(done.stdout)
        rows.append(
            [
                f"{side} × {side}",
                tokens,
                f"{size:.0f}",
                f"{peak:.0f}",
                f"{seconds:.0f}",
                f"{tokens / seconds:,.0f}",
            ]
        )
    page.section(
        "Large images",
        "One section as a tiled TIFF, through a tiny ViT in tiles of 448 px that overlap by 64 px; peak resident "
        "memory of the whole process, beside what its tokens take in float32.",
    )
    page.table(["section, px", "patches", "tokens, MiB", "peak memory, MiB", "s", "patches/s"], rows)
