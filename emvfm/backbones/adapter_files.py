"""Adapter files in peft's interchange form, loaded strictly: the right tensors or an error.

A folder holds ``adapter_model.safetensors`` and ``adapter_config.json``, which plain peft reads as well,
``emvfm.json`` with the backbone and weights that the adapter belongs to, and a ``README.md`` that loads it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emvfm.backbones.adapter_card import card
from emvfm.backbones.adapter_check import check_adapter
from emvfm.backbones.backbone import Backbone
from emvfm.backbones.injection import adapter_parameters, file_name, put_adapter, take_out
from emvfm.backbones.open_layers import is_opened
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.workspace import Workspace, atomic_folder, read_json, write_bytes, write_json, write_text

__all__ = ["find_adapter", "load_adapter", "read_adapter", "read_origin", "save_adapter"]

_CONFIG = "adapter_config.json"
_TENSORS = "adapter_model.safetensors"
_PREFIX = "base_model.model."  # what PeftModel puts before every name

#: Settings of peft that change what an adapter computes and that we do not write: (key, values we take).
_PLAIN: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("bias", ("none", None)),
    ("modules_to_save", (None, [])),
    ("rank_pattern", (None, {})),
    ("alpha_pattern", (None, {})),
    ("fan_in_fan_out", (False, None)),
    ("lora_bias", (False, None)),
    ("layer_replication", (None, [])),
    ("target_parameters", (None, [])),
    ("exclude_modules", (None, [])),
)


def find_adapter(reference: str | Path, workspace: Workspace) -> Path:
    """Return the folder of an adapter, given by its own path or by a run.

    Raises
    ------
    MissingError
        There is none.
    """
    folder = Path(reference).expanduser()
    if not (folder / _CONFIG).is_file():
        folder = workspace.find_run(reference)
        found = sorted(path.parent for path in folder.rglob(_CONFIG))
        best = [path for path in found if "best" in path.parts[len(folder.parts) :]] or found
        if not best:
            raise MissingError(
                "no adapter in this run",
                where=folder,
                expected=f"a folder with {_CONFIG}",
                todo="train one with `emvfm train --lora`",
            )
        folder = best[0]
    return folder


def save_adapter(backbone: Backbone, folder: Path, *, replace: bool = False) -> Path:
    """Write the adapter of `backbone` to `folder`, in one step.

    Plain peft loads it onto the library's own model, as its ``README.md`` says; where layers must be
    opened first (open_clip's packed attention, separate biases of some Eva models; nothing for DINOv2
    and DINOv3), the code for it is in the folder. An adapter that began with PiSSA or OLoRA is written
    as a plain one of twice the rank.

    Raises
    ------
    UsageError
        There is no adapter, or `folder` exists and `replace` is false.
    """
    from safetensors.torch import save

    if backbone.adapter is None:
        raise UsageError("no adapter to save", where=backbone.label)
    settings, tensors = backbone.adapter.export(backbone.module)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": backbone.spec.hub or backbone.spec.name,
        "inference_mode": True,
        "r": settings["rank"],
        "lora_alpha": settings["alpha"],
        "lora_dropout": settings["dropout"],
        "target_modules": settings["targets"],
        "use_rslora": settings["rslora"],
        "use_dora": settings["dora"],
        "bias": "none",
        "task_type": None,
        "init_lora_weights": True,
    }
    own = {
        "backbone": backbone.spec.name,
        "weights": backbone.weights_digest,
        "label": backbone.label,
        "adapter": backbone.adapter_digest,
        "licence": backbone.spec.licence,
        "licence_url": backbone.spec.licence_url,
    }
    with atomic_folder(folder, replace=replace) as temporary:
        write_bytes(
            temporary / _TENSORS, save({_PREFIX + n: t for n, t in tensors.items()}, {"format": "pt"})
        )
        write_json(temporary / _CONFIG, config)
        write_json(temporary / "emvfm.json", own)
        for name, text in card(backbone.spec, own, opened=is_opened(backbone.module)).items():
            write_text(temporary / name, text)
    return folder


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingError("no adapter tensors", where=path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CorruptError("damaged adapter file", where=path, got=error) from None
    return {name.removeprefix(_PREFIX): tensor.float() for name, tensor in tensors.items()}


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    config = read_json(path)
    if not isinstance(config, dict) or str(config.get("peft_type", "")).upper() != "LORA":
        raise UsageError("not a LoRA adapter", where=path, got=json.dumps(config)[:80])
    for key, allowed in _PLAIN:
        if key in config and config[key] not in allowed:
            raise UsageError(f"an adapter with {key} can't be loaded", where=path, got=str(config[key])[:80])
    try:
        return {
            "rank": int(config["r"]),
            "alpha": float(config["lora_alpha"]),
            "dropout": float(config.get("lora_dropout") or 0.0),
            "rslora": bool(config.get("use_rslora", False)),
            "dora": bool(config.get("use_dora", False)),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError("not a configuration of an adapter", where=path, got=error) from None


def read_origin(folder: Path) -> dict[str, Any] | None:
    """Return the record of the backbone and weights that an adapter belongs to; None if peft wrote it.

    Raises
    ------
    CorruptError
        The record is damaged.
    """
    path = folder / "emvfm.json"
    if not path.is_file():
        return None
    own = read_json(path)
    if not isinstance(own, dict) or not {"backbone", "weights"} <= set(own):
        raise CorruptError("not a record of an adapter", where=path)
    return own


def _check_origin(backbone: Backbone, folder: Path) -> None:
    own = read_origin(folder)
    if own is None:  # written by plain peft: the tensors' names and shapes must do
        return
    for key, ours in (("backbone", backbone.spec.name), ("weights", backbone.weights_digest)):
        if own[key] != ours:
            raise UsageError(
                f"the adapter belongs to other {key if key == 'weights' else 'models'}",
                where=folder,
                got=f"{key} {ours}",
                expected=own[key],
                todo=f"load {own.get('label', 'the backbone it was trained on')} instead",
            )


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return settings (rank, alpha, dropout, rslora, dora) and float32 tensors of an adapter.

    Raises
    ------
    MissingError
        No adapter there.
    UsageError
        It is of another kind than LoRA on linear layers.
    CorruptError
        A file is damaged.
    """
    if not (folder / _CONFIG).is_file():
        raise MissingError("no adapter here", where=folder, expected=f"{_CONFIG} and {_TENSORS}")
    return _read_settings(folder), _read_tensors(folder / _TENSORS)


