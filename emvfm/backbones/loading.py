"""From options to a backbone that is ready: the one way every command gets its model."""

from __future__ import annotations

import torch
from torch import nn

from emvfm.backbones.backbone import Backbone, Library
from emvfm.backbones.open_clip_adapter import OpenClipLibrary
from emvfm.backbones.options import BackboneOptions
from emvfm.backbones.precision import choose_device, choose_precision
from emvfm.backbones.registry import BackboneSpec, find_spec
from emvfm.backbones.timm_adapter import TimmLibrary
from emvfm.backbones.untrained import build_untrained, shuffle_weights
from emvfm.backbones.weights import WeightFile, file_digest, load_strictly, locate, read_state
from emvfm.errors import UsageError
from emvfm.workspace import Workspace

__all__ = ["build_on_meta", "library_of", "load_backbone", "load_spec"]


def library_of(spec: BackboneSpec) -> Library:
    """Return what knows the library of `spec`."""
    if spec.library == "emvfm":
        from emvfm.backbones.baselines.baseline import NoWeights

        return NoWeights()
    return TimmLibrary() if spec.library == "timm" else OpenClipLibrary()


def build_on_meta(spec: BackboneSpec) -> nn.Module:
    """Return the model of `spec` without memory for its parameters: shapes and counts, no numbers."""
    with torch.device("meta"):
        return library_of(spec).build(spec)


def _trained(library: Library, spec: BackboneSpec, file: WeightFile) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # building draws random numbers that the file then replaces
        module = library.build(spec)
    load_strictly(module, library.convert(read_state(file.path), module), file.path, spec)
    return module


def _label(spec: BackboneSpec, file: WeightFile) -> str:
    return spec.title if file.official else f"{spec.architecture} ({file.path.stem})"


def load_spec(spec: BackboneSpec, options: BackboneOptions, workspace: Workspace) -> Backbone:
    """Return the backbone of `spec`; `options` say the rest (its name there is not read).

    Raises
    ------
    MissingError
        The weights are nowhere to be had.
    UsageError
        The options contradict each other, or the weight file is of another architecture.
    CorruptError
        The weight file is damaged or unsafe.
    """
    if spec.library == "emvfm":
        from emvfm.backbones.baselines.baseline import open_baseline

        return open_baseline(spec, options, workspace)
    library = library_of(spec)
    device = choose_device(options.device)
    if options.untrained:
        if options.weights is not None:
            raise UsageError("--untrained and --weights exclude each other", where=spec.name)
        if options.shuffle_weights:
            raise UsageError("--untrained and --shuffle-weights exclude each other", where=spec.name)
        module = build_untrained(library, spec, options.init, options.init_seed)
        digest = f"untrained:{options.init}:{options.init_seed}"
        label = f"{spec.architecture}, untrained ({options.init} init, seed {options.init_seed})"
    else:
        file = locate(spec, workspace, options.weights)
        module = _trained(library, spec, file)
        digest, label = file_digest(file.path), _label(spec, file)
        if options.shuffle_weights:
            seed = options.init_seed
            shuffle_weights(module, seed)
            digest = f"shuffled:{seed}:{digest}"
            label = f"{spec.architecture}, weights of {label} shuffled within tensors (seed {seed})"
    backbone = Backbone(
        spec,
        module,
        library,
        label=label,
        weights_digest=digest,
        device=device,
        precision=choose_precision(options.precision, device),
    )
    if options.adapter is not None:
        from emvfm.backbones.adapter_files import find_adapter, load_adapter

        load_adapter(backbone, find_adapter(options.adapter, workspace))
    return backbone


def load_backbone(options: BackboneOptions, workspace: Workspace) -> Backbone:
    """Return the backbone that `options` name; see `load_spec` for the errors."""
    return load_spec(find_spec(options.backbone), options, workspace)
