"""The verdict table: trained minus untrained, minus the best simple baseline, minus the confound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.expression.scores import bootstrap_p, verdict
from emvfm.representations.estimates import Estimate, from_replicates
from emvfm.segmentation.comparison import holm
from emvfm.studies.audit.scored import ROLES, Role, Scored, draw_units, unlike

__all__ = ["Audit", "Verdict", "audit_runs"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """One model in question against one rival, or the best of a kind.

    Attributes
    ----------
    role
        Of the rival.
    choice
        How the rival was chosen where there were several.
    """

    trained: str
    rival: str
    role: Role
    choice: str
    estimate: Estimate
    p_value: float
    p_holm: float
    says: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        found = {**asdict(self), "estimate": self.estimate.to_json()}
        return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in found.items()}


@dataclass(frozen=True)
class Audit:
    """Scores of all runs, and the verdicts.

    Attributes
    ----------
    parts
        Parts of the score that all runs have, out of how many; genes times folds, or classes.
    """

    metric: str
    what: str
    runs: tuple[tuple[str, Role, Estimate], ...]
    verdicts: tuple[Verdict, ...]
    parts: tuple[int, int]
    level: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the audit as strict JSON types."""
        return {
            "task": "audit",
            "metric": self.metric,
            "units": self.what,
            "runs": [{"name": n, "role": role, "score": e.to_json()} for n, role, e in self.runs],
            "verdicts": [each.to_json() for each in self.verdicts],
            "parts": {"used": self.parts[0], "of": self.parts[1]},
            "level": self.level,
            "seed": self.seed,
            "protocol": f"paired bootstrap of {self.what}, the same draws for all runs; Holm over all verdicts",
        }


def _fitting(runs: Sequence[Scored]) -> None:
    """Refuse runs that can't be paired."""
    first = runs[0]
    if len({run.name for run in runs}) < len(runs):
        raise UsageError("two runs of one name", where="audit", got=", ".join(run.name for run in runs))
    for run in runs[1:]:
        if run.metric != first.metric:
            raise RefusedError("not the same metric", where=run.name, got=run.metric, expected=first.metric)
        if why := unlike(run, first):
            raise RefusedError(
                why, where=f"{run.name} and {first.name}",
                got=f"{len(run.units)} and {len(first.units)} {run.what}", todo="compare runs of one task on one set",
            )  # fmt: skip


def audit_runs(
    runs: Sequence[Scored],
    *,
    chosen: str | None = None,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Audit:
    """Compare every trained run with the untrained ones, the best simple baseline and the best confound.

    Parameters
    ----------
    runs
        Of one task on one set.
    chosen
        The simple baseline that was chosen without these units, such as on a validation set. Without it the best one
        is taken after the fact, which favours it; it is then taken anew in every draw, so that the interval knows of
        the choice.

    Raises
    ------
    UsageError
        No run is trained, there is no rival, or `chosen` is no baseline.
    RefusedError
        The runs are not of the same task, rows and folds, or no part of the score is left.
    """
    trained = [run for run in runs if run.role == "trained"]
    if not trained or len(trained) == len(runs):
        missing = "a trained run" if not trained else "an untrained run, a baseline or a confound"
        raise UsageError(
            "nothing to compare", where="audit", expected=missing, todo="say it by --role RUN=ROLE"
        )
    if chosen is not None and chosen not in [run.name for run in runs if run.role == "baseline"]:
        known = ", ".join(run.name for run in runs if run.role == "baseline") or "none"
        raise UsageError("no such baseline", where="--chosen", got=chosen, expected=known)
    _fitting(runs)
    defined = np.logical_and.reduce([run.defined for run in runs])
    if not defined.any():
        raise RefusedError("no part of the score is defined for all runs", where="audit")
    drawn = draw_units(runs[0], samples=samples, seed=seed)
    found = {run.name: run.replicate(drawn, defined) for run in runs}

    def estimate(replicates: Floats) -> Estimate:
        return from_replicates(
            float(replicates[0]), replicates[1:], units=runs[0].what, n=len(runs[0].units),
            n_units=len(runs[0].units), level=level, seed=seed,
        )  # fmt: skip

    rows: list[tuple[Scored, str, Role, str, Floats]] = []
    for own in trained:
        for role in ("untrained", "baseline", "confound"):
            rivals = _rivals(own, runs, role)
            if rivals:
                rival, choice, values = _rival(rivals, found, role, chosen)
                rows.append((own, rival, role, choice, found[own.name] - values))
    p_values = [bootstrap_p(change[1:]) for *_, change in rows]
    raised = holm(p_values)
    verdicts = []
    for (own, rival, role, choice, change), p, p_holm in zip(rows, p_values, raised, strict=True):
        one = estimate(change)
        shown = f"{rival} ({choice})" if choice else rival
        verdicts.append(
            Verdict(own.name, rival, role, choice, one, p, p_holm, verdict(own.name, shown, one, p_holm))
        )
    return Audit(
        runs[0].metric,
        runs[0].what,
        tuple((run.name, run.role, estimate(found[run.name])) for run in sorted(runs, key=_order)),
        tuple(verdicts),
        (int(defined.sum()), len(defined)),
        level,
        seed,
    )


def _order(run: Scored) -> int:
    return list(ROLES).index(run.role)


def _rivals(own: Scored, runs: Sequence[Scored], role: Role) -> list[Scored]:
    """Return the runs of a role, without those that had their channels in another way while some had the same."""
    there = [run for run in runs if run.role == role]
    return [run for run in there if not own.way or run.way in ("", own.way)] or there


def _rival(
    rivals: Sequence[Scored], found: dict[str, Floats], role: Role, chosen: str | None
) -> tuple[str, str, Floats]:
    """Return the rival of a role: its name, how it was chosen, and its replicates."""
    if len(rivals) == 1:
        return rivals[0].name, "", found[rivals[0].name]
    values = np.stack([found[run.name] for run in rivals])
    if role == "untrained":  # seeds of one thing: their mean, not the luckiest
        return f"{len(rivals)} untrained", "their mean", values.mean(axis=0)
    if role == "baseline" and chosen is not None:
        return chosen, "chosen beforehand", found[chosen]
    best = int(np.argmax(np.where(np.isfinite(values[:, 0]), values[:, 0], -np.inf)))
    return rivals[best].name, f"best of {len(rivals)}, after the fact", np.fmax.reduce(values, axis=0)
