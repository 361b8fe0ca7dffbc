"""``emvfm data``: fetch public sources, compose datasets, list and show them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset, complete_source
from emvfm.cli.data_audit import register as register_audit
from emvfm.datasets.options import ComposeOptions

if TYPE_CHECKING:
    from emvfm.datasets.manifest import Dataset

__all__ = ["register"]


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Return samples by domain and split."""
    from emvfm.datasets.manifest import SPLITS

    counted = Counter((s.domain, s.split) for s in dataset.samples)
    domains = dict.fromkeys(s.domain for s in dataset.samples)
    return {domain: {split: counted[domain, split] for split in SPLITS} for domain in domains}


def _summary(dataset: Dataset) -> dict[str, Any]:
    """Return what is known about a dataset as JSON values."""
    from emvfm.datasets.manifest import fact_names

    return {
        "name": dataset.name,
        "folder": str(dataset.root),
        "samples": len(dataset),
        "annotated": len(dataset.annotated()),
        "counts": _counts(dataset),
        "digest": dataset.digest,
        "facts": list(fact_names(dataset.samples)),
        **dataset.meta,
    }


def _sizes(dataset: Dataset, domain: str) -> tuple[str, str]:
    """Return the image sizes and pixel sizes of a domain as text."""
    samples = [s for s in dataset.samples if s.domain == domain]
    sizes = Counter((s.height, s.width) for s in samples).most_common(2)
    pixels = sorted({s.pixel_size_nm for s in samples if s.pixel_size_nm is not None})
    unknown = any(s.pixel_size_nm is None for s in samples)
    nm = ", ".join(f"{p:g}" for p in pixels) + (" or unknown" if pixels and unknown else "")
    return ", ".join(f"{h}×{w}" for (h, w), _ in sizes), nm or "unknown"


def _splits_table(dataset: Dataset) -> Any:
    from rich.table import Table

    from emvfm.datasets.manifest import SPLITS

    table = Table("domain", *SPLITS, "size (px)", "nm/px", box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1 : 1 + len(SPLITS)]:
        column.justify = "right"
    for domain, counts in _counts(dataset).items():
        table.add_row(domain, *(str(counts[split]) for split in SPLITS), *_sizes(dataset, domain))
    return table


def _warnings(dataset: Dataset) -> list[str]:
    """Return what the audit remarked without refusing."""
    from emvfm.workspace import read_json

    path = dataset.root / "audit.json"
    findings = read_json(path).get("findings", []) if path.is_file() else []
    return [f["message"] for f in findings if f["severity"] != "info"]


def _said(dataset: Dataset) -> list[str]:
    """Return the lines on channels and facts, where there are any."""
    from emvfm.datasets.channel_names import channels_text
    from emvfm.datasets.manifest import fact_names

    lines = []
    if dataset.meta.get("channels"):
        lines.append(f"channels {channels_text(dataset.meta['channels'])}")
    if names := fact_names(dataset.samples):
        shown = []
        for name in names[:12]:
            values = {sample.facts.get(name, "") for sample in dataset.samples} - {""}
            shown.append(f"{name} ({len(values)})")
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        lines.append(f"facts    {', '.join(shown)}{more}")
    return lines


def _notes(dataset: Dataset) -> list[str]:
    """Return the lines on pairing, split, audit and place."""
    from rich.markup import escape

    lines = []
    for record in dataset.meta.get("sources", []):
        pairing, split = record["pairing"], record["split"]
        shown = ", ".join(f"{image} ↔ {mask or 'no mask'}" for image, mask in pairing["examples"])
        lines.append(f"pairing  {record['domain']}: {pairing['found']}" + (f" ({shown})" if shown else ""))
        how = split["scheme"] + (
            f" by the source, validation {split['validation']}" if "validation" in split else ""
        )
        gap = f", gap {split['gap']}" if split.get("gap") else ""
        lines.append(f"split    {record['domain']}: {how}{gap}, seed {split['seed']}")
    lines += _said(dataset)
    verdict = dataset.meta.get("audit", "not made")
    style = {"passed": "green", "forced": "red"}.get(verdict, "yellow")
    lines = [escape(line) for line in lines]
    lines.append(f"audit    [{style}]{verdict}[/]  {escape(str(dataset.root / 'contact_sheet.png'))}")
    lines += [f"[yellow]warning[/]  {escape(text)}" for text in _warnings(dataset)]
    lines.append(f"folder   {escape(str(dataset.root))}")
    return lines


def _megabytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:.1f}" + (f" of {total / 1e6:.1f}" if total else "") + " MB"


