"""Heads that torch trains by epochs: mlp and linear, with early stopping on the inner split.

Everything runs in float32; the same seed, rows and number of threads give the same numbers, and the random state
of the caller stays as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import EmvfmError, UsageError
from emvfm.localization.losses import loss_of
from emvfm.localization.metrics import average_precision
from emvfm.localization.options import HeadOptions

if TYPE_CHECKING:
    import torch

__all__ = ["Features", "Predict", "Training", "balanced_rows", "build_head", "fit_by_epochs"]

Features = NDArray[np.float32]
Predict = Callable[[Features], NDArray[np.float64]]


@dataclass(frozen=True)
class Training:
    """How fitting went; empty for heads that are not trained by epochs.

    Attributes
    ----------
    losses, validation
        Of each epoch: mean training loss, and macro AP of the inner split (empty without one).
    kept_epoch
        Epoch whose weights were kept, from 1: of those with the highest macro AP the one with the lowest loss of the
        inner split. Where few rows are ranked without a mistake at once, probabilities still have far to go.
    """

    n: int
    n_validation: int
    losses: tuple[float, ...] = ()
    validation: tuple[float, ...] = ()
    kept_epoch: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as strict JSON types."""
        found = asdict(self)
        found["validation"] = [None if math.isnan(value) else value for value in self.validation]
        return found


def balanced_rows(labels: NDArray[np.bool_], n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Draw `n` rows with replacement: a class at random, then a positive row of it.

    As in DINO4Cells. Rows without any label are never drawn.

    Raises
    ------
    UsageError
        When no row has a label.
    """
    columns, rows = np.nonzero(labels.T)
    if not len(rows):
        raise UsageError("no positive row to draw", where="sampling", todo="choose plain")
    _, start, size = np.unique(columns, return_index=True, return_counts=True)
    drawn = rng.integers(0, len(start), n)
    return rows[start[drawn] + (rng.random(n) * size[drawn]).astype(np.intp)]


def build_head(width: int, n_classes: int, options: HeadOptions) -> torch.nn.Module:
    """Return an untrained mlp or linear head, initialised from torch's current random state.

    DINO4Cells' ``simple_clf``: linear, ReLU, dropout for each hidden layer, then linear.
    """
    from torch import nn

    layers: list[nn.Module] = []
    for hidden in options.hidden if options.head == "mlp" else ():
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(options.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def fit_by_epochs(
    features: Features,
    truth: NDArray[np.bool_],
    held: tuple[Features, NDArray[np.bool_]] | None,
    options: HeadOptions,
    seed: int,
    device: str,
) -> tuple[Predict, Training]:
    """Train an mlp or linear head on features ``(N, K)`` and labels ``(N, L)``.

    Parameters
    ----------
    held
        Features and labels of the inner split, which decide when to stop; None trains all epochs.
    device
        Where to train.

    Raises
    ------
    EmvfmError
        When training diverges.
    """
    import torch

    place, single = torch.device(device), bool(options.single)
    x = torch.from_numpy(features).to(place)
    y = torch.from_numpy(truth.astype(np.float32)).to(place)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build_head(features.shape[1], truth.shape[1], options).to(place)
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        steps = math.ceil(len(truth) / options.batch)
        cosine = plateau = None
        if options.schedule == "cosine":
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs * steps)
        elif options.schedule == "plateau":
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, "max", factor=0.5, patience=4)
        losses: list[float] = []
        validation: list[float] = []
        kept: dict[str, Any] | None = None
        kept_epoch, best = 0, (0.0, 0.0)
        for epoch in range(1, options.epochs + 1):
            rows = _epoch_rows(truth, options, rng)
            losses.append(
                _train_epoch(model, optimiser, cosine, x, y, torch.from_numpy(rows).to(place), options)
            )
            if not math.isfinite(losses[-1]):
                raise EmvfmError(
                    "training diverged",
                    where=f"epoch {epoch}",
                    got=f"loss {losses[-1]}",
                    todo="lower the rate",
                )
            if held is None:
                continue
            logits = _logits(model, held[0], place)
            validation.append(_macro_ap(held[1], _probabilities(logits, single=single)))
            reached = (
                validation[-1],
                -float(loss_of(logits, torch.from_numpy(held[1].astype(np.float32)), options)),
            )
            if plateau is not None:
                plateau.step(validation[-1])
            if options.patience and (kept is None or reached > best):
                kept, kept_epoch, best = copy.deepcopy(model.state_dict()), epoch, reached
            if options.patience and epoch - kept_epoch >= options.patience:
                break
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    n_held = 0 if held is None else len(held[1])
    training = Training(len(truth), n_held, tuple(losses), tuple(validation), kept_epoch or len(losses))
    return lambda found: _probabilities(_logits(model, found, place), single=single), training


def _epoch_rows(truth: NDArray[np.bool_], options: HeadOptions, rng: np.random.Generator) -> NDArray[np.intp]:
    if options.sampling == "balanced":
        return balanced_rows(truth, len(truth), rng)
    return rng.permutation(len(truth))


def _train_epoch(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: Any,
    x: torch.Tensor,
    y: torch.Tensor,
    rows: torch.Tensor,
    options: HeadOptions,
) -> float:
    model.train()
    total = x.new_zeros(())  # stays on the device: reading it at every step would wait for the device
    for chosen in rows.split(options.batch):
        loss = loss_of(model(x[chosen]), y[chosen], options)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if schedule is not None:
            schedule.step()
        total += loss.detach() * len(chosen)
    return float(total) / len(rows)


def _logits(model: torch.nn.Module, features: Features, place: torch.device) -> torch.Tensor:
    import torch

    model.eval()
    with torch.inference_mode():
        blocks = [model(block.to(place)).cpu() for block in torch.from_numpy(features).split(16_384)]
    return torch.cat(blocks)


def _probabilities(logits: torch.Tensor, *, single: bool) -> NDArray[np.float64]:
    found = logits.softmax(dim=1) if single else logits.sigmoid()
    return np.asarray(found.numpy(), np.float64)


def _macro_ap(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return macro AP over present classes, 0 where there are none, so that the first epoch is kept."""
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return 0.0
    return float(np.mean([average_precision(truth[:, i], scores[:, i]) for i in present]))
