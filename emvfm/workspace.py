"""Where datasets, stores, runs and weights live, and the only ways files get their final names.

Everything is written under a temporary name in the same folder and renamed, so that a reader never
sees half a file and a killed process leaves only a temporary name behind.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emvfm.errors import CorruptError, MissingError, UsageError

__all__ = ["Workspace", "atomic_folder", "check_name", "read_json", "write_bytes", "write_json", "write_text"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def check_name(name: str, what: str) -> str:
    """Return `name` if it is safe as one path component, else raise UsageError.

    Letters, digits, ``. _ + -``; at most 100; it starts with a letter or digit, so that neither
    ``..`` nor a hidden file nor an option can be meant.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"not a usable {what} name",
            got=repr(name),
            expected="letters, digits, '.', '_', '+', '-', at most 100",
        )
    return name


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` to `path` in one step: temporary name, flush to disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text to `path` in one step."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as readable JSON (indented, strict: no NaN) in one step."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is an error that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError("no such file", where=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptError("not valid JSON", where=path, got=error) from None


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends without an error.

    Parameters
    ----------
    replace
        Put it in the place of a folder that is there.
    scratch
        Folder of the same file system for the temporary one, instead of the one `path` is in.

    Raises
    ------
    UsageError
        `path` exists and `replace` is false (also when another process made it meanwhile).
    """
    if path.exists() and not replace:
        raise UsageError("already exists", where=path, todo="choose another name or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path if scratch is None else scratch / path.name)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if replace and path.exists():
            retired = _temporary(path)
            path.rename(retired)
            temporary.rename(path)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            try:
                temporary.rename(path)
            except OSError:
                if path.exists():
                    raise UsageError("already exists", where=path, todo="another process made it") from None
                raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@dataclass(frozen=True)
class Workspace:
    """One root folder with ``datasets/ store/ runs/ weights/``; nothing is created until it is written."""

    root: Path

    @classmethod
    def find(cls, root: Path | str | None = None) -> Workspace:
        """Return the workspace at `root`, else at ``$EMVFM_ROOT``, else at ``./emvfm-workspace``."""
        return cls(Path(root or os.environ.get("EMVFM_ROOT") or "emvfm-workspace").expanduser().absolute())

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def weights(self) -> Path:
        return self.root / "weights"

    def find_run(self, name: str | Path) -> Path:
        """Return the folder of a run, given by path or by (the unambiguous start of) its name."""
        as_path = Path(name).expanduser()
        for candidate in (as_path, self.runs / as_path):
            if (candidate / "config.yaml").is_file():
                return candidate.absolute()
        known = sorted(p.name for p in self.runs.glob("*") if (p / "config.yaml").is_file())
        matches = [n for n in known if n.startswith(str(name))]
        if len(matches) == 1:
            return self.runs / matches[0]
        if matches:
            raise UsageError("several runs begin so", where=name, got=", ".join(matches[:5]))
        raise MissingError(
            "no such run",
            where=name,
            expected=("one of " + ", ".join(known[-5:])) if known else f"a run under {self.runs}",
            todo="train one with `emvfm train`",
        )
