"""What every domain command starts from and ends with: embedded datasets, and a folder of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.config import to_dict
from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.manifest import Dataset
from emvfm.errors import UsageError
from emvfm.provenance import digest, environment
from emvfm.segmentation.metrics import block_labels
from emvfm.store.view import Embeddings
from emvfm.studies.options import DomainOptions
from emvfm.studies.result_folder import write_results
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Domain", "chosen_layers", "open_domains", "write_domain_run"]


@dataclass(frozen=True)
class Domain:
    """One dataset (or split) as a backbone sees it.

    Attributes
    ----------
    name
        As given on the command line.
    embeddings
        Of all its samples, in their order.
    blocks
        Length N: block of consecutive slices of one volume that a sample belongs to; samples of one
        block are not independent.
    """

    name: str
    embeddings: Embeddings
    blocks: list[int]

    @property
    def dataset(self) -> Dataset:
        return self.embeddings.dataset

    def __len__(self) -> int:
        return len(self.embeddings)

    def vectors(self, options: DomainOptions, layer: int | None = None) -> NDArray[np.float32]:
        """Return ``(N, D)`` float32, one vector an image; `layer` is a position instead of the option's."""
        return self.embeddings.image_embeddings(options.pool, options.layer if layer is None else layer)

    def patches(self, layer: int) -> Iterator[NDArray[Any]]:
        """Yield ``(n_i, D)`` in the stored type for each image in turn: its patches that are not mostly padding.

        Parameters
        ----------
        layer
            Position among the stored layers.
        """
        block = self.embeddings.layers[layer]
        for i, tokens in enumerate(self.embeddings.iter_patches(layers=[block])):
            inside = self.embeddings.valid(i) >= 0.5
            yield tokens[0].reshape(-1, tokens.shape[-1]) if inside.all() else tokens[0][inside]


def chosen_layers(options: DomainOptions, domains: Sequence[Domain]) -> list[int]:
    """Return the positions of the layers to look at.

    Raises
    ------
    UsageError
        There is no such position.
    """
    n = len(domains[0].embeddings.layers)
    if options.all_layers:
        return list(range(n))
    if not -n <= options.layer < n:
        raise UsageError("no such layer position", where="--layer", got=options.layer, expected=f"below {n}")
    return [options.layer % n]


def open_domains(
    names: Sequence[str],
    options: DomainOptions,
    workspace: Workspace,
    *,
    console: Console | None = None,
    least: int = 2,
) -> list[Domain]:
    """Open and embed datasets, by name, ``name:split`` or folder; what the store has is not computed again.

    Parameters
    ----------
    least
        How many datasets there must be.

    Raises
    ------
    UsageError
        Too few datasets, one twice, or one with fewer than two images.
    MissingError
        No such dataset, or no weights.
    """
    from emvfm.backbones.loading import load_backbone
    from emvfm.extraction.pipeline import embed_dataset

    if len(names) < least:
        raise UsageError(
            "nothing to compare with" if least > 1 else "no dataset",
            got=", ".join(names),
            expected=f"{('one', 'two')[least - 1]} or more datasets",
        )
    if len(set(names)) < len(names):
        raise UsageError("a dataset occurs twice", got=", ".join(names))
    opened = {name: open_dataset(workspace, name) for name in names}
    for name, dataset in opened.items():
        if len(dataset.samples) < 2:
            raise UsageError("too few images", where=name, got=len(dataset.samples), expected="2 or more")
    backbone = load_backbone(options, workspace)
    domains = []
    for name, dataset in opened.items():
        embeddings = embed_dataset(dataset, backbone, options, workspace, console=console)
        blocks = block_labels([s.volume for s in dataset.samples], [s.z for s in dataset.samples])
        domains.append(Domain(name, embeddings, blocks))
    return domains


def write_domain_run(
    workspace: Workspace,
    command: str,
    options: Any,
    domains: Sequence[Domain],
    metrics: Mapping[str, Any],
    files: Mapping[str, bytes | str],
) -> Path:
    """Write a folder ``runs/domain-<command>-<identity>`` and return it; a former one of this identity is replaced.

    Parameters
    ----------
    metrics
        Becomes ``metrics.json``, with the backbone's label.
    files
        Contents by path within the folder: text, or bytes such as a figure.
    """
    digests = {domain.name: domain.dataset.digest for domain in domains}
    identity = digest([domains[0].embeddings.key, to_dict(options), digests])
    folder = workspace.runs / f"domain-{command}-{identity[:10]}"
    provenance = {
        "identity": identity,
        "store": domains[0].embeddings.key,
        "datasets": digests,
        "environment": environment(),
    }
    return write_results(
        folder, options, {"backbone": domains[0].embeddings.label, **metrics}, provenance, files
    )
