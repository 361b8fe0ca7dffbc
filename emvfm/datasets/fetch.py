"""Downloading public datasets: resumable, verified before anything gets its name, unpacked with suspicion.

A download goes to ``NAME.part`` and continues there in the next call; pooch gives the file its name
only if the digest is right. An archive is checked as a whole (names, types, sizes) before a byte is
unpacked, and its folder appears in one step.
"""

from __future__ import annotations

import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from emvfm.datasets.sources import Source, find_source
from emvfm.errors import CorruptError, EmvfmError, MissingError
from emvfm.provenance import digest, sha256_file
from emvfm.workspace import Workspace, atomic_folder

__all__ = [
    "ArchiveLimits",
    "check_archive",
    "download",
    "downloaded_folder",
    "fetch",
    "tree_digest",
    "unpack",
]

_BLOCK = 1 << 20
_MAX_DOWNLOAD = 4 << 30
_TIMEOUT = 30.0  # seconds without a byte


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold: files, bytes unpacked, and (above `ratio_from` bytes) times its own size."""

    files: int = 20_000
    total: int = 8 << 30
    ratio: float = 200.0
    ratio_from: int = 64 << 20


# --- download -----------------------------------------------------------------------------------


class _TransientError(Exception):
    """A failure of the network that a second attempt may mend."""


def _request(url: str, offset: int) -> Any:
    """Open `url` from `offset` on; errors become `_TransientError` or `EmvfmError`."""
    import http.client
    import socket
    import urllib.error
    import urllib.request

    if not url.startswith(("http://", "https://")):
        raise EmvfmError("not a web address", where=url)
    headers = {"User-Agent": "emvfm", **({"Range": f"bytes={offset}-"} if offset else {})}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after `offset`: the answer says how long the file is
            return error
        reason = f"HTTP {error.code} {error.reason}"
        if error.code in (408, 429) or error.code >= 500:
            raise _TransientError(reason) from None
        raise EmvfmError("cannot download", where=url, got=reason) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        if isinstance(getattr(error, "reason", None), socket.gaierror):  # no network: waiting won't help
            raise EmvfmError(
                "cannot download", where=url, got="server not found; is there a network?"
            ) from None
        raise _TransientError(getattr(error, "reason", error)) from None


def _attempt(url: str, part: Path, progress: Callable[[int, int | None], None]) -> None:
    """Append to `part` what is missing from `url`; return when the file is whole."""
    import http.client

    offset = part.stat().st_size if part.exists() else 0
    with _request(url, offset) as response:
        status = getattr(response, "status", None) or response.code
        span = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if status == 416:
            if span and span[2] == str(offset):
                return
            part.unlink()
            raise _TransientError("the partial file is longer than the file on the server")
        resumed = status == 206 and span is not None and span[1] == str(offset)
        if status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise _TransientError("the server answered with another range than asked")
        start = offset if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        if (total or 0) > _MAX_DOWNLOAD:
            raise EmvfmError("download too large", where=url, got=f"{total} bytes")
        with part.open("ab" if resumed else "wb") as stream:
            done = start
            while True:
                try:
                    block = response.read(_BLOCK)
                except (http.client.HTTPException, OSError) as error:
                    raise _TransientError(error) from None
                if not block:
                    break
                stream.write(block)
                done += len(block)
                if done > _MAX_DOWNLOAD:
                    raise EmvfmError("download too large", where=url, got=f"more than {_MAX_DOWNLOAD} bytes")
                progress(done, total)
        if total is not None and done < total:
            raise _TransientError(f"the connection ended after {done} of {total} bytes")


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    attempts: int = 4,
    wait: float = 1.0,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Path:
    """Download `url` to `target`, going on from ``target.part`` if an earlier call left one.

    Parameters
    ----------
    url, target
        From where to where.
    sha256
        Expected digest (hex), None if the server may repack the file.
    attempts, wait
        How often to try, and seconds before the second attempt (doubled each time).
    progress
        Called with bytes done and bytes in all (None if unknown).

    Raises
    ------
    EmvfmError
        Not reachable, or cut off after all attempts; what came is kept for the next call.
    CorruptError
        Wrong digest; what came is thrown away.
    """
    import logging

    import pooch

    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)

    def resume(address: str, output: str, _: Any) -> None:
        for attempt in range(attempts):
            try:
                _attempt(address, part, progress)
                break
            except _TransientError as error:
                if attempt + 1 == attempts:
                    raise EmvfmError("cannot download", where=address, got=error) from None
                time.sleep(wait * 2**attempt)
        part.replace(output)

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(
            url,
            known_hash=None if sha256 is None else f"sha256:{sha256}",
            fname=target.name,
            path=target.parent,
            downloader=resume,
        )
    except ValueError as error:
        if isinstance(error, EmvfmError):
            raise
        raise CorruptError(
            "the download is not the file it should be", where=url, expected=f"sha256 {sha256}", got=error
        ) from None
    return target


# --- archives -----------------------------------------------------------------------------------


def _check_member(member: zipfile.ZipInfo, where: str) -> None:
    name = member.orig_filename
    pure = PurePosixPath(name)
    if (
        not name
        or pure.is_absolute()
        or ".." in pure.parts
        or any(c in name for c in "\\\0")
        or re.match(r"[A-Za-z]:", name)
    ):
        raise CorruptError("archive member outside its folder", where=where, got=repr(name))
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise CorruptError("archive member that is no file", where=where, got=repr(name))
    if member.flag_bits & 1:
        raise CorruptError("encrypted archive member", where=where, got=repr(name))


def check_archive(
    members: Sequence[zipfile.ZipInfo], size: int, where: str, limits: ArchiveLimits | None = None
) -> None:
    """Refuse an archive as a whole: paths that leave the folder, links, devices, duplicates, bombs.

    Parameters
    ----------
    members
        The archive's directory.
    size
        Size of the archive in bytes.
    where
        What to name in an error.

    Raises
    ------
    CorruptError
        Any of these.
    """
    limits = limits or ArchiveLimits()
    if len(members) > limits.files:
        raise CorruptError(
            "too many files in the archive", where=where, got=len(members), expected=limits.files
        )
    for member in members:
        _check_member(member, where)
    names = [member.filename.casefold().rstrip("/") for member in members]
    if len(set(names)) < len(names):
        raise CorruptError("two archive members of one name", where=where)
    total = sum(member.file_size for member in members)
    if total > limits.total or (total > limits.ratio_from and total > limits.ratio * max(size, 1)):
        raise CorruptError(
            "archive too large when unpacked (a bomb?)",
            where=where,
            got=f"{total} bytes from {size}",
            expected=f"at most {limits.total} bytes and {limits.ratio:g} times its size",
        )


def _belongs(name: str, folders: Sequence[str]) -> bool:
    return any(f"/{folder.lower()}/" in f"/{name.lower()}" for folder in folders)


def unpack(
    archive: Path, folder: Path, folders: Sequence[str] = (), limits: ArchiveLimits | None = None
) -> int:
    """Unpack a zip archive into the existing `folder`; return the number of files.

    Parameters
    ----------
    archive, folder
        From where to where.
    folders
        Unpack only what lies in folders of these names (such as ``stack1/raw``); empty for all.
    limits
        Bounds that the whole archive has to keep.

    Raises
    ------
    CorruptError
        Not a zip, damaged, cut off, or hostile; see `check_archive`.
    """
    limits = limits or ArchiveLimits()
    count = 0
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            check_archive(members, archive.stat().st_size, str(archive), limits)
            for member in members:
                if member.is_dir() or (folders and not _belongs(member.filename, folders)):
                    continue
                if member.filename.startswith("__MACOSX/") or member.filename.endswith(".DS_Store"):
                    continue
                target = folder.joinpath(*PurePosixPath(member.filename).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with file.open(member) as source, target.open("xb") as stream:
                    shutil.copyfileobj(source, stream, _BLOCK)
                if target.stat().st_size != member.file_size:
                    raise CorruptError("archive member of another size than declared", where=archive)
                count += 1
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise CorruptError(
            "damaged archive", where=archive, got=error, todo="remove it and fetch again"
        ) from None
    if not count:
        raise CorruptError(
            "the archive does not hold what it should", where=archive, expected=", ".join(folders) or "files"
        )
    return count


def tree_digest(folder: Path, folders: Sequence[str]) -> str:
    """Return one SHA-256 (hex) for the files in `folders`, which lie in `folder` or up to two levels below.

    It covers the names relative to the level where the folders are found, and the content.

    Raises
    ------
    CorruptError
        The folders are not there.
    """
    for base in (folder, *sorted(folder.glob("*/")), *sorted(folder.glob("*/*/"))):
        if all((base / name).is_dir() for name in folders):
            files = sorted(p for name in folders for p in (base / name).rglob("*") if p.is_file())
            return digest([[p.relative_to(base).as_posix(), sha256_file(p)] for p in files])
    raise CorruptError("folders are missing", where=folder, expected=", ".join(folders))


# --- sources ------------------------------------------------------------------------------------


def downloaded_folder(workspace: Workspace, name: str) -> Path:
    """Return the folder of a downloaded source, or raise MissingError saying how to get it."""
    source = find_source(name)
    folder = workspace.downloads / source.name
    if not folder.is_dir():
        raise MissingError(
            "this public source is not downloaded yet",
            where=source.name,
            todo=f"run `emvfm data fetch {source.name}`",
        )
    return folder


def fetch(
    source: Source,
    workspace: Workspace,
    *,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    attempts: int = 4,
    wait: float = 1.0,
) -> Path:
    """Make a public source available under ``<root>/downloads/<name>`` and return that folder.

    Whatever is there already is used: the folder, the archive (also one put there by hand), or the
    part of it that an interrupted download left.

    Raises
    ------
    EmvfmError
        The server can't be reached; the message says where to put the file by hand.
    CorruptError
        Wrong digest, or a damaged or hostile archive.
    """
    folder = workspace.downloads / source.name
    if folder.is_dir():
        return folder
    archive = workspace.downloads / source.archive
    if archive.is_file():
        if source.sha256 is not None and (found := sha256_file(archive)) != source.sha256:
            raise CorruptError(
                "not the published archive",
                where=archive,
                got=f"sha256 {found}",
                expected=source.sha256,
                todo="remove it and fetch again",
            )
    else:
        try:
            download(
                source.url, archive, sha256=source.sha256, attempts=attempts, wait=wait, progress=progress
            )
        except CorruptError:
            raise
        except EmvfmError as error:
            raise EmvfmError(
                str(error), todo=f"or get it with a browser, put it at {archive} and run this again"
            ) from None
    with atomic_folder(folder) as temporary:
        unpack(archive, temporary, source.folders)
        found = tree_digest(temporary, source.folders)
        if source.files_sha256 is not None and found != source.files_sha256:
            raise CorruptError(
                "the files in the archive are not the published ones",
                where=archive,
                got=f"digest {found}",
                expected=source.files_sha256,
                todo="remove it and fetch again",
            )
    return folder
