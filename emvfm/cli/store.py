"""``emvfm store``: what has been embedded, whether it is whole, what can go, and how other tools get it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.config import FORBID_EXTRA, Doc

__all__ = ["ExportOptions", "register"]


@dataclass(frozen=True)
class ExportOptions:
    """What ``store export`` writes, and from which store."""

    __pydantic_config__ = FORBID_EXTRA

    format: Annotated[
        Literal["npz", "parquet", "anndata"] | None,
        Doc("Without it, what the file's suffix means: .npz, .parquet or .h5ad."),
    ] = None
    pool: Annotated[Literal["mean", "cls", "mean+cls"], Doc("One vector an image: which.")] = "mean"
    layer: Annotated[int, Doc("Position among the stored layers; -1 is the last.")] = -1
    patches: Annotated[bool, Doc("One row a patch instead of one an image; --pool plays no part.")] = False
    store: Annotated[str | None, Doc("Beginning of a store's key, if several hold the dataset.")] = None
    backbone: Annotated[str | None, Doc("Only stores of this backbone; no weights are read.")] = None


_Keys = Annotated[list[str] | None, typer.Argument(help="Beginnings of keys; without any, all stores.")]


def register(app: typer.Typer) -> None:
    """Add the group ``store`` to `app`."""
    group = typer.Typer(
        name="store",
        help="What has been embedded, whether it is whole, and what becomes of it.",
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
            bool,
            typer.Option("--repair", help="Withdraw damaged shards and compute just their images again."),
        ] = False,
        weights: Annotated[
            Path | None, typer.Option(help="Weight file of the damaged store, if it is not in a usual place.")
        ] = None,
        adapter: Annotated[str | None, typer.Option(help="Run or folder of its LoRA adapter.")] = None,
    ) -> None:
        """Compare every byte with its checksum; exit code 1 if any is damaged and was not mended."""
        from rich.markup import escape

        from emvfm.store.care import find_stores, images_of, verify

        lines: list[str] = []
        found: dict[str, dict[str, Any]] = {}
        whole = True
        for store in find_stores(call.workspace.store, keys or None):
            images = {name: images_of(store, name) for name in store.published()} if repair else {}
            problems = verify(store, repair=repair)
            entry: dict[str, Any] = {"problems": problems}
            found[store.folder.name] = entry
            said = f"{len(problems)} damaged parts" if problems else "whole"
            lines += [f"{store.folder.name[:12]}  {said}"]
            lines += [f"  {escape(shard)}: {escape(what)}" for shard, what in problems.items()]
            if problems and not repair:
                whole = False
                lines.append("  mend it with --repair")
            elif problems:
                from emvfm.extraction.repair import recompute

                lost = {image for name in images.keys() & problems.keys() for image in images[name]}
                mended = recompute(
                    store, lost, call.workspace, weights=weights, adapter=adapter, console=call.console
                )
                entry |= {"withdrawn": len(lost), "computed": mended.computed, "left": mended.problem}
                lines.append(f"  withdrawn: {len(lost)} images, computed again: {mended.computed}")
                if mended.problem is not None:
                    whole = False
                    lines.append(f"  {escape(mended.problem)}; or run `emvfm embed` for their datasets")
        call.result({"stores": found, "repaired": repair}, *(lines or ["no stores yet"]))
        if not whole:
            raise typer.Exit(1)

    @command(group, "prune")
    def prune_command(
        call: Call,
        keys: Annotated[
            list[str] | None,
            typer.Argument(
                help="Beginnings of keys: these stores as a whole. Without any, what dead writers left, and "
                "sample tables of datasets that are gone."
            ),
        ] = None,
        unused: Annotated[
            bool, typer.Option("--unused", help="Also whole stores in which no dataset has an image.")
        ] = False,
        yes: Annotated[
            bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")
        ] = False,
    ) -> None:
        """Show what can go from the stores and how large it is; with --yes, remove it.

        What another process writes is skipped. With both KEYS and --unused, only those of the stores go
        in which no dataset has an image. Exit code 1 if a store that was named had to stay.
        """
        from rich.markup import escape
        from rich.table import Table

        from emvfm.store.pruning import prune

        result = prune(call.workspace, keys or (), unused=unused, remove=yes)

        def shown(name: str) -> str:
            return escape(str(Path(name).relative_to(call.workspace.store)))

        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("kind", "what", "why", "MB"):
            table.add_column(column, overflow="fold")
        for item in result.leftovers:
            table.add_row(item.kind, shown(item.name), escape(item.why), f"{item.bytes / 1e6:,.1f}")
        did = "removed" if yes else "can go; nothing was removed, --yes does it"
        lines = [f"skipped {shown(name)}: {escape(why)}" for name, why in result.skipped.items()]
        if result.leftovers:
            lines.append(f"{len(result.leftovers)} things, {result.bytes / 1e6:,.1f} MB: {did}")
        elif not lines:
            lines.append("nothing to remove")
        record = {
            "removed": yes,
            "bytes": result.bytes,
            "leftovers": [
                {"kind": item.kind, "path": item.name, "why": item.why, "bytes": item.bytes}
                for item in result.leftovers
            ],
            "skipped": result.skipped,
        }
        call.result(record, *([table] if result.leftovers else []), *lines)
        if keys and result.skipped:
            raise typer.Exit(1)

    @command(group, "export", ExportOptions)
    def export_command(
        call: Call,
        config: ExportOptions,
        dataset: Annotated[
            str,
            typer.Argument(help="Dataset; name:split for one split.", autocompletion=complete_dataset),
        ],
        output: Annotated[Path, typer.Option("--output", "-o", help="File to make.", dir_okay=False)],
    ) -> None:
        """Write a dataset's embeddings into one file for NumPy, pandas, polars or AnnData.

        Nothing is computed, and no model is loaded.
        """
        from rich.markup import escape

        from emvfm.backbones.registry import find_spec
        from emvfm.datasets.catalog import open_dataset
        from emvfm.datasets.manifest import load_dataset
        from emvfm.store.export import choose_format, export
        from emvfm.store.finding import find_embeddings

        kind = choose_format(output, config.format)
        opened = open_dataset(call.workspace, dataset)
        identity = None if config.backbone is None else find_spec(config.backbone).identity()
        embeddings = find_embeddings(
            call.workspace.store, opened, load_dataset(opened.root), key=config.store, backbone=identity
        )
        made = export(
            embeddings, output.absolute(), kind,
            layer=config.layer, pool=config.pool, patches=config.patches,
        )  # fmt: skip
        rows = f"{made.rows:,} {'patches' if config.patches else 'images'} × {made.width}"
        record = {"store": embeddings.key, "dataset": dataset, "backbone": embeddings.label, **asdict(made)}
        call.result(
            record,
            f"[bold]{escape(embeddings.label)}[/]  {rows}, {made.bytes / 1e6:,.1f} MB",
            escape(str(made.path)),
        )
