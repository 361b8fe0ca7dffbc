"""What of the stores can go, and letting it go without harm to a process that writes at the same time.

Three kinds of thing are found. **Stores**: those that are named, or those in which no dataset of the
workspace has an image. **Remains** of writers that died or were withdrawn: shard files that no manifest
names, and temporary files and folders. **Sample tables** whose samples are in no dataset of the workspace.

What makes it safe: a store is renamed away, and only then removed, while its allocation lock and the lease
of every unfinished shard are held; shard files are removed under their shard's lease. What another process
holds is skipped. Temporary names and sample tables have no lock, so they stay for an hour after they last
changed, and as long as a process of this machine with the number in their name lives. Lock files stay, for
removing one would let two processes hold it. A process that has opened a store but holds nothing of it yet
cannot be seen, nor can a reader; if its store goes, a reader fails, and a writer makes a folder that is no
store, which a second pruning by name removes.

No symbolic link is followed, and nothing outside the folder of stores is removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emvfm.datasets.catalog import list_datasets
from emvfm.datasets.manifest import Dataset, load_dataset
from emvfm.errors import MissingError
from emvfm.store.layout import parse_grid
from emvfm.store.ownership import UnreadableError, all_rights, open_readable
from emvfm.store.remains import (
    chunks_of,
    require_known_layout,
    rows_needed,
    rows_of_table,
    temporaries_in,
    unnamed_files,
)
from emvfm.store.removal import (
    InUseError,
    away_from,
    files_below,
    folders_in,
    remove_path,
    require_inside,
    require_left_behind,
    size_of,
)
from emvfm.store.store import EmbeddingStore
from emvfm.store.view import image_key
from emvfm.store.writing import Shard
from emvfm.workspace import Workspace

__all__ = ["Leftover", "Pruning", "prune"]

_KEY = re.compile(r"[0-9a-f]{32}")
_TABLE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Leftover:
    """One thing that can go.

    Attributes
    ----------
    kind
        ``store``, ``shard`` (those files of a shard that no manifest names), ``table`` or ``temporary``.
    path
        What goes; of a shard, the folder of its grid.
    why
        For people.
    bytes
        Size of what would go.
    shard
        Number of the shard; None for other kinds.
    """

    kind: Literal["store", "shard", "table", "temporary"]
    path: Path
    why: str
    bytes: int
    shard: int | None = None

    @property
    def name(self) -> str:
        """The path, for a shard followed by ``/`` and its number."""
        return str(self.path) if self.shard is None else f"{self.path}/{self.shard:06d}"


@dataclass(frozen=True)
class Pruning:
    """What can go or went, and by name what was left alone with the reason."""

    leftovers: tuple[Leftover, ...]
    skipped: dict[str, str]
    removed: bool

    @property
    def bytes(self) -> int:
        """Sum of the sizes."""
        return sum(item.bytes for item in self.leftovers)


def _user(store: EmbeddingStore, datasets: Sequence[Dataset]) -> str | None:
    """Return the name of a dataset that has an image in the store, None if there is none."""
    # In a store at a physical scale, the size of the pixels follows the SHA-256 of an image: <sha>@<nm>.
    names, facts = store.rows().keys(), store.identity.preprocess
    images = {name.partition("@")[0] for name in names}
    source = facts.get("source")  # of a baseline: rows of masks or facts have other names
    for dataset in datasets:
        keys = {image_key(sample, str(facts["input_size"]), source) for sample in dataset.samples}
        if keys & names or any(sample.image_sha256 in images for sample in dataset.samples):
            return dataset.name
    return None


class _Pruner:
    """Looks through the stores, and removes what it finds at once if it shall."""

    def __init__(self, workspace: Workspace, remove: bool) -> None:
        self.root, self.remove = workspace.store, remove
        self.datasets = [load_dataset(workspace.datasets / name) for name in list_datasets(workspace)]
        self.leftovers: list[Leftover] = []
        self.skipped: dict[str, str] = {}

    @contextmanager
    def _noting(self, name: str) -> Iterator[None]:
        """Note the reason if what the block looks at must stay."""
        try:
            yield
        except InUseError as reason:
            self.skipped[name] = str(reason)

    def named(self, folder: Path, *, unused: bool) -> None:
        """Find one store that was named; with `unused`, only if no dataset has an image in it."""
        with self._noting(str(folder)):
            require_inside(self.root, folder)
            store = None
            try:
                store = open_readable(folder)
            except UnreadableError:
                if unused:
                    raise
            self._whole(folder, store, "named", unused=unused)

    def any(self, folder: Path, *, unused: bool) -> None:
        """Find a store as a whole if it is unused and that is asked for, else what is left within it."""
        with self._noting(str(folder)):
            require_inside(self.root, folder)
            store = open_readable(folder)
            if unused and _user(store, self.datasets) is None:
                self._whole(folder, store, "no dataset has an image in it", unused=True)
                return
            self.temporaries(folder, deep=True)
            self._tables(folder)
            require_known_layout(store)
            for base in folders_in(folder / "grids"):
                self._grid(store, base)

    def _whole(self, folder: Path, store: EmbeddingStore | None, why: str, *, unused: bool) -> None:
        with all_rights(folder, store):
            if store is None:
                why = f"{why}: cannot be read"
            else:
                user = _user(store, self.datasets) if unused else None
                if user is not None:
                    raise InUseError(f"holds images of the dataset {user}")
                why = f"{why}: {store.label}, {len(store.rows())} images"
            found, away = Leftover("store", folder, why, size_of(files_below(folder))), away_from(folder)
            if self.remove:
                folder.rename(away)
        if self.remove:
            remove_path(self.root, away)
        self.leftovers.append(found)

    def temporaries(self, folder: Path, *, deep: bool) -> None:
        """Find what dead writers left under temporary names."""
        for path in temporaries_in(folder, deep=deep):
            self._unlocked("temporary", path, "left by a writer that died")

    def _tables(self, folder: Path) -> None:
        for path in folders_in(folder / "datasets"):
            if _TABLE.fullmatch(path.name):
                with self._noting(str(path)):
                    if not rows_needed(rows_of_table(path), self.datasets):
                        self._unlocked("table", path, "no dataset has its samples")

    def _unlocked(self, kind: Literal["table", "temporary"], path: Path, why: str) -> None:
        with self._noting(str(path)):
            require_inside(self.root, path)
            require_left_behind(path)
            found = Leftover(kind, path, why, size_of(files_below(path)))
            if self.remove:
                remove_path(self.root, path)
            self.leftovers.append(found)

    def _grid(self, store: EmbeddingStore, base: Path) -> None:
        """Find the files of a grid's shards that no manifest names."""
        chunks: dict[int, list[Path]] = {}
        for number, path in chunks_of(base):
            chunks.setdefault(number, []).append(path)
        for number, paths in chunks.items():
            shard = Shard(parse_grid(base.name), number, ())
            if not unnamed_files(store, shard, paths):
                continue
            with self._noting(f"{base}/{number:06d}"), store.lease(shard) as mine:
                if not mine:
                    raise InUseError("being written")
                files = unnamed_files(store, shard, paths)  # it may have been finished meanwhile
                for file in files:
                    require_inside(self.root, file.parent)
                if not files:
                    continue
                why = "files that no manifest names"
                found = Leftover("shard", base, why, size_of(files), number)
                for file in files if self.remove else ():
                    file.unlink(missing_ok=True)
                    for above in file.parents:
                        if above.name == "c" or any(above.iterdir()):
                            break
                        above.rmdir()
                self.leftovers.append(found)


