"""Backbones with other input channels than red, green and blue, and those that were trained on cells."""

from __future__ import annotations

import re
from dataclasses import replace

from emvfm.backbones.channels import SLOTS
from emvfm.backbones.registry import RGB, BackboneSpec, find_spec
from emvfm.errors import MissingError, UsageError

__all__ = ["CELL_SPECS", "find_cell_model", "with_slots"]


def _dino4cells(size: str, letter: str, patch: int, width: int, heads: int, n: int) -> BackboneSpec:
    model = f"vit_{size}_patch{patch}_224"
    return BackboneSpec(
        name=f"dino4cells_vit{letter}{patch}",
        family="timm",
        variant=f"{model} (DINO4Cells)",
        library="timm",
        model=model,
        tag="",
        patch=patch,
        width=width,
        depth=12,
        heads=heads,
        has_cls=True,
        registers=0,
        native=224,
        mean=(0.0,) * 4,
        std=(1.0,) * 4,
        licence="that of the record it comes from",
        licence_url="https://zenodo.org/records/8061392",
        hub="",
        files=(),
        parameters=n,
        lora_attention=("attn.qkv", "attn.proj"),
        lora_mlp=("mlp.fc1", "mlp.fc2"),
        overrides=(("in_chans", 4),),
        slots=SLOTS["hpa"],
        scaling="self",
    )


#: Architectures of DINO4Cells (doi:10.1101/2023.06.16.545359), DINO v1 on cells. Weights are a file of one's own:
#: there is no repository to download them from by name.
CELL_SPECS = (
    _dino4cells("tiny", "t", 16, 192, 3, 5_573_568),
    _dino4cells("small", "s", 16, 384, 6, 21_763_968),
    _dino4cells("small", "s", 8, 384, 6, 21_694_848),
    _dino4cells("base", "b", 16, 768, 12, 85_995_264),
    _dino4cells("base", "b", 8, 768, 12, 85_857_024),
)

_SLOT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


def with_slots(spec: BackboneSpec, text: str) -> BackboneSpec:
    """Return the row of `spec` with other input channels.

    Parameters
    ----------
    text
        ``rgb``, ``hpa``, ``gray``, or names joined by commas. Mean and deviation of a new slot are the means of
        those of the three colours. Weights for colours fit a single slot: their kernels are added up, which is
        what grey in all three colours gives.

    Raises
    ------
    UsageError
        The names are none or not different, or the backbone is not one of timm.
    """
    slots = SLOTS.get(text, tuple(part.strip() for part in text.split(",")))
    if len(set(slots)) < len(slots) or not all(_SLOT.fullmatch(slot) for slot in slots):
        expected = ", ".join(SLOTS) + ", or different names joined by commas"
        raise UsageError("not input channels", where=f"{spec.name}@{text}", got=text, expected=expected)
    if slots == RGB:
        return spec
    if spec.library != "timm" or "in_chans" in dict(spec.overrides):
        raise UsageError(
            "input channels can be chosen for backbones of timm only", where=f"{spec.name}@{text}"
        )
    n = len(slots)
    known = next((name for name, names in SLOTS.items() if names == slots), ",".join(slots))
    return replace(
        spec,
        name=f"{spec.name}@{known}",
        variant=f"{spec.variant} with {n} channels",
        hub=spec.hub if n == 1 else "",
        files=spec.files if n == 1 else (),
        parameters=spec.parameters + (n - 3) * spec.patch**2 * spec.width,
        mean=(sum(spec.mean) / 3,) * n,
        std=(sum(spec.std) / 3,) * n,
        overrides=tuple(sorted((*spec.overrides, ("in_chans", n)))),
        slots=slots,
    )


def find_cell_model(name: str) -> BackboneSpec:
    """Return the row called ``NAME@SLOTS``, or one of `CELL_SPECS`.

    Raises
    ------
    MissingError
        There is no such backbone.
    UsageError
        The slots are none.
    """
    base, at, slots = name.partition("@")
    if at:
        return with_slots(find_spec(base), slots)
    rows = {spec.name: spec for spec in CELL_SPECS}
    if base not in rows:
        raise MissingError("no such backbone", where=name, expected="one of " + ", ".join(rows))
    return rows[base]