def load_adapter(backbone: Backbone, folder: Path, *, trainable: bool = False) -> None:
    """Put the adapter saved in `folder` into `backbone`, in place.

    Parameters
    ----------
    backbone
        The backbone it was trained on, without an adapter.
    folder
        As written by `save_adapter` or by peft's ``save_pretrained``.
    trainable
        Whether its tensors shall take gradients.

    Raises
    ------
    MissingError
        No adapter there.
    UsageError
        It is of another backbone, other weights, or another kind: names or shapes do not fit.
    CorruptError
        A file is damaged.
    EmvfmError
        The adapter is dead on this model.
    """
    settings, tensors = read_adapter(folder)
    _check_origin(backbone, folder)
    foreign = [name for name in tensors if ".lora_" not in name]
    targets = sorted({name.split(".lora_", 1)[0] for name in tensors if ".lora_" in name}, key=_natural)
    backbone.library.open_for_adapters(backbone.module)
    modules = dict(backbone.module.named_modules())
    unknown = [name for name in targets if not isinstance(modules.get(name), torch.nn.Linear)]
    if foreign or unknown or not targets:
        raise UsageError(
            "the adapter does not fit the backbone",
            where=folder,
            got=", ".join((foreign + unknown)[:3]) or "no tensors",
            expected=f"LoRA tensors for linear layers of {backbone.spec.name}",
        )
    put_adapter(backbone, targets, settings, "default", seed=0)
    try:
        _fill(backbone, tensors, folder)
    except BaseException:
        take_out(backbone)
        raise
    check_adapter(backbone)
    for _, parameter in adapter_parameters(backbone.module):
        parameter.requires_grad_(trainable)


def _natural(name: str) -> list[object]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _fill(backbone: Backbone, tensors: dict[str, Tensor], folder: Path) -> None:
    ours = {file_name(name): parameter for name, parameter in adapter_parameters(backbone.module)}
    missing = sorted(set(ours) - set(tensors))
    unexpected = sorted(set(tensors) - set(ours))
    misshapen = [n for n in ours if n in tensors and tensors[n].shape != ours[n].shape]
    for names, what in ((missing, "missing"), (unexpected, "unexpected"), (misshapen, "of another shape")):
        if names:
            raise UsageError(
                f"{len(names)} adapter tensors are {what}",
                where=folder,
                got=", ".join(names[:3]),
                expected=f"the {len(ours)} tensors of rank {backbone.adapter.rank}"  # type: ignore[union-attr]
                f" that {_CONFIG} describes",
            )
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(tensors[name])