def _named(root: Path, keys: Sequence[str]) -> list[Path]:
    folders = sorted(root.iterdir()) if root.is_dir() else []
    chosen: dict[Path, None] = {}
    for key in keys:
        found = [path for path in folders if _KEY.fullmatch(path.name) and path.name.startswith(key)]
        if not key or not found:
            raise MissingError(
                "no such store", where=key or "''", expected=f"the beginning of a key under {root}"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def prune(
    workspace: Workspace, keys: Sequence[str] = (), *, unused: bool = False, remove: bool = False
) -> Pruning:
    """Find what can go from the stores of a workspace, and remove it if `remove`.

    Parameters
    ----------
    keys
        Beginnings of keys: these stores as a whole, and nothing else. Without any, remains and sample
        tables in all stores.
    unused
        Stores in which no dataset of the workspace has an image, as a whole; with `keys`, only such of them.
    remove
        Without it nothing is removed.

    Raises
    ------
    MissingError
        No store begins with one of `keys`.
    CorruptError
        A dataset of the workspace cannot be read, so nobody knows which stores it uses.
    """
    pruner, root = _Pruner(workspace, remove), workspace.store
    if keys:
        for folder in _named(root, keys):
            pruner.named(folder, unused=unused)
    else:
        pruner.temporaries(root, deep=False)
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            if _KEY.fullmatch(folder.name):
                pruner.any(folder, unused=unused)
    return Pruning(tuple(pruner.leftovers), pruner.skipped, remove)
