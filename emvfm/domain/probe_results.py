"""What the domain probe says: numbers with their nulls, and one plain sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from emvfm.domain.classifier_scores import Estimate
from emvfm.domain.comparison import TOO_SMALL

__all__ = ["DomainProbe", "StackNull", "listed"]


def listed(names: tuple[str, ...]) -> str:
    """Return names as a person lists them."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


@dataclass(frozen=True)
class StackNull:
    """How well the probe tells halves of one dataset apart, as balanced accuracy.

    Attributes
    ----------
    ends
        The first half of the stack's parts against the last; None with too few parts.
    random
        Halves drawn from the parts at random.
    n, tested, parts
        Images, those that could be tested, and parts.
    """

    name: str
    classifier: str
    ends: float | None
    random: tuple[float, ...]
    n: int
    tested: int
    parts: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class DomainProbe:
    """How well a classifier tells datasets apart, with what it takes to believe it.

    Attributes
    ----------
    balanced_accuracy, auroc
        Of rows predicted out of fold; AUROC is one against the rest, averaged, for more than two datasets.
    proxy_a_distance
        2 (1 - 2 err) with the balanced error; None for more than two datasets.
    accuracy, majority_accuracy, chance
        Plain accuracy; what always naming the largest dataset gives; balanced accuracy of any constant answer.
    n, blocks, parts, tested
        Images, blocks of consecutive slices (the effective n), parts that are left out and relabelled as a
        whole, and images that could be tested. The rest counts as guessed.
    confusion
        Tested images: row is the dataset, column what the probe says.
    within
        The probe between halves of each dataset alone.
    distinct, same
        Relabellings of parts, and how many of them are the observed one: p is at least their ratio.
    null, null_auroc
        Scores under relabelling; with few parts their mean lies below chance, as leaving a part out makes its
        dataset look less like it.
    caveat
        Why the p-value may be too small, empty where nothing is known against it; see `emvfm.domain.dependence`.
    """

    names: tuple[str, ...]
    classifier: str
    balanced_accuracy: Estimate
    auroc: Estimate
    proxy_a_distance: Estimate | None
    accuracy: float
    majority_accuracy: float
    chance: float
    n: tuple[int, ...]
    blocks: tuple[int, ...]
    parts: tuple[int, ...]
    tested: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...]
    within: tuple[StackNull, ...]
    dimension: int
    pca: int
    neighbours: int | None
    level: float
    permutations: int
    distinct: int
    same: int
    null: tuple[float, ...]
    null_auroc: tuple[float, ...]
    seed: int
    protocol: str = (
        "cross-validation leaving out runs of neighbouring slices with a gap; scaling and PCA fitted on "
        "training rows; classes weighted alike; bootstrap over blocks; relabelling of whole parts"
    )
    caveat: str = ""

    @property
    def least_p_value(self) -> float:
        """What no p-value of these parts is below, however well the probe does."""
        return self.same / self.distinct

    @property
    def enough(self) -> bool:
        """Whether there are enough parts to say anything."""
        testable = all(2 * tested >= n for tested, n in zip(self.tested, self.n, strict=True))
        return testable and self.least_p_value <= 0.05 and self.permutations >= 19

    @property
    def verdict(self) -> str:
        """One sentence a person can quote, or why nothing can be said."""
        who, ba = listed(self.names), self.balanced_accuracy
        if not self.enough:
            blocks = " + ".join(map(str, self.blocks))
            return (
                f"{who}: too few blocks of slices to say whether a {self.classifier} probe tells them apart "
                f"({blocks} blocks, {self.distinct} relabellings, {sum(self.tested)} of {sum(self.n)} images "
                "testable)"
            )
        test = f"p = {ba.p_value:.3g} from {self.permutations} exchanges of parts"
        if self.caveat and ba.p_value is not None and ba.p_value <= 0.05:
            test += f", {TOO_SMALL}"
        score = f"balanced accuracy {ba}, chance {self.chance:.2f}; AUROC {self.auroc}"
        by_chance = ba.low is not None and ba.low <= self.chance
        if ba.p_value is None or ba.p_value > 0.05 or by_chance:
            return f"{who}: no evidence that a {self.classifier} probe tells them apart ({score}; {test})"
        if ba.low is not None and ba.low == ba.high:
            score += "; no tested image was mistaken, so the interval has no width"
        said = f"a {self.classifier} probe tells {who} apart ({score}; {test})"
        ends = {null.name: null.ends for null in self.within if null.ends is not None}
        if not ends:
            return (
                f"{said}; none of them has enough blocks to compare with two ends of one stack, so that a slow "
                "change along the stacks could be the reason"
            )
        name = max(ends, key=lambda n: ends[n])
        random = next(mean(null.random) for null in self.within if null.name == name)
        alone = f"the two ends of {name} alone: {ends[name]:.2f}, random halves of it: {random:.2f}"
        if ends[name] >= ba.value:
            return f"{said}, but no better than two ends of one stack, so this is no sign of a gap ({alone})"
        if ba.low is not None and ends[name] >= ba.low:
            return f"{said}, hardly better than two ends of one stack ({alone})"
        return f"{said}; {alone}"

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain JSON values."""
        return {
            **asdict(self),
            "least_p_value": self.least_p_value,
            "enough": self.enough,
            "verdict": self.verdict,
        }
