"""What a study of expression leaves behind: tables, remarks, pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.expression.correlation import pearson
from emvfm.expression.scores import ModelScore
from emvfm.studies.expression.study import HeadScores, Study, independent_units

__all__ = ["files_of", "provenance_of", "remarks_of", "table_of"]


def _csv(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(
        ["" if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in row] for row in rows
    )
    return text.getvalue()


def _models_csv(study: Study) -> str:
    folds = [fold.name for fold in study.folds]
    names = ["head", "model", "kind", "pearson", "low", "high", "pearson_sections", "spearman", "skill", "skill_low",
             "skill_high", "pearson_spots", "undefined", "correlations", *(f"pearson_{name}" for name in folds)]  # fmt: skip
    rows = [
        [each.head.name, m.name, m.kind, m.pearson.value, m.pearson.low, m.pearson.high, m.pearson_sections,
         m.spearman, m.skill.value, m.skill.low, m.skill.high, m.pearson_spots, m.undefined, m.correlations, *m.folds]
        for each in study.heads for m in each.scores.models
    ]  # fmt: skip
    return _csv(names, rows)


def _differences_csv(study: Study) -> str:
    names = [
        "head",
        "first",
        "second",
        "metric",
        "difference",
        "low",
        "high",
        "genes",
        "of",
        "p",
        "p_holm",
        "verdict",
    ]
    rows = [
        [each.head.name, d.first, d.second, d.metric, d.estimate.value, d.estimate.low, d.estimate.high, *d.genes,
         d.p_value, d.p_holm, d.verdict]
        for each in study.heads for d in each.scores.differences
    ]  # fmt: skip
    return _csv(names, rows)


def _genes_csv(study: Study) -> str:
    names = ["head", "fold", "model", "gene", "pearson", "spearman", "skill"]
    return _csv(names, ([e.head.name, *row.values()] for e in study.heads for row in e.scores.genes))


def _retrieval_csv(study: Study) -> str:
    names = [
        "head",
        "model",
        "found",
        "low",
        "high",
        "blind",
        "best",
        "share",
        "share_low",
        "share_high",
        "undefined",
    ]
    rows = [
        [each.head.name, r.name, r.found.value, r.found.low, r.found.high, r.blind, r.best, r.share.value, r.share.low,
         r.share.high, r.undefined]
        for each in study.heads for r in each.retrieval
    ]  # fmt: skip
    return _csv(names, rows)


def _ids(study: Study) -> list[str]:
    """Return a name for each spot: that of its sample, else its section and its own."""
    facts = study.spots.facts
    if "id" in facts and len(set(facts["id"])) == len(study.spots):
        return list(facts["id"])
    names = facts.get(study.options.spot) or tuple(map(str, range(len(study.spots))))
    return [f"{section}/{name}" for section, name in zip(study.spots.sections, names, strict=True)]


def _by_spot(study: Study, each: HeadScores, model: str | None) -> str:
    """Return predicted (or, without a model, measured) expression: a row a spot, a column a gene.

    ``group`` is the block that is drawn as a whole. A gene that was not chosen in a fold is empty there.
    """
    genes = sorted({int(g) for fold in each.folds for g in fold.genes})
    column = {gene: i for i, gene in enumerate(genes)}
    ids, rows = _ids(study), []
    for fold in each.folds:
        table = fold.measured if model is None else fold.predicted[model].values
        places = [column[int(gene)] for gene in fold.genes]
        for spot, values in zip(fold.fold.test.tolist(), table, strict=True):
            cells = [""] * len(genes)
            for place, value in zip(places, values.tolist(), strict=True):
                cells[place] = f"{value:.6g}"
            rows.append(
                [ids[spot], f"{study.spots.sections[spot]}#{study.blocks[spot]}", fold.fold.name, *cells]
            )
    return _csv(["id", "group", "fold", *(study.spots.genes[gene] for gene in genes)], rows)


def _predictions(study: Study) -> dict[str, str]:
    first = study.heads[0]
    files = {"measured.csv": _by_spot(study, first, None)}
    for number, model in enumerate(study.models, 1):
        files[f"predictions/{number}-{model.kind}.csv"] = _by_spot(study, first, model.name)
    return files


def files_of(study: Study) -> dict[str, bytes | str]:
    """Return tables and figures by path."""
    from emvfm.report.expression_figures import expression_maps, gene_correlations, model_scores

    files: dict[str, bytes | str] = {
        "models.csv": _models_csv(study),
        "differences.csv": _differences_csv(study),
        "genes.csv": _genes_csv(study),
        **_predictions(study),
    }
    if any(each.retrieval for each in study.heads):
        files["retrieval.csv"] = _retrieval_csv(study)
    folds = [fold.name for fold in study.folds]
    panels = [{"title": e.head.name, "models": [_drawn(m) for m in e.scores.models]} for e in study.heads]
    files["figures/models.png"] = model_scores(
        panels, folds, "Pearson correlation per gene, mean over genes and folds"
    )
    for each in study.heads:
        rivals = _rivals(study, each)
        if rivals and _by_gene(each, study.question.name):
            files[f"figures/genes-{each.head.name}.png"] = gene_correlations(
                study.question.name, _by_gene(each, study.question.name), rivals
            )
    files["figures/maps.png"] = expression_maps(_maps(study), study.question.name)
    return files


def _drawn(score: ModelScore) -> dict[str, Any]:
    return {
        "name": score.name, "kind": score.kind, "value": score.pearson.value, "low": score.pearson.low,
        "high": score.pearson.high, "folds": score.folds,
    }  # fmt: skip


def _by_gene(each: HeadScores, model: str) -> dict[str, float]:
    """Return the mean over folds of each gene's correlation."""
    found: dict[str, list[float]] = {}
    for row in each.scores.genes:
        if row["model"] == model and row["pearson"] is not None:
            found.setdefault(row["gene"], []).append(row["pearson"])
    return {gene: float(np.mean(values)) for gene, values in found.items()}


