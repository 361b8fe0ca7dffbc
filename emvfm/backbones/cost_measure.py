"""What a backbone costs here: time and peak memory of a forward pass and of training steps, on one image."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from emvfm.backbones.backbone import Backbone, evenly_spaced
from emvfm.backbones.cost import HeadBuilder, adapted, gathered
from emvfm.backbones.injection import take_out
from emvfm.backbones.loading import library_of
from emvfm.backbones.options import CostOptions
from emvfm.backbones.precision import choose_device, choose_precision
from emvfm.backbones.registry import BackboneSpec
from emvfm.backbones.untrained import build_untrained

__all__ = ["Measured", "measure_cost"]

_REPEATS = 3


@dataclass(frozen=True)
class Measured:
    """Least time of three runs after one to warm up, with random weights, which cost what trained ones do.

    Attributes
    ----------
    device, threads, precision, side
        Where and how it ran; side of the image in pixels.
    ms
        Milliseconds of ``forward`` (backbone and head), and of a step forward and backward, without the
        optimiser's, for ``lora`` and ``full``.
    peak_mib
        MiB at most in use with the weights: of the device's allocator on CUDA; on a Linux CPU, how far the
        process grew beyond what it held before; else None.
    """

    device: str
    threads: int
    precision: str
    side: int
    ms: dict[str, float]
    peak_mib: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def _resident_mib() -> float | None:
    """Return the largest resident memory of this process since the last `_forget_peak`; Linux only."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # no Linux, or not allowed: the peak is then that of the whole process
        Path("/proc/self/clear_refs").write_text("5")  # 5: the high-water mark begins anew


def _peak_mib(device: torch.device, before: float | None) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    now = _resident_mib()
    return None if device.type != "cpu" or now is None or before is None else max(0.0, now - before)


def _least_ms(run: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:])


def measure_cost(spec: BackboneSpec, options: CostOptions, build_head: HeadBuilder) -> Measured:
    """Run `spec` with random weights on the device of `options`; see `Measured`."""
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    _forget_peak(device)
    before = _resident_mib()
    library = library_of(spec)
    module = build_untrained(library, spec, "timm", 0)
    library.open_for_adapters(module)
    backbone = Backbone(
        spec, module, library, label="untrained", weights_digest="none", device=device, precision=precision
    )
    with torch.random.fork_rng(devices=[]):
        head = build_head(spec).to(device).train()
    side = -(-options.image // spec.patch) * spec.patch
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, len(spec.slots), side, side, generator=generator).to(device)
    layers = evenly_spaced(spec.depth, options.head_layers)

    def forward() -> torch.Tensor:
        with backbone.autocast():
            tokens = gathered(spec, library.layer_tokens(backbone.module, images, layers), side)
            return head(tokens.float(), images).float().sum()

    def step() -> None:
        forward().backward()
        backbone.module.zero_grad(set_to_none=True)
        head.zero_grad(set_to_none=True)

    ms: dict[str, float] = {}
    peak: dict[str, float | None] = {}

    def measure(name: str, run: Callable[[], Any]) -> None:
        _forget_peak(device)
        ms[name] = _least_ms(run, device)
        peak[name] = _peak_mib(device, before)

    with torch.inference_mode():
        measure("forward", forward)
    # The hungriest comes last: a process does not give all memory back.
    adapted(backbone, options)
    measure("lora", step)
    take_out(backbone)
    backbone.module.requires_grad_(True)
    measure("full", step)
    return Measured(str(device), torch.get_num_threads(), precision, side, ms, peak)
