"""The reference system's outlier summary, so that its published numbers can be compared.

Its threshold is circular: mean, covariance and the quantile come from the same images, so the share of
in-distribution images above it is one minus the quantile by construction and says nothing of new images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.domain.outliers import fit_detector
from emvfm.errors import UsageError

__all__ = ["DISTANCE_COLUMNS", "REMARK", "ReferenceOutliers", "reference_outliers"]

Floats = NDArray[np.float64]

REMARK = (
    "the threshold of the reference is a quantile of the very images that were fitted: its in-distribution "
    "rate is set by construction, no rate of false alarms is promised on new images"
)
DISTANCE_COLUMNS = (
    "rank",
    "filepath",
    "dataset",
    "distance",
    "distance_squared",
    "threshold",
    "distance_over_threshold",
    "distance_minus_threshold",
    "id_percentile",
    "tail_prob",
    "ood_score",
    "is_outlier",
    "sequence_id",
)


def _statistics(values: Floats) -> dict[str, float]:
    names = ("mean", "std", "median", "min", "max")
    found = {name: float(getattr(np, name)(values)) for name in names}
    return {**found, "q95": float(np.quantile(values, 0.95)), "q99": float(np.quantile(values, 0.99))}


@dataclass(frozen=True)
class ReferenceOutliers:
    """Distances by the reference's definition; rows are the in-distribution images, then the target's.

    Attributes
    ----------
    distances, percentiles, tail, scores
        ``(n + m,)`` float64: Mahalanobis distance (Ledoit-Wolf), share of in-distribution distances that are
        not larger, one minus that, and minus its log10 (at most 12).
    n
        In-distribution and target images.
    """

    names: tuple[str, str]
    n: tuple[int, int]
    dimension: int
    quantile: float
    threshold: float
    distances: Floats
    percentiles: Floats
    tail: Floats
    scores: Floats

    @property
    def rates(self) -> tuple[float, float]:
        """Share of in-distribution and of target images above the threshold."""
        outlying = self.distances > self.threshold
        return float(outlying[: self.n[0]].mean()), float(outlying[self.n[0] :].mean())

    @property
    def verdict(self) -> str:
        own, target = self.rates
        return (
            f"{target:.1%} of {self.n[1]} images of {self.names[1]} and, by construction, {own:.1%} of "
            f"{self.n[0]} of {self.names[0]} lie above its {self.quantile:g} quantile ({self.threshold:.4g})"
        )

    def rows(self, paths: Sequence[str], sequences: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of the reference's ``distances.csv``, the most distant first.

        Parameters
        ----------
        paths, sequences
            Of each image, in the order of `distances`.
        """
        if not len(paths) == len(sequences) == sum(self.n):
            raise UsageError("one path an image", got=len(paths), expected=sum(self.n))
        rows = []
        for rank, i in enumerate(np.argsort(-self.distances, kind="stable"), start=1):
            distance = float(self.distances[i])
            row = (
                rank,
                paths[i],
                "id" if i < self.n[0] else "target",
                distance,
                distance**2,
                self.threshold,
                distance / self.threshold,
                distance - self.threshold,
                float(self.percentiles[i]),
                float(self.tail[i]),
                float(self.scores[i]),
                int(distance > self.threshold),
                sequences[i],
            )
            rows.append(dict(zip(DISTANCE_COLUMNS, row, strict=True)))
        return rows

    def summary(self, rows: Sequence[dict[str, Any]], top: int = 24) -> dict[str, Any]:
        """Return the reference's ``summary.json``, with its `rows` for the lists of top outliers."""
        record: dict[str, Any] = {
            "embedding_dim": self.dimension,
            "num_id": self.n[0],
            "num_target": self.n[1],
            "covariance_method": "ledoit-wolf",
            "cov_reg_eps": None,  # only its empirical covariance adds one
            "threshold": {"method": "id_quantile", "quantile": self.quantile, "value": self.threshold},
            "id_outlier_rate": self.rates[0],
            "target_outlier_rate": self.rates[1],
        }
        for name, part in (("id", slice(None, self.n[0])), ("target", slice(self.n[0], None))):
            own = self.distances[part]
            record[f"{name}_stats"] = _statistics(own)
            for function in ("min", "median", "max"):
                record[f"{name}_{function}_over_threshold"] = float(
                    getattr(np, function)(own) / self.threshold
                )
            record[f"{name}_dist_log10_stats"] = _statistics(np.log10(np.maximum(own, 1e-12)))
        record["top_outliers_overall"] = list(rows[:top])
        record["top_outliers_target"] = [row for row in rows if row["dataset"] == "target"][:top]
        return {**record, "names": list(self.names), "remark": REMARK, "verdict": self.verdict}


def reference_outliers(
    names: tuple[str, str], inside: ArrayLike, target: ArrayLike, *, quantile: float = 0.95
) -> ReferenceOutliers:
    """Compare ``(n, D)`` in-distribution with ``(m, D)`` target embeddings as the reference does.

    Raises
    ------
    UsageError
        Too few or unusable embeddings, or `quantile` not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise UsageError("not a quantile", where="--quantile", got=quantile, expected="between 0 and 1")
    own = np.asarray(inside, np.float64)
    detector = fit_detector("mahalanobis", own)
    fitted = detector.score(own)
    distances = np.concatenate([fitted, detector.score(target)])
    percentiles = np.searchsorted(np.sort(fitted), distances, side="right") / len(fitted)
    tail = 1 - percentiles
    return ReferenceOutliers(
        names=names,
        n=(len(own), len(distances) - len(own)),
        dimension=own.shape[1],
        quantile=quantile,
        threshold=float(np.quantile(fitted, quantile)),
        distances=distances,
        percentiles=percentiles,
        tail=tail,
        scores=-np.log10(np.maximum(tail, 1e-12)),
    )
