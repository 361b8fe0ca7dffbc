"""What lies beside an adapter's tensors: how to load it without emvfm, the code that needs, the licence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emvfm.backbones import open_layers
from emvfm.backbones.registry import BackboneSpec

__all__ = ["card"]

#: Stands in the load instructions for weights that no hub has.
_FILE = "WEIGHT_FILE"


def card(spec: BackboneSpec, own: Mapping[str, Any], *, opened: bool) -> dict[str, str]:
    """Return file names and texts: ``README.md``, and ``open_layers.py`` and ``NOTICE`` where needed.

    Parameters
    ----------
    spec
        Of the backbone.
    own
        The adapter's record: ``weights`` is the digest of the base's weights, ``label`` its honest name.
    opened
        Whether layers of the library's own model must be opened before the adapter fits.
    """
    files = {"README.md": _readme(spec, own, opened)}
    if opened:
        files["open_layers.py"] = Path(open_layers.__file__).read_text(encoding="utf-8")
    if spec.family == "dinov3":
        files["NOTICE"] = _notice(spec)
    return files


def _base_line(spec: BackboneSpec, official: bool) -> str:
    if spec.library == "open_clip":
        weights = repr(spec.tag) if official else f'"{_FILE}"'
        return f'base = open_clip.create_model("{spec.model}", pretrained={weights}).visual'
    extra = "".join(f", {key}={value!r}" for key, value in spec.overrides)
    name = f"{spec.model}.{spec.tag}" if spec.tag else spec.model
    weights = "" if official else f', pretrained_cfg_overlay=dict(file="{_FILE}")'
    keys = f"pretrained=True{weights}, num_classes=0, dynamic_img_size=True{extra}"
    return f'base = timm.create_model("{name}", {keys})'


def _readme(spec: BackboneSpec, own: Mapping[str, Any], opened: bool) -> str:
    official = own.get("label") == spec.title
    which = "" if official else f" ({_FILE} below)"
    code = [
        f"import {spec.library}, peft",
        *(["from open_layers import open_layers  # the file beside this one"] if opened else []),
        _base_line(spec, official),
        f'model = peft.PeftModel.from_pretrained({"open_layers(base)" if opened else "base"}, ".").eval()',
    ]
    return "\n".join(
        [
            f"A LoRA adapter for {own.get('label', spec.title)}, on weights {own['weights']}{which}.",
            f"Plain peft loads it onto the model of {spec.library}, run in this folder:",
            "",
            "```python",
            *code,
            "```",
            "",
        ]
    )


def _notice(spec: BackboneSpec) -> str:
    return (
        f"This adapter was trained on {spec.title} and is a derivative work of DINO Materials.\n"
        f"Its use and distribution are subject to the {spec.licence}: {spec.licence_url}\n"
        "Publications that use it acknowledge the use of DINO Materials.\n"
    )