def register(app: typer.Typer) -> None:
    """Add the group ``data`` to `app`."""
    data = typer.Typer(
        name="data",
        help="Fetch, compose, audit and look at datasets.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.add_typer(data)
    register_audit(data)

    @command(data, "compose", ComposeOptions)
    def compose_command(
        call: Call,
        config: ComposeOptions,
        name: Annotated[str, typer.Argument(help="Name of the new dataset.", show_default=False)],
        sources: Annotated[
            list[str] | None,
            typer.Option(
                "--from",
                help="Folder, dataset or downloaded source; repeatable.",
                autocompletion=complete_dataset,
                show_default=False,
            ),
        ] = None,
    ) -> None:
        """Make one dataset from folders, public sources or datasets; it is audited before it appears."""
        from emvfm.datasets.compose import compose

        dataset = compose(name, sources or [], call.workspace, config, console=call.console)
        call.result(_summary(dataset), _splits_table(dataset), "", *_notes(dataset))

    @command(data, "fetch")
    def fetch_command(
        call: Call,
        names: Annotated[
            list[str] | None,
            typer.Argument(
                help="lucchi++, vnc, kasthuri++; none to list them.", autocompletion=complete_source
            ),
        ] = None,
    ) -> None:
        """Download public datasets (resumable, verified), showing licence and citation."""
        from rich.table import Table

        from emvfm.datasets.fetch import fetch
        from emvfm.datasets.sources import SOURCES, find_source

        if not names:
            table = Table("source", "what", "licence", box=None, pad_edge=False, header_style="bold")
            for source in SOURCES:
                table.add_row(source.name, source.title, source.licence)
            known = [{"name": s.name, "title": s.title, "licence": s.licence, "url": s.url} for s in SOURCES]
            call.result({"sources": known}, table)
            return
        fetched = []
        lines = []
        for source in [
            find_source(name) for name in names
        ]:  # all names are checked before the first download
            call.console.print(
                f"{source.name}: {source.title}\nlicence:  {source.licence}\ncite:     {source.citation}"
            )
            with call.console.status(f"{source.name} from {source.url}") as status:
                folder = fetch(
                    source,
                    call.workspace,
                    progress=lambda done, total: status.update(_megabytes(done, total)),
                )
            fetched.append(
                {
                    "name": source.name,
                    "folder": str(folder),
                    "licence": source.licence,
                    "citation": source.citation,
                }
            )
            lines.append(f"{source.name}: {folder}")
            lines.append(f"next: emvfm data compose {source.domain} --from {source.name}")
        call.result({"fetched": fetched}, *lines)

    @command(data, "list")
    def list_command(call: Call) -> None:
        """List the datasets of the workspace."""
        from rich.table import Table

        from emvfm.datasets.catalog import list_datasets
        from emvfm.datasets.manifest import SPLITS, load_dataset
        from emvfm.errors import EmvfmError

        table = Table(
            "dataset",
            "domains",
            *SPLITS,
            "channels",
            "pairing",
            "audit",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        rows: list[dict[str, Any]] = []
        for name in list_datasets(call.workspace):
            try:
                dataset = load_dataset(call.workspace.datasets / name)
            except EmvfmError as error:
                rows.append({"name": name, "error": str(error)})
                table.add_row(name, f"[red]{error}[/]")
                continue
            rows.append(_summary(dataset))
            per_split = Counter(s.split for s in dataset.samples)
            table.add_row(
                name,
                ", ".join(_counts(dataset)),
                *(str(per_split[split]) for split in SPLITS),
                ", ".join(str(channel["name"]) for channel in dataset.meta.get("channels", ())),
                str(dataset.meta.get("pairing", "")),
                str(dataset.meta.get("audit", "not made")),
            )
        empty = f"no datasets under {call.workspace.datasets}; make one with `emvfm data compose`"
        call.result({"datasets": rows}, table if rows else empty)

    @command(data, "show")
    def show_command(
        call: Call,
        name: Annotated[
            str,
            typer.Argument(help="Dataset, by name or path, or name:split.", autocompletion=complete_dataset),
        ],
        verify: Annotated[
            bool, typer.Option("--verify", help="Compare every file with its recorded SHA-256.")
        ] = False,
    ) -> None:
        """Show one dataset: splits, pairing, audit, licence, citation."""
        from rich.markup import escape

        from emvfm.datasets.catalog import open_dataset
        from emvfm.datasets.manifest import verify_files

        dataset = open_dataset(call.workspace, name)
        if verify:
            verify_files(dataset)
        more = [f"{key:<9}{dataset.meta[key]}" for key in ("licence", "citation") if dataset.meta.get(key)]
        call.result(_summary(dataset), _splits_table(dataset), "", *_notes(dataset), *map(escape, more))