def _rivals(study: Study, each: HeadScores) -> list[dict[str, Any]]:
    """Return each gene's correlation by the rivals; untrained twins are one, the mean of their seeds."""
    kinds = ("pixel", "structure", "confound")
    twins = [_by_gene(each, m.name) for m in study.models[1:] if m.kind == "untrained"]
    mean = {
        gene: float(np.mean([twin[gene] for twin in twins]))
        for gene in (twins[0] if twins else ())
        if all(gene in twin for twin in twins)
    }
    name = "its untrained twin" if len(twins) == 1 else f"untrained twins, mean of {len(twins)} seeds"
    rivals = [{"name": name, "kind": "untrained", "genes": mean}]
    rivals += [
        {"name": m.name, "kind": m.kind, "genes": _by_gene(each, m.name)}
        for m in study.models[1:]
        if m.kind in kinds
    ]
    return [rival for rival in rivals if rival["genes"]]


def _maps(study: Study) -> list[dict[str, Any]]:
    """Return measured and predicted expression of the best and the middle gene of each fold, for at most four."""
    spots, found = study.spots, []
    for fold in study.heads[0].folds[:4]:
        values = fold.predicted[study.question.name].values
        scores = pearson(values, fold.measured)
        order = np.argsort(np.where(np.isfinite(scores), scores, -np.inf))
        sections = np.asarray(spots.sections)[fold.fold.test]
        section = np.unique(sections)[0]
        own = sections == section
        rows = fold.fold.test[own]
        for place in dict.fromkeys((int(order[-1]), int(order[len(order) // 2]))):
            r = float(pearson(values[own][:, [place]], fold.measured[own][:, [place]])[0])
            found.append(
                {"section": str(section), "gene": spots.genes[fold.genes[place]], "x": spots.x[rows], "y": spots.y[rows],
                 "measured": fold.measured[own, place], "predicted": values[own, place], "pearson": r}
            )  # fmt: skip
    return found


def _number(value: float | None, sign: bool = False) -> str:
    return "—" if value is None or math.isnan(value) else f"{value:{'+' if sign else ''}.3f}"


def table_of(study: Study) -> Any:
    """Return all models under all heads as a Rich table."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    level = f"{study.options.level:.0%}"
    names = [
        "head",
        "model",
        f"Pearson, {level}",
        "within sections",
        "Spearman",
        "skill",
        "over genes",
        "undefined",
    ]
    for column in names:
        table.add_column(column)
    for each in study.heads:
        for m in each.scores.models:
            between = "" if m.pearson.low is None else f" [{m.pearson.low:.3f}, {m.pearson.high:.3f}]"
            cells = [
                each.head.name, m.name, _number(m.pearson.value) + between, _number(m.pearson_sections),
                _number(m.spearman), _number(m.skill.value, True), _number(m.pearson_spots),
                f"{m.undefined} of {m.correlations}" if m.undefined else "0",
            ]  # fmt: skip
            bold = "[bold]" if m.name == study.question.name else ""
            table.add_row(*(bold + escape(cell) for cell in cells))
    return table


def _said_of_units(study: Study) -> list[str]:
    units, folds = independent_units(study), len(study.folds)
    sections = len(set(study.spots.sections))
    if sections == 1:
        return ["one section: what is left out is part of it, so nothing is said of another section"]
    if units is None:
        return [f"{sections} sections; no fact {study.options.unit!r} says which are independent"]
    listed = ", ".join(f"{name} ({n} section{'s' * (n > 1)})" for name, n in units.items())
    said = f"{len(units)} independent units of {study.options.unit}: {listed}"
    if len(units) < folds:
        said += f"; {folds} folds are not {folds} independent tests, and intervals hold for these sections"
    elif len(units) < 6:
        said += (
            "; too few for an interval over them: intervals hold for these sections, not for other patients"
        )
    return [said]


def _said_of_head(study: Study, each: HeadScores) -> list[str]:
    said = [f"{each.head.name}: {d.verdict}" for d in each.scores.differences]
    for m in each.scores.models:
        low, high = m.pearson.low, m.pearson.high
        if m.kind == "permuted" and low is not None and high is not None and not low <= 0 <= high:
            said.append(f"{each.head.name}: exchanged expression does not score 0 but {m.pearson.value:+.3f}")
        if m.undefined and m.kind != "mean":
            said.append(
                f"{each.head.name}, {m.name}: {m.undefined} of {m.correlations} correlations are undefined, as the "
                "prediction or the expression does not vary; they count in no mean"
            )
    said += [
        f"{each.head.name}, {r.name}: a spot and its nearest training spot correlate at {r.found.value:.3f} over genes; "
        f"any spot at {r.blind:.3f}, the best at {r.best:.3f}: {r.share.value:.1%} of what retrieval could give"
        for r in each.retrieval
        if r.name == study.question.name
    ]
    ends = [m.name for m in each.scores.models if any(c.get("at_end") for c in m.chosen)]
    if ends:
        said.append(f"{each.head.name}: a penalty at the end of its range was chosen for {', '.join(ends)}")
    reach = each.reach.reach
    if reach is None or 2 * reach > study.options.block:
        over = f"{reach:g}" if reach is not None else f"more than {each.reach.distances[-1]:g}"
        said.append(
            f"{each.head.name}: errors resemble each other over {over} distances of neighbours and blocks are "
            f"{study.options.block:g}: intervals are too narrow; a larger --block gives fewer blocks"
        )
    return said


def _of_depth(study: Study) -> float:
    """Return how the logarithm of a spot's counts correlates with the genes predicted: mean over genes, then folds."""
    depth = np.log(np.maximum(study.spots.depth, 1))
    folds = []
    for fold in study.heads[0].folds:
        own = np.repeat(depth[fold.fold.test][:, None], len(fold.genes), axis=1)
        found = pearson(own, fold.measured)
        folds.append(float(np.nanmean(found)) if np.isfinite(found).any() else math.nan)
    return float(np.nanmean(folds)) if np.isfinite(folds).any() else math.nan


def remarks_of(study: Study) -> list[str]:
    """Return the verdicts, and what to keep in mind."""
    said = [line for each in study.heads for line in _said_of_head(study, each)]
    if study.correction is not None:
        said.append(f"embeddings are corrected: {study.correction.protocol}")
    said += _said_of_units(study)
    said.append(
        "skill: 1 - squared error / that of the mean of training, which has no correlation as it is constant"
    )
    sections = sorted(set(study.spots.sections))
    depths = {s: float(np.median(study.spots.depth[np.asarray(study.spots.sections) == s])) for s in sections}
    if len(depths) > 1 and max(depths.values()) > 3 * min(depths.values()) > 0:
        low, high = min(depths, key=depths.__getitem__), max(depths, key=depths.__getitem__)
        said.append(f"depth differs: {depths[low]:.0f} counts a spot in {low}, {depths[high]:.0f} in {high}")
    of_depth = _of_depth(study)
    if of_depth > 0.2:
        said.append(
            f"the counts of a spot alone (log) correlate with the genes at {of_depth:.2f}: what tells how much tissue "
            "there is scores well here; --transform log1p-total divides it out"
        )
    if study.options.cell_type is not None:
        said.append(
            "types of cells may have been called from these very genes: then whatever knows types is circular, and "
            "the cell's own type is no rival"
        )
    said += [f"{count} spots left out: {reason}" for reason, count in study.spots.left_out.items()]
    return said


def provenance_of(study: Study) -> Mapping[str, str]:
    """Return digests of what was read and of the features of every model."""
    features = {
        m.name: hashlib.sha256(np.ascontiguousarray(m.features).tobytes()).hexdigest()
        for m in study.models
        if m.features is not None
    }
    return {**study.spots.sources, **features}
