"""Heads on frozen embeddings: mlp and linear by torch, logreg and knn by scikit-learn.

All give one probability a row and class. Where each row has one label, the classes compete: softmax instead of
sigmoids, one multinomial regression instead of one a class; shares of neighbours are the same either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.localization.epochs import Features, Predict, Training, fit_by_epochs
from emvfm.localization.options import HeadOptions
from emvfm.localization.representation import Representation, fit_representation

__all__ = ["FittedHead", "fit_head", "needs_validation"]


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
    if options.single and not (truth.sum(axis=1) == 1).all():
        got = f"{int((truth.sum(axis=1) != 1).sum())} rows without or with several"
        raise UsageError("not one label a row", where="head", got=got)
    representation = fit_representation(embeddings, standardise=options.standardise, pca=options.pca)
    features = representation.apply(embeddings)
    held = None
    if validation is not None:
        held = representation.apply(validation[0]), np.asarray(validation[1]).astype(bool)
    training = Training(len(truth), 0 if held is None else len(held[1]))
    if options.head == "logreg":
        fit = _fit_multinomial if options.single else _fit_logreg
        return FittedHead(representation, fit(features, truth, options), options, training)
    if options.head == "knn":
        return FittedHead(representation, _fit_knn(features, truth, options), options, training)
    predict, training = fit_by_epochs(features, truth, held, options, seed, device)
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


def _fit_multinomial(features: Features, truth: NDArray[np.bool_], options: HeadOptions) -> Predict:
    """Fit one regression of all classes; a class without a row has probability 0."""
    from sklearn.linear_model import LogisticRegression

    number = truth.argmax(axis=1)
    there = np.unique(number)
    model: Any = None
    if len(there) > 1:
        model = LogisticRegression(C=options.c, max_iter=options.iterations).fit(features, number)

    def predict(found: Features) -> NDArray[np.float64]:
        scores = np.zeros((len(found), truth.shape[1]))
        scores[:, there] = 1.0 if model is None else model.predict_proba(found)
        return scores

    return predict


def _fit_knn(features: Features, truth: NDArray[np.bool_], options: HeadOptions) -> Predict:
    """Score by the share of the nearest rows that have a label."""
    from sklearn.neighbors import KNeighborsRegressor

    if options.neighbours > len(features):
        got, expected = options.neighbours, f"at most {len(features)}"
        raise UsageError("more neighbours than rows", where="neighbours", got=got, expected=expected)
    model = KNeighborsRegressor(options.neighbours, metric=options.distance, algorithm="brute")
    model.fit(features, truth.astype(np.float64))
    return lambda found: np.asarray(model.predict(found), np.float64).reshape(len(found), truth.shape[1])
