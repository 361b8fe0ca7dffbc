"""Runs compared on the same folds: corrected t, Wilcoxon, and a bootstrap over proteins.

Folds share most of their training rows, so their scores are not independent and the plain paired t-test finds
differences where there are none. The corrected one widens the variance by what is shared; the bootstrap draws
proteins and asks about new proteins, with the heads as they are. The three answer different questions; all are
given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.crossvalidation import CrossValidation
from emvfm.localization.predictions import FoldMean, Interval, difference_interval
from emvfm.segmentation.comparison import holm

__all__ = ["Comparison", "CorrectedT", "Wilcoxon", "compare", "compare_all", "corrected_t", "wilcoxon"]


@dataclass(frozen=True)
class CorrectedT:
    """The resampled t-test with Nadeau and Bengio's variance.

    Attributes
    ----------
    difference, low, high
        Mean difference over folds, and its Student interval.
    t, p_value
        Two-sided; t is None where all folds differ alike, for then there is nothing to divide by.
    ratio
        Test rows over training rows, by which the variance is widened.
    """

    difference: float
    low: float | None
    high: float | None
    t: float | None
    p_value: float
    freedom: int
    ratio: float
    level: float
    method: str


@dataclass(frozen=True)
class Wilcoxon:
    """The signed-rank test of fold differences.

    Attributes
    ----------
    smallest
        The least p-value that so many folds can give: with 5 folds it is 0.0625.
    """

    p_value: float
    smallest: float
    n: int
    method: str


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same folds, first minus second.

    Attributes
    ----------
    corrected, signed_ranks
        None for a single split, which has no folds to test over.
    p_holm
        Of the corrected t (of the bootstrap for a single split), after Holm's correction for all pairs compared
        together.
    """

    names: tuple[str, str]
    metric: str
    first: FoldMean
    second: FoldMean
    corrected: CorrectedT | None
    signed_ranks: Wilcoxon | None
    proteins: Interval
    p_holm: float
    n_compared: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self) | {"proteins": self.proteins.to_json()}

    def text(self) -> str:
        """Return one line for a person."""
        found, test, ranks = self.proteins, self.corrected, self.signed_ranks
        between = "" if found.low is None else f" [{found.low:+.4f}, {found.high:+.4f}] over groups"
        line = f"{self.names[0]} - {self.names[1]}: {self.metric} {found.value:+.4f}{between};"
        holm = f"(Holm {self.p_holm:.3g} of {self.n_compared})"
        if test is None or ranks is None:
            return line + (
                f" bootstrap p={self.p_value:.3g} {holm}; a single split says nothing of other trainings"
            )
        return (
            f"{line} corrected t p={test.p_value:.3g} {holm};"
            f" Wilcoxon p={ranks.p_value:.3g} (least {ranks.smallest:.3g})"
        )

    @property
    def p_value(self) -> float:
        """Of the corrected t, for a single split of the bootstrap; 1 where there is neither."""
        if self.corrected is not None:
            return self.corrected.p_value
        return 1.0 if self.proteins.p_value is None else self.proteins.p_value


def corrected_t(differences: Sequence[float], ratio: float, *, level: float = 0.95) -> CorrectedT:
    """Test the mean difference over folds.

    t = mean / sqrt((1/k + n_test/n_train) s²) with k - 1 degrees of freedom, s² with ddof 1 (Nadeau & Bengio
    2003, doi:10.1023/A:1024068626366). It was derived for random splits; for cross-validation it is the usual
    stand-in, as no unbiased variance exists (Bengio & Grandvalet 2004, JMLR 5:1089-1105).

    Parameters
    ----------
    differences
        One a fold.
    ratio
        Test rows over training rows; 1 / (k - 1) for k folds.

    Raises
    ------
    UsageError
        With fewer than two differences, or a ratio or level out of range.
    """
    from scipy.stats import t as student

    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise UsageError("not two or more differences", where="corrected t", got=f"{values.tolist()}")
    if not 0 < ratio < math.inf or not 0 < level < 1:
        raise UsageError("out of range", where="corrected t", got=f"ratio {ratio}, level {level}")
    k = len(values)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    method = f"paired t over {k} folds, variance widened by {ratio:.4g} (Nadeau & Bengio 2003)"
    if spread <= 1e-12 * max(1.0, abs(mean)):
        if mean == 0:
            return CorrectedT(0.0, 0.0, 0.0, None, 1.0, k - 1, ratio, level, method + "; no fold differs")
        return CorrectedT(
            mean, mean, mean, None, 0.0, k - 1, ratio, level, method + "; all folds differ alike"
        )
    error = spread * math.sqrt(1 / k + ratio)
    statistic = mean / error
    margin = float(student.ppf((1 + level) / 2, k - 1)) * error
    p_value = float(2 * student.sf(abs(statistic), k - 1))
    return CorrectedT(mean, mean - margin, mean + margin, statistic, p_value, k - 1, ratio, level, method)


