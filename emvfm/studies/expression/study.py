"""The study behind ``bench expression``: spots, folds, models, heads, scores, and what must be said of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import UsageError
from emvfm.expression.counts import NORMALISATIONS
from emvfm.expression.crossvalidation import FoldPredictions, Model, cross_validate
from emvfm.expression.dependence import Reach, residual_reach
from emvfm.expression.folds import Fold
from emvfm.expression.regressors import HEADS, PRESETS, Head
from emvfm.expression.retrieval import RetrievalScore, score_retrieval
from emvfm.expression.scores import Scores, score_models, verdict
from emvfm.segmentation.comparison import holm
from emvfm.studies.bench.corrections import CorrectionPlan, plan_of
from emvfm.studies.expression.design import design_of
from emvfm.studies.expression.features import models_of
from emvfm.studies.expression.options import ExpressionOptions
from emvfm.studies.expression.spots import Spots, open_spots
from emvfm.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["HeadScores", "Study", "independent_units", "protocol", "run_study", "spoken"]


@dataclass(frozen=True)
class HeadScores:
    """All models with one head; ``1nn`` also as retrieval."""

    head: Head
    scores: Scores
    folds: tuple[FoldPredictions, ...]
    reach: Reach
    retrieval: tuple[RetrievalScore, ...] = ()


@dataclass(frozen=True)
class Study:
    """What was compared, and how it came out.

    Attributes
    ----------
    models
        The one in question first.
    blocks
        Of each spot.
    unit
        Usual distance of neighbours, in the unit of positions.
    group
        What was left out together: a fact, ``sections`` or ``strips``.
    correction
        Of all embeddings, fitted anew in every fold.
    """

    spots: Spots
    options: ExpressionOptions
    models: tuple[Model, ...]
    folds: tuple[Fold, ...]
    blocks: NDArray[np.intp]
    unit: float
    group: str
    heads: tuple[HeadScores, ...]
    correction: CorrectionPlan | None = None

    @property
    def question(self) -> Model:
        """The model in question."""
        return self.models[0]

    def to_json(self) -> dict[str, Any]:
        """Return the study as strict JSON types."""
        return {
            "task": "expression",
            "question": self.question.name,
            "models": [{"name": m.name, "kind": m.kind, "dimensions": _width(m)} for m in self.models],
            "n": len(self.spots),
            "seed": self.options.seed,
            "protocol": protocol(self),
            "folds": [
                {"name": f.name, "train": len(f.train), "test": len(f.test), "genes": list(_genes(self, i))}
                for i, f in enumerate(self.folds)
            ],
            "left_out": dict(self.spots.left_out),
            "correction": None if self.correction is None else self.correction.to_json(),
            "heads": [
                {
                    "head": each.head.to_json(),
                    "models": [score.to_json() for score in each.scores.models],
                    "differences": [difference.to_json() for difference in each.scores.differences],
                    "residuals": asdict(each.reach),
                    "retrieval": [score.to_json() for score in each.retrieval],
                }
                for each in self.heads
            ],
        }


def _width(model: Model) -> int:
    return 0 if model.features is None else int(model.features.shape[1])


def _genes(study: Study, fold: int) -> Sequence[str]:
    return [study.spots.genes[g] for g in study.heads[0].folds[fold].genes]


def protocol(study: Study) -> dict[str, Any]:
    """Return the rules by which the numbers were made."""
    options = study.options
    chosen = f"{options.genes} that vary most within training sections, detected in {options.detected:.0%}"
    return {
        "expression": NORMALISATIONS[options.transform],
        "genes": "named" if options.gene or options.gene_list else chosen,
        "left out": study.group,
        "correction": "none" if study.correction is None else study.correction.protocol,
        "correlation": "per gene over the tested spots of a fold; mean over genes, then folds; undefined ones counted",
        "interval": f"bootstrap of blocks within sections and of genes, {options.samples} draws, seed {options.seed}",
        "block": f"squares of {options.block:g} distances of neighbours ({options.block * study.unit:.4g})",
        "level": options.level,
    }


def heads_of(options: ExpressionOptions) -> list[Head]:
    """Return the heads that the options ask for."""
    if options.preset != "none":
        return [PRESETS[options.preset]]
    names = tuple(dict.fromkeys(options.head))
    if unknown := [name for name in names if name not in HEADS] or ([] if names else ["none"]):
        raise UsageError("no such head", where="--head", got=unknown[0], expected=", ".join(HEADS))
    alpha: Any = "inner" if options.alpha is None else options.alpha
    return [
        Head(HEADS[name], alpha=alpha, k=options.k, components=options.components, pca=options.pca)
        for name in names
    ]


def _settled(options: ExpressionOptions) -> ExpressionOptions:
    """Return the options with the preset's normalisation in them."""
    if options.preset == "none":
        return options
    if options.alpha is not None:
        raise UsageError("the preset has its own penalty", where="--alpha", got=options.alpha)
    # What HEST's code does; its text promises totals.
    return replace(options, transform="log1p") if options.transform == "log1p-total" else options


