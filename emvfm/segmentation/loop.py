"""The loop: steps, validations and checkpoints, from wherever the state is to the last step or an early stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from emvfm.errors import EmvfmError
from emvfm.segmentation.batches import Batch, Batches
from emvfm.segmentation.config import TrainConfig
from emvfm.segmentation.history import Step, StepLog
from emvfm.segmentation.losses import Loss
from emvfm.segmentation.model import SegmentationModel
from emvfm.segmentation.progress import TrainingProgress
from emvfm.segmentation.runs import RunFolder
from emvfm.segmentation.schedule import rate_factor
from emvfm.segmentation.state import TrainingState
from emvfm.segmentation.tensorboard import Board
from emvfm.segmentation.validation import Validation

__all__ = ["Loop"]


@contextmanager
def _stop_between_steps() -> Iterator[list[int]]:
    """Turn Ctrl-C and SIGTERM into a request that the loop answers at the end of a step."""
    asked: list[int] = []
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda n, _: asked.append(n))
    except ValueError:  # not in the main thread: signals go elsewhere
        previous = {}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Loop:
    """Everything a step needs but does not change, and where it is written down.

    Attributes
    ----------
    keep
        Writes the model as it is now as the run's result.
    """

    config: TrainConfig
    run: RunFolder
    model: SegmentationModel
    batches: Batches
    loss: Loss
    validate: Validation
    keep: Callable[[], None]

    def __call__(self, state: TrainingState, progress: TrainingProgress, board: Board) -> None:
        """Train to the end; keeps the best step by validation, without validation slices the last.

        Raises
        ------
        EmvfmError
            The loss is not finite.
        KeyboardInterrupt
            A signal came; the state is saved.
        """
        steps = self.config.steps
        assert steps is not None
        checkpoint = self.run.checkpoints / "state.pt"
        self.model.train(True)
        with _stop_between_steps() as asked, StepLog(self.run.steps_path, state.step) as log:
            while state.step < steps and not self._waited_enough(state):
                step = self.step(state)
                log.add(step)
                progress.stepped(step)
                board.stepped(step)
                if state.step % self.config.evaluate_every == 0 or state.step == steps:
                    self._judge(state, step, last=state.step == steps)
                    state.save(checkpoint)
                    self.run.write_history(state.history)
                    progress.validated(state.history[-1])
                    board.validated(state.history[-1])
                if asked:
                    state.save(checkpoint)
                    raise KeyboardInterrupt

    def _waited_enough(self, state: TrainingState) -> bool:
        return 0 < self.config.early_stop <= state.waited

    def step(self, state: TrainingState) -> Step:
        """Take one optimiser step and return what it was."""
        config = self.config
        assert config.batch is not None
        assert config.steps is not None
        start = time.perf_counter()
        factor = rate_factor(state.step, config.steps, config.warmup, config.schedule)
        for group in state.optimiser.param_groups:
            group["lr"] = group["highest"] * factor
        state.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(config.accumulate):
            batch = self.batches.batch(state.sampler.draw(config.batch), state.rng)
            loss = self.loss(self._logits(batch), batch.targets.to(self.model.device)) / config.accumulate
            if not torch.isfinite(loss):
                got = f"step {state.step}"
                raise EmvfmError("the loss is not finite", where=self.run.path, got=got, todo="lower --lr")
            loss.backward()
            total += float(loss.detach())
        if config.clip:
            nn.utils.clip_grad_norm_(_parameters(state), config.clip)
        state.optimiser.step()
        if state.ema is not None:
            state.ema.update()
        state.losses.append(total)
        state.step += 1
        seconds = time.perf_counter() - start
        state.seconds += seconds
        images = config.batch * config.accumulate
        epoch = state.step * images / sum(self.batches.n_per_source)
        lr = state.optimiser.param_groups[-1]["lr"]  # of the head
        return Step(state.step, epoch, total, lr, state.seconds, images / seconds)

    def _logits(self, batch: Batch) -> Tensor:
        if batch.tokens is not None:
            return self.model.logits_of_tokens(batch.tokens, batch.pixels)
        assert batch.pixels is not None
        return self.model.logits(batch.pixels)

    def _judge(self, state: TrainingState, step: Step, *, last: bool) -> None:
        """Validate, write the row of the history, and keep the model if it is the best so far."""
        averaged: AbstractContextManager[None] = nullcontext() if state.ema is None else state.ema.swapped()
        with averaged:
            score = self.validate() if len(self.validate) else None
            better = last if score is None else self._value(score.iou, score.loss) > state.best
            if better:
                state.best = -float("inf") if score is None else self._value(score.iou, score.loss)
                state.best_step, state.waited = state.step, 0
                self.keep()
            else:
                state.waited += 1
        since = state.history[-1]["seconds"] if state.history else 0.0
        images = len(state.losses) * self.config.batch * self.config.accumulate  # type: ignore[operator]
        state.history.append(
            {
                "step": state.step,
                "epoch": round(step.epoch, 4),
                "train_loss": float(np.mean(state.losses)),
                "val_iou": None if score is None else score.iou,
                "val_loss": None if score is None else score.loss,
                "lr": step.lr,
                "seconds": round(state.seconds, 3),
                "images_per_second": round(images / max(state.seconds - since, 1e-9), 3),
            }
        )
        state.losses.clear()

    def _value(self, iou: float, loss: float) -> float:
        return iou if self.config.select == "iou" else -loss


def _parameters(state: TrainingState) -> list[nn.Parameter]:
    return [parameter for group in state.optimiser.param_groups for parameter in group["params"]]
