"""From the folders of runs to scores that can be paired: segmentation, localisation, retrieval, expression."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.config import read_yaml
from emvfm.errors import CorruptError, MissingError, UsageError
from emvfm.expression.resampling import FoldSums, fold_correlations, sum_blocks
from emvfm.provenance import digest, sha256_file
from emvfm.studies.audit.scored import ROLES, Drawn, Role, Scored, average_seeds
from emvfm.studies.audit.segmentation import evaluation_of, segmentation
from emvfm.studies.audit.tables import ratio, read_table, sum_units
from emvfm.workspace import Workspace, read_json

__all__ = ["parse_role", "read_runs"]

Floats = NDArray[np.float64]


def _retrieval(path: Path, name: str, role: Role) -> Scored:
    table = read_table(path)
    precision, groups = table.numbers("average_precision"), np.asarray(table.text("group"))
    known = np.isfinite(precision) & (groups != "")
    if not known.any():
        raise CorruptError("no query has a score", where=path)
    both = np.column_stack([precision[known], np.ones(int(known.sum()))])
    units, total = sum_units(groups[known].tolist(), both)
    means = total[:, 0] / total[:, 1]

    def replicate(drawn: Drawn, _: NDArray[np.bool_]) -> Floats:
        return (drawn.units @ means) / drawn.units.sum(axis=1)

    asked = [table.text("id"), table.text("group"), known.tolist()]
    return Scored(
        name, role, "mAP, mean over groups", "groups", units, ("",) * len(units), (), digest(asked),
        np.ones(1, bool), replicate, sha256_file(path),
    )  # fmt: skip


def _flags(values: Sequence[str], classes: Sequence[str]) -> Floats:
    place = {name: i for i, name in enumerate(classes)}
    flags = np.zeros((len(values), len(classes)))
    for row, value in zip(flags, values, strict=True):
        row[[place[label] for label in value.split(";") if label in place]] = 1
    return flags


def _localization(path: Path, name: str, role: Role) -> Scored:
    table = read_table(path)
    labels, predicted = table.text("labels"), table.text("predicted")
    classes = sorted({label for value in labels for label in value.split(";") if label})
    folds = table.text("fold")
    if not classes:
        raise CorruptError("no row has a label", where=path)
    truth, said = _flags(labels, classes), _flags(predicted, classes)
    # True and predicted positives of each class; what is said of a class without a true row counts nowhere.
    counts = np.stack([truth * said, said, truth], axis=2)
    numbers = np.unique(np.asarray(folds), return_inverse=True)[1].reshape(-1)
    spread = np.zeros((len(folds), int(numbers.max()) + 1, *counts.shape[1:]))
    spread[np.arange(len(folds)), numbers] = counts
    units, total = sum_units(table.text("group"), spread)

    def replicate(drawn: Drawn, _: NDArray[np.bool_]) -> Floats:
        both, predicted, true = np.moveaxis(np.tensordot(drawn.units, total, 1), -1, 0)
        f1 = np.where(true > 0, 2 * both / np.maximum(predicted + true, 1), np.nan)
        present = np.isfinite(f1)
        by_fold = ratio(np.where(present, f1, 0).sum(axis=2), present.sum(axis=2).astype(float))
        known = np.isfinite(by_fold)
        return ratio(np.where(known, by_fold, 0).sum(axis=1), known.sum(axis=1).astype(float))

    return Scored(
        name, role, "macro F1 over classes present, mean over folds", "groups", units, ("",) * len(units), (),
        digest([table.text("id"), labels, folds]), np.ones(1, bool), replicate, sha256_file(path),
    )  # fmt: skip


def _expression(path: Path, measured: Path, name: str, role: Role) -> Scored:
    table, truth = read_table(path), read_table(measured)
    if table.text("id") != truth.text("id"):
        raise CorruptError("not the spots that were measured", where=path)
    genes = [key for key in truth.columns if key not in ("id", "group", "fold")]
    y, p = (np.stack([t.numbers(gene) for gene in genes], axis=1) for t in (truth, table))
    folds, groups = np.asarray(truth.text("fold")), np.asarray(truth.text("group"))
    units = tuple(map(str, np.unique(groups)))
    parts: list[tuple[FoldSums, NDArray[np.intp]]] = []
    for fold in np.unique(folds):
        own = folds == fold
        asked = np.flatnonzero(np.isfinite(y[own]).all(axis=0))
        values = p[own][:, asked]
        if not np.isfinite(values).all():
            raise CorruptError("predictions that are missing", where=f"{path}, {fold}")
        blocks = np.searchsorted(units, groups[own])
        sums = sum_blocks(values, y[own][:, asked], y[own][:, asked].mean(axis=0), blocks, asked)
        parts.append((sums, np.unique(blocks)))
    defined = np.concatenate([sums.defined for sums, _ in parts])

    def replicate(drawn: Drawn, counted: NDArray[np.bool_]) -> Floats:
        total, start = np.zeros(len(drawn.units)), 0
        for sums, blocks in parts:
            part = counted[start : start + len(sums.genes)]
            start += len(sums.genes)
            if not part.any():
                continue
            found = fold_correlations(sums, drawn.units[:, blocks])
            share = (np.isfinite(found) & part) * drawn.columns[:, sums.genes]
            total += ratio((np.where(np.isfinite(found), found, 0) * share).sum(axis=1), share.sum(axis=1))
        return total / len(parts)

    strata = tuple(unit.rpartition("#")[0] for unit in units)
    asked_of = digest([truth.text("id"), truth.text("fold"), {gene: truth.text(gene) for gene in genes}])
    return Scored(
        name, role, "Pearson per gene, mean over genes and folds", "blocks of spots, and genes", units, strata,
        tuple(genes), asked_of, defined, replicate, sha256_file(path),
    )  # fmt: skip


def parse_role(text: str) -> tuple[str, Role]:
    """Return name and role of ``NAME=ROLE``.

    Raises
    ------
    UsageError
        There is no such role.
    """
    name, equals, role = text.rpartition("=")
    for known in ROLES:
        if equals and name and role == known:
            return name, known
    raise UsageError("not a role", where="--role", got=repr(text), expected="RUN=" + "|".join(ROLES))


def _role_of(options: Mapping[str, Any], label: str = "") -> Role:
    """Return what a run is to the question, as its options say."""
    backbone = str(options.get("backbone", ""))
    if backbone.startswith(("random:onehot", "random:constant")):
        return "confound"
    if backbone.partition(":")[0] in ("pixel", "random", "structure"):
        return "baseline"
    if options.get("untrained") or options.get("shuffle_weights") or "untrained" in label:
        return "untrained"
    return "trained"


_KINDS: dict[str, Role] = {
    "backbone": "trained", "untrained": "untrained", "pixel": "baseline", "structure": "baseline",
    "confound": "confound",
}  # fmt: skip


def _expression_models(folder: Path, name: str) -> list[Scored]:
    """Return the models of one run of expression; the mean has no correlation, exchanged and circular ones are none."""
    record = read_json(folder / "metrics.json")
    found = []
    for number, model in enumerate(record.get("models", ()), 1):
        role = _KINDS.get(str(model.get("kind")))
        path = folder / "predictions" / f"{number}-{model.get('kind')}.csv"
        if role is not None:
            found.append(_expression(path, folder / "measured.csv", f"{name}/{model['name']}", role))
    return found


def _leading_number(name: str) -> int:
    found = re.match(r"\d+", name)
    return int(found[0]) if found else 0


def _localization_runs(folder: Path, name: str, options: Mapping[str, Any]) -> list[Scored]:
    record = read_json(folder / "metrics.json")
    files = sorted((folder / "predictions").glob("*.csv"), key=lambda path: _leading_number(path.name))
    members = record.get("runs", [])
    if len(files) != len(members):
        raise CorruptError(
            "not one table of predictions a run", where=folder, got=len(files), expected=len(members)
        )
    found = []
    for path, member in zip(files, members, strict=True):
        own = {**options, "backbone": member.get("backbone") or options.get("backbone", "")}
        label = name if len(files) == 1 else f"{name}/{member['name']}"
        scored = _localization(path, label, _role_of(own, str(member.get("profiles", ""))))
        found.append(replace(scored, way=str(member.get("channels") or "")))
    return found


def _read(folder: Path, name: str, test: str | None) -> list[Scored]:
    options = read_yaml(folder / "config.yaml")
    role = _role_of(options)
    if (folder / "measured.csv").is_file():
        return _expression_models(folder, name)
    if (folder / "queries.csv").is_file():
        return [_retrieval(folder / "queries.csv", name, role)]
    if (folder / "predictions").is_dir():
        return _localization_runs(folder, name, options)
    if (folder / "evaluation").is_dir():
        return [segmentation([evaluation_of(folder, test)], name, role)]
    raise MissingError(
        "nothing to audit in this run", where=folder,
        expected="a run of bench retrieve, localize or expression, or an evaluated training",
    )  # fmt: skip


def _folds(folders: Sequence[Path], name: str, test: str | None) -> Scored:
    """Return trainings that were tested on slices of their own as one model."""
    roles = {_role_of(read_yaml(folder / "config.yaml")) for folder in folders}
    for folder in folders:
        if not (folder / "evaluation").is_dir():
            raise UsageError(
                "only evaluated trainings are joined", where=folder, todo="evaluate it with `emvfm eval`"
            )
    if len(roles) > 1:
        raise UsageError("folds of unlike models", where=name, got=" and ".join(sorted(roles)))
    return segmentation([evaluation_of(folder, test) for folder in folders], name, roles.pop())


def _is_run(workspace: Workspace, text: str) -> bool:
    """Return whether a text names a run; also where several begin so, which is refused when it is read."""
    try:
        workspace.find_run(text)
    except UsageError:
        return True
    except (MissingError, OSError):  # a text too long for a path is none
        return False
    return True


def _called_runs(workspace: Workspace, reference: str) -> tuple[str, list[str]]:
    """Split ``NAME:RUN`` or ``NAME:RUN,RUN`` where what follows a colon are runs; names and paths may hold colons too.

    What is a run as a whole is no ``NAME:RUN``, and has the name ``""``. Else it is cut at the first colon that has
    nothing but runs behind it.
    """
    if _is_run(workspace, reference):
        return "", [reference]
    nearest: tuple[str, list[str]] = "", [reference]
    fewest = math.inf
    for place, letter in enumerate(reference):
        name, rest = reference[:place], reference[place + 1 :]
        if letter != ":" or not name or not rest.strip(","):
            continue
        runs = [rest] if _is_run(workspace, rest) else [run for run in rest.split(",") if run]
        absent = [run for run in runs if not _is_run(workspace, run)]
        if not absent:
            return name, runs
        if len(absent) < fewest:  # to be named in the refusal
            nearest, fewest = (name, absent[:1]), len(absent)
    return nearest


def read_runs(
    workspace: Workspace, references: Sequence[str], roles: Sequence[str] = (), *, test: str | None = None
) -> list[Scored]:
    """Read the scores of runs, with roles as their options say or as `roles` do.

    Parameters
    ----------
    references
        Runs by name or folder; ``NAME:RUN`` calls a run by that name. Runs of one NAME are seeds of one model, whose
        mean is taken. ``NAME:RUN,RUN`` joins evaluated trainings with test slices of their own, the folds of one
        model. Names and paths may hold colons: the first colon counts that has nothing but runs behind it, and none
        where the whole is a run.
    roles
        ``NAME=ROLE``; of a run with several members, ``NAME/MEMBER=ROLE``.
    test
        Test set of segmentation, where runs were evaluated on several.

    Raises
    ------
    MissingError
        No such run, or it holds nothing to audit.
    CorruptError
        A table is damaged.
    UsageError
        A role is none, or is of no run.
    """
    given = dict(parse_role(text) for text in roles)
    found: list[Scored] = []
    if len(set(references)) < len(references):
        twice = next(each for each in references if references.count(each) > 1)
        raise UsageError("a run is named twice", where="audit", got=twice)
    for reference in references:
        name, runs = _called_runs(workspace, reference)
        folders = [workspace.find_run(run) for run in runs]
        if len(folders) > 1:
            found.append(_folds(folders, name, test))
        else:
            found += _read(folders[0], name or folders[0].name, test)
    single = len({one.name.partition("/")[0] for one in found}) == 1
    if single and len(references) == 1 and len(found) > 1:
        found = [_called(one, one.name.partition("/")[2]) for one in found]
    if unknown := set(given) - {one.name for one in found}:
        known = ", ".join(one.name for one in found)
        raise UsageError("a role of no run", where="--role", got=sorted(unknown)[0], expected=known)
    return average_seeds([_called(one, one.name, given.get(one.name, one.role)) for one in found])


def _called(one: Scored, name: str, role: Role | None = None) -> Scored:
    return replace(one, name=name, role=role or one.role)
