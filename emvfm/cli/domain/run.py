"""What the domain commands begin and end with: open and block the datasets; write the folder and say the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from emvfm.cli.command import Call
    from emvfm.domain.dependence import Dependence
    from emvfm.studies.distances import Distances
    from emvfm.studies.domains import Domain
    from emvfm.studies.options import DomainOptions

__all__ = ["Opened", "finish", "finish_distances", "open_blocked"]


@dataclass(frozen=True)
class Opened:
    """Embedded datasets with their blocks of slices, and how long slices depend on each other in each."""

    domains: list[Domain]
    dependences: tuple[Dependence, ...]

    @property
    def label(self) -> str:
        """What the backbone is called."""
        return self.domains[0].embeddings.label


def open_blocked(call: Call, config: DomainOptions, datasets: Sequence[str], *, least: int = 2) -> Opened:
    """Open and embed datasets, and cut them into blocks as the options say."""
    from emvfm.studies.blocks import settle_blocks
    from emvfm.studies.domains import open_domains

    domains = open_domains(datasets, config, call.workspace, console=call.console, least=least)
    return Opened(*settle_blocks(domains, config))


def finish(
    call: Call,
    command: str,
    config: DomainOptions,
    opened: Opened,
    record: Mapping[str, Any],
    files: Mapping[str, bytes | str],
    *lines: Any,
    detail: str = "",
    blocked: bool = True,
) -> Path:
    """Write the folder of a run, say its result, and return the folder.

    Parameters
    ----------
    record
        What ``metrics.json`` and ``--json`` hold beside the backbone and the dependence of slices.
    lines
        What is printed before the last line, which names the backbone, `detail` and the folder.
    blocked
        Whether anything in it takes blocks of slices as independent, so that it is said where they are not.
    """
    from rich.markup import escape

    from emvfm.studies.domains import write_domain_run

    record = {**record, "dependence": [found.to_json() for found in opened.dependences]}
    folder = write_domain_run(call.workspace, command, config, opened.domains, record, files)
    said = [
        f"[yellow]blocks are taken as independent, but {escape(d.caveat)}[/]"
        for d in opened.dependences
        if not d.enough
    ]
    last = "; ".join(filter(None, [opened.label, detail, str(folder)]))
    call.result(
        {"folder": str(folder), "backbone": opened.label, **record},
        *lines,
        *(said if blocked else []),
        f"[dim]{escape(last)}[/]",
    )
    return folder


def finish_distances(
    call: Call,
    command: str,
    config: DomainOptions,
    opened: Opened,
    found: Distances,
    *remarks: str,
    files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """Write and say distances: their table, their verdicts, and further remarks (markup) and files."""
    from rich.markup import escape

    return finish(
        call, command, config, opened, found.to_json(), {**found.files(), **(files or {})},
        found.table(), *map(escape, found.remarks()), *remarks,
        detail=f"{found.entries[0][1].dimension} dimensions",
    )  # fmt: skip