def _pairs(models: Sequence[Model]) -> list[tuple[str, str]]:
    """Return the model in question against each other one, but for what is no rival."""
    first = models[0]
    return [(first.name, m.name) for m in models[1:] if m.kind not in ("circular", "permuted")]


def spoken(model: Model) -> str:
    """Return what a model is called in a sentence."""
    short = {
        "backbone": "this backbone",
        "untrained": "its untrained twin",
        "pixel": "statistics of pixels",
        "mean": "the mean of training",
    }
    seed = re.search(r"seed (\d+)", model.name) if model.kind == "untrained" else None
    return short.get(model.kind, model.name) + (f" (seed {seed[1]})" if seed else "")


def _corrected(scores: Scores, models: Sequence[Model]) -> Scores:
    """Return the scores with Holm's correction for their differences, and verdicts that know of it."""
    known = [d.p_value for d in scores.differences if np.isfinite(d.p_value)]
    raised = iter(holm(known) if known else [])
    of = {model.name: spoken(model) for model in models}
    first = of[models[0].name] if models[0].kind == "backbone" else models[0].name
    differences = []
    for d in scores.differences:
        p = float(next(raised)) if np.isfinite(d.p_value) else d.p_value
        differences.append(replace(d, p_holm=p, verdict=verdict(first, of[d.second], d.estimate, p)))
    return replace(scores, differences=tuple(differences))


def run_study(
    reference: str, options: ExpressionOptions, workspace: Workspace, *, console: Console | None = None
) -> Study:
    """Predict the expression of spots by the backbone and by what it must beat, and compare them.

    Raises
    ------
    EmvfmError
        See :func:`~emvfm.studies.expression.spots.open_spots`, and the folds, genes and heads.
    """
    options = _settled(options)
    heads = heads_of(options)
    spots = open_spots(workspace, reference, options)
    plan = plan_of(spots.facts, len(spots), options)
    if plan is not None and spots.dataset is None:
        raise UsageError("no embeddings to correct", where="--correct", got=reference, expected="a dataset")
    design = design_of(spots, options, options.group)
    if options.cell_type is not None:
        spots.column(options.cell_type, "--cell-type")  # before images are embedded
    unit, blocks, folds, group = design.unit, design.blocks, design.folds, design.group
    models = models_of(spots, options, workspace, console=console)
    models = _named_apart(models)
    found = []
    for head in heads:
        predicted = cross_validate(
            models, spots.expression, folds, spots.sections, blocks, head, design.choose,
            prepare=None if plan is None else lambda x, tested: plan.fit(x, tested)[0], seed=options.seed,
        )  # fmt: skip
        scores = score_models(
            models, predicted, spots.genes, spots.sections, blocks, _pairs(models), samples=options.samples,
            level=options.level, seed=options.seed,
        )  # fmt: skip
        reach = residual_reach(predicted, models[0].name, spots.x, spots.y, spots.sections, unit)
        retrieval: tuple[RetrievalScore, ...] = ()
        if head.name == "1nn":
            names = [model.name for model in models if model.features is not None]
            retrieval = score_retrieval(
                names, predicted, spots.sections, blocks, samples=options.samples, level=options.level,
                seed=options.seed,
            )  # fmt: skip
        found.append(HeadScores(head, _corrected(scores, models), predicted, reach, retrieval))
    return Study(spots, options, tuple(models), folds, blocks, unit, group, tuple(found), plan)


def _named_apart(models: Sequence[Model]) -> list[Model]:
    """Return the models with a number behind a name that is there before."""
    counts: Counter[str] = Counter()
    named = []
    for model in models:
        counts[model.name] += 1
        again = counts[model.name]
        named.append(model if again == 1 else replace(model, name=f"{model.name} ({again})"))
    return named


def independent_units(study: Study) -> Mapping[str, int] | None:
    """Return how many sections each truly independent unit has, None where that is not said."""
    facts = study.spots.facts
    if study.options.unit not in facts or not all(facts[study.options.unit]):
        return None
    pairs = set(zip(facts[study.options.unit], study.spots.sections, strict=True))
    return dict(sorted(Counter(unit for unit, _ in pairs).items()))
