"""What every benchmark ends with: a folder of results, and a few lines that say them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.cli.completion import complete_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emvfm.cli.command import Call

__all__ = ["AlignedProfiles", "JoinedProfiles", "finish"]

JoinedProfiles = Annotated[
    list[str],
    typer.Argument(
        help="Datasets or tables of features (.csv, .tsv, .npz), joined.", autocompletion=complete_dataset
    ),
]
AlignedProfiles = Annotated[
    list[str],
    typer.Argument(
        help="A dataset, or tables of features (.csv, .tsv, .npz) of the same rows.",
        autocompletion=complete_dataset,
    ),
]


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

    from emvfm.config import to_dict
    from emvfm.provenance import digest, environment
    from emvfm.studies.result_folder import write_results

    identity = digest([command, to_dict(config), dict(sources)])
    folder = call.workspace.runs / f"bench-{command}-{identity[:10]}"
    provenance = {"identity": identity, "sources": dict(sources), "environment": environment()}
    write_results(folder, config, record, provenance, files)
    last = "; ".join(filter(None, [detail, str(folder)]))
    call.result({"folder": str(folder), **record}, *lines, f"[dim]{escape(last)}[/]")
    return folder
