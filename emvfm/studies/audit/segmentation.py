"""The pixels that evaluated trainings got right and wrong, slice by slice, as scores that can be paired."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import CorruptError, MissingError, RefusedError
from emvfm.provenance import digest, sha256_file
from emvfm.segmentation.evaluation_files import file_name
from emvfm.studies.audit.scored import Drawn, Role, Scored
from emvfm.studies.audit.tables import Table, ratio, read_table, sum_units

__all__ = ["evaluation_of", "segmentation"]

Floats = NDArray[np.float64]


def evaluation_of(folder: Path, test: str | None) -> Path:
    """Return the table of slices of a run's only evaluation, or of that on the test set of this name.

    Raises
    ------
    MissingError
        There is none, or there are several and no name.
    """
    found = sorted((folder / "evaluation").glob("*-slices.csv"))
    # A dataset stands for its test split, as in `emvfm eval`.
    wanted = [] if test is None else [f"{file_name(name)}-slices.csv" for name in (test, f"{test}:test")]
    files = [file for file in found if test is None or file.name in wanted]
    if len(files) != 1:
        known = ", ".join(file.name.removesuffix("-slices.csv") for file in found)
        raise MissingError(
            "not one evaluation of the run", where=folder, got=known or "none", expected="one, or --test NAME",
            todo="evaluate it with `emvfm eval`",
        )  # fmt: skip
    return files[0]


def _counts(table: Table) -> Floats:
    counts = np.stack([table.numbers(key) for key in ("tp", "fp", "fn", "tn")], axis=1)
    if not np.isfinite(counts).all() or counts.min() < 0:
        raise CorruptError("counts of pixels that are none", where=table.path)
    return counts


def segmentation(paths: Sequence[Path], name: str, role: Role) -> Scored:
    """Return the IoU, pooled over the slices of a test set, or of several without a slice in common (folds).

    Raises
    ------
    CorruptError
        A table is damaged.
    RefusedError
        A slice is in two of the tables.
    """
    tables = [read_table(path) for path in paths]
    slices = [id_ for table in tables for id_ in table.text("id")]
    if len(paths) > 1 and len(set(slices)) < len(slices):
        twice = next(one for one in slices if slices.count(one) > 1)
        raise RefusedError(
            "a slice is tested twice", where=name, got=twice, todo="join folds with other test slices"
        )
    counts = np.concatenate([_counts(table) for table in tables])
    blocks = list(tables[0].text("block"))
    if len(paths) > 1:  # numbered anew in each
        blocks = [f"{fold}#{block}" for fold, table in enumerate(tables) for block in table.text("block")]
    units, total = sum_units(blocks, counts)
    truth = (counts[:, 0] + counts[:, 2]).tolist()

    def replicate(drawn: Drawn, _: NDArray[np.bool_]) -> Floats:
        tp, fp, fn, _tn = (drawn.units @ total).T
        return ratio(tp, tp + fp + fn)

    read = [sha256_file(path) for path in paths]
    return Scored(
        name, role, "IoU, pixels pooled", "blocks of slices", units, ("",) * len(units), (),
        digest([slices, blocks, truth]), np.ones(1, bool), replicate, read[0] if len(read) == 1 else digest(read),
    )  # fmt: skip
