"""Two small synthetic datasets and trainings of about a second: what the tests of whole runs share."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.datasets.compose import compose
from emvfm.datasets.options import ComposeOptions
from emvfm.datasets.phantom import write_phantom
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace

#: name → (domain, side); 120 px is no multiple of the 16 px patch.
SOURCES = {"a": ("a", 96), "b": ("b", 120)}

_FAST: dict[str, Any] = {
    "data": ("a",),
    "backbone": "timm:test_vit",
    "untrained": True,
    "init": "kaiming",
    "layers": (0, 1),
    "precision": "float32",
    "device": "cpu",
    "head": "deconv",
    "width": 16,
    "amp": False,
    "dropout": 0.2,
    "loss": "tversky",  # has some foreground within a few steps
    "steps": 7,
    "batch": 2,
    "crop": 48,
    "lr": 2e-2,
    "lora_lr": 3e-3,
    "lora_rank": 2,
    "warmup": 1,
    "evaluate_every": 3,
    "views": 1,
    "warm_start": False,
    "warp": 0.0,
}


@pytest.fixture(scope="session")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the datasets ``a`` and ``b``: 12 slices each, 7 to train, 1 to validate, 2 to test."""
    root = tmp_path_factory.mktemp("composed")
    workspace = Workspace(root / "workspace")
    for name, (domain, side) in SOURCES.items():
        write_phantom(root / name, domain, 12, side, seed=3)
        compose(name, [root / name], workspace, ComposeOptions(domain=(name,), link="copy"))
    return workspace.datasets


@pytest.fixture
def workspace(composed: Path, tmp_path: Path) -> Workspace:
    """A workspace of the test's own with the datasets ``a`` and ``b``."""
    workspace = Workspace(tmp_path / "workspace")
    shutil.copytree(composed, workspace.datasets)
    return workspace


@pytest.fixture(scope="session")
def fast() -> Callable[..., TrainConfig]:
    """Make the options of a training of a few steps, with changes."""
    return lambda **changes: TrainConfig(**{**_FAST, **changes})


@pytest.fixture(scope="session")
def whole(composed: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], RunFolder]:
    """Train without interruption, each run once a session; the tests only read these runs."""
    workspace = Workspace(tmp_path_factory.mktemp("whole"))
    shutil.copytree(composed, workspace.datasets)
    return lambda config: train(config, workspace)


@pytest.fixture
def trained(whole: Callable[[TrainConfig], RunFolder], workspace: Workspace) -> Callable[..., RunFolder]:
    """Put a copy of a finished run into the workspace of the test."""

    def bring(config: TrainConfig) -> RunFolder:
        run = whole(config)
        return RunFolder(Path(shutil.copytree(run.path, workspace.runs / run.path.name)))

    return bring


@pytest.fixture(scope="session")
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """The frozen backbone of `fast`; a test that adapts it takes one of its own."""
    return load_backbone(TrainConfig(**_FAST), Workspace(tmp_path_factory.mktemp("nothing")))


_KILLED = """
import os, signal, sys
from pathlib import Path
from emvfm.config import read_yaml, resolve
from emvfm.segmentation import batches
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.training import train
from emvfm.workspace import Workspace

kind, seen = getattr(batches, sys.argv[3]), []
draw = kind.batch

def batch(self, picks, rng):
    seen.append(1)
    if len(seen) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, picks, rng)

kind.batch = batch
train(resolve(TrainConfig, flags=read_yaml(Path(sys.argv[1]))), Workspace(Path(sys.argv[2])))
"""


@pytest.fixture
def kill_in_sixth_batch() -> Callable[[str, RunFolder, Workspace], None]:
    """Train what a run trained in a process of its own, which dies while it draws its sixth batch."""

    def kill(batches: str, run: RunFolder, workspace: Workspace) -> None:
        arguments = [
            sys.executable,
            "-c",
            _KILLED,
            str(run.path / "config.yaml"),
            str(workspace.root),
            batches,
        ]
        process = subprocess.run(arguments, capture_output=True, timeout=120, check=False)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()

    return kill
