"""The options of ``emvfm embed``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt

from emvfm.backbones.options import BackboneOptions, ChannelOptions
from emvfm.config import Doc

__all__ = ["EmbedConfig"]


@dataclass(frozen=True)
class EmbedConfig(ChannelOptions, BackboneOptions):
    """Which backbone, and how its embeddings are stored."""

    dtype: Annotated[Literal["float16", "float32"], Doc("How values are stored.")] = "float16"
    batch_size: Annotated[
        int | None,
        Gt(0),
        Doc("Images a forward pass; without it 1 on a CPU, 8 on a GPU, less if memory ends."),
    ] = None
