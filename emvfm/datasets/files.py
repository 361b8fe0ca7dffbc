"""Bringing files into a dataset without copying more than is needed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = ["bring"]


def bring(source: Path, target: Path, link: str) -> None:
    """Link (``hard``, ``sym``) or copy a file; where the file system has no hard links, copy."""
    source = source.resolve()
    if link == "sym":
        target.symlink_to(source)
        return
    if link == "hard":
        try:
            os.link(source, target)
        except OSError:  # other file system, no hard links there, or not our file
            shutil.copyfile(source, target)
    else:
        shutil.copyfile(source, target)
