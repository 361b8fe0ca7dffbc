"""emvfm beside other programs that extract ViT features, on the same images and the same model."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.document import Document
from benchmarks.performance import SIDE, scratch, write_images
from benchmarks.timing import paired
from emvfm.backbones.loading import load_backbone
from emvfm.extraction.config import EmbedConfig
from emvfm.extraction.pipeline import embed_dataset
from emvfm.workspace import Workspace

__all__ = ["dinotool"]


def _as_hub_model(module: Any, patch: int, prefix: int) -> Any:
    """Wrap a timm ViT so that it answers as the DINOv2 repository's models do, which dinotool calls."""
    from torch import nn

    class Hub(nn.Module):
        patch_size = patch

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward_features(self, batch: Any) -> dict[str, Any]:
            tokens = self.module.forward_features(batch)
            return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, prefix:]}

    return Hub()


def _dinotool_way(folder: Path, output: Path, model: Any) -> Callable[[], object]:
    import dinotool.cli as cli

    cli.load_model = lambda name: model  # it can load from a hub only

    def run() -> None:
        shutil.rmtree(output, ignore_errors=True)
        settings = cli.DinotoolConfig(
            input=str(folder),
            output=str(output),
            model_name="dinov2_vits14",
            save_features="flat",
            no_vis=True,
        )
        cli.DinotoolProcessor(settings).run()

    return run


def dinotool(page: Document, n: int, rounds: int) -> None:
    """Compare with dinotool on a folder of images; it stores the last layer only, emvfm four."""
    page.section(
        "Beside dinotool",
        f"{n} images of {SIDE} px, ViT-S/14, one process each. dinotool (patch features of the last block, one "
        "Parquet file an image) computes in float32 and loads models from a hub only, so it is given the very "
        "model that emvfm loads; emvfm stores four blocks with class tokens, means and checksums.",
    )
    if importlib.util.find_spec("dinotool") is None:
        page.text("Not measured: dinotool is not installed (`pip install dinotool`).")
        return
    with scratch() as folder:
        workspace = Workspace(folder / "workspace")
        (folder / "images").mkdir()
        dataset = write_images(folder / "images", n, SIDE)
        common: dict[str, Any] = {"backbone": "dinov2_vits14", "untrained": True, "init": "kaiming"}
        ways: dict[str, Callable[[], object]] = {}
        for precision in ("auto", "float32"):
            options = EmbedConfig(**common, precision=precision)
            backbone = load_backbone(options, workspace)

            def extract(backbone: Any = backbone, options: EmbedConfig = options) -> None:
                shutil.rmtree(workspace.store, ignore_errors=True)
                embed_dataset(dataset, backbone, options, workspace)

            ways[f"emvfm, {backbone.precision}"] = extract
        model = _as_hub_model(backbone.module, backbone.patch, backbone.spec.prefix)
        ways["dinotool"] = _dinotool_way(folder / "images", folder / "dinotool", model)
        times = paired(ways, rounds)
    page.table(
        ["what", "median s", "images/s", "times faster than dinotool", "rounds"],
        [
            [name, times.median(name), n / times.median(name), faster, f"{low:.2f} – {high:.2f}"]
            for name in times.seconds
            for faster, low, high in [times.ratio("dinotool", name)]
        ],
    )
