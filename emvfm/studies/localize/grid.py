"""Every member of the grid on the same rows and folds, then all compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.comparison import Comparison, compare_all
from emvfm.localization.crossvalidation import CrossValidation, FoldRun, cross_validate
from emvfm.localization.efficiency import EfficiencyPoint, label_efficiency
from emvfm.localization.leak import Leak, leak_of
from emvfm.localization.levels import Level, LevelScores, other_levels
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.predictions import Interval
from emvfm.studies.bench.corrections import CorrectionPlan, plan_of
from emvfm.studies.localize.members import Member, members_of
from emvfm.studies.localize.options import LocalizeOptions, head_of, protocol_of, settle_preset
from emvfm.studies.localize.task import Task, make_task, with_folds
from emvfm.studies.profiles import Profiles, open_profiles

if TYPE_CHECKING:
    from rich.console import Console

    from emvfm.workspace import Workspace

__all__ = ["Localization", "MemberRun", "localize"]


@dataclass(frozen=True)
class MemberRun:
    """One member of the grid, tested.

    Attributes
    ----------
    label, backbone, digest
        Honest name of what made the profiles, with and without layer and pooling, and their identity.
    width
        Features a row.
    interval
        Of the score that runs are compared by, over groups.
    leak
        What ungrouped folds add; None where the folds keep groups whole.
    levels
        The same heads scored at the other levels that the facts allow.
    """

    member: Member
    label: str
    backbone: str
    digest: str
    width: int
    run: CrossValidation
    interval: Interval
    leak: Leak | None
    efficiency: tuple[EfficiencyPoint, ...]
    levels: tuple[tuple[LevelScores, Interval], ...] = ()

    @property
    def name(self) -> str:
        return self.member.name

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays as strict JSON types."""
        return {
            "name": self.name,
            "source": self.member.source,
            "backbone": self.member.backbone,
            "channels": self.member.channels,
            "profiles": self.label,
            "digest": self.digest,
            "width": self.width,
            "interval": self.interval.to_json(),
            "leak": None if self.leak is None else self.leak.to_json(),
            "efficiency": [point.to_json() for point in self.efficiency],
            **self.run.to_json(),
            "others": [one.to_json() | {"interval": ends.to_json()} for one, ends in self.levels],
        }


