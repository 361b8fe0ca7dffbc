"""The tables of a study as CSV, Markdown and LaTeX, and as the files of the reference system."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emvfm.backbones.registry import find_spec
from emvfm.segmentation.evaluation_files import csv_text
from emvfm.segmentation.metrics import Counts
from emvfm.segmentation.recipe import UNET
from emvfm.studies.grid.answers import number
from emvfm.studies.grid.results import Row
from emvfm.studies.grid.summary import Arm, Compared, Summary

__all__ = [
    "arm_rows", "comparison_rows", "latex", "markdown", "reference_runs", "reference_summary", "run_rows",
    "summary_files",
]  # fmt: skip

_SIZES = {
    "S": "small",
    "S+": "small_plus",
    "B": "base",
    "L": "large",
    "H": "huge",
    "H+": "huge_plus",
    "g": "giant",
}


def run_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row a run and test: place, seed, scores with the interval over slices alone."""
    found = []
    for row in rows:
        iou, trained = row.cell.iou, row.run.metrics["train"]
        found.append(
            {
                **row.labels, "seed": row.seed, "test": row.test, "iou": iou.value, "iou_low": iou.low,
                "iou_high": iou.high, "dice": row.cell.dice.value, "iou_per_image": row.cell.iou_per_image,
                "slices": len(row.cell.images), "train_slices": trained["train_slices"], "steps": trained["steps"],
                "seconds": trained["seconds"], "run": row.run.path.name,
            }
        )  # fmt: skip
    return found


