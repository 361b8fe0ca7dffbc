"""What every benchmark ends with: a folder of results, and a few lines that say them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emvfm.cli.command import Call

__all__ = ["finish"]


def finish(
    call: Call,
    command: str,
    config: Any,
    sources: Mapping[str, str],
    record: Mapping[str, Any],
    files: Mapping[str, bytes | str],
    *lines: Any,
    detail: str = "",
) -> Path:
    """Write ``runs/bench-<command>-<identity>``, say the result, and return the folder.

    A former folder of this identity is replaced. It holds ``config.yaml``, ``metrics.json``, ``provenance.json``
    and `files`.

    Parameters
    ----------
    config
        The options, a configuration dataclass.
    sources
        Digest of everything that was read, by name: profiles, label tables.
    record
        What ``metrics.json`` and ``--json`` hold; strict JSON.
    files
        Contents by path within the folder: text, or bytes such as a figure.
    lines
        What is printed before the last line, which names `detail` and the folder.
    """
    from rich.markup import escape

    from emvfm.config import dump_yaml, to_dict
    from emvfm.provenance import digest, environment
    from emvfm.workspace import atomic_folder, write_bytes, write_json, write_text

    identity = digest([command, to_dict(config), dict(sources)])
    folder = call.workspace.runs / f"bench-{command}-{identity[:10]}"
    with atomic_folder(folder, replace=True) as temporary:
        write_text(temporary / "config.yaml", dump_yaml(to_dict(config)))
        write_json(temporary / "metrics.json", dict(record))
        provenance = {"identity": identity, "sources": dict(sources), "environment": environment()}
        write_json(temporary / "provenance.json", provenance)
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                write_text(path, content)
            else:
                write_bytes(path, content)
    last = "; ".join(filter(None, [detail, str(folder)]))
    call.result({"folder": str(folder), **record}, *lines, f"[dim]{escape(last)}[/]")
    return folder
