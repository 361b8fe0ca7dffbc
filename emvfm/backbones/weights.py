"""Weight files: where they may lie, how they are read safely, and which bytes they are.

The order is: the file given, the workspace's ``weights/``, the hub's cache on this machine, the hub.
Nothing is random because something was missing: a source that can't be had is an error that says what
to download, where to put it and under which licence.
"""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import socket
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from emvfm.backbones.registry import BackboneSpec
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.provenance import sha256_file
from emvfm.workspace import Workspace

__all__ = ["WeightFile", "file_digest", "find_local", "load_strictly", "locate", "read_state"]

#: Endings of a weight file in the workspace, in the order they are tried.
ENDINGS = (".safetensors", ".pth", ".pt", ".bin")

#: Parts of a file that a bare vision tower does not have: the mask token of masked-image training and
#: classification heads.
_EXTRAS = ("mask_token", "head.", "head_dist.", "local_cls_norm.")

Origin = Literal["file", "workspace", "cache", "hub"]


@dataclass(frozen=True)
class WeightFile:
    """A weight file and the place that gave it."""

    path: Path
    origin: Origin

    @property
    def official(self) -> bool:
        """Whether it came from the repository that the spec names."""
        return self.origin in ("cache", "hub")


def _download_hint(spec: BackboneSpec, workspace: Workspace) -> str:
    if not spec.page:
        return "give a weight file with --weights, or --untrained"
    return (
        f"download {spec.files[0]} from {spec.page} (licence: {spec.licence}"
        + (f", {spec.licence_url}" if spec.licence_url and spec.licence_url != spec.page else "")
        + f") and put it at {workspace.weights / (spec.stem + '.safetensors')}, or give it with --weights; "
        "--untrained runs without weights"
    )


def find_local(spec: BackboneSpec, workspace: Workspace) -> WeightFile | None:
    """Return the weights of `spec` on this machine: in the workspace, then in the hub's cache."""
    for ending in ENDINGS:
        path = workspace.weights / (spec.stem + ending)
        if path.is_file():
            return WeightFile(path, "workspace")
    cached = _cached(spec)
    return WeightFile(cached, "cache") if cached else None


def _cached(spec: BackboneSpec) -> Path | None:
    if not spec.hub:
        return None
    from huggingface_hub import try_to_load_from_cache

    for name in spec.files:
        path = try_to_load_from_cache(spec.hub, name)
        if isinstance(path, str):
            return Path(path)
    return None


def locate(spec: BackboneSpec, workspace: Workspace, explicit: Path | None = None) -> WeightFile:
    """Return the weight file of `spec`, downloading it from the hub only as the last resort.

    Raises
    ------
    MissingError
        It is nowhere; the message says what to download, where to put it, under which licence.
    """
    if explicit is not None:
        path = explicit.expanduser()
        if not path.is_file():
            raise MissingError("no such weight file", where=path, todo=_download_hint(spec, workspace))
        return WeightFile(path, "file")
    if found := find_local(spec, workspace):
        return found
    return WeightFile(_download(spec, workspace), "hub")


def _hub_has_address() -> bool:
    """Return whether the hub's name resolves, so that a machine without network need not wait for retries."""
    from huggingface_hub import constants

    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True  # the proxy resolves names
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def _download(spec: BackboneSpec, workspace: Workspace) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
    )

    # The client's connection errors come from an HTTP library that changed twice: its own error names it.
    libraries = ("httpx", "httpx2", "requests")
    refusals: tuple[type[Exception], ...] = tuple(
        kind
        for kind in HfHubHTTPError.__mro__
        if kind is HfHubHTTPError or kind.__module__.split(".")[0] in libraries
    )
    reason = "not on this machine, and no hub repository is known"
    if spec.hub and constants.HF_HUB_OFFLINE:
        reason = "not on this machine, and the hub is switched off (HF_HUB_OFFLINE)"
    elif spec.hub and not _hub_has_address():
        reason = "not on this machine, and the hub can't be reached"
    elif spec.hub:
        for name in spec.files:
            try:
                return Path(hf_hub_download(spec.hub, name))
            except LocalEntryNotFoundError:
                reason = "not on this machine, and the hub can't be reached"
                break
            except GatedRepoError:
                reason = "the hub gives it only to those who accepted its terms"
                break
            except EntryNotFoundError:
                reason = f"the hub's repository has none of {', '.join(spec.files)}"
            except refusals:
                reason = "not on this machine, and the hub refused or broke off"
                break
    raise MissingError(f"weights missing: {reason}", where=spec.name, todo=_download_hint(spec, workspace))


@functools.lru_cache(maxsize=64)
def _digest_of(path: str, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed once a process for an unchanged file."""
    stat = os.stat(path)  # noqa: PTH116  follows the links of the hub's cache
    return _digest_of(str(path.absolute()), stat.st_size, stat.st_mtime_ns)


def _read_torch(path: Path) -> Any:
    import torch

    try:
        # Training scripts keep their arguments beside the weights; a namespace of plain values runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CorruptError(
            "refused: the file holds more than tensors, or is no weight file",
            where=path,
            expected="tensors alone (safetensors, or a state dict of torch.save)",
            todo="never load weights that need code; convert them to safetensors where you trust them",
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise CorruptError(
            "damaged weight file", where=path, got=str(error).split("\n", 1)[0][:200]
        ) from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptError("damaged weight file", where=path, got=error) from None


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file by name, as float32.

    Wrappers that training scripts put around a state dict (``model``, ``state_dict``, ``teacher``) and
    the prefixes ``module.`` and ``backbone.`` are taken off, as in checkpoints of DINO and DINO4Cells.

    Raises
    ------
    CorruptError
        Damaged or truncated, or it would run code when loaded.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for wrapper in ("teacher", "model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state:
        raise CorruptError("no tensors in the weight file", where=path, got=type(state).__name__)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for prefix in ("module.", "backbone."):
        if any(key.startswith(prefix) for key in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def load_strictly(module: nn.Module, state: dict[str, Tensor], where: Path, spec: BackboneSpec) -> None:
    """Put `state` into `module`; every parameter must be there, in its shape, and nothing else.

    Mask tokens and classification heads are left aside.

    Raises
    ------
    UsageError
        The file is of another architecture: names missing, unexpected, or of another shape.
    """
    ours = module.state_dict()
    extra = [key for key in state if key not in ours and not key.startswith(_EXTRAS)]
    missing = [key for key in ours if key not in state]
    misshapen = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(ours[key].shape)}"
        for key in ours
        if key in state and state[key].shape != ours[key].shape
    ]
    problems = [
        f"{len(names)} {kind} ({_some(names)})"
        for kind, names in (("missing", missing), ("unexpected", extra), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise UsageError(
            f"these are not weights of {spec.name} ({spec.architecture})",
            where=where,
            got="; ".join(problems),
            expected=f"the {len(ours)} tensors of {spec.library} {spec.model}",
            todo="choose the backbone that the file belongs to",
        )
    module.load_state_dict({key: state[key] for key in ours}, strict=True, assign=False)
