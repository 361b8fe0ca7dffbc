"""Removing files and folders that a process may still be using: links never followed, nothing half gone.

What has no lock stays for an hour after it last changed, and as long as a process of this machine with the
number in its name lives.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = [
    "PARTIAL",
    "InUseError",
    "away_from",
    "files_below",
    "folders_in",
    "remove_path",
    "require_inside",
    "require_left_behind",
    "size_of",
]

_GRACE = 3600.0  # seconds without a change before a thing without a lock counts as left behind
PARTIAL = re.compile(
    r"\..+\.(?P<process>\d+)\.[0-9a-f]{8}\.partial"  # of emvfm.workspace
    r"|.+\.[0-9a-f]{32}\.partial"  # of zarr's LocalStore
)


class InUseError(Exception):
    """A thing must stay; the text says why."""


def files_below(path: Path) -> Iterator[Path]:
    """Yield the files and links of a folder at any depth, or the file itself."""
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for folder, folders, files in os.walk(path):  # follows no link
        yield from (Path(folder, name) for name in files)
        yield from (found for name in folders if (found := Path(folder, name)).is_symlink())


def size_of(paths: Iterator[Path] | Sequence[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.lstat().st_size
        except FileNotFoundError:  # a process renamed it meanwhile
            continue
    return total


def folders_in(path: Path) -> list[Path]:
    """Return the folders in a folder; none if it is a link or not there."""
    if path.is_symlink() or not path.is_dir():
        return []
    return sorted(found for found in path.iterdir() if found.is_dir() and not found.is_symlink())


def require_inside(root: Path, path: Path) -> None:
    """Refuse a path that leads out of `root`, or that is or goes through a link."""
    between = [path, *path.parents]
    if root not in between[1:] or any(part.is_symlink() for part in between[: between.index(root)]):
        raise InUseError("a symbolic link")


def away_from(path: Path) -> Path:
    """Return a temporary name beside a folder, which the next pruning knows if this one is killed."""
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")


def remove_path(root: Path, path: Path) -> None:
    """Remove a file or folder, a folder by renaming it away first so that nobody meets half of it."""
    require_inside(root, path)
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    away = path if PARTIAL.fullmatch(path.name) else path.rename(away_from(path))
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


def require_left_behind(path: Path) -> None:
    """Refuse what changed within the last hour or bears the number of a process that lives."""
    match = PARTIAL.fullmatch(path.name)
    if match and match["process"] and _lives(int(match["process"])):
        raise InUseError(f"process {match['process']} may be writing it")
    newest = path.lstat().st_mtime
    for file in files_below(path):
        try:
            newest = max(newest, file.lstat().st_mtime)
        except FileNotFoundError:
            raise InUseError("being written") from None
    if time.time() - newest < _GRACE:
        raise InUseError(f"changed within the last {_GRACE / 60:.0f} minutes")
