"""A trained adapter for use without emvfm: as a peft adapter, or merged into the weights of the model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emvfm.backbones.adapter_card import card
from emvfm.backbones.adapter_files import find_adapter, read_adapter, read_origin
from emvfm.backbones.loading import build_on_meta, load_spec
from emvfm.backbones.lora import merge
from emvfm.backbones.open_layers import is_opened, open_layers
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.registry import find_spec
from emvfm.config import read_yaml
from emvfm.errors import MissingError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace, atomic_folder, write_bytes, write_text

__all__ = ["ExportedAdapter", "MergedWeights", "export_adapter", "merge_adapter", "plain_state"]


@dataclass(frozen=True)
class ExportedAdapter:
    """A folder that plain peft loads.

    Attributes
    ----------
    folder, files
        Where it is, and what is in it.
    backbone, weights
        Name of the backbone, and digest of the weights the adapter belongs to.
    rank, alpha, rslora, dora, tensors, parameters
        Of the adapter as it is in the file.
    """

    folder: str
    files: tuple[str, ...]
    backbone: str
    weights: str
    rank: int
    alpha: float
    rslora: bool
    dora: bool
    tensors: int
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class MergedWeights:
    """A weight file of the adapted model.

    Attributes
    ----------
    file, sha256
        Where it is, and the digest of its bytes, by which emvfm knows these weights.
    backbone, base, adapter
        Name of the backbone; digests of the base's weights and of the adapter.
    tensors, parameters
        In the file.
    licence
        Of the base's weights, which binds the merged ones too.
    """

    file: str
    sha256: str
    backbone: str
    base: str
    adapter: str
    tensors: int
    parameters: int
    licence: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def _origin(folder: Path) -> dict[str, Any]:
    own = read_origin(folder)
    if own is None:
        raise MissingError(
            "the adapter does not say which backbone it belongs to",
            where=folder,
            expected="emvfm.json beside its tensors",
        )
    return own


def export_adapter(reference: str | Path, to: Path, workspace: Workspace) -> ExportedAdapter:
    """Copy the adapter of a run to the folder `to`, checked, with instructions to load it by peft alone.

    The base's weights are not needed.

    Raises
    ------
    MissingError
        There is no adapter.
    CorruptError
        A file of it is damaged.
    UsageError
        `to` exists.
    """
    source = find_adapter(reference, workspace)
    own = _origin(source)
    settings, tensors = read_adapter(source)
    texts = [name for name in ("README.md", "open_layers.py", "NOTICE") if (source / name).is_file()]
    with atomic_folder(to) as temporary:
        for name in ("adapter_config.json", "adapter_model.safetensors", "emvfm.json", *texts):
            write_bytes(temporary / name, (source / name).read_bytes())
        if "README.md" not in texts:  # saved before adapters had one
            spec = find_spec(own["backbone"])
            opened = is_opened(open_layers(build_on_meta(spec)))
            for name, text in card(spec, own, opened=opened).items():
                write_text(temporary / name, text)
    return ExportedAdapter(
        str(to),
        tuple(sorted(path.name for path in to.iterdir())),
        own["backbone"],
        own["weights"],
        settings["rank"],
        settings["alpha"],
        settings["rslora"],
        settings["dora"],
        len(tensors),
        sum(tensor.numel() for tensor in tensors.values()),
    )


def plain_state(state: Mapping[str, Tensor], plain: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of an opened model under the names of the library's own.

    Parameters
    ----------
    state
        State of a model on which `open_layers` was called, without an adapter.
    plain
        The same model as the library builds it; its tensors may be on the ``meta`` device.

    Raises
    ------
    UsageError
        It is not the same model.
    """
    left = dict(state)
    found: dict[str, Tensor] = {}
    halves: dict[str, Tensor] = {}
    for name, expected in plain.state_dict().items():
        prefix, _, leaf = name.rpartition(".")
        folded = f"{prefix}.qkv.bias"
        if name in left:
            tensor = left.pop(name)
        elif leaf in ("in_proj_weight", "in_proj_bias"):
            tensor = left.pop(f"{prefix}.{leaf.replace('proj_', 'proj.')}", torch.empty(0))
        elif leaf in ("q_bias", "v_bias") and (folded in left or folded in halves):
            if folded in left:
                halves[folded] = left.pop(folded)
            tensor = halves[folded].chunk(3)[0 if leaf == "q_bias" else 2].clone()
        else:
            raise UsageError("the model lacks a tensor", where=name)
        if tensor.shape != expected.shape:
            raise UsageError(
                "a tensor of another shape",
                where=name,
                got=tuple(tensor.shape),
                expected=tuple(expected.shape),
            )
        found[name] = tensor.detach()
    if left:
        raise UsageError("tensors that the library's model has not", got=", ".join(sorted(left)[:3]))
    return found


def _base_options(folder: Path, weights: Path | None, digest: str) -> BackboneOptions:
    """Return what loads the base of an adapter: as given, as its run says, or where weights usually are."""
    if digest.startswith("untrained:"):
        _, scheme, seed = digest.split(":")
        return BackboneOptions(untrained=True, init=scheme, init_seed=int(seed))  # type: ignore[arg-type]
    run = folder.parents[1] / "config.yaml"
    if weights is None and run.is_file():
        known = read_yaml(run).get("weights")
        weights = Path(known) if known and Path(known).is_file() else None
    if digest.startswith("shuffled:"):
        return BackboneOptions(weights=weights, shuffle_weights=True, init_seed=int(digest.split(":")[1]))
    return BackboneOptions(weights=weights)


def merge_adapter(
    reference: str | Path, to: Path, workspace: Workspace, *, weights: Path | None = None
) -> MergedWeights:
    """Write the weights of base and adapter together to the file `to`, under the library's own names.

    timm and open_clip load it as any weight file of the model, and so does emvfm (``--weights``).

    Parameters
    ----------
    reference
        A run, or the folder of an adapter.
    to
        A file that ends in ``.safetensors``.
    weights
        Of the base, where they are not in a usual place.

    Raises
    ------
    MissingError
        There is no adapter, or the base's weights are nowhere.
    UsageError
        `to` exists or has another ending, or the weights are not those the adapter belongs to.
    """
    from safetensors.torch import save

    if to.suffix != ".safetensors":
        raise UsageError("not the name of a weight file", where=to, expected="a name in .safetensors")
    if to.exists():
        raise UsageError("already exists", where=to, todo="choose another name or remove it")
    folder = find_adapter(reference, workspace)
    own = _origin(folder)
    spec = find_spec(own["backbone"])
    options = replace(
        _base_options(folder, weights, own["weights"]),
        adapter=str(folder),
        precision="float32",
        device="cpu",
    )
    backbone = load_spec(spec, options, workspace)
    adapter = backbone.adapter_digest
    assert adapter is not None
    merge(backbone)
    state = plain_state(backbone.module.state_dict(), build_on_meta(spec))
    facts = {"backbone": spec.name, "base": own["weights"], "adapter": adapter, "licence": spec.licence}
    # One entry, because safetensors writes several in any order, and the digest of the file is its identity.
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    write_bytes(to, save(tensors, {"emvfm": json.dumps(facts, sort_keys=True)}))
    return MergedWeights(
        str(to),
        sha256_file(to),
        spec.name,
        own["weights"],
        adapter,
        len(state),
        sum(tensor.numel() for tensor in state.values()),
        spec.licence,
    )
