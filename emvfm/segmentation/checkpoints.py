"""From a run's folder to a model that segments: the one way everything gets a trained model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emvfm.backbones.backbone import Backbone
from emvfm.backbones.loading import load_backbone
from emvfm.backbones.preprocess import Preprocess
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.geometry import as_map, native_logits
from emvfm.segmentation.heads import build_head
from emvfm.segmentation.runs import RunFolder
from emvfm.workspace import Workspace

__all__ = ["Segmenter", "load_head", "load_run"]


def load_head(head: nn.Module, path: Path) -> nn.Module:
    """Fill `head` from a safetensors file, strictly.

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
    """A trained model: backbone, adapter if any, and head.

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
    backbone: Backbone
    head: nn.Module
    label: str

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess.for_backbone(self.backbone.spec, self.config)

    def probability(
        self, patches: np.ndarray, size: tuple[int, int], pixel_size_nm: float | None = None
    ) -> NDArray[np.float32]:
        """Return ``(H, W)`` float32 foreground probability at the native `size`.

        Parameters
        ----------
        patches
            ``(L, h, w, D)`` tokens of the run's layers.
        pixel_size_nm
            Of the image; matters only to a run at a physical pixel size.
        """
        input_size = self.preprocess.at(pixel_size_nm).input_size
        tokens = torch.from_numpy(as_map(patches))[None].to(self.backbone.device)
        with torch.inference_mode():
            logits = native_logits(self.head, tokens, self.backbone.patch, size, input_size)
            return logits.softmax(dim=1)[0, 1].cpu().numpy()

    def predict(self, image: np.ndarray, pixel_size_nm: float | None = None) -> NDArray[np.float32]:
        """Return ``(H, W)`` float32 foreground probability of one image ``(H, W)`` or ``(H, W, 3)``."""
        prepared = self.preprocess.at(pixel_size_nm).prepare(image)
        with torch.inference_mode():
            layers = self.backbone.choose_layers(self.config.layers)
            tokens = self.backbone.tokens(torch.from_numpy(prepared.pixels)[None], layers)
        return self.probability(tokens.patches[0].cpu().numpy(), prepared.size, pixel_size_nm)


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
    config = run.config
    if config.lora:
        config = replace(config, adapter=str(run.checkpoints / "adapter"))
    backbone = load_backbone(config, workspace)
    if backbone.weights_digest != run.provenance["weights"]:
        raise UsageError(
            "the backbone's weights are not those of the run",
            where=folder,
            got=backbone.weights_digest[:16],
            expected=run.provenance["weights"][:16],
        )
    layers = backbone.choose_layers(config.layers)
    head = build_head(config.head, len(layers) * backbone.width, width=config.width, dropout=config.dropout)
    load_head(head, run.checkpoints / "best.safetensors").eval().to(backbone.device)
    adaptation = run.provenance["adaptation"]
    return Segmenter(run, config, backbone, head, f"{backbone.label}, {adaptation}, {config.head} head")
