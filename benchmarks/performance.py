"""The table of docs/performance.md: start-up, extraction, reading and memory, measured on this machine.

``python -m benchmarks.performance`` needs nothing but emvfm: images are made, the backbone is untrained
(speed does not depend on the values of the weights).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import numpy as np

from benchmarks.document import Document
from benchmarks.timing import paired
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.extraction.pipeline import embed_dataset
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace

COMMAND = "nox -s performance"
SIDE = 518


def write_images(folder: Path, n: int, side: int, seed: int = 0) -> Dataset:
    """Write `n` grey noise PNG of `side` px and return them as a dataset without masks."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    samples = []
    for i in range(n):
        path = folder / f"{i:04d}.png"
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(path, compress_level=1)
        samples.append(Sample(
            id=f"{i:04d}", split="train", domain="noise", volume="noise", z=i,
            image=path.name, mask=None, image_sha256=sha256_file(path), mask_sha256=None,
            height=side, width=side, pixel_size_nm=None,
        ))  # fmt: skip
    return Dataset("noise", folder, tuple(samples), {})


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="emvfm-performance-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_up(page: Document) -> None:
    """Time ``emvfm --help`` in a fresh process and see what it loads."""
    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "emvfm", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    probe = (
        "import sys; sys.argv = ['emvfm', '--help']; from emvfm.cli.app import main\n"
        "try:\n main()\nexcept SystemExit: pass\n"
        "heavy = [m for m in ('torch', 'timm', 'open_clip', 'peft', 'zarr', 'sklearn', 'scipy', 'matplotlib', 'numpy')"
        " if m in sys.modules]\nprint('heavy:', ', '.join(heavy) or 'none', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    page.section("Start-up", "`emvfm --help` in a fresh process, 10 runs after one to warm the disk cache.")
    page.table(
        ["median s", "slowest s", "expected", "heavy packages loaded"],
        [
            [
                float(np.median(seconds[1:])),
                max(seconds[1:]),
                "≤ 0.4 s",
                done.stderr.split("heavy:")[1].strip(),
            ]
        ],
    )


def reading(page: Document, n: int, rounds: int) -> None:
    """Compare reading a layer's tokens from the store with one flat file of the same bytes."""
    with scratch() as folder:
        workspace = Workspace(folder / "workspace")
        (folder / "images").mkdir()
        dataset = write_images(folder / "images", n, 448)
        options = BackboneOptions(backbone="timm:test_vit", untrained=True, input_size="x2")
        backbone = load_backbone(options, workspace)
        embeddings = embed_dataset(dataset, backbone, options, workspace)
        layer = embeddings.layers[-1:]
        stacked = np.stack(list(embeddings.iter_patches(layers=layer)))
        flat = folder / "flat.bin"
        stacked.tofile(flat)
        item = stacked[0].size

        def numpy_way() -> float:
            total = 0.0
            with flat.open("rb") as stream:
                for _ in range(n):
                    total += float(np.fromfile(stream, stacked.dtype, item)[0])
            return total

        def checked_way() -> float:
            total = 0.0
            with flat.open("rb") as stream:
                for _ in range(n):
                    values = np.fromfile(stream, stacked.dtype, item)
                    total += float(values[0]) + google_crc32c.value(values.view(np.uint8))
            return total

        def store_way() -> float:
            return sum(float(tokens.ravel()[0]) for tokens in embeddings.iter_patches(layers=layer))

        times = paired({"numpy": numpy_way, "checked": checked_way, "store": store_way}, 5 * rounds)
        single = paired({"one": lambda: embeddings.patches(n // 2)}, 20)
        size = stacked.nbytes / 1e6
    share, low, high = times.ratio("numpy", "store")
    checked, lowest, highest = times.ratio("checked", "store")
    page.section(
        "Reading",
        f"All patch tokens of one layer of {n} images ({size:.0f} MB), image by image with checksums verified, against "
        "`numpy.fromfile` on one flat file of the same bytes, without and with a CRC32C of what it read: the checksum "
        "alone takes half as long as the read from a warm cache. And all four layers of one image, warm.",
    )
    page.table(
        ["what", "measured", "rounds", "expected"],
        [["share of flat numpy's rate", share, f"{low:.3f} – {high:.3f}", "≥ 0.80"],
         ["share of flat numpy's rate with the same CRC32C", checked, f"{lowest:.3f} – {highest:.3f}", ""],
         ["MB/s from the store", size / times.median("store"), "", ""],
         ["one image's tokens, ms", 1e3 * single.median("one"), "", "< 20"]],
    )  # fmt: skip


_PEAK = """
import sys, json
from pathlib import Path
from benchmarks.performance import write_images
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.options import BackboneOptions
from emvfm.extraction.pipeline import embed_dataset
from emvfm.provenance import peak_memory_mib
from emvfm.workspace import Workspace
folder, n = Path(sys.argv[1]), int(sys.argv[2])
(folder / "images").mkdir(parents=True)
workspace = Workspace(folder / "workspace")
dataset = write_images(folder / "images", n, 224)
options = BackboneOptions(backbone="timm:test_vit", untrained=True)
embed_dataset(dataset, load_backbone(options, workspace), options, workspace)
print(json.dumps(peak_memory_mib()))
"""


def memory(page: Document) -> None:
    """Compare the peak memory of embedding 50 and 500 images."""
    peaks = {}
    for n in (50, 500):
        with scratch() as folder:
            done = subprocess.run(
                [sys.executable, "-c", _PEAK, str(folder), str(n)], check=True, capture_output=True, text=True
            )
            peaks[n] = float(json.loads(done.stdout))
    page.section(
        "Memory", "Peak resident memory of a process that embeds n images of 224 px with a tiny ViT."
    )
    page.table(
        ["50 images, MB", "500 images, MB", "growth", "expected"],
        [[f"{peaks[50]:.0f}", f"{peaks[500]:.0f}", f"{peaks[500] / peaks[50] - 1:+.1%}", "< 10 %"]],
    )


def main() -> None:
    """Measure everything and write the page."""
    parser = argparse.ArgumentParser(prog="benchmarks.performance", description=__doc__)
    parser.add_argument("--images", type=int, default=32, help="images of the extraction benchmark")
    parser.add_argument("--rounds", type=int, default=5, help="paired rounds")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of performance.md")
    given = parser.parse_args()
    from benchmarks.extraction import throughput
    from benchmarks.large_images import large_images
    from benchmarks.peers import dinotool

    page = Document(
        "Performance",
        COMMAND,
        "Candidates of a comparison take turns within one run. Images are noise and weights are untrained: neither "
        "changes the time.",
    )
    start_up(page)
    throughput(page, given.images, given.rounds)
    reading(page, 64, given.rounds)
    memory(page)
    large_images(page)
    dinotool(page, given.images, given.rounds)
    page.write(given.out / "performance.md")


if __name__ == "__main__":
    main()
