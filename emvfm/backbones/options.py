"""The options of every command that uses a backbone, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["BackboneOptions", "ChannelOptions", "CheckOptions", "CostOptions", "LoraOptions"]


_Weights = Annotated[Path | None, Doc("Weight file (safetensors or .pth) instead of the usual places.")]
_Untrained = Annotated[bool, Doc("Random weights on purpose, seeded by --init-seed.")]
_Init = Annotated[
    Literal["timm", "kaiming", "xavier", "orthogonal", "trunc_normal"],
    Doc("Scheme of --untrained; timm is the library's own initialisation."),
]
_InitSeed = Annotated[int, Ge(0), Doc("Seed of --untrained, of --shuffle-weights and of random baselines.")]
_Shuffle = Annotated[bool, Doc("Trained weights, permuted within each tensor by --init-seed.")]
_Adapter = Annotated[str | None, Doc("Run or folder with a LoRA adapter to put on the backbone.")]
_Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], Doc("auto: bfloat16 where the processor has it.")
]
_Device = Annotated[str, Doc("auto, cpu, cuda, cuda:1, mps.")]


@dataclass(frozen=True)
class BackboneOptions:
    """Which backbone, with which weights, and how images are given to it; see `loading.load_backbone`."""

    __pydantic_config__ = FORBID_EXTRA

    backbone: Annotated[
        str, Doc("Name of `backbones list`, timm:NAME, openclip:MODEL/TAG, or a baseline such as pixel:all.")
    ] = "dinov2"
    weights: _Weights = None
    untrained: _Untrained = False
    init: _Init = "timm"
    init_seed: _InitSeed = 0
    shuffle_weights: _Shuffle = False
    adapter: _Adapter = None
    layers: Annotated[
        tuple[int, ...] | None, Doc("Block, 0-based, repeatable; without it four evenly spaced.")
    ] = None
    input_size: Annotated[str, Doc("native, the long edge in pixels, or x<scale> such as x0.5.")] = "native"
    pixel_size: Annotated[
        str | None, Doc("Physical size of a pixel of the input, such as 5nm, instead of --input-size.")
    ] = None
    tile: Annotated[
        int, Ge(0), Doc("Larger images go through in tiles of this many pixels a side; 0: never.")
    ] = 1024
    tile_overlap: Annotated[int, Ge(0), Doc("Pixels that neighbouring tiles share at the least.")] = 128
    precision: _Precision = "auto"
    device: _Device = "auto"


@dataclass(frozen=True)
class ChannelOptions:
    """How the channels of an image are given to a backbone; see `channel_input.channel_preprocess`."""

    __pydantic_config__ = FORBID_EXTRA

    channels: Annotated[
        Literal["auto", "replicate", "map", "random-map", "mean", "bag"],
        Doc(
            "replicate: one pass a channel, in all slots; map: one pass, by --map or by names; random-map; mean; "
            "bag: one pass a channel, for a backbone with one slot; auto: grey and colour as they are."
        ),
    ] = "auto"
    map: Annotated[
        str | None, Doc("SLOT=CHANNEL,… for --channels map, such as nucleus=hoechst,protein=gfp.")
    ] = None
    fill: Annotated[str, Doc("What slots without a channel hold: zero, mean, or copy:NAME.")] = "zero"
    map_seed: Annotated[int, Ge(0), Doc("Seed of --channels random-map.")] = 0
    join: Annotated[
        Literal["concat", "mean"], Doc("Embeddings of several passes: end to end by name, or their mean.")
    ] = "concat"
    normalise: Annotated[
        Literal["backbone", "imagenet", "self", "percentile", "minmax"],
        Doc(
            "Of each image and channel. self: less its mean over its deviation; percentile, minmax: what becomes "
            "0 and 1; imagenet: ImageNet's mean and deviation; backbone: as it was trained."
        ),
    ] = "backbone"


@dataclass(frozen=True)
class CheckOptions:
    """Which weights of a backbone are checked, and how they run; see `checking.check_backbone`."""

    __pydantic_config__ = FORBID_EXTRA

    weights: _Weights = None
    untrained: _Untrained = False
    init: _Init = "timm"
    init_seed: _InitSeed = 0
    shuffle_weights: _Shuffle = False
    adapter: _Adapter = None
    precision: _Precision = "auto"
    device: _Device = "auto"


@dataclass(frozen=True)
class LoraOptions:
    """The shape of a LoRA adapter (arXiv 2106.09685); see `lora.inject_lora`.

    The fields carry the prefix ``lora_`` so that a training configuration can inherit them.
    """

    __pydantic_config__ = FORBID_EXTRA

    lora_rank: Annotated[int, Gt(0), Doc("Rank of the adapter.")] = 16
    lora_alpha: Annotated[float, Gt(0), Doc("Scale: the update is alpha / rank times B A.")] = 32.0
    lora_dropout: Annotated[float, Ge(0), Lt(1), Doc("Dropout on the adapter's input.")] = 0.0
    lora_targets: Annotated[
        tuple[str, ...], Doc("attention, attention+mlp, or module names within a block; repeatable.")
    ] = ("attention",)
    lora_blocks: Annotated[
        tuple[int, ...] | None, Doc("Block to adapt, 0-based, repeatable; without it all.")
    ] = None
    dora: Annotated[bool, Doc("Adapt magnitude and direction apart (DoRA, arXiv 2402.09353).")] = False
    rslora: Annotated[bool, Doc("Scale by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732).")] = False
    lora_init: Annotated[
        Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora"],
        Doc("First values of the adapter; all leave the model as it is at step 0."),
    ] = "default"


@dataclass(frozen=True)
class CostOptions(LoraOptions):
    """What the cost of a backbone is counted for; see `cost.count_cost`."""

    image: Annotated[int, Gt(0), Doc("Side of a square image in pixels; padded to whole patches.")] = 518
    head: Annotated[str, Doc("Segmentation head on top, of `train --head`.")] = "deconv"
    head_layers: Annotated[int, Gt(0), Doc("Blocks whose tokens the head reads, evenly spaced.")] = 4
    head_width: Annotated[int, Gt(0), Doc("Channels within the head.")] = 96
    preset: Annotated[
        Literal["reference"] | None,
        Doc("reference: its head on the last block, its backbones if none is named, its columns in --to."),
    ] = None
    to: Annotated[Path | None, Doc("CSV file to write the table to.")] = None
    measure: Annotated[bool, Doc("Also time random weights on --device, and read the peak of memory.")] = (
        False
    )
    device: _Device = "auto"
    precision: _Precision = "float32"
