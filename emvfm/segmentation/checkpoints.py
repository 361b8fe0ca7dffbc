"""From a run's folder to a model that segments: the one way everything gets a trained model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.backbones.weights import file_digest
from emvfm.datasets.manifest import Dataset
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.extraction.pipeline import embed_dataset
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.fusion import fuse
from emvfm.segmentation.geometry import at_native
from emvfm.segmentation.model import SegmentationModel, build_model, open_backbone, preprocess_of
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.slices import Slices, logits_in_windows
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Segmenter", "load_head", "load_run"]


def load_head(head: nn.Module, path: Path) -> nn.Module:
    """Fill a trained part of a model from a safetensors file, strictly.

    Raises
    ------
    MissingError
        No such file.
    CorruptError
        It is damaged, or of another head.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        head.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise MissingError("no trained head", where=path, todo="train the run again") from None
    except (SafetensorError, RuntimeError) as error:
        raise CorruptError("not the head of this run", where=path, got=str(error)[:200]) from None
    return head


@dataclass(frozen=True)
class Segmenter:
    """A trained model with all that is needed to use it.

    Attributes
    ----------
    run
        Where it came from.
    config
        Its resolved options; those of the backbone include the adapter.
    label
        Honest name of backbone and adaptation.
    """

    run: RunFolder
    config: TrainConfig
    model: SegmentationModel
    label: str

    @property
    def preprocess(self) -> Preprocess:
        """How images become its input."""
        return preprocess_of(self.config, self.model)

    @property
    def multiple(self) -> int:
        """The sides of a window are multiples of this many pixels."""
        return self.model.multiple

    def window_probability(self, pixels: Tensor) -> Tensor:
        """Return ``(B, H, W)`` float32 foreground probability, on the model's device.

        Parameters
        ----------
        pixels
            ``(B, 3, H, W)``, normalised as `preprocess` does; H and W multiples of `multiple`.
        """
        with torch.inference_mode():
            return self.model.logits(pixels).float().softmax(dim=1)[:, 1]

    def slices(self, dataset: Dataset, workspace: Workspace, console: Console | None = None) -> Slices:
        """Return the slices of `dataset` with the model's answers; tokens go through the store."""
        embeddings = None
        if self.model.backbone is not None:
            embeddings = embed_dataset(dataset, self.model.backbone, self.config, workspace, console=console)
        return Slices(self.model, self.preprocess, dataset, dataset.samples, embeddings)

    def predict(self, image: np.ndarray, pixel_size_nm: float | None = None) -> NDArray[np.float32]:
        """Return ``(H, W)`` float32 foreground probability of one image ``(H, W)`` or ``(H, W, 3)``."""
        preprocess = self.preprocess.at(pixel_size_nm)
        prepared = preprocess.prepare(image)
        with torch.inference_mode():
            logits = logits_in_windows(self.model, torch.from_numpy(prepared.pixels)[None], preprocess)
            probability = at_native(logits, prepared.size, preprocess.input_size).softmax(dim=1)
        return probability[0, 1].cpu().numpy()


def load_run(folder: Path, workspace: Workspace) -> Segmenter:
    """Return the model of a finished run.

    Raises
    ------
    UsageError
        The run is not finished, or its backbone is no longer the one it was trained on.
    MissingError
        Its weights are gone.
    """
    run = RunFolder(folder)
    if not run.finished:
        raise UsageError(
            "the run is not finished", where=folder, todo="repeat its `emvfm train` command to resume it"
        )
    config, backbone = _backbone_of(run, workspace)
    with torch.random.fork_rng(devices=[]):  # building draws random numbers that the file then replaces
        model = build_model(config, backbone)
    load_head(model.head, run.checkpoints / "best.safetensors").to(model.device)
    model.train(False)
    adaptation, last = run.provenance["adaptation"], f", {config.head} head" if backbone else ""
    name = model.label if backbone is None else f"{run.provenance['backbone']}, {adaptation}"
    return Segmenter(run, config, model, name + last)


def _backbone_of(run: RunFolder, workspace: Workspace) -> tuple[TrainConfig, Backbone | None]:
    """Return the options with which the run's backbone is opened, and the backbone with what was trained of it."""
    config = run.config
    if config.full:
        return config, _tuned(run, config, workspace)
    if config.lora:
        config = replace(config, adapter=str(run.checkpoints / "adapter"))
    backbone = open_backbone(config, workspace)
    if backbone is not None and backbone.weights_digest != run.provenance["weights"]:
        raise UsageError(
            "the backbone's weights are not those of the run",
            where=run.path,
            got=backbone.weights_digest[:16],
            expected=run.provenance["weights"][:16],
        )
    return config, backbone


def _tuned(run: RunFolder, config: TrainConfig, workspace: Workspace) -> Backbone:
    """Return the backbone with the weights that the run gave it; those it began with need not be there."""
    path = run.checkpoints / "backbone.safetensors"
    bare = replace(config, untrained=True, weights=None, fuse="none")
    backbone = load_backbone(bare, workspace)
    load_head(backbone.module, path)
    backbone.weights_digest = file_digest(path)
    backbone.label = f"{run.provenance['backbone']}, {run.provenance['adaptation']}"
    return fuse(backbone, config.fuse)
