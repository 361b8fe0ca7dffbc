"""A run on images of any size: windows through the model, blended, and finished rows kept on the way.

What is in memory is the model, a row of windows and its rows of the image. Values are made once, on the pixels
of the model's input; outputs are written from them when all are there.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emvfm.backbones.canvas import Canvas
from emvfm.backbones.memory import out_of_memory
from emvfm.backbones.preprocess import Preprocess
from emvfm.errors import EmvfmError, RefusedError, UsageError
from emvfm.segmentation.augmentation import all_dihedral
from emvfm.segmentation.checkpoints import Segmenter
from emvfm.segmentation.prediction_config import PredictConfig
from emvfm.segmentation.prediction_input import Item, Source, open_plane
from emvfm.segmentation.prediction_scratch import Scratch
from emvfm.segmentation.windows import Plan, blend, plan

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Answer", "Judge", "Verdict", "Windows", "fill", "input_sizes", "plan_of", "scratch_dtype"]

Floats = NDArray[np.float32]


class Verdict(Protocol):
    """How unlike the training images an input is."""

    @property
    def flagged(self) -> bool:
        """Whether it looks like another kind of image."""
        ...

    @property
    def sentence(self) -> str:
        """What was found, with its number."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        ...


class Judge(Protocol):
    """What tells unlike images by the embeddings of their windows."""

    @property
    def key(self) -> str:
        """Digest of what its scores depend on."""
        ...

    def scores(self, embeddings: Floats) -> list[float]:
        """Return a score for each of ``(n, D)`` mean patch tokens of windows."""
        ...

    def verdict(self, scores: Sequence[float]) -> Verdict:
        """Judge an image by the scores of its windows."""
        ...


@dataclass(frozen=True)
class Answer:
    """Of one window: ``(h, w)`` probability, and ``(D,)`` mean of its last layer's patch tokens, if any."""

    probability: Floats
    embedding: Floats | None


