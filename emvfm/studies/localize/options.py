"""The options of ``bench localize``, light enough for the command line to import."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from emvfm.config import Doc
from emvfm.localization.options import HeadOptions, ProtocolOptions, preset
from emvfm.studies.bench.options import FoldCorrectionOptions
from emvfm.studies.profiles import ProfileOptions

__all__ = ["PANELS", "LocalizeOptions", "TaskOptions", "head_of", "protocol_of", "settle_preset"]


@dataclass(frozen=True)
class TaskOptions:
    """What is predicted, of which rows, and who is tested."""

    labels: Annotated[str, Doc("Fact with the labels of a row, several parted by ';'.")] = "label"
    group: Annotated[
        str | None, Doc("Fact whose rows stay on one side of a split; without it protein, if there is one.")
    ] = None
    unit: Annotated[str | None, Doc("Fact that joins rows to what --level unit scores, such as field.")] = (
        None
    )
    unknown: Annotated[
        tuple[str, ...], Doc("Label that says nothing is known; such rows are left out. Repeatable.")
    ] = ()
    label_table: Annotated[
        Path | None, Doc("CSV with one label a row, found by the group instead of in a fact.")
    ] = None
    label_key: Annotated[str | None, Doc("Column of --label-table with the group; else named as it is.")] = (
        None
    )
    grades: Annotated[str | None, Doc("Fact or column with the grade of each label.")] = None
    grade: Annotated[float, Doc("Least grade that counts, with --grades.")] = 1.0
    label_map: Annotated[
        tuple[Path, ...],
        Doc(
            "Labels in the words of another space: hpa-to-opencell, kaggle-hpa, or a CSV of label, other label. What "
            "has no target is dropped and listed. Repeatable, one after another."
        ),
    ] = ()
    min_count: Annotated[int, Ge(1), Doc("Groups that must have a label for it to be a class.")] = 1
    train_split: Annotated[tuple[str, ...], Doc("Split to learn from, instead of folds; repeatable.")] = ()
    test_split: Annotated[tuple[str, ...], Doc("Split to test, instead of folds; repeatable.")] = ()
    split_by: Annotated[
        str | None,
        Doc(
            "FACT=VALUE,VALUE tests the rows with these values; FACT alone leaves each of its values out in turn."
        ),
    ] = None


Score = Literal[
    "macro_f1_present", "macro_f1_all", "micro_f1", "weighted_f1", "samples_f1", "exact_match", "macro_ap",
    "micro_ap", "ranking_ap", "macro_auroc",
]  # fmt: skip


_Backbones = Annotated[
    tuple[str, ...],
    Doc("Name of `backbones list`, or NAME,option=value,… for options of its own; repeatable."),
]


_Ways = Annotated[
    tuple[str, ...],
    Doc(
        "How channels are given to a backbone, one run each: replicate, map, random-map, mean, bag; repeatable. "
        "Baselines take them all as they are."
    ),
]


@dataclass(frozen=True)
class LocalizeOptions(TaskOptions, HeadOptions, ProtocolOptions, FoldCorrectionOptions, ProfileOptions):
    """How ``bench localize`` embeds, learns and tests.

    `backbone` holds several, each of them a name with options of its own: ``dinov2,weights=FILE,input_size=224``;
    `channels` several ways, each of which goes with each backbone.
    """

    # One ProfileOptions a member is made of these, see `members_of`.
    backbone: _Backbones = ("dinov2",)  # type: ignore[assignment]
    channels: _Ways = ()  # type: ignore[assignment]
    preset: Annotated[
        Literal["default", "dino4cells", "subcell", "knn"],
        Doc("Head and protocol of a peer, for every option left at its default."),
    ] = "default"
    share: Annotated[
        tuple[float, ...], Doc("Also learn from this share of the training groups, in (0, 1); repeatable.")
    ] = ()
    score: Annotated[Score, Doc("What runs are compared by, and the curve of --share.")] = "macro_f1_present"
    samples: Annotated[int, Ge(100), Doc("Draws of groups for intervals.")] = 1000
    against: Annotated[str | None, Doc("Run to compare the others with, else all pairs.")] = None
    panels: Annotated[int, Ge(0), Le(24), Doc("Images to show with truth and prediction.")] = 6
    coverage: Annotated[float, Gt(0.5), Le(0.999), Doc("Of intervals.")] = 0.95
    seed: int = 0


def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))


#: Order and titles of the options in the help.
PANELS = {
    "What is predicted": _names(TaskOptions),
    "Protocol": (
        *("preset", "score", "share", "samples", "coverage", "against", "panels"),
        *(name for name in _names(ProtocolOptions) if name != "seed"),
    ),
    "Head": _names(HeadOptions),
    "Correction": _names(FoldCorrectionOptions),
    "Embeddings": tuple(name for name in _names(ProfileOptions) if name != "seed"),
}


def _part(config: LocalizeOptions, kind: type) -> Any:
    return kind(**{name: getattr(config, name) for name in _names(kind)})


def head_of(config: LocalizeOptions) -> HeadOptions:
    """Return the options of the head alone."""
    found: HeadOptions = _part(config, HeadOptions)
    return found


def protocol_of(config: LocalizeOptions) -> ProtocolOptions:
    """Return the options of the protocol alone."""
    found: ProtocolOptions = _part(config, ProtocolOptions)
    return found


def settle_preset(config: LocalizeOptions) -> LocalizeOptions:
    """Return the options with the preset in place of what was left at its default."""
    if config.preset == "default":
        return config
    head, protocol = preset(config.preset)
    changed: dict[str, Any] = {}
    for kind, wanted in ((HeadOptions, head), (ProtocolOptions, protocol)):
        for f in fields(kind):
            if getattr(config, f.name) == f.default:
                changed[f.name] = getattr(wanted, f.name)
    return replace(config, **changed)
