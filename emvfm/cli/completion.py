"""What the shell completes: names of datasets, public sources and runs of the workspace in use."""

from __future__ import annotations

import typer

from emvfm.workspace import Workspace

__all__ = ["complete_dataset", "complete_run", "complete_source"]


def _workspace(ctx: typer.Context) -> Workspace:
    return Workspace.find(ctx.params.get("root"))


def _names(folder, marker: str) -> list[str]:  # type: ignore[no-untyped-def]
    """Return the subfolders of `folder` that hold a file `marker`; nothing is opened, so it is quick."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and (p / marker).is_file())


def complete_dataset(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the datasets of the workspace that begin so."""
    return [n for n in _names(_workspace(ctx).datasets, "dataset.json") if n.startswith(incomplete)]


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the runs of the workspace that begin so."""
    return [n for n in _names(_workspace(ctx).runs, "config.yaml") if n.startswith(incomplete)]


def complete_source(incomplete: str) -> list[str]:
    """Return the public sources that begin so."""
    from emvfm.datasets.sources import SOURCES

    return [source.name for source in SOURCES if source.name.startswith(incomplete)]
