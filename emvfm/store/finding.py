"""Which of the stores holds the embeddings of a dataset, where no backbone is at hand to say its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emvfm.datasets.manifest import Dataset
from emvfm.errors import MissingError, UsageError
from emvfm.store.care import find_stores
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import Embeddings

__all__ = ["find_embeddings"]


def _describe(store: EmbeddingStore) -> str:
    facts = store.identity
    size = facts.preprocess.get("input_size")
    return f"{facts.key[:12]} {store.label}, input {size}, layers {','.join(map(str, facts.layers))}"


def _chosen(root: Path, key: str) -> EmbeddingStore:
    found = find_stores(root, [key])
    if len(found) > 1:
        raise UsageError(
            "several stores begin so",
            where=f"--store {key}",
            got="; ".join(map(_describe, found)),
            todo="name more of the key",
        )
    return found[0]


def _with_foreground(candidates: Sequence[Embeddings]) -> Embeddings:
    """Return the first of some views of the same samples that has a sample table, else the first."""
    for view in candidates:
        masked = [i for i, sample in enumerate(view.samples) if sample.mask is not None]
        try:
            if masked:
                view.foreground(masked[0])
        except MissingError:
            continue
        return view
    return candidates[0]


def _holds(store: EmbeddingStore, dataset: Dataset) -> bool:
    try:
        Embeddings(store, dataset)
    except MissingError:
        return False
    return True


def find_embeddings(
    root: Path,
    dataset: Dataset,
    whole: Dataset | None = None,
    *,
    key: str | None = None,
    backbone: Mapping[str, Any] | None = None,
) -> Embeddings:
    """Open the embeddings of `dataset` in the one store under `root` that holds them; no model is loaded.

    Parameters
    ----------
    whole
        The dataset of which `dataset` is a part, if it is one.
    key
        Beginning of a store's key. Without it, stores of turned or moved images are passed over.
    backbone
        Only stores of this backbone, as its spec says it: ``spec.identity()``.

    Raises
    ------
    MissingError
        No store holds all images.
    UsageError
        Several do, and `key` does not say which.
    """
    if key is not None:
        found = [_chosen(root, key)]
    else:
        plain = [store for store in find_stores(root) if store.identity.preprocess.get("view") is None]
        fitting = [store for store in plain if backbone is None or store.identity.backbone == dict(backbone)]
        found = [store for store in fitting if _holds(store, dataset)]
        if not found:
            of = "" if backbone is None else " of this backbone"
            raise MissingError(
                f"no store{of} holds all its images", where=dataset.name, todo="run `emvfm embed` for it"
            )
        if len(found) > 1:
            raise UsageError(
                "several stores hold it",
                where=dataset.name,
                got="; ".join(map(_describe, found)),
                todo="choose one with --store KEY",
            )
    (store,) = found
    views = [Embeddings(store, dataset)]
    if whole is not None and len(whole) > len(dataset):
        # The foreground stands in the table of what was embedded: the part, or the whole.
        views.append(Embeddings(store, whole, dataset.samples))
    return _with_foreground(views)
