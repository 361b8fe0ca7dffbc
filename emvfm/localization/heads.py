"""Heads on frozen embeddings: mlp and linear by torch, logreg and knn by scikit-learn.

All give one probability a row and class. Everything runs in float32; the same seed, rows and number of threads
give the same numbers, and the random state of the caller stays as it was.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import EmvfmError, UsageError
from emvfm.localization.losses import loss_of
from emvfm.localization.metrics import average_precision
from emvfm.localization.options import HeadOptions
from emvfm.localization.representation import Representation, fit_representation

if TYPE_CHECKING:
    import torch

__all__ = ["FittedHead", "Training", "balanced_rows", "build_head", "fit_head", "needs_validation"]

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
        Epoch whose weights were kept, from 1.
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


@dataclass(frozen=True)
class FittedHead:
    """A representation and a head, fitted together."""

    representation: Representation
    predict: Predict
    options: HeadOptions
    training: Training

    def scores(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return probabilities ``(N, L)`` of embeddings ``(N, D)``."""
        return self.predict(self.representation.apply(embeddings))


def needs_validation(options: HeadOptions) -> bool:
    """Say whether fitting looks at an inner validation split."""
    trained = options.head in ("mlp", "linear")
    return trained and (options.patience > 0 or options.schedule == "plateau")


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


def fit_head(
    embeddings: NDArray[np.floating],
    labels: ArrayLike,
    options: HeadOptions | None = None,
    *,
    validation: tuple[NDArray[np.floating], ArrayLike] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> FittedHead:
    """Fit representation and head on training rows.

    Parameters
    ----------
    embeddings, labels
        ``(N, D)`` and ``(N, L)`` of the rows to fit on.
    validation
        The same of the inner split, which decides when to stop; never part of what is fitted.
    seed
        Of initial weights, dropout and the order of rows.
    device
        Where mlp and linear are trained.

    Raises
    ------
    UsageError
        When options and data do not fit, or an inner split is needed and not given.
    EmvfmError
        When training diverges.
    """
    options = options or HeadOptions()
    truth = np.asarray(labels).astype(bool)
    if truth.ndim != 2 or len(truth) != len(embeddings):
        got = f"{np.shape(embeddings)} and {truth.shape}"
        raise UsageError("not one row of labels an embedding", where="head", got=got)
    if needs_validation(options) and validation is None:
        raise UsageError("no inner split to stop on", where="head", todo="give one, or set patience to 0")
    if options.sampling == "balanced" and options.head in ("logreg", "knn"):
        raise UsageError("balanced sampling is for mlp and linear", where="sampling", got=options.head)
    representation = fit_representation(embeddings, standardise=options.standardise, pca=options.pca)
    features = representation.apply(embeddings)
    held = None
    if validation is not None:
        held = representation.apply(validation[0]), np.asarray(validation[1]).astype(bool)
    training = Training(len(truth), 0 if held is None else len(held[1]))
    if options.head == "logreg":
        return FittedHead(representation, _fit_logreg(features, truth, options), options, training)
    if options.head == "knn":
        return FittedHead(representation, _fit_knn(features, truth, options), options, training)
    predict, training = _fit_torch(features, truth, held, options, seed, device)
    return FittedHead(representation, predict, options, training)


def _fit_logreg(features: Features, truth: NDArray[np.bool_], options: HeadOptions) -> Predict:
    """Fit one regression a class; a class with rows of one kind only gets their share, 0 or 1, for good."""
    from sklearn.linear_model import LogisticRegression

    models: list[Any] = []
    for column in truth.T:
        if column.all() or not column.any():
            models.append(float(column[0]))
        else:
            models.append(LogisticRegression(C=options.c, max_iter=options.iterations).fit(features, column))

    def predict(found: Features) -> NDArray[np.float64]:
        columns = [
            np.full(len(found), model) if isinstance(model, float) else model.predict_proba(found)[:, 1]
            for model in models
        ]
        return np.stack(columns, axis=1).astype(np.float64)

    return predict


def _fit_knn(features: Features, truth: NDArray[np.bool_], options: HeadOptions) -> Predict:
    """Score by the share of the nearest rows that have a label."""
    from sklearn.neighbors import KNeighborsRegressor

    if options.neighbours > len(features):
        got, expected = options.neighbours, f"at most {len(features)}"
        raise UsageError("more neighbours than rows", where="neighbours", got=got, expected=expected)
    model = KNeighborsRegressor(options.neighbours, metric=options.metric, algorithm="brute")
    model.fit(features, truth.astype(np.float64))
    return lambda found: np.asarray(model.predict(found), np.float64).reshape(len(found), truth.shape[1])


def _fit_torch(
    features: Features,
    truth: NDArray[np.bool_],
    held: tuple[Features, NDArray[np.bool_]] | None,
    options: HeadOptions,
    seed: int,
    device: str,
) -> tuple[Predict, Training]:
    import torch

    place = torch.device(device)
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
        kept_epoch = 0
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
            validation.append(_macro_ap(held[1], _predict_torch(model, held[0], place)))
            if plateau is not None:
                plateau.step(validation[-1])
            if options.patience and (kept is None or validation[-1] > validation[kept_epoch - 1]):
                kept, kept_epoch = copy.deepcopy(model.state_dict()), epoch
            if options.patience and epoch - kept_epoch >= options.patience:
                break
    if kept is not None:
        model.load_state_dict(kept)
    model.eval()
    n_held = 0 if held is None else len(held[1])
    training = Training(len(truth), n_held, tuple(losses), tuple(validation), kept_epoch or len(losses))
    return lambda found: _predict_torch(model, found, place), training


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


def _predict_torch(model: torch.nn.Module, features: Features, place: torch.device) -> NDArray[np.float64]:
    import torch

    model.eval()
    with torch.inference_mode():
        blocks: Sequence[torch.Tensor] = [
            torch.sigmoid(model(block.to(place))).cpu() for block in torch.from_numpy(features).split(16_384)
        ]
    return torch.cat(list(blocks)).numpy().astype(np.float64)


def _macro_ap(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return macro AP over present classes, 0 where there are none, so that the first epoch is kept."""
    present = np.flatnonzero(truth.any(axis=0))
    if not len(present):
        return 0.0
    return float(np.mean([average_precision(truth[:, i], scores[:, i]) for i in present]))
