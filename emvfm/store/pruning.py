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

import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from filelock import FileLock, Timeout

from emvfm.datasets.catalog import list_datasets
from emvfm.datasets.manifest import Dataset, load_dataset
from emvfm.errors import EmvfmError, MissingError
from emvfm.store.layout import parse_grid
from emvfm.store.store import EmbeddingStore
from emvfm.store.writing import Shard
from emvfm.workspace import Workspace, read_json

__all__ = ["Leftover", "Pruning", "prune"]

_GRACE = 3600.0  # seconds without a change before a thing without a lock counts as left behind
_KEY = re.compile(r"[0-9a-f]{32}")
_TABLE = re.compile(r"[0-9a-f]{16}")
_PARTIAL = re.compile(
    r"\..+\.(?P<process>\d+)\.[0-9a-f]{8}\.partial"  # of emvfm.workspace
    r"|.+\.[0-9a-f]{32}\.partial"  # of zarr's LocalStore
)
_CHUNK = re.compile(r"(\d+)(\.[0-9a-f]{32}\.partial)?")  # what begins the path of a shard's file: its number


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


class _InUseError(Exception):
    """A thing must stay; the text says why."""


class _UnreadableError(_InUseError):
    """A store is not what its name says, so what it holds is unknown."""


# ------------------------------------------------------------------ the file system, links never followed


def _files(path: Path) -> Iterator[Path]:
    """Yield the files and links of a folder at any depth, or the file itself."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):  # follows no link
        yield from (Path(folder, name) for name in files)
        yield from (found for name in folders if (found := Path(folder, name)).is_symlink())


def _size(paths: Iterator[Path] | Sequence[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.lstat().st_size
        except FileNotFoundError:  # a process renamed it meanwhile
            continue
    return total


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder; none if it is a link or not there."""
    if path.is_symlink() or not path.is_dir():
        return []
    return sorted(found for found in path.iterdir() if found.is_dir() and not found.is_symlink())


def _require_inside(root: Path, path: Path) -> None:
    """Refuse a path that leads out of `root`, or that is or goes through a link."""
    between = [path, *path.parents]
    if root not in between[1:] or any(part.is_symlink() for part in between[: between.index(root)]):
        raise _InUseError("a symbolic link")


def _away(path: Path) -> Path:
    """Return a temporary name beside a folder, which the next pruning knows if this one is killed."""
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")


def _remove(root: Path, path: Path) -> None:
    """Remove a file or folder, a folder by renaming it away first so that nobody meets half of it."""
    _require_inside(root, path)
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    away = path if _PARTIAL.fullmatch(path.name) else path.rename(_away(path))
    shutil.rmtree(away)


def _lives(process: int) -> bool:
    if os.name == "nt":  # there os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _require_left(path: Path) -> None:
    """Refuse what changed within the last hour or bears the number of a process that lives."""
    match = _PARTIAL.fullmatch(path.name)
    if match and match["process"] and _lives(int(match["process"])):
        raise _InUseError(f"process {match['process']} may be writing it")
    newest = path.lstat().st_mtime
    for file in _files(path):
        try:
            newest = max(newest, file.lstat().st_mtime)
        except FileNotFoundError:
            raise _InUseError("being written") from None
    if time.time() - newest < _GRACE:
        raise _InUseError(f"changed within the last {_GRACE / 60:.0f} minutes")


# ------------------------------------------------------------------ whole stores


def _open(folder: Path) -> EmbeddingStore:
    try:
        return EmbeddingStore(folder)
    except (EmvfmError, ValueError, OSError) as error:
        raise _UnreadableError(f"cannot be read; name it to remove it: {error}") from None


def _unfinished(store: EmbeddingStore) -> Iterator[Shard]:
    finished = store.finished()
    for path in sorted((store.folder / "manifest").glob("*.json")):  # one a grid: the images of each shard
        grid = parse_grid(path.stem)
        for number in range(len(read_json(path)["shards"])):
            shard = Shard(grid, number, ())
            if shard.name not in finished:
                yield shard


