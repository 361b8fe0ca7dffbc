"""How much of a bare forward loop extraction keeps, with everything that makes a store out of tokens."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.document import Document
from benchmarks.performance import SIDE, scratch, write_images
from benchmarks.timing import paired
from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.datasets.images import read_image
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.forward import Forward
from emvfm.extraction.pipeline import embed_dataset
from emvfm.workspace import Workspace

__all__ = ["throughput"]


def _synchronise(backbone: Backbone) -> None:
    import torch

    if backbone.device.type == "cuda":
        torch.cuda.synchronize()


def _loop(
    backbone: Backbone, images: Sequence[np.ndarray], size: int, layers: tuple[int, ...], passes: int = 1
) -> Callable[[], None]:
    """Return a forward loop over tensors that lie on the device already, and keeps nothing."""
    import torch

    batches = [torch.from_numpy(np.stack(images[i : i + size])) for i in range(0, len(images), size)]
    batches = [batch.to(backbone.device) for batch in batches]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                for _ in range(passes):
                    backbone.tokens(batch, layers)
        _synchronise(backbone)

    return run


def _operations(backbone: Backbone, image: np.ndarray, layers: tuple[int, ...]) -> float:
    """Return the floating-point operations of one image, by torch's own count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        backbone.tokens(torch.from_numpy(image)[None], layers)
    return float(counter.get_total_flops())


def _matrix_rate(backbone: Backbone) -> float:
    """Return the operations a second of a large matrix product in the backbone's precision, best of five."""
    import torch

    cuda = backbone.device.type == "cuda"
    n, repeats = (8192, 20) if cuda else (2048, 3)
    kind = torch.bfloat16 if backbone.precision == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=backbone.device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(6):  # the first one warms up
        _synchronise(backbone)
        start = time.perf_counter()
        for _ in range(repeats):
            a @ b
        _synchronise(backbone)
        best = min(best, (time.perf_counter() - start) / repeats)
    return 2 * n**3 / best


def throughput(page: Document, n: int, rounds: int) -> None:
    """Compare on the CPU and, where there is one, on the GPU."""
    import torch

    _throughput(page, "CPU", "dinov2_vits14", n, rounds, 0.90, device="cpu")
    if torch.cuda.is_available():
        _throughput(page, "GPU", "dinov2_vitl14", 32 * n, rounds, 0.85, device="cuda")


def _throughput(
    page: Document, where: str, name: str, n: int, rounds: int, expected: float, **options: Any
) -> None:
    common = {"backbone": name, "untrained": True, "init": "kaiming", **options}
    with scratch() as folder:
        workspace = Workspace(folder / "workspace")
        (folder / "images").mkdir()
        dataset = write_images(folder / "images", n, SIDE)
        settings = EmbedConfig(**common)
        backbone = load_backbone(settings, workspace)
        exact = load_backbone(EmbedConfig(**common, precision="float32"), workspace)
        preprocess = Preprocess.for_backbone(backbone.spec, settings)
        images = [preprocess.prepare(read_image(dataset.image_path(s))).pixels for s in dataset.samples]
        layers = backbone.choose_layers(None)
        size = Forward(backbone, layers, "float16", None).batch_size

        def extract() -> None:
            shutil.rmtree(workspace.store, ignore_errors=True)
            embed_dataset(dataset, backbone, settings, workspace)

        times = paired(
            {
                "bare": _loop(backbone, images, size, layers),
                "emvfm": extract,
                # The reference makes one pass each for segmentation, pooling and OOD, and keeps nothing.
                "reference": _loop(exact, images, size, layers, passes=3),
            },
            rounds,
        )
        again = paired({"reuse": lambda: embed_dataset(dataset, backbone, settings, workspace)}, rounds)
        share_of_peak = (
            _operations(backbone, images[0], layers) * n / times.median("emvfm") / _matrix_rate(backbone)
        )
    share, low, high = times.ratio("bare", "emvfm")
    faster, slowest, fastest = times.ratio("reference", "emvfm")
    page.section(
        f"Extraction on the {where}",
        f"{n} images of {SIDE} px, {name}, four layers, computed in {backbone.precision}, {size} a pass, {rounds} paired "
        "rounds: a bare forward loop over tensors that lie on the device; `embed_dataset` into a fresh store (read, "
        "verify, decode, normalise, compute, checksum, flush to disk); the reference's way, three forward passes an "
        "image in float32. Ratios are medians over rounds with the lowest and highest round. The matrix rate is that of "
        "one large product in the same precision.",
    )
    page.table(
        ["what", "median s", "images/s"],
        [[what, times.median(what), n / times.median(what)] for what in times.seconds]
        + [["second analysis, from the store", again.median("reuse"), n / again.median("reuse")]],
    )
    page.table(
        ["claim", "measured", "rounds", "expected"],
        [
            ["throughput as a share of the bare loop", share, f"{low:.3f} – {high:.3f}", f"≥ {expected:.2f}"],
            ["times faster than the reference's way", faster, f"{slowest:.2f} – {fastest:.2f}", "≥ 2"],
            ["share of the chip's matrix rate", share_of_peak, "", ""],
        ],
    )
