"""``emvfm store``: what has been embedded, how large it is, and whether it is whole."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from emvfm.cli.command import Call, command

__all__ = ["register"]

_Keys = Annotated[list[str] | None, typer.Argument(help="Beginnings of keys; without any, all stores.")]


def register(app: typer.Typer) -> None:
    """Add the group ``store`` to `app`."""
    group = typer.Typer(
        name="store",
        help="What has been embedded, and whether it is whole.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.add_typer(group)

    @command(group, "list")
    def list_command(call: Call) -> None:
        """List the stores of the workspace."""
        from rich.markup import escape
        from rich.table import Table

        from emvfm.store.care import find_stores, summarise

        summaries = [summarise(store) for store in find_stores(call.workspace.store)]
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("key", "made by", "view", "layers", "type", "images", "MB"):
            table.add_column(column)
        for s in summaries:
            layers, size = ", ".join(map(str, s.layers)), f"{s.bytes / 1e6:,.0f}"
            table.add_row(s.key[:12], escape(s.label), s.view, layers, s.dtype, str(s.images), size)
        remark = [] if summaries else ["no stores yet: `emvfm embed` makes one"]
        call.result({"stores": [asdict(s) for s in summaries]}, *([table] if summaries else remark))

    @command(group, "verify")
    def verify_command(
        call: Call,
        keys: _Keys = None,
        repair: Annotated[
            bool, typer.Option("--repair", help="Withdraw damaged shards; `emvfm embed` computes just these.")
        ] = False,
    ) -> None:
        """Compare every byte with its checksum; exit code 1 if any is damaged and not withdrawn."""
        from rich.markup import escape

        from emvfm.store.care import find_stores, verify

        found = {
            store.folder.name: verify(store, repair=repair)
            for store in find_stores(call.workspace.store, keys or None)
        }
        lines = []
        for key, problems in found.items():
            lines.append(f"{key[:12]}  {'whole' if not problems else f'{len(problems)} damaged shards'}")
            lines += [f"  {escape(shard)}: {escape(what)}" for shard, what in problems.items()]
        damaged = any(found.values())
        if damaged:
            after = "withdrawn; `emvfm embed` computes them anew" if repair else "withdraw them with --repair"
            lines.append(after)
        call.result({"stores": found, "repaired": repair}, *(lines or ["no stores yet"]))
        if damaged and not repair:
            raise typer.Exit(1)
