"""From what a user types (``lucchi``, ``lucchi:test``, a path) to a dataset."""

from __future__ import annotations

import difflib
from pathlib import Path

from emvfm.datasets.manifest import SPLITS, Dataset, load_dataset
from emvfm.errors import MissingError, UsageError
from emvfm.workspace import Workspace

__all__ = ["list_datasets", "open_dataset", "parse_reference", "resolve_reference"]


def list_datasets(workspace: Workspace) -> tuple[str, ...]:
    """Return the names of the workspace's datasets, sorted; half-written and refused ones are hidden."""
    if not workspace.datasets.is_dir():
        return ()
    return tuple(
        sorted(
            path.name
            for path in workspace.datasets.iterdir()
            if not path.name.startswith(".") and (path / "dataset.json").is_file()
        )
    )


def parse_reference(reference: str) -> tuple[str, tuple[str, ...]]:
    """Split ``name:split`` or ``name:split,split`` into the name (or path) and the splits.

    >>> parse_reference("lucchi:train,val")
    ('lucchi', ('train', 'val'))

    Raises
    ------
    UsageError
        What follows the colon is no split.
    """
    name, colon, text = reference.rpartition(":")
    if not colon or "/" in text or "\\" in text:  # no colon, or one inside a path
        return reference, ()
    splits = tuple(text.split(","))
    if unknown := [split for split in splits if split not in SPLITS]:
        raise UsageError("no such split", where=reference, got=repr(unknown[0]), expected=", ".join(SPLITS))
    return name, splits


def resolve_reference(workspace: Workspace, name: str) -> Dataset:
    """Open a dataset by name or path, all splits.

    Raises
    ------
    MissingError
        Neither a dataset of the workspace nor a folder with one; close names are suggested.
    """
    known = list_datasets(workspace)
    if name in known:
        return load_dataset(workspace.datasets / name)
    path = Path(name).expanduser()
    if name and (path / "dataset.json").is_file():
        return load_dataset(path.absolute())
    close = difflib.get_close_matches(name, known, n=1)
    todo = f"did you mean {close[0]}?" if close else "make one with `emvfm data compose`"
    raise MissingError(
        "no such dataset",
        where=name or "''",
        expected=("one of " + ", ".join(known)) if known else f"a dataset under {workspace.datasets}",
        todo=todo,
    )


def open_dataset(workspace: Workspace, reference: str) -> Dataset:
    """Open ``name``, ``path``, ``name:split`` or ``path:split`` (several splits with commas).

    Raises
    ------
    MissingError
        There is no such dataset, or no sample in the splits.
    UsageError
        Unknown split.
    """
    if reference in list_datasets(workspace) or (Path(reference).expanduser() / "dataset.json").is_file():
        return resolve_reference(workspace, reference)
    name, splits = parse_reference(reference)
    dataset = resolve_reference(workspace, name)
    if not splits:
        return dataset
    chosen = dataset.split(*splits)
    if not len(chosen):
        present = sorted({sample.split for sample in dataset.samples})
        raise MissingError("no sample in this split", where=reference, expected=" or ".join(present))
    return chosen
