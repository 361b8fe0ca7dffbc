"""``emvfm data audit`` and ``emvfm data phantom``: what is wrong with a dataset, and synthetic ones."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset

if TYPE_CHECKING:
    from emvfm.datasets.audit import AuditReport
    from emvfm.datasets.manifest import Dataset

__all__ = ["register"]

_STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}


def _findings_table(report: AuditReport) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "check", "what", box=None, pad_edge=False, header_style="bold")
    for finding in report.findings:
        style = _STYLES[finding.severity]
        table.add_row(f"[{style}]{finding.severity}[/]", finding.code, escape(finding.message))
    return table


def _pairing_table(report: AuditReport) -> Any:
    from rich.markup import escape
    from rich.table import Table

    columns = ("stack", "masks", "agreement", "effect (sd)", "p", "own best", "best other pairing", "agrees")
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for column in (1, 2, 3, 4, 5, 7):
        table.columns[column].justify = "right"
    for stack in report.pairings:
        a = stack.agreement
        style = "red" if a.refusal else ""
        table.add_row(
            escape(stack.name),
            str(a.n),
            f"{a.agreement:.2f}",
            f"{a.effect:.1f}",
            f"{a.p_value:.2g}",
            f"{100 * a.own_best_share:.0f} %",
            a.alternative or "–",
            f"{a.alternative_agreement:.2f}" if a.alternative else "–",
            style=style,
        )
    return table


def _keep(dataset: Dataset, report: AuditReport, verdict: str) -> None:
    """Write the findings and the contact sheet into the dataset folder and the verdict into its record."""
    from dataclasses import replace

    from emvfm.datasets.audit import write_contact_sheet
    from emvfm.datasets.manifest import save_dataset
    from emvfm.workspace import write_json

    flagged = tuple(dict.fromkeys(name for f in report.errors for name in f.samples))[:12]
    write_json(dataset.root / "audit.json", {**report.to_json(), "recorded": verdict})
    write_contact_sheet(dataset, dataset.root / "contact_sheet.png", flagged=flagged)
    save_dataset(replace(dataset, meta={**dataset.meta, "audit": verdict}))


def register(sub: typer.Typer) -> None:
    """Add ``audit`` and ``phantom`` to the group ``data``."""

    @command(sub, "audit")
    def audit_command(
        call: Call,
        names: Annotated[
            list[str], typer.Argument(help="Datasets, by name or path.", autocompletion=complete_dataset)
        ],
        force: Annotated[
            bool, typer.Option("--force", help="Accept a refused dataset; this is recorded.")
        ] = False,
        permutations: Annotated[
            int, typer.Option(min=100, max=100_000, help="Shuffled pairings to compare with.")
        ] = 1000,
    ) -> None:
        """Find what ruins a study: wrong pairs, leaking splits, inverted masks. Exit code 4 if refused."""
        from rich.markup import escape

        from emvfm.datasets.audit import audit_dataset
        from emvfm.datasets.catalog import open_dataset, parse_reference
        from emvfm.errors import UsageError

        for name in names:
            if parse_reference(name)[1]:  # the verdict is recorded for all splits together
                raise UsageError("only whole datasets are audited", got=name, todo="leave out the split")
        datasets = [open_dataset(call.workspace, name) for name in names]
        results, lines, refused = [], [], []
        for dataset in datasets:
            with call.console.status(f"auditing {dataset.name} ({len(dataset)} samples)"):
                report = audit_dataset(dataset, seed=call.seed, permutations=permutations)
                verdict = "forced" if report.verdict == "refused" and force else report.verdict
                _keep(dataset, report, verdict)
            if verdict == "refused":
                refused.append(dataset.name)
            results.append({**report.to_json(), "recorded": verdict, "folder": str(dataset.root)})
            colour = {"passed": "green", "forced": "yellow", "refused": "red"}[verdict]
            lines += [f"[bold]{escape(dataset.name)}[/]"]
            lines += [_pairing_table(report)] if report.pairings else []
            lines += ["", _findings_table(report)] if report.findings else []
            forced = " Accepted with --force." if verdict == "forced" else ""
            lines += ["", f"[{colour}]{escape(report.sentence)}.{forced}[/]"]
            lines += [f"look at {escape(str(dataset.root / 'contact_sheet.png'))}", ""]
        call.result({"audits": results, "refused": refused}, *lines)
        if refused:
            raise SystemExit(4)

    @command(sub, "phantom")
    def phantom_command(
        call: Call,
        out: Annotated[Path, typer.Argument(help="New folder for images/ and masks/.", file_okay=False)],
        domain: Annotated[str, typer.Option(help="Look of tissue and microscope: a or b.")] = "a",
        slices: Annotated[int, typer.Option(min=1, max=10_000, help="Number of slices.")] = 24,
        size: Annotated[int, typer.Option(min=16, max=4096, help="Side of a slice in px.")] = 256,
    ) -> None:
        """Write a synthetic EM stack with exact mitochondria masks."""
        from rich.markup import escape

        from emvfm.datasets.phantom import write_phantom
        from emvfm.errors import UsageError

        if out.exists() and any(out.iterdir()):
            raise UsageError("folder is not empty", where=out, todo="choose another")
        truth = write_phantom(out, domain, slices, size, call.seed)
        place = escape(str(out))
        images, masks = (escape(shlex.quote(str(out / name))) for name in ("images", "masks"))
        call.result(
            {**truth, "folder": str(out)},
            f"{place}: {slices} slices of {size}×{size} px at {truth['pixel_size_nm']:g} nm, "
            f"{100 * truth['foreground_share']:.1f} % mitochondria",
            f"next: emvfm data compose phantom-{domain} --images {images} --masks {masks} "
            f"--pixel-size {truth['pixel_size_nm']:g}",
        )
