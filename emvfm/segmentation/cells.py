"""Results of evaluation: one slice's scores, and one run on one test set, as JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from emvfm.segmentation.intervals import Estimate
from emvfm.segmentation.metrics import Counts

__all__ = ["PROTOCOL", "Cell", "ImageScore", "protocol"]

PROTOCOL = (
    "native resolution, foreground where its probability is above 0.5, counts pooled over slices; "
    "intervals from resampled blocks of consecutive slices"
)
_VIEWS = {"flips": 4, "turns": 8}


def protocol(threshold: float = 0.5, chosen_on: str | None = None, tta: str = "none") -> str:
    """Return in words how scores were made.

    Parameters
    ----------
    chosen_on
        The slices that the threshold was chosen on; None: it was given.
    tta
        ``none``, ``flips`` or ``turns``.
    """
    text = PROTOCOL.replace("above 0.5", f"above {threshold:g}")
    if chosen_on is not None:
        text = text.replace(", counts", f" (chosen on {chosen_on}), counts")
    return f"{text}; probability averaged over {_VIEWS[tta]} turned images" if tta != "none" else text


@dataclass(frozen=True)
class ImageScore:
    """One slice: pixel counts and the scores they give.

    Parameters
    ----------
    block
        Slices of one block are resampled together.
    extra
        Scores of outlines and objects by name, None where undefined; empty if not asked for.
    """

    id: str
    source: str
    counts: Counts
    block: int = 0
    extra: Mapping[str, float | int | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the slice as plain JSON values, flat."""
        scores = {"iou": self.counts.iou, "dice": self.counts.dice}
        head = {"id": self.id, "source": self.source, "block": self.block}
        return {**head, **asdict(self.counts), **scores, **self.extra}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageScore:
        """Return what :meth:`to_json` wrote."""
        counts = Counts(**{key: value[key] for key in ("tp", "fp", "fn", "tn")})
        known = {"id", "source", "block", "tp", "fp", "fn", "tn", "iou", "dice"}
        extra = {key: each for key, each in value.items() if key not in known}
        return cls(value["id"], value["source"], counts, value["block"], extra)


@dataclass(frozen=True)
class Cell:
    """One run on one test set: a cell of the train × test matrix.

    Parameters
    ----------
    recipe
        Digest of what runs of other seeds share.
    scores
        All further scores by name, each with its interval; the names are those of
        :data:`emvfm.segmentation.scoring.SCORES`.
    curve
        ``threshold``, ``precision``, ``recall`` and ``iou``: lists of equal length.
    reliability
        Rows ``low, high, pixels, predicted, observed``.
    threshold
        Foreground is where its probability is above it.
    chosen_on
        The slices the threshold was chosen on; None: it was given.
    fingerprint
        Digest of all that decides the scores; a cell with the same one need not be made again.
    """

    run: str
    train: str
    adaptation: str
    backbone: str
    test: str
    seed: int
    iou: Estimate
    dice: Estimate
    iou_per_image: float
    per_source: dict[str, Estimate]
    images: tuple[ImageScore, ...]
    recipe: str = ""
    head: str = ""
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    curve: Mapping[str, list[float]] = field(default_factory=dict)
    reliability: tuple[Mapping[str, float | int | None], ...] = ()
    threshold: float = 0.5
    chosen_on: str | None = None
    tta: str = "none"
    fingerprint: str = ""

    @property
    def macro(self) -> float:
        """Mean of the sources' pooled IoU: every source counts alike."""
        return float(np.mean([estimate.value for estimate in self.per_source.values()]))

    @property
    def protocol(self) -> str:
        """How the scores were made, in words."""
        return protocol(self.threshold, self.chosen_on, self.tta)

    def to_json(self) -> dict[str, Any]:
        """Return the cell as plain JSON values."""
        return {
            "run": self.run,
            "train": self.train,
            "adaptation": self.adaptation,
            "backbone": self.backbone,
            "head": self.head,
            "recipe": self.recipe,
            "test": self.test,
            "n": len(self.images),
            "seed": self.seed,
            "protocol": self.protocol,
            "threshold": self.threshold,
            "chosen_on": self.chosen_on,
            "tta": self.tta,
            "iou": self.iou.to_json(),
            "dice": self.dice.to_json(),
            "iou_per_image": self.iou_per_image,
            "per_source": {name: estimate.to_json() for name, estimate in self.per_source.items()},
            "macro": self.macro,
            "scores": {name: estimate.to_json() for name, estimate in self.scores.items()},
            "curve": dict(self.curve),
            "reliability": [dict(row) for row in self.reliability],
            "images": [image.to_json() for image in self.images],
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cell:
        """Return what :meth:`to_json` wrote."""
        plain = (
            "run", "train", "adaptation", "backbone", "head", "recipe", "test", "seed", "iou_per_image",
            "curve", "threshold", "chosen_on", "tta", "fingerprint",
        )  # fmt: skip
        return cls(
            **{name: value[name] for name in plain},
            iou=Estimate.from_json(value["iou"]),
            dice=Estimate.from_json(value["dice"]),
            per_source={name: Estimate.from_json(each) for name, each in value["per_source"].items()},
            scores={name: Estimate.from_json(each) for name, each in value["scores"].items()},
            reliability=tuple(value["reliability"]),
            images=tuple(ImageScore.from_json(image) for image in value["images"]),
        )