def wilcoxon(differences: Sequence[float]) -> Wilcoxon:
    """Test differences by their signed ranks (Wilcoxon 1945, doi:10.2307/3001968), exactly where there are no ties.

    Folds without a difference are left out. The test takes folds for independent, which they are not quite.
    """
    from scipy.stats import wilcoxon as signed_ranks

    values = np.asarray(differences, np.float64)
    kept = values[values != 0]
    if not len(kept):
        return Wilcoxon(1.0, 1.0, 0, "no fold differs")
    smallest = min(1.0, 2.0 ** (1 - len(kept)))
    ties = len(np.unique(np.abs(kept))) < len(kept)
    # With ties scipy would fall back on a normal curve; so few folds can be gone through one by one.
    if ties and len(kept) <= 16:
        return Wilcoxon(
            _all_signs(kept), smallest, len(kept), f"all signs of {len(kept)} folds, ties at mean rank"
        )
    method = "exact" if not ties and len(kept) <= 50 else "asymptotic"
    p_value = float(signed_ranks(kept, method=method).pvalue)
    return Wilcoxon(p_value, smallest, len(kept), f"signed ranks of {len(kept)} folds, {method}, two-sided")


def _all_signs(values: np.ndarray) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(values))
    signs = (np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) % 2
    sums, middle = signs @ ranks, ranks.sum() / 2
    observed = abs(ranks[values > 0].sum() - middle)
    return float((np.abs(sums - middle) >= observed - 1e-9).mean())


def compare(
    first: CrossValidation,
    second: CrossValidation,
    metric: str = "macro_f1_present",
    *,
    names: tuple[str, str] = ("first", "second"),
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two runs fold by fold and protein by protein.

    Parameters
    ----------
    metric
        One of :data:`~emvfm.localization.metrics.METRICS`. Folds in which it is undefined for one of the runs are
        left out of the tests over folds.
    samples, seed
        Draws of proteins.

    Raises
    ------
    RefusedError
        When the runs have other folds or other labels, or fewer than two of several folds have the score.
    UsageError
        For a metric that is none, or an option out of range.
    """
    a, b = first.predictions, second.predictions
    if not first.folds.same_as(second.folds):
        raise RefusedError("not the same folds", where="comparison", todo="give both runs the folds of one")
    if a.labels.shape != b.labels.shape or not np.array_equal(a.labels, b.labels):
        got = f"{a.labels.shape} and {b.labels.shape}"
        raise RefusedError("not the same labels or level", where="comparison", got=got)
    means = first.mean(metric), second.mean(metric)
    differences = [
        x - y
        for x, y in zip(means[0].values, means[1].values, strict=True)
        if x is not None and y is not None
    ]
    proteins = difference_interval(a, b, metric, samples=samples, level=level, seed=seed)
    if first.folds.k == 1:
        single = Comparison(names, metric, *means, None, None, proteins, 1.0, 1)
        return replace(single, p_holm=single.p_value)
    if len(differences) < 2:
        raise RefusedError(
            "too few folds have the score", where=metric, got=len(differences), expected="2 or more"
        )
    ratio = 1 / (first.folds.k - 1)
    corrected = corrected_t(differences, ratio, level=level)
    return Comparison(names, metric, *means, corrected, wilcoxon(differences), proteins, corrected.p_value, 1)


def compare_all(
    runs: Mapping[str, CrossValidation],
    metric: str = "macro_f1_present",
    *,
    against: str | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Compare all pairs of runs, or each with one of them, with Holm's correction for their number.

    Parameters
    ----------
    runs
        By name; all on the same folds.
    against
        The run to compare the others with.

    Raises
    ------
    UsageError
        With fewer than two runs, or a name that is none of them.
    """
    if len(runs) < 2 or (against is not None and against not in runs):
        got = f"{', '.join(runs) or 'no runs'} against {against}"
        raise UsageError("not runs to compare", where="comparison", got=got, expected="two or more, by name")
    pairs = list(combinations(runs, 2)) if against is None else [(n, against) for n in runs if n != against]
    found = [
        compare(runs[a], runs[b], metric, names=(a, b), samples=samples, level=level, seed=seed)
        for a, b in pairs
    ]
    raised = holm([one.p_value for one in found])
    return tuple(replace(one, p_holm=p, n_compared=len(found)) for one, p in zip(found, raised, strict=True))
