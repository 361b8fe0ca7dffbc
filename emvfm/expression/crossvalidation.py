"""Several models on the same folds and the same genes, which are chosen by the training spots of each fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emvfm.errors import UsageError
from emvfm.expression.folds import Fold, inner_folds
from emvfm.expression.regressors import Head, Prediction, predict

__all__ = ["KINDS", "FoldPredictions", "Model", "cross_validate"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Kind = Literal["backbone", "untrained", "pixel", "structure", "confound", "circular", "permuted", "mean"]

#: What each kind of model is to the question.
KINDS = {
    "backbone": "the model in question",
    "untrained": "its architecture with random weights",
    "pixel": "simple statistics of pixels",
    "structure": "where spots or cells lie, without any intensity",
    "confound": "knows where it was measured and nothing of biology",
    "circular": "made from the very genes it predicts; no evidence of anything",
    "permuted": "the model in question, taught with the expression of other spots; chance",
    "mean": "mean expression of the training spots",
}


@dataclass(frozen=True)
class Model:
    """Something that predicts expression.

    Attributes
    ----------
    name, kind
        What it is called, and which of `KINDS` it is.
    features
        ``(N, D)``, a row a spot; None for the mean of training.
    permute
        Whether training expression is exchanged between the spots of a section.
    embedded
        Whether the features are read from images, and so may need a correction; places and types do not.
    """

    name: str
    kind: Kind
    features: NDArray[Any] | None = None
    permute: bool = False
    embedded: bool = False


@dataclass(frozen=True)
class FoldPredictions:
    """What the models said of one fold.

    Attributes
    ----------
    fold
        Rows.
    genes
        Positions of the genes predicted.
    measured
        ``(M, G)`` expression of the tested spots.
    trained_mean
        ``(G,)`` mean over training spots.
    trained
        ``(T, G)`` expression of the training spots.
    predicted
        By the name of the model; ``values`` are ``(M, G)``.
    """

    fold: Fold
    genes: Rows
    measured: Floats
    trained_mean: Floats
    trained: Floats
    predicted: dict[str, Prediction] = field(default_factory=dict)


def _permuted(y: Floats, sections: NDArray[Any], rng: np.random.Generator) -> Floats:
    """Exchange whole rows of expression between the spots of each section."""
    order = np.arange(len(y))
    for section in np.unique(sections):
        own = np.flatnonzero(sections == section)
        order[own] = rng.permutation(own)
    return y[order]


def cross_validate(
    models: Sequence[Model],
    expression: ArrayLike,
    folds: Sequence[Fold],
    sections: Sequence[str],
    blocks: ArrayLike,
    head: Head,
    choose: Callable[[NDArray[Any], Sequence[str]], Rows],
    *,
    prepare: Callable[[NDArray[Any], Rows], NDArray[Any]] | None = None,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[FoldPredictions, ...]:
    """Fit every model on the training spots of every fold and predict the others.

    Parameters
    ----------
    expression
        ``(N, G)`` of all genes.
    sections, blocks
        Of each spot.
    choose
        Gives positions of genes from the expression and the sections of the *training* spots; it never sees others.
    prepare
        Given embedded features and the rows that are not learned from, the features of all rows ``(N, K)`` in this
        fold, such as corrected by the others.
    seed
        Of the exchanges of models that permute.
    advance
        Called after each fit.

    Raises
    ------
    UsageError
        Two models share a name, or features and spots differ in number.
    """
    table, labels = np.asarray(expression), np.asarray(sections, str)
    if len({model.name for model in models}) < len(models):
        raise UsageError("two models of one name", got=", ".join(model.name for model in models))
    for model in models:
        if model.features is not None and len(model.features) != len(table):
            raise UsageError(
                "one row of features per spot", where=model.name, got=len(model.features), expected=len(table)
            )
    found = []
    for number, fold in enumerate(folds):
        known = table[fold.train]
        genes = choose(known, labels[fold.train].tolist())
        y = np.asarray(known[:, genes], np.float64)
        mean = y.mean(axis=0)
        measured = np.asarray(table[np.ix_(fold.test, genes)], np.float64)
        result = FoldPredictions(fold, genes, measured, mean, y)
        inner = inner_folds(fold.train, labels.tolist(), blocks)
        for model in models:
            if model.features is None:
                result.predicted[model.name] = Prediction(np.repeat(mean[None], len(fold.test), axis=0), {})
            else:
                rng = np.random.default_rng([seed, number])
                taught = _permuted(y, labels[fold.train], rng) if model.permute else y
                x = np.asarray(model.features)
                if prepare is not None and model.embedded:
                    x = prepare(x, np.setdiff1d(np.arange(len(table)), fold.train))
                result.predicted[model.name] = predict(head, x[fold.train], taught, x[fold.test], inner)
            advance()
        found.append(result)
    return tuple(found)