def arm_rows(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return one row a place and test: mean, sd (ddof 1), both intervals, and what they rest on."""
    return [
        {
            **arm.labels, "test": arm.test, "n_seeds": arm.over_seeds.n, "mean": arm.over_seeds.mean,
            "sd_ddof1": arm.over_seeds.sd, "student_low": arm.over_seeds.low, "student_high": arm.over_seeds.high,
            "bootstrap_low": arm.over_both.low, "bootstrap_high": arm.over_both.high, "level": arm.over_both.level,
            "n_slices": arm.over_both.n, "n_blocks": arm.blocks, "seeds": " ".join(map(str, arm.seeds)),
            "values": " ".join(f"{value:.4f}" for value in arm.values),
        }
        for arm in arms
    ]  # fmt: skip


def comparison_rows(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return one row a comparison."""
    return [
        {
            "first": ", ".join(each.first.values()), "second": ", ".join(each.second.values()),
            "at": ", ".join(each.at.values()), "test": each.test, "n_seeds": len(each.seeds),
            "difference": each.difference.value, "low": each.difference.low, "high": each.difference.high,
            "level": each.difference.level, "sd_ddof1": each.over_seeds.sd, "student_low": each.over_seeds.low,
            "student_high": each.over_seeds.high, "p_blocks": each.p_value, "p_blocks_holm": each.p_corrected,
            "p_blocks_smallest": each.smallest, "p_seeds": each.p_seeds, "p_seeds_smallest": each.smallest_seeds,
            "n_slices": each.difference.n, "n_blocks": each.blocks, "outcome": each.outcome,
        }
        for each in compared
    ]  # fmt: skip


def _interval(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    ends = "" if low is None or high is None else f" [{number(low, sign)}, {number(high, sign)}]"
    return number(value, sign) + ends


def _p(value: float) -> str:
    return f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _shown(summary: Summary) -> list[tuple[list[str], list[list[str]]]]:
    """Return both tables as text: columns and rows."""
    metric = {"iou": "IoU", "dice": "Dice"}[summary.metric]
    axes = list(summary.arms[0].labels) if summary.arms else []
    level = f"{summary.rule.level:.0%}".replace("%", " %")
    columns = [*axes, "test", "seeds", f"{metric} [{level}]", "sd over seeds", "slices"]
    rows = [
        [
            *arm.labels.values(), arm.test, str(arm.over_seeds.n),
            _interval(arm.over_both.value, arm.over_both.low, arm.over_both.high),
            "–" if arm.over_seeds.sd is None else number(arm.over_seeds.sd),
            f"{arm.over_both.n} in {arm.blocks} blocks",
        ]
        for arm in summary.arms
    ]  # fmt: skip
    compared = [
        [
            each.name, each.test, str(len(each.seeds)),
            _interval(each.difference.value, each.difference.low, each.difference.high, "+"),
            _p(each.p_value), _p(each.p_corrected), _p(each.p_seeds), each.outcome,
        ]
        for each in summary.compared
    ]  # fmt: skip
    titles = [
        "comparison",
        "test",
        "seeds",
        f"difference of {metric} [{level}]",
        "p",
        "p, Holm",
        "p over seeds",
    ]
    return [(columns, rows), ([*titles, "claim"], compared)]


def markdown(summary: Summary, lines: Sequence[str] = ()) -> str:
    """Return both tables as Markdown, `lines` before them as paragraphs."""
    parts = [line.strip() for line in lines]
    for columns, rows in _shown(summary):
        if rows:
            cells = [columns, ["---"] * len(columns), *rows]
            parts.append(
                "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)
            )
    return "\n\n".join(parts) + "\n"


_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "×": r"$\times$",
}  # fmt: skip


def _tex(text: str) -> str:
    return re.sub("|".join(map(re.escape, _ESCAPES)), lambda found: _ESCAPES[found.group()], text)


def latex(summary: Summary) -> str:
    """Return both tables as LaTeX (package booktabs)."""
    parts = ["% needs \\usepackage{booktabs}"]
    for columns, rows in _shown(summary):
        if not rows:
            continue
        body = [" & ".join(map(_tex, row)) + r" \\" for row in rows]
        head = " & ".join(map(_tex, columns)) + r" \\"
        begin = rf"\begin{{tabular}}{{{'l' * len(columns)}}}"
        parts.append(
            "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])
        )
    return "\n\n".join(parts) + "\n"


def summary_files(rows: Sequence[Row], summary: Summary, lines: Sequence[str]) -> dict[str, str]:
    """Return file name → text of all tables of a study."""
    tables = {"runs.csv": run_rows(rows), "summary.csv": arm_rows(summary.arms)}
    tables |= {"comparisons.csv": comparison_rows(summary.compared)}
    files = {name: csv_text(table, list(table[0])) for name, table in tables.items() if table}
    return {**files, "summary.md": markdown(summary, lines), "summary.tex": latex(summary)}


# ------------------------------------------------------------------------------ the reference system


def _both_classes(counts: Counts) -> tuple[float, float]:
    """Return the mean of foreground's and background's IoU and Dice."""
    turned = Counts(counts.tn, counts.fn, counts.fp, counts.tp)
    return (counts.iou + turned.iou) / 2, (counts.dice + turned.dice) / 2


def _backbone(name: str) -> dict[str, str]:
    if name == UNET:
        return {"backbone_name": "unet", "backbone_variant": "unet", "dino_size": "unet"}
    spec = find_spec(name)
    letter = re.sub(r"^tiny ", "", spec.architecture).removeprefix("ViT-").split("/")[0]
    return {
        "backbone_name": spec.family,
        "backbone_variant": spec.variant,
        "dino_size": _SIZES.get(letter, letter),
    }


def reference_runs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows of the reference's ``run_metrics.csv``; ``task_type`` is the test set, a row each.

    A run of ours is scored on several test sets, a run of the reference on one. ``mean`` is over background and
    foreground; ``best_epoch`` counts passes over the training slices.
    """
    found, replicates = [], dict[tuple[Any, ...], list[int]]()
    for row in rows:
        replicates.setdefault((row.arm, row.test), []).append(row.seed)
    for row in rows:
        config, trained = row.run.config, row.run.metrics["train"]
        total = sum(row.counts, Counts())
        mean_iou, mean_dice = _both_classes(total)
        best = next((h for h in row.run.history() if h["step"] == trained["best_step"]), {})
        mode = "lora" if config.lora else "full_finetune" if config.full else "head_only"
        backbone = _backbone(config.backbone)
        epoch = (
            trained["best_step"] * (config.batch or 1) * config.accumulate / max(1, trained["train_slices"])
        )
        found.append(
            {
                "run_dir": str(row.run.path), "rel_run_dir": row.run.path.name, "experiment_id": row.run.path.name,
                "task_type": row.test, "use_lora": config.lora, "full_finetune": config.full,
                "training_mode": mode, **backbone,
                "replicate": replicates[row.arm, row.test].index(row.seed) + 1, "seed": row.seed,
                "loss": config.loss, "dataset_type": "+".join(config.data), "pair_mode": "numbers",
                "mean_dice": mean_dice, "mean_iou": mean_iou, "foreground_dice": total.dice,
                "foreground_iou": total.iou, "best_val_loss": best.get("val_loss"), "best_epoch": round(epoch),
            }
        )  # fmt: skip
    order = [
        "run_dir", "rel_run_dir", "experiment_id", "task_type", "use_lora", "full_finetune", "training_mode",
        "backbone_name", "backbone_variant", "dino_size", "replicate", "seed", "loss", "dataset_type", "pair_mode",
        "mean_dice", "mean_iou", "foreground_dice", "foreground_iou", "best_val_loss", "best_epoch",
    ]  # fmt: skip
    return [{name: each[name] for name in order} for each in found]


def reference_summary(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of the reference's ``summary.csv``; standard deviations are those of a sample (ddof 1).

    Unlike there, backbones of one size but different families are different groups.
    """
    keys = ("dataset_type", "task_type", "use_lora", "full_finetune", "training_mode", "dino_size")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault((*(run[key] for key in keys), run["backbone_name"]), []).append(run)
    table = []
    for group in groups.values():
        row = {key: group[0][key] for key in keys} | {"num_runs": len(group)}
        for metric in ("mean_dice", "mean_iou", "foreground_dice", "foreground_iou"):
            values = [run[metric] for run in group]
            row[f"{metric}_mean"] = float(np.mean(values))
            row[f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        table.append(row)
    return table
