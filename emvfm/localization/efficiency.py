"""Label efficiency: the same test rows, with the head taught by ever more of the training proteins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import EmvfmError, UsageError
from emvfm.localization.crossvalidation import CrossValidation, cross_validate
from emvfm.localization.folds import Folds, Rows, stratify_rows
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.localization.predictions import FoldMean, Interval

__all__ = ["EfficiencyPoint", "label_efficiency", "nested_rows"]


@dataclass(frozen=True)
class EfficiencyPoint:
    """What a head reaches with a share of the training proteins.

    Attributes
    ----------
    share
        Of the training proteins of each fold.
    rows, groups
        Mean over folds of the training rows and proteins that were taught.
    interval
        Of the score, over proteins; None where the head could not be fitted.
    failed
        Why it could not, else None.
    """

    share: float
    rows: float
    groups: float
    mean: FoldMean | None
    interval: Interval | None
    failed: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self) | {"interval": None if self.interval is None else self.interval.to_json()}


def nested_rows(
    labels: ArrayLike, unit: ArrayLike, rows: ArrayLike, shares: Sequence[float], *, seed: int = 0
) -> list[Rows]:
    """Return the training rows of each share: whole proteins, stratified by label, each share within the next.

    Parameters
    ----------
    labels, unit
        ``(N, L)`` and ``(N,)`` number of what stays together, of all rows.
    rows
        Training rows, indices into them.
    shares
        Increasing, in (0, 1].

    Raises
    ------
    UsageError
        When the shares are not so.
    """
    ends = np.asarray(shares, np.float64)
    if not len(ends) or (ends <= 0).any() or (ends > 1).any() or (np.diff(ends) <= 0).any():
        raise UsageError(
            "not shares of labels", where="shares", got=list(shares), expected="increasing, in (0, 1]"
        )
    chosen = np.sort(np.asarray(rows, np.intp))
    parts = [float(part) for part in np.diff(np.append(ends, 1.0), prepend=0.0) if part > 1e-12]
    if len(parts) == 1:
        return [chosen]
    part = stratify_rows(np.asarray(labels)[chosen].astype(bool), np.asarray(unit)[chosen], parts, 1, seed)
    return [chosen[part <= i] for i in range(len(ends))]


def _teach(taught: Sequence[Rows]) -> Callable[[int, Rows], Rows]:
    return lambda fold, _: taught[fold]


def label_efficiency(
    embeddings: NDArray[np.floating],
    labels: ArrayLike,
    folds: Folds,
    head: HeadOptions,
    protocol: ProtocolOptions,
    shares: Sequence[float],
    metric: str = "macro_f1_present",
    *,
    units: ArrayLike | None = None,
    prepare: Callable[[Rows], NDArray[np.floating]] | None = None,
    samples: int = 1000,
    device: str = "cpu",
) -> tuple[EfficiencyPoint, ...]:
    """Cross-validate with each share of the training proteins, on the same test rows.

    A share that a head cannot be fitted on (too few rows for its neighbours or for an inner split) is a point that
    says so.

    Parameters
    ----------
    embeddings, labels
        ``(N, D)`` and ``(N, L)``.
    metric
        Whose mean and interval are given.
    prepare
        Given the tested rows of a fold, the embeddings of all rows in it.
    """
    truth = np.asarray(labels).astype(bool)
    unit = folds.group if folds.grouped else np.arange(len(truth))
    nested = [
        nested_rows(truth, unit, train, shares, seed=protocol.seed + 1 + i)
        for i, (train, _) in enumerate(folds)
    ]
    points = []
    for at, share in enumerate(shares):
        taught = [rows[at] for rows in nested]
        n_rows = float(np.mean([len(rows) for rows in taught]))
        n_groups = float(np.mean([len(np.unique(folds.group[rows])) for rows in taught]))
        try:
            run: CrossValidation = cross_validate(
                embeddings, truth, folds.group, head, protocol, folds=folds, units=units,
                learn_from=_teach(taught), prepare=prepare, device=device,
            )  # fmt: skip
        except EmvfmError as error:
            points.append(EfficiencyPoint(share, n_rows, n_groups, None, None, str(error)))
            continue
        interval = run.interval(metric, samples=samples)
        points.append(EfficiencyPoint(share, n_rows, n_groups, run.mean(metric), interval, None))
    return tuple(points)