@dataclass(frozen=True)
class Localization:
    """All members of a grid on one task."""

    task: Task
    score: str
    runs: tuple[MemberRun, ...]
    comparisons: tuple[Comparison, ...]
    correction: CorrectionPlan | None = None

    @property
    def best(self) -> MemberRun:
        """The run with the highest mean score, the first of equal ones."""

        def value(one: MemberRun) -> float:
            mean = one.run.mean(self.score).mean
            return -1.0 if mean is None else mean

        return max(self.runs, key=value)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the arrays as strict JSON types."""
        return {
            "task": self.task.to_json(),
            "correction": None if self.correction is None else self.correction.to_json(),
            "score": self.score,
            "runs": [run.to_json() for run in self.runs],
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }


def _aligned(profiles: Profiles, ids: Sequence[str], first: str) -> NDArray[np.float32]:
    """Return the features of `profiles` in the order of `ids`.

    Raises
    ------
    RefusedError
        When they are of other rows.
    """
    if tuple(profiles.ids) == tuple(ids):
        return profiles.features
    place = {name: i for i, name in enumerate(profiles.ids)}
    absent = [name for name in ids if name not in place]
    if absent or len(place) != len(ids):
        raise RefusedError(
            "not the same rows", where=f"{profiles.name} and {first}",
            got=f"{len(place)} and {len(ids)} rows" + (f", without {absent[0]}" if absent else ""),
            todo="compare what was made of the same samples",
        )  # fmt: skip
    return profiles.features[[place[name] for name in ids]]


Prepare = Callable[[NDArray[np.intp]], NDArray[np.float32]]


def _efficiency(
    features: NDArray[np.float32],
    task: Task,
    head: HeadOptions,
    protocol: ProtocolOptions,
    config: LocalizeOptions,
    full: MemberRun | None,
    prepare: Prepare | None,
    device: str,
) -> tuple[EfficiencyPoint, ...]:
    shares = sorted({share for share in config.share if share < 1})
    if not shares:
        return ()
    found = label_efficiency(
        features, task.labels, task.folds, head, protocol, shares, config.score,
        units=task.units, samples=config.samples, prepare=prepare, device=device,
    )  # fmt: skip
    if full is None:
        return found
    rows = [run.n_fit + run.n_validation for run in full.run.runs]
    taught = [len(np.unique(task.folds.group[train])) for train, _ in task.folds]
    mean = full.run.mean(config.score)
    return (
        *found,
        EfficiencyPoint(1.0, float(np.mean(rows)), float(np.mean(taught)), mean, full.interval, None),
    )


def _one(
    member: Member,
    profiles: Profiles,
    features: NDArray[np.float32],
    task: Task,
    config: LocalizeOptions,
    prepare: Prepare | None,
    device: str,
    console: Console | None,
) -> MemberRun:
    head, protocol = replace(head_of(config), single=task.single), protocol_of(config)

    def say(run: FoldRun) -> None:
        if console is not None:
            score = run.scores.value(config.score)
            console.print(
                f"{member.name}: fold {run.fold + 1} of {task.folds.k}, {config.score} {score:.4f}",
                markup=False,
                soft_wrap=True,
            )

    def run_on(chosen: Task, own: ProtocolOptions, levels: Sequence[Level] = ()) -> CrossValidation:
        return cross_validate(
            features, chosen.labels, chosen.groups, head, own, folds=chosen.folds, names=task.names,
            units=task.units, prepare=prepare, levels=levels, device=device, progress=say,
        )  # fmt: skip

    levels = other_levels(task.labels, task.folds, task.units, protocol.level, single=task.single)
    run = run_on(task, protocol, levels)
    leak = None
    if protocol.ungrouped and task.folds.report.crossing_groups and task.folds.k > 1:
        whole = replace(protocol, ungrouped=False)
        leak = leak_of(
            run_on(with_folds(task, whole), whole),
            run,
            config.score,
            samples=config.samples,
            level=config.coverage,
        )
    interval = run.interval(config.score, samples=config.samples, level=config.coverage)
    found = MemberRun(
        member, profiles.label, profiles.backbone, profiles.digest, features.shape[1], run, interval, leak, ()
    )
    beside = tuple(
        (one, one.interval(config.score, samples=config.samples, level=config.coverage, seed=protocol.seed))
        for one in run.others
    )
    return replace(
        found,
        levels=beside,
        efficiency=_efficiency(features, task, head, protocol, config, found, prepare, device),
    )


def localize(
    sources: Sequence[str], config: LocalizeOptions, workspace: Workspace, *, console: Console | None = None
) -> Localization:
    """Embed, learn and test every member of the grid.

    Parameters
    ----------
    sources
        A dataset, or several tables and datasets of the same rows.

    Raises
    ------
    UsageError, MissingError, RefusedError
        What is wrong with options, data or folds, in one line.
    """
    config = settle_preset(config)
    members = members_of(config, sources)
    if config.against is not None and config.against not in [member.name for member in members]:
        expected = ", ".join(member.name for member in members)
        raise UsageError("no such run", where="--against", got=config.against, expected=expected)
    if any(not 0 < share <= 1 for share in config.share):
        raise UsageError("not a share", where="--share", got=list(config.share), expected="in (0, 1]")
    device = _device(config)
    task: Task | None = None
    plan: CorrectionPlan | None = None
    ids: tuple[str, ...] = ()
    runs: list[MemberRun] = []
    for member in members:
        profiles = open_profiles(workspace, member.source, member.options, console)
        if task is None:
            ids = profiles.ids
            plan = plan_of(profiles.facts, len(ids), config)
            task = make_task(profiles.facts, ids, config, protocol_of(config), single=config.single)
        features = _aligned(profiles, ids, members[0].source)
        prepare = None if plan is None else plan.within(features, task.rows)
        runs.append(_one(member, profiles, features[task.rows], task, config, prepare, device, console))
    assert task is not None  # there is a member, else `members_of` had refused
    comparisons: tuple[Comparison, ...] = ()
    if len(runs) > 1:
        comparisons = compare_all(
            {run.name: run.run for run in runs}, config.score, against=config.against,
            samples=config.samples, level=config.coverage, seed=config.seed,
        )  # fmt: skip
    return Localization(task, config.score, tuple(runs), comparisons, plan)


def _device(config: LocalizeOptions) -> str:
    """Return where heads are trained: on a processor unless an accelerator is asked for or found."""
    from emvfm.backbones.precision import choose_device

    return str(choose_device(config.device)) if config.head in ("mlp", "linear") else "cpu"
