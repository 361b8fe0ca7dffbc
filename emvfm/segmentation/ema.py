"""An exponential moving average of parameters: what is evaluated and kept in place of the last step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from emvfm.errors import UsageError

__all__ = ["MovingAverage", "decay_at"]


def decay_at(updates: int, decay: float) -> float:
    """Return the weight of the past at an update: at most `decay`, and less while there is little past.

    ``(1 + n) / (10 + n)`` after `n` updates, so that the random beginning is soon forgotten.
    """
    return min(decay, (1 + updates) / (10 + updates))


class MovingAverage:
    """The moving average of parameters, float32 whatever their own precision.

    Only parameters are averaged; buffers such as running statistics stay those of the module.

    Parameters
    ----------
    parameters
        Names and parameters; the average begins with their present values.
    decay
        Weight of the past at each update, in [0, 1); see :func:`decay_at` for its warm-up.

    Raises
    ------
    UsageError
        When `decay` is out of range, a name comes twice, or there are no parameters.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UsageError("out of range", where="EMA decay", got=decay, expected="[0, 1)")
        pairs = list(parameters)
        self.decay = decay
        self.updates = 0
        self._parameters = dict(pairs)
        if not pairs or len(self._parameters) < len(pairs):
            raise UsageError("no parameters, or two of a name", where="EMA", got=len(pairs))
        self._average = {name: parameter.detach().float().clone() for name, parameter in pairs}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present values."""
        share = 1 - decay_at(self.updates, self.decay)
        for name, parameter in self._parameters.items():
            average = self._average[name]
            average.lerp_(parameter.detach().to(average), share)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the parameters their averages; afterwards, come what may, their own values back, to the bit."""
        with torch.no_grad():
            own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
            for name, parameter in self._parameters.items():
                parameter.copy_(self._average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the averages and the number of updates."""
        averages = {name: average.clone() for name, average in self._average.items()}
        return {"updates": self.updates, "averages": averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`.

        Raises
        ------
        UsageError
            The state is of other parameters; the average then stays as it was.
        """
        averages: Mapping[str, Tensor] = state.get("averages", {})
        shapes = {name: tuple(average.shape) for name, average in averages.items()}
        own = {name: tuple(average.shape) for name, average in self._average.items()}
        if shapes != own or "updates" not in state:
            differing = sorted(name for name in {*shapes, *own} if shapes.get(name) != own.get(name))
            raise UsageError("state of other parameters", where="EMA", got=differing[:3])
        self._average = {
            name: averages[name].detach().to(average, copy=True) for name, average in self._average.items()
        }
        self.updates = int(state["updates"])