@contextmanager
def _all_rights(folder: Path, store: EmbeddingStore | None) -> Iterator[None]:
    """Hold all that a writer of a store could hold; of an unreadable one, all that any ever held.

    Raises
    ------
    _InUseError
        Another process holds a part of it.
    """
    manifest, busy = folder / "manifest", "a process is giving images their place in it"
    with ExitStack() as held:

        def hold(path: Path) -> None:
            lock = FileLock(path)
            lock.acquire(blocking=False)
            held.callback(lock.release)

        try:
            hold(folder.parent / f".{folder.name}.lock")
            hold(manifest / ".allocation.lock")
            if store is None:
                busy = "a shard is being written"
                for path in sorted((manifest / ".leases").glob("*.lock")):
                    hold(path)
            else:
                for shard in _unfinished(store):
                    if not held.enter_context(store.lease(shard)):
                        raise _InUseError(f"shard {shard.name} is being written")
        except Timeout:
            raise _InUseError(busy) from None
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise _InUseError("more unfinished shards than files may be open; raise `ulimit -n`") from None
        yield


def _user(store: EmbeddingStore, datasets: Sequence[Dataset]) -> str | None:
    """Return the name of a dataset that has an image in the store, None if there is none."""
    # In a store at a physical scale, the size of the pixels follows the SHA-256 of an image: <sha>@<nm>.
    images = {name.partition("@")[0] for name in store.rows()}
    for dataset in datasets:
        if any(sample.image_sha256 in images for sample in dataset.samples):
            return dataset.name
    return None


def _whole_store(store: EmbeddingStore, why: str) -> Leftover:
    label = f"{store.label}, {len(store.rows())} images"
    return Leftover("store", store.folder, f"{why}: {label}", _size(_files(store.folder)))


# ------------------------------------------------------------------ remains within a store


def _require_known_layout(store: EmbeddingStore) -> None:
    """Refuse a store whose manifests cannot be read or name files elsewhere: then nothing is certain."""
    try:
        manifests = store.finished()
    except EmvfmError as error:
        raise _InUseError(f"a manifest cannot be read: {error}") from None
    for name, manifest in manifests.items():
        grid, number = name.split("/")
        for file in manifest["files"]:
            parts = file.split("/")
            if parts[:2] != ["grids", grid] or parts[3:5] != ["c", str(int(number))]:
                raise _InUseError(f"the manifest of {name} names {file}")


def _chunks(base: Path) -> Iterator[tuple[int, Path]]:
    """Yield what lies in the arrays of a grid, each with the number of its shard."""
    for array in _folders(base):
        if (array / "c").is_dir() and not (array / "c").is_symlink():
            for path in sorted((array / "c").iterdir()):
                if match := _CHUNK.fullmatch(path.name):
                    yield int(match[1]), path


def _unnamed(store: EmbeddingStore, shard: Shard, chunks: Sequence[Path]) -> list[Path]:
    """Return the files in `chunks` that the shard's manifest does not name."""
    named = store.finished().get(shard.name, {}).get("files", {})
    files = (file for chunk in chunks for file in _files(chunk))
    return [file for file in files if file.relative_to(store.folder).as_posix() not in named]


