"""How a localisation head is fitted and judged; light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.config import FORBID_EXTRA, Doc
from emvfm.errors import UsageError

__all__ = ["PRESETS", "HeadOptions", "Loss", "ProtocolOptions", "preset"]

Loss = Literal["bce", "focal", "asymmetric"]


@dataclass(frozen=True)
class HeadOptions:
    """Representation and head: what is learnt from training rows."""

    __pydantic_config__ = FORBID_EXTRA

    head: Annotated[Literal["mlp", "linear", "logreg", "knn"], Doc("What is trained on the embeddings.")] = (
        "mlp"
    )
    single: Annotated[
        bool | None,
        Doc(
            "One label a row: classes compete by softmax and the likeliest is predicted. Unset: as the data are."
        ),
    ] = None
    standardise: Annotated[bool, Doc("Scale each feature to mean 0, variance 1 of the fitted rows.")] = True
    pca: Annotated[int, Ge(0), Doc("Principal components to keep; 0 keeps the features.")] = 0
    hidden: Annotated[tuple[int, ...], Doc("Widths of the hidden layers of mlp.")] = (512, 256)
    dropout: Annotated[float, Ge(0), Lt(1), Doc("After each hidden layer of mlp.")] = 0.5
    loss: Annotated[Loss, Doc("Of mlp and linear; bce is cross-entropy with --single.")] = "bce"
    focal_gamma: Annotated[float, Ge(0), Doc("Focusing of the focal loss.")] = 2.0
    focal_alpha: Annotated[float, Gt(0), Lt(1), Doc("Weight of positives in the focal loss.")] = 0.25
    gamma_negative: Annotated[float, Ge(0), Doc("Focusing of negatives in the asymmetric loss.")] = 4.0
    gamma_positive: Annotated[float, Ge(0), Doc("Focusing of positives in the asymmetric loss.")] = 1.0
    clip: Annotated[float, Ge(0), Lt(1), Doc("Margin by which the asymmetric loss lowers negatives.")] = 0.05
    sampling: Annotated[
        Literal["plain", "balanced"], Doc("balanced draws a class, then a positive row of it (mlp, linear).")
    ] = "plain"
    epochs: Annotated[int, Ge(1), Doc("At most, of mlp and linear.")] = 60
    batch: Annotated[int, Ge(1), Doc("Rows a step.")] = 512
    learning_rate: Annotated[float, Gt(0), Doc("Of AdamW.")] = 1e-3
    weight_decay: Annotated[float, Ge(0), Doc("Of AdamW.")] = 0.04
    schedule: Annotated[
        Literal["cosine", "constant", "plateau"],
        Doc("Of the learning rate; plateau halves it after 4 epochs without a better validation score."),
    ] = "cosine"
    patience: Annotated[
        int,
        Ge(0),
        Doc("Epochs without a better macro AP of the inner split before stopping; 0 trains them all."),
    ] = 15
    c: Annotated[float, Gt(0), Doc("Inverse strength of the penalty of logreg.")] = 1.0
    iterations: Annotated[int, Ge(1), Doc("At most, of logreg.")] = 1000
    neighbours: Annotated[int, Ge(1), Doc("Of knn.")] = 10
    distance: Annotated[Literal["cosine", "euclidean"], Doc("Of knn.")] = "cosine"


@dataclass(frozen=True)
class ProtocolOptions:
    """Cross-validation: who is tested, and where a score becomes a decision."""

    __pydantic_config__ = FORBID_EXTRA

    folds: Annotated[int, Ge(2), Doc("Number of folds.")] = 5
    ungrouped: Annotated[
        bool, Doc("Let the rows of a group fall into several folds; what that leaks is measured and said.")
    ] = False
    order: Annotated[int, Ge(1), Le(2), Doc("Stratify by labels (1), or also by pairs of labels (2).")] = 1
    thresholds: Annotated[
        Literal["fixed", "global", "per-class"], Doc("fixed, or tuned on the inner validation split.")
    ] = "per-class"
    fixed: Annotated[float, Gt(0), Lt(1), Doc("The fixed threshold.")] = 0.5
    inner: Annotated[
        float,
        Gt(0),
        Lt(1),
        Doc("Share of the training rows for stopping and thresholds, where these are needed."),
    ] = 0.15
    level: Annotated[
        Literal["row", "unit", "group"],
        Doc("Score rows (such as cells), units of them (fields), or groups."),
    ] = "row"
    aggregation: Annotated[
        Literal["mean", "max", "noisy-or"], Doc("How the scores of rows become those of units or groups.")
    ] = "mean"
    seed: Annotated[int, Ge(0), Doc("Of folds, inner splits, heads and resampling.")] = 0


#: Protocols of peers, as their code has them. dino4cells: broadinstitute/DINO4Cells_code; subcell: the
#: HPAv23 port in CHAMMI-75; knn: the companion paper (arXiv 2604.10970), which evaluates several k.
PRESETS: dict[str, tuple[HeadOptions, ProtocolOptions]] = {
    "default": (HeadOptions(), ProtocolOptions()),
    "dino4cells": (
        # 1e-4 at 256 rows, scaled to batches of 512.
        HeadOptions(sampling="balanced", epochs=100, learning_rate=2e-4, weight_decay=0.04, patience=0),
        ProtocolOptions(thresholds="fixed"),
    ),
    "subcell": (
        HeadOptions(loss="focal", epochs=200, batch=8192, weight_decay=0.01, schedule="plateau", patience=20),
        ProtocolOptions(thresholds="fixed"),
    ),
    "knn": (HeadOptions(head="knn", patience=0), ProtocolOptions(thresholds="fixed")),
}


def preset(name: str) -> tuple[HeadOptions, ProtocolOptions]:
    """Return the options of a preset.

    Raises
    ------
    UsageError
        For a name that is none.
    """
    if name not in PRESETS:
        raise UsageError("no such preset", where="preset", got=name, expected=", ".join(PRESETS))
    return PRESETS[name]
