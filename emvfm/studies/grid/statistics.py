"""Small-sample statistics over seeds: spread, Student's interval, the exact paired test. Numpy and SciPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emvfm.errors import UsageError

__all__ = ["SeedMean", "SignFlip", "mean_over", "sign_flip"]

#: Up to this many pairs all signs are gone through, above it random ones.
_ENUMERATED = 16


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds.

    Parameters
    ----------
    sd
        Standard deviation with n - 1 in the denominator (ddof 1); None of a single value.
    low, high
        Student's interval of the mean; None of a single value.
    level
        Its nominal coverage, if values are normal.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    level: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        return asdict(self)


def mean_over(values: Sequence[float], level: float = 0.95) -> SeedMean:
    """Return the mean of ``(n,)`` values with Student's interval (Student 1908, doi:10.1093/biomet/6.1.1).

    Raises
    ------
    UsageError
        Without values.
    """
    if not len(values):
        raise UsageError("no values to average", where="seeds")
    x = np.asarray(values, np.float64)
    mean = float(x.mean())
    if len(x) < 2:
        return SeedMean(mean, None, None, None, level, len(x))
    from scipy.stats import t

    sd = float(x.std(ddof=1))
    half = float(t.ppf((1 + level) / 2, len(x) - 1)) * sd / np.sqrt(len(x))
    return SeedMean(mean, sd, mean - float(half), mean + float(half), level, len(x))


@dataclass(frozen=True)
class SignFlip:
    """The paired permutation test: could the signs of differences come from chance?

    Parameters
    ----------
    p_value
        Two-sided.
    smallest
        The least p-value that so many pairs can give.
    """

    p_value: float
    smallest: float
    n: int
    method: str


def sign_flip(differences: Sequence[float], *, samples: int = 9999, seed: int = 0) -> SignFlip:
    """Test whether paired differences are centred on zero, by flipping their signs (Fisher 1935).

    Up to 16 pairs every way is gone through; else `samples` random ones are, with the one at hand counted in
    (Phipson & Smyth 2010, doi:10.2202/1544-6115.1585).

    Parameters
    ----------
    differences
        ``(n,)``, one a pair of seeds.

    Raises
    ------
    UsageError
        Without differences.
    """
    if not len(differences):
        raise UsageError("no pairs to compare", where="seeds")
    d = np.asarray(differences, np.float64)
    n, exact = len(d), len(d) <= _ENUMERATED
    if exact:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) % 2)
    else:
        signs = np.random.default_rng(seed).choice([-1, 1], (samples, n))
    as_far = int((np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-12)).sum())
    p_value = as_far / len(signs) if exact else (as_far + 1) / (samples + 1)
    smallest = min(1.0, 2 / 2**n) if exact else 1 / (samples + 1)
    kind = f"all {2**n}" if exact else f"{samples} random"
    return SignFlip(
        float(p_value), smallest, n, f"{kind} flips of the signs of {n} pairs of seeds, two-sided"
    )