def _temporaries(folder: Path, *, deep: bool) -> Iterator[Path]:
    """Yield what has a temporary name in a folder; with `deep` at any depth, shard files apart."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if _PARTIAL.fullmatch(path.name):
            yield path
        elif deep and path.name != "c" and path.is_dir():
            yield from _temporaries(path, deep=True)


def _rows_of_table(path: Path) -> set[tuple[Any, ...]]:
    try:
        group = zarr.open_group(path, mode="r")
        names = ("id", "split", "domain", "volume", "image", "z")
        columns = [np.asarray(group[name][:]).tolist() for name in names]  # type: ignore[index]
    except (KeyError, ValueError, OSError) as error:
        raise _InUseError(f"cannot be read: {error}") from None
    return set(zip(*columns, strict=True))


def _needed(rows: set[tuple[Any, ...]], datasets: Sequence[Dataset]) -> bool:
    """Return whether the rows of a sample table are all in one of the datasets."""
    return any(
        rows
        <= {
            (s.id, s.split, s.domain, s.volume, s.image_sha256, -1 if s.z is None else s.z)
            for s in dataset.samples
        }
        for dataset in datasets
    )


# ------------------------------------------------------------------ the whole


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
        except _InUseError as reason:
            self.skipped[name] = str(reason)

    def named(self, folder: Path, *, unused: bool) -> None:
        """Find one store that was named; with `unused`, only if no dataset has an image in it."""
        with self._noting(str(folder)):
            _require_inside(self.root, folder)
            store = None
            try:
                store = _open(folder)
            except _UnreadableError:
                if unused:
                    raise
            self._whole(folder, store, "named", unused=unused)

    def any(self, folder: Path, *, unused: bool) -> None:
        """Find a store as a whole if it is unused and that is asked for, else what is left within it."""
        with self._noting(str(folder)):
            _require_inside(self.root, folder)
            store = _open(folder)
            if unused and _user(store, self.datasets) is None:
                self._whole(folder, store, "no dataset has an image in it", unused=True)
                return
            self.temporaries(folder, deep=True)
            self._tables(folder)
            _require_known_layout(store)
            for base in _folders(folder / "grids"):
                self._grid(store, base)

    def _whole(self, folder: Path, store: EmbeddingStore | None, why: str, *, unused: bool) -> None:
        with _all_rights(folder, store):
            if store is None:
                why = f"{why}: cannot be read"
            else:
                user = _user(store, self.datasets) if unused else None
                if user is not None:
                    raise _InUseError(f"holds images of the dataset {user}")
                why = f"{why}: {store.label}, {len(store.rows())} images"
            found, away = Leftover("store", folder, why, _size(_files(folder))), _away(folder)
            if self.remove:
                folder.rename(away)
        if self.remove:
            _remove(self.root, away)
        self.leftovers.append(found)

    def temporaries(self, folder: Path, *, deep: bool) -> None:
        """Find what dead writers left under temporary names."""
        for path in _temporaries(folder, deep=deep):
            self._unlocked("temporary", path, "left by a writer that died")

    def _tables(self, folder: Path) -> None:
        for path in _folders(folder / "datasets"):
            if _TABLE.fullmatch(path.name):
                with self._noting(str(path)):
                    if not _needed(_rows_of_table(path), self.datasets):
                        self._unlocked("table", path, "no dataset has its samples")

    def _unlocked(self, kind: Literal["table", "temporary"], path: Path, why: str) -> None:
        with self._noting(str(path)):
            _require_inside(self.root, path)
            _require_left(path)
            found = Leftover(kind, path, why, _size(_files(path)))
            if self.remove:
                _remove(self.root, path)
            self.leftovers.append(found)

    def _grid(self, store: EmbeddingStore, base: Path) -> None:
        """Find the files of a grid's shards that no manifest names."""
        chunks: dict[int, list[Path]] = {}
        for number, path in _chunks(base):
            chunks.setdefault(number, []).append(path)
        for number, paths in chunks.items():
            shard = Shard(parse_grid(base.name), number, ())
            if not _unnamed(store, shard, paths):
                continue
            with self._noting(f"{base}/{number:06d}"), store.lease(shard) as mine:
                if not mine:
                    raise _InUseError("being written")
                files = _unnamed(store, shard, paths)  # it may have been finished meanwhile
                for file in files:
                    _require_inside(self.root, file.parent)
                if not files:
                    continue
                why = "files that no manifest names"
                found = Leftover("shard", base, why, _size(files), number)
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