class Windows:
    """Runs a model over windows of one size, in batches that shrink for good when memory ends.

    Parameters
    ----------
    batch_size
        Windows a pass; without it 1 on a CPU, where more are not faster, and 8 elsewhere.
    tta
        Average over the eight orientations.
    embed
        Also give the mean patch token of each window, from the same pass.
    """

    def __init__(
        self, segmenter: Segmenter, *, batch_size: int | None = None, tta: bool = False, embed: bool = False
    ) -> None:
        self._segmenter, self._tta = segmenter, tta
        self.embed = embed and segmenter.model.backbone is not None
        self.batch_size = batch_size or (1 if segmenter.model.device.type == "cpu" else 8)

    def __call__(self, pixels: Sequence[Callable[[], Floats]]) -> Iterator[Answer]:
        """Yield the answer for each window; `pixels` make their ``(3, H, W)`` float32 when it is their turn.

        Raises
        ------
        EmvfmError
            There is not enough memory for a single window.
        """
        done = 0
        while done < len(pixels):
            part = pixels[done : done + self.batch_size]
            try:
                answers = self._compute(torch.from_numpy(np.stack([make() for make in part])))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise EmvfmError("out of memory in a single window", todo="lower --tile") from None
                self.batch_size = max(1, self.batch_size // 2)
                gc.collect()
                if self._segmenter.model.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            done += len(part)
            yield from answers

    @torch.inference_mode()
    def _compute(self, pixels: Tensor) -> list[Answer]:
        model = self._segmenter.model
        pixels = pixels.to(model.device)
        embeddings = None
        if self.embed:
            assert model.backbone is not None
            tokens = model.tokens(pixels)
            embeddings = tokens[:, -model.backbone.width :].mean(dim=(2, 3)).float().cpu().numpy()
            total = model.logits_of_tokens(tokens, pixels).float().softmax(dim=1)[:, 1]
        else:
            total = self._segmenter.window_probability(pixels)
        if self._tta:
            _, *turns = all_dihedral()  # the first is the window as it is
            for turn in turns:
                total = total + turn.inverse()(self._segmenter.window_probability(turn(pixels)))
            total = total / (1 + len(turns))
        found = total.cpu().numpy()
        return [
            Answer(values, None if embeddings is None else embeddings[n]) for n, values in enumerate(found)
        ]


def input_sizes(source: Source, preprocess: Preprocess) -> list[tuple[int, int]]:
    """Return ``(h, w)`` of each image in the model's input, before padding.

    Raises
    ------
    UsageError
        An image is smaller than one patch; or its pixel size matters and is not known.
    """
    sizes = []
    for item in source.items:
        try:
            own = preprocess.at(item.pixel_size_nm if preprocess.input_size.endswith("nm") else None)
        except UsageError:
            raise UsageError(
                "the pixel size is not known, and the run works at one",
                where=item.path,
                todo="give --pixel-size",
            ) from None
        size = own.scaled(item.size)
        if min(size) < preprocess.patch:
            raise UsageError(
                "the image is smaller than one patch of the model",
                where=item.path,
                got=f"{size[0]} x {size[1]} px",
                expected=f"at least {preprocess.patch} px a side",
            )
        sizes.append(size)
    return sizes


def plan_of(size: tuple[int, int], config: PredictConfig, patch: int) -> Plan:
    """Return the windows over an image of `size` in the model's input, completed to whole patches.

    Raises
    ------
    UsageError
        The overlap is not less than the tile.
    """
    if config.overlap >= config.tile:
        raise UsageError(
            "windows overlap as much as they are wide",
            where="--overlap",
            got=config.overlap,
            expected=f"< {config.tile}",
        )
    whole = (-(-size[0] // patch) * patch, -(-size[1] // patch) * patch)
    return plan(whole, -(-config.tile // patch) * patch, config.overlap, patch)


def scratch_dtype(source: Source, sizes: Sequence[tuple[int, int]], config: PredictConfig) -> np.dtype:
    """Return the type in which values are kept: uint8 masks where these are all that is needed."""
    resized = any(item.size != size for item, size in zip(source.items, sizes, strict=True))
    return np.dtype(np.float32 if resized or "probability" in config.what else np.uint8)


def _named(error: EmvfmError, item: Item) -> EmvfmError:
    """Return the error with the file's name: preprocessing sees only pixels."""
    return error if str(item.path) in str(error) else type(error)(str(error), where=item.path)


def _fill_plane(
    item: Item,
    plane: int,
    windows: Windows,
    segmenter: Segmenter,
    scratch: Scratch,
    config: PredictConfig,
    threshold: float,
    judge: Judge | None,
    advance: Callable[[int], None],
) -> None:
    preprocess = segmenter.preprocess
    own = preprocess.at(item.pixel_size_nm if preprocess.input_size.endswith("nm") else None)
    start, carry = scratch.journal.row, scratch.carry()
    with open_plane(item, plane) as rows:
        canvas = Canvas(rows, own)
        cut = plan_of(canvas.scaled, config, own.patch)
        if carry is not None:  # kept without the padding, of which nothing comes out
            carry = np.pad(carry, ((0, 0), (0, cut.columns.length - carry.shape[1])))
        height, width = cut.rows.window, cut.columns.window
        advance(start * len(cut.columns.starts))
        embeddings: list[Floats] = []

        def compute(top: int, lefts: Sequence[int]) -> Iterator[np.ndarray]:
            band = canvas.band(top // own.patch, (top + height) // own.patch)
            makers = [
                lambda left=left: canvas.standardise(band[:, :, left : left + width])  # type: ignore[misc]
                for left in lefts
            ]
            for answer in windows(makers):
                if answer.embedding is not None:
                    embeddings.append(answer.embedding)
                advance(1)
                yield answer.probability

        for band in blend(cut, compute, first=start, carry=carry):
            kept = band.values[: max(0, canvas.scaled[0] - band.top), : canvas.scaled[1]]
            values = kept if scratch.dtype == np.float32 else (kept > threshold).view(np.uint8)
            scores = judge.scores(np.stack(embeddings)) if judge is not None and embeddings else []
            embeddings.clear()
            scratch.add(values, band.carry[:, : canvas.scaled[1]], scores)


def fill(
    segmenter: Segmenter,
    source: Source,
    scratch: Scratch,
    config: PredictConfig,
    threshold: float,
    *,
    judge: Judge | None = None,
    console: Console | None = None,
) -> list[Verdict]:
    """Compute what is missing of the values of all planes; return what `judge` says of each image.

    Raises
    ------
    RefusedError
        An image looks unlike the training images and `config` refuses such; what was computed is kept.
    CorruptError
        A file is damaged.
    """
    windows = Windows(segmenter, batch_size=config.batch_size, tta=config.tta, embed=judge is not None)
    verdicts: list[Verdict] = []
    number = 0
    sizes = input_sizes(source, segmenter.preprocess)
    with _bar(console, segmenter, source, sizes, config, scratch.journal.plane) as advance:
        for item in source.items:
            scores: list[float] = []
            for plane in range(item.planes):
                if number >= scratch.journal.plane:
                    try:
                        _fill_plane(
                            item, plane, windows, segmenter, scratch, config, threshold, judge, advance
                        )
                    except EmvfmError as error:
                        raise _named(error, item) from None
                scores += scratch.journal.scores[number]
                number += 1
                if judge is not None and config.ood == "refuse":
                    _refuse(judge.verdict(scores), item)
            if judge is not None:
                verdicts.append(judge.verdict(scores))
    return verdicts


def _refuse(verdict: Verdict, item: Item) -> None:
    if verdict.flagged:
        raise RefusedError(
            f"unlike the run's training images: {verdict.sentence}",
            where=item.path,
            todo="look at it; `--ood warn` goes on from what is computed",
        )


@contextmanager
def _bar(
    console: Console | None,
    segmenter: Segmenter,
    source: Source,
    sizes: Sequence[tuple[int, int]],
    config: PredictConfig,
    done: int,
) -> Iterator[Callable[[int], None]]:
    """Show how many windows are done; `done` planes were before."""
    from rich import progress
    from rich.console import Console

    patch = segmenter.preprocess.patch
    counts = [plan_of(size, config, patch).count for size in sizes]
    planes = [n for n, item in zip(counts, source.items, strict=True) for _ in range(item.planes)]
    console = console or Console(quiet=True)
    with progress.Progress(
        progress.TextColumn("windows"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log would get empty lines
    ) as bar:
        task = bar.add_task("", total=sum(planes), completed=sum(planes[:done]))
        yield lambda n: bar.update(task, advance=n)
