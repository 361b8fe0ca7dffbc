"""Looking after stores: what each holds and how large it is, and whether every byte is what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emvfm.errors import CorruptError, MissingError
from emvfm.store.store import EmbeddingStore

__all__ = ["StoreSummary", "find_stores", "summarise", "verify"]


@dataclass(frozen=True)
class StoreSummary:
    """One store: what made it, how many images it holds, and its size on disk in bytes."""

    key: str
    label: str
    layers: tuple[int, ...]
    dtype: str
    view: str
    images: int
    bytes: int


def find_stores(root: Path, keys: list[str] | None = None) -> list[EmbeddingStore]:
    """Open the stores under `root` whose keys begin with one of `keys`, or all.

    Raises
    ------
    MissingError
        No store begins with one of `keys`.
    """
    stores = [EmbeddingStore(path.parent) for path in sorted(root.glob("[0-9a-f]*/zarr.json"))]
    if keys is None:
        return stores
    chosen = {}
    for key in keys:
        found = [store for store in stores if store.folder.name.startswith(key)]
        if not found:
            raise MissingError("no such store", where=key, expected=f"the beginning of a key under {root}")
        chosen.update({store.folder.name: store for store in found})
    return list(chosen.values())


def summarise(store: EmbeddingStore) -> StoreSummary:
    """Count what a store holds."""
    identity = store.identity
    shown = identity.preprocess.get("view")
    size = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    return StoreSummary(
        key=identity.key,
        label=store.label,
        layers=identity.layers,
        dtype=identity.dtype,
        view="plain" if shown is None else "moved or turned",
        images=len(store.rows()),
        bytes=size,
    )


def verify(store: EmbeddingStore, *, repair: bool = False) -> dict[str, str]:
    """Read every byte of a store; return what is wrong by shard.

    Parameters
    ----------
    repair
        Withdraw the damaged shards, so that the next extraction computes them and nothing else.
    """
    try:
        problems = store.damaged()
    except CorruptError as error:  # a manifest that can't be read names no shard of its own
        raise CorruptError(str(error), todo="remove that file; its images are computed again") from None
    if repair:
        for name in problems:
            store.forget(name)
    return problems
