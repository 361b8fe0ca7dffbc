"""``emvfm domain ood-compare``: results of ``domain ood`` side by side."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_run
from emvfm.studies.outlier_options import OutlierCompareOptions

__all__ = ["register"]


def register(domain: typer.Typer) -> None:
    @command(domain, "ood-compare", OutlierCompareOptions)
    def ood_compare(
        call: Call,
        config: OutlierCompareOptions,
        runs: Annotated[
            list[str],
            typer.Argument(
                help="Two or more results of `domain ood` (or of the reference system), by name or folder.",
                autocompletion=complete_run,
            ),
        ],
    ) -> None:
        """Compare results of `domain ood`: shares flagged, scores over the threshold, AUROC."""
        from rich.markup import escape
        from rich.table import Table

        from emvfm.config import dump_yaml, to_dict
        from emvfm.provenance import digest, environment
        from emvfm.report.ood_figures import outlier_runs
        from emvfm.studies.outlier_runs import read_runs
        from emvfm.workspace import atomic_folder, write_bytes, write_json, write_text

        rows, digests = read_runs(call.workspace, runs, config)
        records = [row.to_json() for row in rows]
        circular = [row.label for row in rows if row.circular]
        remark = (
            f"{', '.join(circular)}: the threshold is a quantile of the fitted images, so that the share flagged "
            "in distribution is set by construction and not comparable with held-out false alarms"
            if circular
            else None
        )
        # A circular threshold is lower, so its shares would always seem the best.
        judged = [row for row in rows if not row.circular] or rows
        most = max(judged, key=lambda row: row.outside_rate)
        verdict = (
            f"{most.label} flags most of its outliers ({most.outside_rate:.0%} of {most.n[1]}, with "
            f"{most.inside_rate:.0%} of {most.n[0]} in-distribution images); whether runs differ by more than "
            "chance is not tested"
        )
        record = {"score": config.score, "results": records, "remark": remark, "verdict": verdict}
        text = io.StringIO()
        writer = csv.DictWriter(
            text, [*(k for k in records[0] if k != "n"), "n_inside", "n_outside"], lineterminator="\n"
        )
        writer.writeheader()
        for found in records:
            plain = {k: v for k, v in found.items() if k != "n"}
            writer.writerow({**plain, "n_inside": found["n"][0], "n_outside": found["n"][1]})
        figure = outlier_runs(
            [
                {
                    "label": row.label,
                    "inside": row.inside_ratios,
                    "outside": row.outside_ratios,
                    "inside_rate": row.inside_rate,
                    "outside_rate": row.outside_rate,
                }
                for row in rows
            ]
        )
        identity = digest([to_dict(config), list(digests.items())])
        folder = call.workspace.runs / f"domain-ood-compare-{identity[:10]}"
        with atomic_folder(folder, replace=True) as temporary:
            write_text(temporary / "config.yaml", dump_yaml(to_dict(config)))
            write_json(temporary / "metrics.json", record)
            provenance = {"identity": identity, "runs": digests, "environment": environment()}
            write_json(temporary / "provenance.json", provenance)
            write_text(temporary / "comparison.csv", text.getvalue())
            write_bytes(temporary / "figures" / "runs.png", figure)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in (
            "run",
            "in distribution",
            "outliers",
            "n",
            "flagged",
            "false alarms",
            "AUROC",
        ):
            table.add_column(column)
        table.add_column("median over threshold")
        for row in rows:
            interval = "" if row.auroc_low is None else f" [{row.auroc_low:.2f}, {row.auroc_high:.2f}]"
            table.add_row(
                *(escape(text) for text in (row.label, row.inside, row.outside)),
                f"{row.n[0]} + {row.n[1]}",
                f"{row.outside_rate:.3f}",
                f"{row.inside_rate:.3f}" + (" (fitted)" if row.circular else ""),
                "—" if row.auroc is None else escape(f"{row.auroc:.3f}{interval}"),
                "—" if row.median_ratio is None else f"{row.median_ratio:.3g}",
            )
        backbones = "; ".join(dict.fromkeys(row.backbone for row in rows if row.backbone))
        lines = [escape(verdict), *([f"[yellow]{escape(remark)}[/]"] if remark else [])]
        call.result(
            {"folder": str(folder), **record}, table, *lines, f"[dim]{escape(f'{backbones}; {folder}')}[/]"
        )
