"""All that moves during training, saved as a whole: what is not in here can't be resumed."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emvfm.errors import CorruptError
from emvfm.segmentation.ema import MovingAverage
from emvfm.segmentation.samplers import Sampler
from emvfm.workspace import write_bytes

__all__ = ["TrainingState"]


@dataclass
class TrainingState:
    """Weights, optimiser, sampler, random generators, and what was seen since the last validation.

    Attributes
    ----------
    head
        Trained as a whole, buffers included.
    adapted
        Trained parameters of the backbone, by name: an adapter's, or all.
    ema
        Moving average of all trained parameters, if there is one.
    best
        Score of the kept step: validation IoU, or minus the validation loss; more is better.
    waited
        Validations since the last better one.
    history
        One row a validation.
    losses
        Of the steps since the last row of `history`.
    seconds
        Spent in steps, over all processes that worked on the run.
    """

    head: nn.Module
    adapted: list[tuple[str, nn.Parameter]]
    optimiser: torch.optim.Optimizer
    sampler: Sampler
    rng: np.random.Generator
    ema: MovingAverage | None = None
    step: int = 0
    best: float = -float("inf")
    best_step: int = 0
    waited: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write everything to `path`, whole or not at all."""
        stream = io.BytesIO()
        torch.save(
            {
                "head": self.head.state_dict(),
                "adapted": {name: parameter.detach() for name, parameter in self.adapted},
                "optimiser": self.optimiser.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "sampler": self.sampler.state(),
                "rng": self.rng.bit_generator.state,
                "torch_rng": torch.get_rng_state(),
                "scalars": [self.step, self.best, self.best_step, self.waited, self.seconds],
                "history": self.history,
                "losses": self.losses,
            },
            stream,
        )
        write_bytes(path, stream.getvalue())

    def restore(self, path: Path) -> None:
        """Go on from `path`, if it is there.

        Raises
        ------
        CorruptError
            It is damaged or of another run.
        """
        if not path.is_file():
            return
        try:
            saved = torch.load(path, weights_only=True)
            self.head.load_state_dict(saved["head"])
            with torch.no_grad():
                for name, parameter in self.adapted:
                    parameter.copy_(saved["adapted"][name])
            self.optimiser.load_state_dict(saved["optimiser"])
            if self.ema is not None:
                self.ema.load_state_dict(saved["ema"])
            self.sampler.restore(saved["sampler"])
            self.rng.bit_generator.state = saved["rng"]
            torch.set_rng_state(saved["torch_rng"])
            self.step, self.best, self.best_step, self.waited, self.seconds = saved["scalars"]
            self.history, self.losses = saved["history"], saved["losses"]
        except (
            *(RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError),
            pickle.UnpicklingError,
        ) as error:
            got = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise CorruptError(
                "damaged checkpoint", where=path, got=got, todo="remove it to start anew"
            ) from None
