"""The table of backbones: one frozen row a model, plus any other ViT of timm or open_clip by its name.

Every number of the table is checked by a test against the library's own configuration of the model
(built without memory, on torch's ``meta`` device). Sources: DINOv2 arXiv 2304.07193, registers
arXiv 2309.16588, DINOv3 arXiv 2508.10104, CLIP arXiv 2103.00020, OpenCLIP arXiv 2212.07143, DataComp
arXiv 2304.14108.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from typing import Any, Literal

from emvfm.errors import MissingError

__all__ = ["ALIASES", "RGB", "SPECS", "BackboneSpec", "find_spec"]

_Triple = tuple[float, float, float]

#: The input slots of a backbone for colour images.
RGB = ("red", "green", "blue")

_IMAGENET: tuple[_Triple, _Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SATELLITE: tuple[_Triple, _Triple] = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
_CLIP: tuple[_Triple, _Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
_HALF: tuple[_Triple, _Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://opensource.org/license/mit",
    "DINOv3 License": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
}


@dataclass(frozen=True)
class BackboneSpec:
    """What is known of a backbone before its weights are read.

    Attributes
    ----------
    name, family, variant
        Our name, ``dinov2 | dinov3 | openclip | timm``, and the size as papers write it.
    library, model, tag
        The library that builds it, its name there, and the tag of its weights.
    patch, width, depth, heads
        Patch side in pixels, token length D, number of blocks, attention heads a block.
    has_cls, registers
        Whether a class token comes first, and how many register tokens follow it.
    native
        Side in pixels of the images it was last trained on.
    mean, std
        Per channel, of intensities in [0, 1].
    licence, licence_url
        Of the weights.
    hub, files
        Repository on the Hugging Face hub, and the names its weight file may have.
    parameters
        Number of parameters of the vision tower, without a classification head.
    lora_attention, lora_mlp
        Modules within a block that the LoRA targets ``attention`` and ``mlp`` mean.
    overrides
        Constructor arguments that differ from the library's own configuration.
    slots
        Names of its input channels; `mean` and `std` have one value each.
    scaling
        ``window``: intensities in [0, 1], then mean and deviation; ``self``: each channel of an image less its
        own mean over its own deviation.
    """

    name: str
    family: Literal["dinov2", "dinov3", "openclip", "timm", "baseline"]
    variant: str
    library: Literal["timm", "open_clip", "emvfm"]
    model: str
    tag: str
    patch: int
    width: int
    depth: int
    heads: int
    has_cls: bool
    registers: int
    native: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    licence_url: str
    hub: str
    files: tuple[str, ...]
    parameters: int
    lora_attention: tuple[str, ...]
    lora_mlp: tuple[str, ...]
    overrides: tuple[tuple[str, Any], ...] = ()
    slots: tuple[str, ...] = RGB
    scaling: Literal["window", "self"] = "window"

    @property
    def prefix(self) -> int:
        """Number of tokens before the patch tokens."""
        return int(self.has_cls) + self.registers

    @property
    def title(self) -> str:
        """The official name, right only with the official weights."""
        family = {"dinov2": "DINOv2", "dinov3": "DINOv3", "openclip": "OpenCLIP", "timm": "timm"}[self.family]
        return f"{family} {self.variant}"

    @property
    def architecture(self) -> str:
        """The name of the bare architecture, right with any weights."""
        return self.variant.split(" (")[0].split(" with")[0]

    @property
    def stem(self) -> str:
        """The name of a weight file of this backbone in ``weights/``, without its ending."""
        return self.name.removeprefix("timm:").removeprefix("openclip:").replace("/", "-")

    @property
    def page(self) -> str:
        """Where a person downloads the weights and reads their terms."""
        return f"https://huggingface.co/{self.hub}" if self.hub else ""

    def identity(self) -> dict[str, Any]:
        """Return what decides the numbers a set of weights gives, as plain JSON values."""
        keys = ("library", "model", "patch", "width", "depth", "heads", "has_cls", "registers", "native")
        values = asdict(self)
        own = {} if self.slots == RGB else {"slots": list(self.slots)}
        return {key: values[key] for key in keys} | {"overrides": dict(self.overrides)} | own


def _dinov2(
    size: str, letter: str, width: int, depth: int, heads: int, n: int, registers: int
) -> BackboneSpec:
    suffix, infix = ("_reg", "_reg4") if registers else ("", "")
    model = f"vit_{size}_patch14{infix}_dinov2"
    return BackboneSpec(
        name=f"dinov2_vit{letter}14{suffix}",
        family="dinov2",
        variant=f"ViT-{letter if letter == 'g' else letter.upper()}/14"
        + (" with registers" if registers else ""),
        library="timm",
        model=model,
        tag="lvd142m",
        patch=14,
        width=width,
        depth=depth,
        heads=heads,
        has_cls=True,
        registers=registers,
        native=518,
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        licence="Apache-2.0",
        licence_url=_LICENCES["Apache-2.0"],
        hub=f"timm/{model}.lvd142m",
        files=("model.safetensors", "pytorch_model.bin"),
        parameters=n,
        lora_attention=("attn.qkv", "attn.proj"),
        lora_mlp=("mlp.fc1", "mlp.fc2"),
    )


def _dinov3(
    size: str,
    name: str,
    variant: str,
    width: int,
    depth: int,
    heads: int,
    n: int,
    gated: bool,
    tag: str = "lvd1689m",
) -> BackboneSpec:
    satellite = tag == "sat493m"
    model = f"vit_{size}_patch16_dinov3"
    mean, std = _SATELLITE if satellite else _IMAGENET
    return BackboneSpec(
        name=f"dinov3_{name}16" + ("_sat" if satellite else ""),
        family="dinov3",
        variant=f"{variant}/16" + (" (satellite)" if satellite else ""),
        library="timm",
        model=model,
        tag=tag,
        patch=16,
        width=width,
        depth=depth,
        heads=heads,
        has_cls=True,
        registers=4,
        native=256,
        mean=mean,
        std=std,
        licence="DINOv3 License",
        licence_url=_LICENCES["DINOv3 License"],
        hub=f"timm/{model}.{tag}",
        files=("model.safetensors", "pytorch_model.bin"),
        parameters=n,
        lora_attention=("attn.qkv", "attn.proj"),
        lora_mlp=("mlp.fc1_g", "mlp.fc1_x", "mlp.fc2") if gated else ("mlp.fc1", "mlp.fc2"),
    )


@dataclass(frozen=True)
class _Clip:
    """The architecture of an OpenCLIP vision tower."""

    model: str
    short: str
    variant: str
    patch: int
    width: int
    depth: int
    heads: int
    parameters: int


_CLIPS = {
    "b32": _Clip("ViT-B-32", "vitb32", "ViT-B/32", 32, 768, 12, 12, 87_849_216),
    "b16": _Clip("ViT-B-16", "vitb16", "ViT-B/16", 16, 768, 12, 12, 86_192_640),
    "l14": _Clip("ViT-L-14", "vitl14", "ViT-L/14", 14, 1024, 24, 16, 303_966_208),
    "h14": _Clip("ViT-H-14", "vith14", "ViT-H/14", 14, 1280, 32, 16, 632_076_800),
    "G14": _Clip("ViT-bigG-14", "vitbigg14", "ViT-bigG/14", 14, 1664, 48, 16, 1_844_907_264),
}

_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def _openclip(
    size: str,
    data: str,
    tag: str,
    hub: str,
    *,
    quickgelu: bool = False,
    norm: tuple[_Triple, _Triple] = _CLIP,
) -> BackboneSpec:
    tower = _CLIPS[size]
    return BackboneSpec(
        name=f"openclip_{tower.short}_{data}",
        family="openclip",
        variant=f"{tower.variant} ({tag})",
        library="open_clip",
        model=tower.model + ("-quickgelu" if quickgelu else ""),
        tag=tag,
        patch=tower.patch,
        width=tower.width,
        depth=tower.depth,
        heads=tower.heads,
        has_cls=True,
        registers=0,
        native=224,
        mean=norm[0],
        std=norm[1],
        licence="MIT",
        licence_url=_LICENCES["MIT"],
        hub=hub,
        files=_OPEN_CLIP_FILES,
        parameters=tower.parameters,
        lora_attention=("attn.in_proj", "attn.out_proj"),  # of open_layers.SelfAttention
        lora_mlp=("mlp.c_fc", "mlp.c_proj"),
    )


#: All named backbones, smallest first within a family.
SPECS: tuple[BackboneSpec, ...] = (
    _dinov2("small", "s", 384, 12, 6, 22_056_192, 0),
    _dinov2("small", "s", 384, 12, 6, 22_057_344, 4),
    _dinov2("base", "b", 768, 12, 12, 86_579_712, 0),
    _dinov2("base", "b", 768, 12, 12, 86_582_016, 4),
    _dinov2("large", "l", 1024, 24, 16, 304_367_616, 0),
    _dinov2("large", "l", 1024, 24, 16, 304_370_688, 4),
    _dinov2("giant", "g", 1536, 40, 24, 1_136_479_232, 0),
    _dinov2("giant", "g", 1536, 40, 24, 1_136_483_840, 4),
    _dinov3("small", "vits", "ViT-S", 384, 12, 6, 21_586_944, False),
    _dinov3("small_plus", "vitsplus", "ViT-S+", 384, 12, 6, 28_683_264, True),
    _dinov3("base", "vitb", "ViT-B", 768, 12, 12, 85_641_216, False),
    _dinov3("large", "vitl", "ViT-L", 1024, 24, 16, 303_079_424, False),
    _dinov3("large", "vitl", "ViT-L", 1024, 24, 16, 303_079_424, False, "sat493m"),
    _dinov3("huge_plus", "vithplus", "ViT-H+", 1280, 32, 20, 840_509_440, True),
    _dinov3("7b", "vit7b", "ViT-7B", 4096, 40, 32, 6_716_030_976, True),
    _dinov3("7b", "vit7b", "ViT-7B", 4096, 40, 32, 6_716_030_976, True, "sat493m"),
    _openclip("b32", "laion2b", "laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    _openclip(
        "b32", "laion400m", "laion400m_e32", "timm/vit_base_patch32_clip_224.laion400m_e32", quickgelu=True
    ),
    _openclip("b32", "datacomp", "datacomp_xl_s13b_b90k", "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K"),
    _openclip("b32", "openai", "openai", "timm/vit_base_patch32_clip_224.openai", quickgelu=True),
    _openclip("b16", "laion2b", "laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
    _openclip("b16", "laion400m", "laion400m_e32", "timm/vit_base_patch16_clip_224.laion400m_e32"),
    _openclip("b16", "datacomp", "datacomp_xl_s13b_b90k", "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K"),
    _openclip("b16", "openai", "openai", "timm/vit_base_patch16_clip_224.openai", quickgelu=True),
    _openclip("l14", "laion2b", "laion2b_s32b_b82k", "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", norm=_HALF),
    _openclip("l14", "laion400m", "laion400m_e32", "timm/vit_large_patch14_clip_224.laion400m_e32"),
    _openclip("l14", "datacomp", "datacomp_xl_s13b_b90k", "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K"),
    _openclip("l14", "openai", "openai", "timm/vit_large_patch14_clip_224.openai", quickgelu=True),
    _openclip("h14", "laion2b", "laion2b_s32b_b79k", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    _openclip("G14", "laion2b", "laion2b_s39b_b160k", "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"),
)

#: Short names for the smallest sensible row of a family.
ALIASES = {
    "dinov2": "dinov2_vits14",
    "dinov3": "dinov3_vits16",
    "openclip": "openclip_vitb16_laion2b",
}


def find_spec(name: str) -> BackboneSpec:
    """Return the row called `name`.

    Parameters
    ----------
    name
        A name of `SPECS`, an alias (``dinov2``, ``dinov3``, ``openclip``), ``timm:NAME`` or a bare
        ViT name of timm, ``openclip:MODEL/TAG``, ``NAME@SLOTS`` for a backbone of timm with other input
        channels, ``dino4cells_vits16`` (`cell_models`), ``tiny:NAME`` for the tiny twin of any of them, or a
        baseline (``pixel:all``, ``random:noise``, ``structure:density``; see `baselines.registry`).

    Raises
    ------
    MissingError
        No such backbone; the message lists close names.
    UsageError
        The library has such a model, but it is no plain vision transformer.
    """
    rows = {spec.name: spec for spec in SPECS}
    if spec := rows.get(ALIASES.get(name, name)):
        return spec
    if "@" in name or name.startswith("dino4cells"):
        from emvfm.backbones.cell_models import find_cell_model

        return find_cell_model(name)
    if name.partition(":")[0] in ("pixel", "random", "structure"):
        from emvfm.backbones.baselines.registry import find_baseline

        return find_baseline(name)
    if name.startswith("tiny:"):
        from emvfm.backbones.tiny import tiny_twin

        return tiny_twin(name.removeprefix("tiny:"))
    if name.startswith("openclip:"):
        from emvfm.backbones.open_clip_adapter import derive_spec as derive_open_clip

        return derive_open_clip(name.removeprefix("openclip:"))
    if not name.startswith(("dinov2", "dinov3", "openclip")):
        from emvfm.backbones.timm_adapter import derive_spec as derive_timm

        derived = derive_timm(name.removeprefix("timm:"))
        if derived is not None:
            return derived
    close = difflib.get_close_matches(name, [*ALIASES, *rows], n=4, cutoff=0.4)
    raise MissingError(
        "no such backbone",
        where=name,
        expected="one like " + ", ".join(close) if close else None,
        todo="see `emvfm backbones list`; any ViT of timm works as timm:NAME",
    )
