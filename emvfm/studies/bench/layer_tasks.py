"""The tasks that a layer can be chosen by: retrieval, relations, labels, expression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emvfm.errors import RefusedError, UsageError
from emvfm.localization.crossvalidation import cross_validate
from emvfm.localization.folds import make_folds
from emvfm.localization.options import HeadOptions, ProtocolOptions
from emvfm.representations.pairing import find_column, labels_of, rows_where
from emvfm.representations.ranking import rank_queries
from emvfm.representations.relations import pair_percentiles, tail_shares, unique_pairs
from emvfm.studies.bench.corrections import plan_of
from emvfm.studies.bench.layer_expression import expression_task
from emvfm.studies.bench.layer_task import ItemTask, LayerTask
from emvfm.studies.bench.options import LayersOptions
from emvfm.studies.bench.preparation import aggregated
from emvfm.studies.bench.relations import named_relations
from emvfm.studies.bench.retrieval import paired, settled
from emvfm.studies.profiles import Profiles

__all__ = ["HEADS", "TASKS", "WITHIN_FOLDS", "task_of"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


def _folds_of(values: Sequence[str], k: int, seed: int) -> tuple[Rows, Rows]:
    """Return the fold and the number of each value's unit; empty values are fold -1.

    Units are dealt out at random, the largest first, each to the fold that has the fewest rows.
    """
    names, number, counts = np.unique(np.asarray(values, str), return_inverse=True, return_counts=True)
    known = np.flatnonzero(names != "")
    if len(known) < k:
        raise RefusedError(
            "too few values to leave some out",
            where="--split",
            got=len(known),
            expected=f"{k} or more",
            todo="lower --folds",
        )
    order = np.random.default_rng(seed).permutation(known)
    order = order[np.argsort(-counts[order], kind="stable")]
    fold_of, load = np.full(len(names), -1, np.intp), np.zeros(k)
    for name in order:
        fold_of[name] = int(load.argmin())
        load[fold_of[name]] += counts[name]
    return fold_of[number], number


def _mean(scores: Floats, weights: Floats) -> float:
    known = np.isfinite(scores) & (weights > 0)
    return float(scores[known] @ weights[known] / weights[known].sum()) if known.any() else float("nan")


def _retrieve(profiles: Profiles, options: LayersOptions) -> ItemTask:
    rows, chosen = settled(profiles, options)
    assert isinstance(chosen, LayersOptions)
    pairing, group, labels = paired(rows, chosen)
    asked = np.ones(len(rows), bool)
    if chosen.queries is not None:
        asked = rows_where(rows.facts, chosen.queries, "--queries")
    queries = np.flatnonzero(asked[pairing.rows(np.arange(pairing.n_queries))])
    split = find_column(rows.facts, chosen.split or group, "--split")
    row_fold, row_unit = _folds_of(
        [value if own else "" for value, own in zip(rows.facts[split], asked, strict=True)],
        chosen.folds,
        chosen.seed,
    )
    own_rows = pairing.rows(queries)
    inside = row_fold[own_rows] >= 0
    queries, own_rows = queries[inside], own_rows[inside]
    ranking = rank_queries(rows.features, pairing, queries=queries, ks=(1,))
    groups = np.unique([labels[query] for query in queries], return_inverse=True)[1]

    def evaluate(own: Profiles) -> Floats:
        return rank_queries(
            settled(own, options)[0].features, pairing, queries=queries, ks=(1,)
        ).average_precision

    def choose(own: Profiles, fold: int) -> float:
        kept = settled(own, options)[0].take(np.flatnonzero(row_fold != fold))
        part, _, part_labels = paired(kept, chosen)
        ask = np.arange(part.n_queries)
        if chosen.queries is not None:
            ask = ask[rows_where(kept.facts, chosen.queries, "--queries")[part.rows(ask)]]
        found = rank_queries(kept.features, part, queries=ask, ks=(1,))
        own_groups = np.unique([part_labels[query] for query in ask], return_inverse=True)[1]
        return _over_groups(found.average_precision, np.ones(len(ask)), own_groups)

    return ItemTask(
        metric="mAP",
        chance=_over_groups(ranking.expected, np.ones(len(queries)), groups),
        fold=row_fold[own_rows],
        unit=row_unit[own_rows],
        unit_name=split,
        evaluate=evaluate,
        choose=choose,
        summarise=lambda scores, weights: _over_groups(scores, weights, groups),
    )


def _over_groups(scores: Floats, weights: Floats, groups: Rows) -> float:
    """Return the mean over groups of the mean of their items, as `bench retrieve` has it; one drawn twice counts twice."""
    known = np.isfinite(scores)
    total = np.bincount(groups[known], (weights * np.nan_to_num(scores))[known], minlength=groups.max() + 1)
    size = np.bincount(groups[known], weights[known], minlength=groups.max() + 1)
    plain = np.bincount(groups[known], minlength=groups.max() + 1)
    own = size > 0
    share = size[own] / plain[own]
    return float((total[own] / size[own]) @ share / share.sum()) if own.any() else float("nan")


def _relate(profiles: Profiles, options: LayersOptions) -> ItemTask:
    if options.entity is None:
        raise UsageError("no column of entities", where="--entity", todo="name it, such as --entity gene")
    if options.split is not None:
        raise UsageError("relations are split by entity", where="--split", got=options.split)
    entity = find_column(profiles.facts, options.entity, "--entity")
    entities = aggregated(profiles, [entity])
    relations = named_relations(entities, options)
    known = unique_pairs(entities.ids, relations)
    pairs = np.array(
        sorted({tuple(pair) for own in known.values() for pair in own.tolist()}), np.intp
    ).reshape(-1, 2)
    if len(np.unique(pairs)) < options.least:
        raise UsageError(
            "too few entities in known pairs",
            where="--relations",
            got=len(np.unique(pairs)),
            expected=options.least,
        )
    related = set(np.unique(pairs).tolist())
    names = [name if i in related else "" for i, name in enumerate(entities.ids)]
    fold, _ = _folds_of(names, options.folds, options.seed)
    share = min(options.ends)

    def scores(own: Profiles, wanted: Rows) -> Floats:
        low, high = pair_percentiles(own.features, wanted)
        left, right = tail_shares(low, high, share / 2, 1 - share / 2)
        return left + right

    def evaluate(own: Profiles) -> Floats:
        return np.tile(scores(aggregated(own, [entity]), pairs), 2)

    def choose(own: Profiles, left_out: int) -> float:
        kept = np.flatnonzero(fold != left_out)
        place = np.full(len(fold), -1, np.intp)
        place[kept] = np.arange(len(kept))
        inner = place[pairs]
        inner = inner[(inner >= 0).all(axis=1)]
        return (
            float(scores(aggregated(own, [entity]).take(kept), inner).mean()) if len(inner) else float("nan")
        )

    return ItemTask(
        metric=f"recall in {share:g} of pairs",
        chance=share,
        # A pair is an item of the folds of both its entities.
        fold=np.concatenate([fold[pairs[:, 0]], fold[pairs[:, 1]]]),
        unit=np.concatenate([pairs[:, 0], pairs[:, 1]]),
        unit_name=entity,
        evaluate=evaluate,
        choose=choose,
        summarise=_mean,
    )


def _localize(profiles: Profiles, options: LayersOptions) -> ItemTask:
    column = find_column(profiles.facts, options.labels, "--labels")
    cells = [labels_of(cell) for cell in profiles.facts[column]]
    if options.split is None:
        raise UsageError(
            "no column whose rows belong together",
            where="--split",
            todo="name it, such as --split protein or --split well",
        )
    split = find_column(profiles.facts, options.split, "--split")
    owners = profiles.facts[split]
    kept = np.array([i for i, own in enumerate(cells) if own and owners[i]], np.intp)
    names = sorted({label for i in kept for label in cells[i]})
    if len(names) < 2:
        raise UsageError("fewer than two labels", where="--labels", got=", ".join(names) or column)
    truth = np.array([[name in cells[i] for name in names] for i in kept])
    groups = np.array([owners[i] for i in kept])
    single = bool((truth.sum(axis=1) == 1).all())
    head = HeadOptions(
        head="knn" if options.head == "knn" else "logreg", single=single, patience=0,
        neighbours=min(10, max(1, len(kept) // 8)),
    )  # fmt: skip
    plan = plan_of(profiles.facts, len(profiles), options)
    protocol = ProtocolOptions(folds=options.folds, thresholds="fixed", seed=options.seed)
    folds = make_folds(truth, groups, k=options.folds, seed=options.seed)
    inner_protocol = replace(protocol, folds=min(3, options.folds))

    def decided(
        features: NDArray[np.float32],
        own_truth: NDArray[np.bool_],
        own_groups: NDArray[np.str_],
        **how: object,
    ) -> Floats:
        found = cross_validate(features, own_truth, own_groups, head, **how)  # type: ignore[arg-type]
        order = np.argsort(found.predictions.unit, kind="stable")
        return _outcomes(own_truth, found.predictions.decided[order])

    def evaluate(own: Profiles) -> Floats:
        prepare = None if plan is None else plan.within(own.features, kept)
        return decided(own.features[kept], truth, groups, protocol=protocol, folds=folds, prepare=prepare)

    def choose(own: Profiles, fold: int) -> float:
        rest = np.flatnonzero(folds.fold != fold)
        features, rows = own.features, kept[rest]
        prepare = None if plan is None else plan.within(features, rows, kept[folds.fold == fold])
        found = decided(features[rows], truth[rest], groups[rest], protocol=inner_protocol, prepare=prepare)
        return _macro_f1(found, np.ones(len(rest)))

    return ItemTask(
        metric="macro F1",
        chance=None,
        fold=np.asarray(folds.fold, np.intp),
        unit=np.unique(groups, return_inverse=True)[1],
        unit_name=split,
        evaluate=evaluate,
        choose=choose,
        summarise=_macro_f1,
    )


def _outcomes(truth: NDArray[np.bool_], decided: NDArray[np.bool_]) -> Floats:
    """Return ``(rows, labels, 3)``: true positives, false positives and false negatives."""
    return np.stack([truth & decided, ~truth & decided, truth & ~decided], axis=-1).astype(np.float64)


def _macro_f1(outcomes: Floats, weights: Floats) -> float:
    """Return the mean F1 of the labels that occur."""
    hits, false, missed = np.moveaxis(np.tensordot(weights, outcomes, axes=1), -1, 0)
    occurs = hits + missed > 0
    f1 = 2 * hits / np.maximum(2 * hits + false + missed, 1e-300)
    return float(f1[occurs].mean()) if occurs.any() else float("nan")


TASKS: dict[str, Callable[[Profiles, LayersOptions], LayerTask]] = {
    "retrieve": _retrieve,
    "relate": _relate,
    "localize": _localize,
    "expression": expression_task,
}
#: What may learn from training rows, the usual one first.
HEADS = {"localize": ("logreg", "knn"), "expression": ("ridge", "1nn", "knn", "pls")}


#: Tasks that correct rows anew in every fold; the others have no tested rows, only queries and candidates.
WITHIN_FOLDS = tuple(HEADS)


def task_of(profiles: Profiles, options: LayersOptions) -> LayerTask:
    """Return the task of the options on these rows, of which only the facts matter.

    Raises
    ------
    UsageError, RefusedError
        What the task lacks, in one line.
    """
    heads = HEADS.get(options.task, ())
    if options.head is not None and options.head not in heads:
        raise UsageError(
            "not a head of this task", where="--head", got=f"{options.head} with --task {options.task}",
            expected=", ".join(heads) or "none",
        )  # fmt: skip
    if options.transductive and (options.task not in WITHIN_FOLDS or options.correct == "none"):
        raise UsageError(
            "nothing is corrected within folds", where="--transductive",
            got=f"--task {options.task} --correct {options.correct}",
            expected=f"--task {' or '.join(WITHIN_FOLDS)}, and a correction",
        )  # fmt: skip
    return TASKS[options.task](profiles, options)
