"""Small datasets of made-up images and a tiny untrained backbone whose forward passes are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emvfm.backbones.backbone import Backbone, Tokens
from emvfm.backbones.loading import load_backbone
from emvfm.datasets.manifest import Dataset, Sample, save_dataset
from emvfm.extraction.config import EmbedConfig
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace

_TINY: dict[str, Any] = {
    "backbone": "timm:test_vit",
    "untrained": True,
    "layers": (4, 1),
    "precision": "float32",
    "device": "cpu",
    "dtype": "float32",
}


def config(**changes: Any) -> EmbedConfig:
    return EmbedConfig(**{**_TINY, **changes})


def write_dataset(
    root: Path, sizes: Sequence[tuple[int, ...]], *, seed: int = 0, masks: bool = True, name: str = "made-up"
) -> Dataset:
    """Write one PNG image and mask of each size; image `i` depends on `seed` and `i` alone."""
    samples = []
    for i, size in enumerate(sizes):
        draw = np.random.default_rng((seed, i))
        files = {"images": draw.integers(0, 256, size, dtype=np.uint8)}
        if masks:
            files["masks"] = (draw.random(size[:2]) < 0.3).astype(np.uint8) * np.uint8(255)
        for folder, pixels in files.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"s{i:03d}.png", compress_level=1)
        samples.append(
            Sample(
                id=f"s{i:03d}",
                image=f"images/s{i:03d}.png",
                mask=f"masks/s{i:03d}.png" if masks else None,
                split=("train", "test", "val")[i % 3],
                domain="made-up",
                volume="v",
                z=i,
                height=size[0],
                width=size[1],
                pixel_size_nm=None,
                image_sha256=sha256_file(root / f"images/s{i:03d}.png"),
                mask_sha256=sha256_file(root / f"masks/s{i:03d}.png") if masks else None,
            )
        )
    return save_dataset(Dataset(name, root, tuple(samples)))


@pytest.fixture
def make_config() -> Callable[..., EmbedConfig]:
    """Make the options of the tiny backbone, with changes."""
    return config


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """Write a dataset under a folder of the test's own, called by its first argument."""
    return lambda folder, *arguments, **options: write_dataset(tmp_path / folder, *arguments, **options)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The tiny backbone; a test that changes it takes one of its own."""
    return load_backbone(config(), Workspace(tmp_path_factory.mktemp("nothing")))


@pytest.fixture
def computed(vit: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of each forward pass of `vit` in this test."""
    passes: list[int] = []
    tokens = vit.tokens

    def counted(images: torch.Tensor, layers: Sequence[int] | None = None) -> Tokens:
        passes.append(len(images))
        return tokens(images, layers)

    monkeypatch.setattr(vit, "tokens", counted)
    return passes
