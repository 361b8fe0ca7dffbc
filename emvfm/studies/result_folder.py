"""The folder that an analysis leaves in ``runs/``: what was asked, what came out, and of what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emvfm.config import dump_yaml, to_dict
from emvfm.workspace import atomic_folder, write_bytes, write_json, write_text

__all__ = ["write_results"]


def write_results(
    folder: Path,
    options: Any,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
    files: Mapping[str, bytes | str],
) -> Path:
    """Write ``config.yaml``, ``metrics.json``, ``provenance.json`` and `files`, in place of a former folder.

    Parameters
    ----------
    options
        A configuration dataclass.
    files
        Contents by path within the folder: text, or bytes such as a figure.
    """
    with atomic_folder(folder, replace=True) as temporary:
        write_text(temporary / "config.yaml", dump_yaml(to_dict(options)))
        write_json(temporary / "metrics.json", dict(metrics))
        write_json(temporary / "provenance.json", dict(provenance))
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                write_text(path, content)
            else:
                write_bytes(path, content)
    return folder
