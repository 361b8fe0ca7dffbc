"""The options of the benchmarks, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from emvfm.config import Doc
from emvfm.studies.expression.spot_options import SpotOptions
from emvfm.studies.profiles import ProfileOptions

__all__ = [
    "PANELS",
    "BenchOptions",
    "CorrectionName",
    "EnrichOptions",
    "FoldCorrectionOptions",
    "GeometryOptions",
    "LayersOptions",
    "RelateOptions",
    "RetrieveOptions",
    "SimilarityOptions",
]

CorrectionName = Literal["none", "center", "sphere", "tvn", "pca-cs", "coral", "combat"]

_Level = Annotated[float, Gt(0), Lt(1), Doc("Coverage of intervals.")]

#: Titles of the help page and what stands under them.
PANELS = {
    "Rows": ("where", "annotations", "on", "aggregate", "aggregate_by", "fact_columns", "drop_missing"),
    "Correction": ("correct", "controls", "batch", "components", "shrinkage", "ridge", "eps"),
    "Embeddings": (
        "backbone", "weights", "untrained", "init", "init_seed", "adapter", "layers", "layer", "pool", "input_size",
        "pixel_size", "tile", "tile_overlap", "precision", "device", "channels", "map", "fill", "map_seed", "join",
        "normalise",
    ),
}  # fmt: skip


_Transductive = Annotated[
    bool, Doc("Fit the correction on controls that are tested too, without their labels.")
]


@dataclass(frozen=True)
class FoldCorrectionOptions:
    """How embeddings are corrected where there are folds: anew in each, by rows that it does not test."""

    correct: Annotated[
        CorrectionName, Doc("Correction fitted on --controls, anew in every fold, on none that are tested.")
    ] = "none"
    controls: Annotated[
        str | None, Doc("Condition that control rows meet, such as `role=control`; `all` for every row.")
    ] = None
    correct_by: Annotated[tuple[str, ...], Doc("Fact that tells batches apart; repeatable.")] = ()
    correct_axes: Annotated[int | None, Ge(1), Doc("Most axes of tvn and pca-cs.")] = None
    correct_shrinkage: Annotated[
        float, Ge(0), Le(1), Doc("Share by which sphere draws variances to their mean.")
    ] = 0.0
    correct_ridge: Annotated[
        float, Gt(0), Doc("Weight of the prior in a batch's covariance: tvn, coral.")
    ] = 0.5
    correct_eps: Annotated[
        float, Gt(0), Lt(1), Doc("Least share of the largest variance that an axis needs.")
    ] = 1e-6
    transductive: _Transductive = False


@dataclass(frozen=True)
class BenchOptions(ProfileOptions):
    """Which rows take part, how they are corrected, and what is averaged before anything is scored."""

    where: Annotated[str | None, Doc("Condition on the rows that take part, such as `label!=unknown`.")] = (
        None
    )
    annotations: Annotated[
        tuple[Path, ...], Doc("CSV or TSV with more facts, joined by --on; repeatable.")
    ] = ()
    on: Annotated[str | None, Doc("Column that profiles and annotations share.")] = None
    correct: Annotated[CorrectionName, Doc("Correction fitted on --controls.")] = "none"
    controls: Annotated[
        str | None, Doc("Condition that control rows meet, such as `role=control`; `all` for every row.")
    ] = None
    batch: Annotated[tuple[str, ...], Doc("Column that tells batches apart; repeatable.")] = ()
    components: Annotated[int | None, Ge(1), Doc("Most axes of tvn and pca-cs.")] = None
    shrinkage: Annotated[float, Ge(0), Le(1), Doc("Share by which sphere draws variances to their mean.")] = (
        0.0
    )
    ridge: Annotated[float, Gt(0), Doc("Weight of the prior in a batch's covariance: tvn, coral.")] = 0.5
    eps: Annotated[float, Gt(0), Lt(1), Doc("Least share of the largest variance that an axis needs.")] = 1e-6
    aggregate: Annotated[
        tuple[str, ...], Doc("Column whose values become one row each, after correction; repeatable.")
    ] = ()
    aggregate_by: Annotated[Literal["mean", "median"], Doc("How rows become one.")] = "mean"


@dataclass(frozen=True)
class RetrieveOptions(BenchOptions):
    """How ``bench retrieve`` pairs and tests."""

    preset: Annotated[
        Literal["none", "replicability", "matching"],
        Doc(
            "replicability: replicates of --perturbation against --controls; matching: perturbations by --target."
        ),
    ] = "none"
    perturbation: Annotated[str, Doc("Column of presets.")] = "pert_iname"
    target: Annotated[str, Doc("Column of matching; several labels parted by | or ;.")] = "target_list"
    positives: Annotated[
        str | None, Doc("What counts for a query, such as `same compound, different plate`.")
    ] = None
    negatives: Annotated[
        str | None, Doc("What counts against it, such as `same plate, role=control`; else all others.")
    ] = None
    exclude: Annotated[
        tuple[str, ...], Doc("Column in which no candidate may share the query's value; repeatable.")
    ] = ()
    queries: Annotated[str | None, Doc("Condition on the rows that ask, else all with positives.")] = None
    group: Annotated[str | None, Doc("Column to average by, else the first that positives share.")] = None
    show: Annotated[tuple[str, ...], Doc("Group to draw as a bar of its own; repeatable.")] = ()
    hits: Annotated[tuple[int, ...], Doc("Look for a positive among so many nearest; repeatable.")] = (
        1,
        5,
        10,
    )
    draws: Annotated[int, Ge(99), Doc("Random orders of nulls that are too large to count.")] = 9999
    alpha: Annotated[float, Gt(0), Lt(1), Doc("False discovery rate.")] = 0.05
    level: _Level = 0.95


@dataclass(frozen=True)
class RelateOptions(BenchOptions):
    """How ``bench relate`` looks for known relations."""

    entity: Annotated[str | None, Doc("Column of entities; their rows are averaged.")] = None
    relations: Annotated[
        tuple[Path, ...], Doc("CSV of known pairs: a, b (or entity1, entity2), and maybe source; repeatable.")
    ] = ()
    related_by: Annotated[
        tuple[str, ...], Doc("Column whose shared labels relate entities too; repeatable.")
    ] = ()
    ends: Annotated[
        tuple[float, ...], Doc("Share of all pairs in both ends together, half each; repeatable.")
    ] = (0.1, 0.2)
    least: Annotated[int, Ge(3), Doc("Entities that a source's pairs must have.")] = 20
    samples: Annotated[int, Ge(99), Doc("Resamples of entities.")] = 1000
    level: _Level = 0.95


@dataclass(frozen=True)
class EnrichOptions(BenchOptions):
    """How ``bench enrich`` counts related rows among the nearest."""

    positives: Annotated[str | None, Doc("What is related to a row, such as `shares moa`.")] = None
    negatives: Annotated[str | None, Doc("What is not; else all others.")] = None
    exclude: Annotated[
        tuple[str, ...], Doc("Column in which no candidate may share the row's value; repeatable.")
    ] = ()
    near: Annotated[tuple[float, ...], Doc("Share of candidates that is near; repeatable.")] = (0.01, 0.05)
    unit: Annotated[str | None, Doc("Column of units for intervals, such as compound; else rows.")] = None
    alpha: Annotated[float, Gt(0), Lt(1), Doc("False discovery rate.")] = 0.05
    level: _Level = 0.95


_Backbones = Annotated[
    tuple[str, ...],
    Doc("Name of `backbones list`, or NAME,option=value,… for options of its own; repeatable."),
]
_AllLayers = Annotated[bool, Doc("Every stored layer instead of one.")]
_Rows = Annotated[int, Ge(0), Doc("Rows that are drawn at random; 0 for all.")]
_Parts = Annotated[int, Ge(0), Doc("Sets of groups left out in turn for intervals; 0 for none.")]
_LeaveOut = Annotated[
    str | None, Doc("Column of what is independent, such as well or donor, for intervals; else rows.")
]


@dataclass(frozen=True)
class SimilarityOptions(BenchOptions):
    """Which representations of the same rows ``bench similarity`` compares, and how.

    `backbone` holds several, each a name with options of its own: ``dinov2,untrained,init_seed=1``.
    """

    backbone: _Backbones = ("dinov2",)  # type: ignore[assignment]
    all_layers: _AllLayers = False
    measure: Annotated[tuple[str, ...], Doc("Repeatable; else cka, cka-rbf, procrustes, svcca, rsa, mutual-knn.")] = (
        "cka", "cka-rbf", "procrustes", "svcca", "rsa", "mutual-knn",
    )  # fmt: skip
    run: Annotated[
        tuple[str, ...], Doc("Run of a benchmark whose predictions are correlated instead; repeatable.")
    ] = ()
    rows: _Rows = 1000
    leave_out: _LeaveOut = None
    permutations: Annotated[int, Ge(0), Doc("Random orders of rows for nulls; 0 for none.")] = 99
    parts: _Parts = 20
    level: _Level = 0.95


@dataclass(frozen=True)
class GeometryOptions(BenchOptions):
    """What ``bench geometry`` measures of each representation.

    `backbone` holds several, each a name with options of its own: ``dinov2,untrained,init_seed=1``.
    """

    backbone: _Backbones = ("dinov2",)  # type: ignore[assignment]
    all_layers: _AllLayers = False
    alike: Annotated[str | None, Doc("Column whose rows of one value should be near: alignment.")] = None
    rows: _Rows = 2000
    leave_out: _LeaveOut = None
    parts: _Parts = 20
    level: _Level = 0.95


@dataclass(frozen=True)
class LayersOptions(RelateOptions, RetrieveOptions, SpotOptions):
    """Which task ``bench layers`` scores all blocks by, and how it chooses one."""

    task: Annotated[
        Literal["retrieve", "relate", "localize", "expression"], Doc("Whose score; its options apply.")
    ] = "retrieve"
    pools: Annotated[tuple[str, ...], Doc("mean, cls or mean+cls; repeatable.")] = ("mean", "cls")
    split: Annotated[
        str | None,
        Doc("Column whose values stay together when a layer is chosen; else groups, entities or sections."),
    ] = None
    folds: Annotated[
        int,
        Ge(2),
        Doc("A layer is chosen without each fold, then scored on it; expression has folds of its own."),
    ] = 5
    labels: Annotated[str, Doc("Column of labels, several parted by ;, for localize.")] = "label"
    head: Annotated[
        Literal["logreg", "ridge", "knn", "1nn", "pls"] | None,
        Doc("What learns: of localize logreg (usual) or knn, of expression ridge (usual), knn, 1nn or pls."),
    ] = None
    transductive: _Transductive = False
    resamples: Annotated[int, Ge(99), Doc("Resamples of what is split, for intervals.")] = 500
