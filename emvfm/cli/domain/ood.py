"""``emvfm domain ood``: are the images of other datasets outliers to a model of the first?"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import Opened, finish, open_blocked
from emvfm.studies.outlier_options import OutlierOptions

if TYPE_CHECKING:
    from emvfm.studies.domains import Domain
    from emvfm.studies.outliers import Parts, ScoredStudy

__all__ = ["ood", "register"]


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _file_name(number: int, name: str) -> str:
    return f"{number}-" + re.sub(r"[^A-Za-z0-9._+-]+", "_", name)[-60:]


def _comparison(studies: Sequence[ScoredStudy]) -> str:
    from emvfm.domain.detection import MEASURES

    measured = [
        f"{name}{end}" for name in (*MEASURES, "flagged", "false_alarms") for end in ("", "_low", "_high")
    ]
    header = [
        "layer",
        "scale",
        "score",
        "inside",
        "outside",
        "n_fit",
        "n_calibration",
        "n_inside",
        "n_outside",
    ]
    blocks = ["blocks_calibration", "blocks_inside", "blocks_outside", "threshold", "promised"]
    rows: list[list[Any]] = [[*header, *blocks, *measured]]
    for study in (found.study for found in studies):
        line = study.calibration
        for name, against in study.against.items():
            detection = against.detection
            values = [getattr(detection, m) for m in MEASURES] + [against.flagged, study.false_alarms]
            row = [
                study.layer,
                study.scale,
                study.score,
                study.inside,
                name,
                study.n_fit,
                line.n,
                *detection.n,
            ]
            row += [line.blocks, *detection.blocks, line.threshold, line.promised]
            rows.append(row + [number for v in values for number in (v.value, v.low, v.high)])
    return _csv(rows)


def _label(study: Any, several: bool) -> str:
    return f"{study.title}, {study.scale}" if several else study.title


def _figures(
    domains: Sequence[Domain], parts: Parts, studies: Sequence[ScoredStudy], config: OutlierOptions
) -> dict[str, bytes]:
    from emvfm.report import ood_figures
    from emvfm.studies.outliers import heat_maps

    own, others = domains[0], [domain.name for domain in domains[1:]]
    position = config.layer % len(own.embeddings.layers)
    shown = [s for s in studies if s.study.layer == own.embeddings.layers[position]]
    scales = list(dict.fromkeys(found.study.scale for found in shown))
    figures = {}
    for scale in scales:
        chosen = [found for found in shown if found.study.scale == scale]
        own_scores = [found.scores[own.name] for found in chosen]
        panels: list[dict[str, Any]] = [
            {
                "title": found.study.title,
                "fit": values[parts.rows("fit")],
                "test": values[parts.rows("test")],
                "outside": {name: found.scores[name] for name in others},
                "threshold": found.study.calibration.threshold,
                "promised": found.study.calibration.promised,
            }
            for found, values in zip(chosen, own_scores, strict=True)
        ]
        curves = [
            {
                "title": f"{own.name} against {name}",
                "curves": {p["title"]: (p["test"], p["outside"][name]) for p in panels},
            }
            for name in others
        ]
        ending = scale.replace(" ", "-")
        figures[f"figures/scores-{ending}.png"] = ood_figures.score_distributions(panels)
        figures[f"figures/roc-{ending}.png"] = ood_figures.outlier_roc(curves)
    rows = [
        {
            "label": _label(found.study, len(scales) > 1), "set": name, "value": auroc.value, "low": auroc.low,
            "high": auroc.high,
        }
        for found in shown
        for name in others
        for auroc in [found.study.against[name].detection.auroc]
    ]  # fmt: skip
    figures["figures/auroc.png"] = ood_figures.auroc_by_score(rows)
    if config.all_layers and len(own.embeddings.layers) > 1:
        panels = []
        for name in others:
            for scale in scales:
                lines: dict[str, list[float]] = {}
                for found in studies:
                    if found.study.scale == scale:
                        auroc = found.study.against[name].detection.auroc
                        lines.setdefault(found.study.title, []).append(auroc.value)
                title = f"{own.name} against {name}" + (f", {scale}" if len(scales) > 1 else "")
                panels.append({"title": title, "layers": list(own.embeddings.layers), "lines": lines})
        figures["figures/layers.png"] = ood_figures.auroc_by_layer(panels)
    if config.patches:
        first = next(found for found in shown if found.study.scale == "patch mean")
        maps = heat_maps(domains, parts, first, position, config.maps)
        measure = f"{first.study.title}, score of a patch"
        limits = ood_figures.heat_limits([row for drawn in maps.values() for row in drawn])
        for number, (name, drawn) in enumerate(maps.items()):
            figure = ood_figures.outlier_heat_maps(drawn, measure, limits)
            figures[f"figures/maps-{_file_name(number, name)}.png"] = figure
    return figures


def _table(studies: Sequence[ScoredStudy]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in (
        "score",
        "of",
        "block",
        "against",
        "AUROC",
        "AUPR out",
        "in",
        "FPR95 out",
        "in",
        "flagged",
    ):
        table.add_column(column)
    table.add_column("false alarms")
    for study in (found.study for found in studies):
        for name, against in study.against.items():
            found = against.detection
            table.add_row(
                study.title,
                study.scale,
                str(study.layer),
                escape(name),
                escape(found.auroc.text()),
                *(f"{getattr(found, m).value:.3f}" for m in ("aupr_out", "aupr_in", "fpr95_out", "fpr95_in")),
                f"{against.flagged.value:.3f}",
                f"{study.false_alarms.value:.3f}",
            )
    return table


def _reference(call: Call, config: OutlierOptions, opened: Opened) -> None:
    """Do as the reference does: one summary and one list of distances for each target (and layer)."""
    import json

    from rich.markup import escape
    from rich.table import Table

    from emvfm.domain.reference_outliers import DISTANCE_COLUMNS, REMARK, reference_outliers
    from emvfm.report.ood_figures import score_distributions
    from emvfm.studies.domains import chosen_layers

    domains = opened.domains
    own, layers = domains[0], chosen_layers(config, domains)
    results, panels, files = [], [], {}
    for layer in layers:
        inside = own.vectors(config, layer)
        for number, target in enumerate(domains[1:], start=1):
            found = reference_outliers(
                (own.name, target.name), inside, target.vectors(config, layer), quantile=config.quantile
            )
            samples = [(d.dataset.image_path(s), s) for d in (own, target) for s in d.embeddings.samples]
            rows = found.rows([str(path) for path, _ in samples], [sample.volume for _, sample in samples])
            summary = found.summary(rows)
            block = own.embeddings.layers[layer]
            several = f"{_file_name(number, target.name)}/block-{block}/"
            place = "" if len(layers) * len(domains) == 2 else several
            files[f"{place}summary.json"] = json.dumps(summary, indent=2, allow_nan=False) + "\n"
            files[f"{place}distances.csv"] = _csv([list(DISTANCE_COLUMNS), *(list(r.values()) for r in rows)])
            results.append({"layer": block, "distances": f"{place}distances.csv", **summary})
            n = found.n[0]
            outside = {"target": found.distances[n:]}
            panel = {"title": f"{target.name}, block {block}", "fit": found.distances[:n], "test": ()}
            panels.append({**panel, "outside": outside, "threshold": found.threshold, "promised": None})
    caption = f"Mahalanobis distance; dashed: {config.quantile:g} quantile of the fitted images; bar: median"
    figure = score_distributions(panels, caption)
    record = {"preset": "reference", "remark": REMARK, "results": results}
    table = Table(
        "target", "block", "n", "threshold", "flagged", "of the fitted", box=None, padding=(0, 2, 0, 0)
    )
    for row in results:
        table.add_row(
            escape(row["names"][1]),
            str(row["layer"]),
            f"{row['num_id']} + {row['num_target']}",
            f"{row['threshold']['value']:.4g}",
            f"{row['target_outlier_rate']:.3f}",
            f"{row['id_outlier_rate']:.3f}",
        )
    finish(
        call, "ood", config, opened, record, {**files, "figures/scores.png": figure},
        table,
        *(escape(row["verdict"]) for row in results),
        f"[yellow]{escape(REMARK)}[/]",
        detail=f"{inside.shape[1]} dimensions", blocked=False,
    )  # fmt: skip


def ood(
    call: Call,
    config: OutlierOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="The in-distribution dataset, then one or more others; name:split for one split.",
            autocompletion=complete_dataset,
        ),
    ],
) -> None:
    """Outlier scores of images (and patches) with a calibrated threshold, AUROC, AUPR and FPR95."""
    from rich.markup import escape

    from emvfm.studies.outliers import PROTOCOL, chosen_scores, parts_of, score_rows, study_domains

    chosen_scores(config)  # before anything is embedded
    opened = open_blocked(call, config, datasets)
    if config.preset == "reference":
        _reference(call, config, opened)
        return
    domains = opened.domains
    parts = parts_of(domains[0], config)
    studies = study_domains(domains, parts, config, console=call.console)
    own = domains[0].embeddings
    layer = own.layers[config.layer % len(own.layers)]
    first = next(s.study for s in studies if s.study.layer == layer)
    record = {
        "protocol": PROTOCOL,
        "parts": parts.to_json(),
        "seed": config.seed,
        "layer": layer,
        "results": [found.study.to_json() for found in studies],
        "verdict": first.verdict,
    }
    files: dict[str, bytes | str] = {
        "comparison.csv": _comparison(studies),
        "scores.csv": _csv(score_rows(domains, parts, studies)),
        **_figures(domains, parts, studies, config),
    }
    sizes = "; ".join(
        f"{part} {size['n']} images in {size['blocks']} blocks"
        for part, size in parts.to_json().items()
        if isinstance(size, dict) and size["n"]
    )
    finish(
        call, "ood", config, opened, record, files,
        _table(studies),
        *(escape(first.verdict_on(name)) for name in first.against),
        escape(first.calibration.verdict),
        *([f"[yellow]{escape(parts.remark)}[/]"] if parts.remark else []),
        f"[dim]{escape(f'{domains[0].name}: {sizes} ({parts.source})')}[/]",
        detail=f"{first.dimension} dimensions",
    )  # fmt: skip


def register(domain: typer.Typer) -> None:
    command(domain, "ood", OutlierOptions)(ood)
