"""The threshold of a run that its own validation slices choose, for scores and predictions alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emvfm.datasets.catalog import open_dataset
from emvfm.datasets.images import read_image
from emvfm.datasets.manifest import Dataset
from emvfm.datasets.masks import read_mask
from emvfm.errors import UsageError
from emvfm.segmentation.checkpoints import Segmenter
from emvfm.segmentation.histograms import ProbabilityHistogram, probability_histogram
from emvfm.segmentation.parts import part
from emvfm.segmentation.slices import Slices
from emvfm.segmentation.thresholds import best_threshold
from emvfm.segmentation.turns import mean_over_turns
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ChosenThreshold", "slice_probability", "validation_threshold"]


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold and where it comes from.

    Parameters
    ----------
    value
        In (0, 1).
    chosen_on
        In words, on what.
    images
        SHA-256 of those slices' images: none of them may be scored with this threshold.
    """

    value: float
    chosen_on: str
    images: frozenset[str]


def slice_probability(segmenter: Segmenter, slices: Slices, i: int, tta: str = "none") -> NDArray[np.float32]:
    """Return ``(H, W)`` float32 foreground probability of slice `i` at native size, averaged over `tta`."""
    if tta == "none":
        return slices.probability(i)
    sample = slices.samples[i]
    image = read_image(slices.dataset.image_path(sample))
    return mean_over_turns(lambda view: segmenter.predict(view, sample.pixel_size_nm), image, tta)


def _validation_slices(segmenter: Segmenter, workspace: Workspace) -> list[Dataset]:
    """Return the slices that judged the run's training; UsageError if its data are not what they were."""
    known = {entry["name"]: entry["digest"] for entry in segmenter.run.provenance["data"]}
    found = []
    for reference in segmenter.config.data:
        dataset = open_dataset(workspace, reference)
        if known.get(dataset.name) != dataset.digest:
            raise UsageError(
                "the data changed since the run was trained, so its validation slices are not known",
                where=reference,
                todo="give --threshold a number",
            )
        found.append(part(dataset, segmenter.config.validation).val)
    if not any(len(dataset) for dataset in found):
        raise UsageError("the run had no validation slices", where=segmenter.run.path.name,
                         todo="give --threshold a number")  # fmt: skip
    return [dataset for dataset in found if len(dataset)]


def validation_threshold(
    segmenter: Segmenter, workspace: Workspace, *, tta: str = "none", console: Console | None = None
) -> ChosenThreshold:
    """Return the threshold of the best pooled IoU on the run's validation slices.

    Parameters
    ----------
    tta
        ``none``, ``flips`` or ``turns``, as what the threshold will be used on.

    Raises
    ------
    UsageError
        The run had no validation slices, or they have no foreground, or its data changed since.
    """
    total, seen = ProbabilityHistogram.empty(), set()
    n = 0
    for dataset in _validation_slices(segmenter, workspace):
        slices = segmenter.slices(dataset, workspace, console)
        for i, sample in enumerate(slices.samples):
            path = dataset.mask_path(sample)
            assert path is not None
            total += probability_histogram(slice_probability(segmenter, slices, i, tta), read_mask(path))
            seen.add(sample.image_sha256)
            n += 1
    names = "+".join(segmenter.config.data)
    return ChosenThreshold(best_threshold(total), f"{n} validation slices of {names}", frozenset(seen))
