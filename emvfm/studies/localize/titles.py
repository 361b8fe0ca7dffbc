"""What members of a grid are called in figures: by what made their profiles, not by what was asked for.

A file of other weights goes in under the name of an architecture (``dinov2_vits14,weights=FILE``); a chart that shows
that name would claim the official weights. The store knows better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emvfm.studies.localize.grid import MemberRun

__all__ = ["backbone_titles", "run_titles"]


def backbone_titles(runs: Sequence[MemberRun]) -> list[str]:
    """Return one name a run, of its backbone as the store has it; a table by its file name.

    What was asked for is added where two members of other options would be called alike.
    """
    honest = [run.backbone if run.member.backbone else Path(run.member.source).name for run in runs]
    titles = []
    for run, name in zip(runs, honest, strict=True):
        asked = run.member.backbone
        alike = {other.member.backbone for other, its in zip(runs, honest, strict=True) if its == name}
        own = asked.partition(", ")[2] or asked
        titles.append(f"{name}, {own}" if len(alike) > 1 and own else name)
    return titles


def run_titles(runs: Sequence[MemberRun]) -> list[str]:
    """Return one name a run: the backbone, and how channels were given to it."""
    return [
        " · ".join(part for part in (title, run.member.channels) if part)
        for title, run in zip(backbone_titles(runs), runs, strict=True)
    ]
