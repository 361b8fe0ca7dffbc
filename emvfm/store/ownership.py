"""Holding all of a store that a writer could hold, so that nobody writes it while it goes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from emvfm.errors import EmvfmError
from emvfm.store.layout import parse_grid
from emvfm.store.removal import InUseError
from emvfm.store.store import EmbeddingStore
from emvfm.store.writing import Shard
from emvfm.workspace import read_json

__all__ = ["UnreadableError", "all_rights", "open_readable"]


class UnreadableError(InUseError):
    """A store is not what its name says, so what it holds is unknown."""


def open_readable(folder: Path) -> EmbeddingStore:
    try:
        return EmbeddingStore(folder)
    except (EmvfmError, ValueError, OSError) as error:
        raise UnreadableError(f"cannot be read; name it to remove it: {error}") from None


def _unfinished(store: EmbeddingStore) -> Iterator[Shard]:
    finished = store.finished()
    for path in sorted((store.folder / "manifest").glob("*.json")):  # one a grid: the images of each shard
        grid = parse_grid(path.stem)
        for number in range(len(read_json(path)["shards"])):
            shard = Shard(grid, number, ())
            if shard.name not in finished:
                yield shard


@contextmanager
def all_rights(folder: Path, store: EmbeddingStore | None) -> Iterator[None]:
    """Hold all that a writer of a store could hold; of an unreadable one, all that any ever held.

    Raises
    ------
    InUseError
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
                        raise InUseError(f"shard {shard.name} is being written")
        except Timeout:
            raise InUseError(busy) from None
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise InUseError("more unfinished shards than files may be open; raise `ulimit -n`") from None
        yield
