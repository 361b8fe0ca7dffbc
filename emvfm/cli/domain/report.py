"""``emvfm domain report``: all of the analyses for the given datasets, on one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from annotated_types import Ge, Gt, Lt

from emvfm.cli.command import Call, command
from emvfm.cli.completion import complete_dataset
from emvfm.cli.domain.run import Opened, open_blocked
from emvfm.config import Doc
from emvfm.studies.options import DomainOptions

if TYPE_CHECKING:
    from emvfm.report.domain_page import Chapter

__all__ = ["ReportOptions", "register", "report"]


@dataclass(frozen=True)
class ReportOptions(DomainOptions):
    """What ``domain report`` does; each analysis has more options of its own."""

    permutations: Annotated[int, Ge(99), Doc("Exchanges of blocks for the nulls.")] = 999
    level: Annotated[float, Gt(0), Lt(1), Doc("Coverage of the intervals.")] = 0.95
    patches: Annotated[bool, Doc("Also outliers among patches, drawn over the images.")] = True


@dataclass(frozen=True)
class _Heard(Call):
    """A call whose result is kept instead of printed."""

    said: dict[str, Any] | None = None

    def result(self, value: dict[str, Any], *lines: Any) -> None:
        object.__setattr__(self, "said", value)


def _settings(kind: type[DomainOptions], config: ReportOptions, **own: Any) -> Any:
    """Return the options of one analysis: what it shares with the report, and `own`."""
    shared = {f.name: getattr(config, f.name) for f in fields(config)}
    names = {f.name for f in fields(kind)}
    return kind(**{**{name: value for name, value in shared.items() if name in names}, **own})


def _run(
    call: Call, function: Callable[..., None], settings: DomainOptions, datasets: list[str]
) -> tuple[Path, dict[str, Any]]:
    heard = _Heard(call.workspace, call.seed, json=True)
    function(heard, settings, datasets)
    assert heard.said is not None, "a command says its result"
    return Path(heard.said["folder"]), heard.said


_Columns = dict[str, str | tuple[str, str, str]]
_DISTANCES: _Columns = {
    "measure": "measure", "first": "a", "second": "b", "value": ("value", "low", "high"),
    "p": "p_value", "between halves": "between_halves", "within halves": "within_halves",
}  # fmt: skip

_MEASURES = {
    "fd": "Fréchet distance", "polynomial": "kernel distance, cubic", "rbf": "kernel distance, RBF",
    "energy": "energy distance", "sliced-wasserstein": "sliced Wasserstein distance",
}  # fmt: skip

_PROBE: _Columns = {
    "datasets": "datasets", "classifier": "classifier", "n": "n", "blocks": "blocks",
    "balanced accuracy": ("balanced_accuracy", "balanced_accuracy_low", "balanced_accuracy_high"),
    "AUROC": ("auroc", "auroc_low", "auroc_high"), "p": "p_value", "chance": "chance",
}  # fmt: skip

_COMPONENTS: _Columns = {
    "component": "component", "share of variance": ("share", "low", "high"),
    "of it between the datasets": ("between", "between_low", "between_high"),
}  # fmt: skip

_OUTLIERS: _Columns = {
    "score": "score", "of": "scale", "against": "outside", "AUROC": ("auroc", "auroc_low", "auroc_high"),
    "FPR95": ("fpr95_out", "fpr95_out_low", "fpr95_out_high"), "flagged": "flagged",
    "false alarms": "false_alarms",
}  # fmt: skip


def _chapters(folders: dict[str, Path], first: str) -> list[Chapter]:
    from emvfm.domain.outliers import SCORES
    from emvfm.report.domain_page import Chapter

    null = "against what exchanging blocks of slices between the datasets gives"
    return [
        Chapter(
            "How far apart: Fréchet distance",
            "Mean and covariance of image embeddings compared (doi:10.1016/0047-259X(82)90077-X). The distance of two "
            "samples of one distribution is not zero: compare it with that of halves of one dataset.",
            folders["fd"], "distances.csv", _DISTANCES,
            {"fd.png": f"Fréchet distance {null}", "fd-matrix.png": "All pairs; framed: beyond the null"},
            names=_MEASURES,
        ),
        Chapter(
            "How far apart: kernels, energy, transport",
            "Unbiased at small n, so a value near zero or below it means no difference was seen.",
            folders["kd"], "distances.csv", _DISTANCES,
            {f"{name}.png": f"{title} {null}" for name, title in (
                ("polynomial", "Kernel distance, cubic,"), ("rbf", "Kernel distance, RBF,"),
                ("energy", "Energy distance"), ("sliced-wasserstein", "Sliced Wasserstein distance"))},
            names=_MEASURES,
        ),
        Chapter(
            "Does one cover the other",
            "Precision: the share of the second dataset that lies where the first has images; recall: the other way "
            "round; density and coverage: the same, less swayed by single images (arXiv:1904.06991, arXiv:2002.09797).",
            folders["prdc"], "distances.csv", _DISTANCES,
            {f"{name}.png": f"{name.capitalize()} {null}" for name in ("precision", "recall", "density", "coverage")},
        ),
        Chapter(
            "Can a classifier tell them apart",
            "Balanced accuracy on blocks of slices that it has not seen, nor their neighbours. Any two stacks can be told "
            "apart by what is constant in each: look at the halves of one stack as well.",
            folders["probe"], "domain.csv",
            _PROBE,
            {"domain-probe.png": "Balanced accuracy of the domain probe against its null",
             "task-probe.png": "A probe for the foreground, trained on one dataset and tested on another"},
        ),
        Chapter(
            "What they look like to the backbone",
            "Principal components of patches in one basis for all datasets; the first three as red, green and blue over "
            "the images. A picture, not a test.",
            folders["pca"], "variance.csv",
            _COMPONENTS,
            {"colour_maps.png": "Three principal components as colours, in one basis",
             "domains.png": "Patches by dataset", "slices.png": "A path through each stack",
             "foreground.png": "Patches by the share of foreground in them"},
        ),
        Chapter(
            f"Are the others outliers to {first}",
            f"Scores are fitted on one part of {first}, their threshold is calibrated on another, and the false alarms "
            "are counted on a third.",
            folders["ood"], "comparison.csv",
            _OUTLIERS,
            {"scores-image.png": "Scores of images", "auroc.png": "AUROC by score",
             **{f"maps-{path.stem.removeprefix('maps-')}.png": "Outlying patches, one scale for all"
                for path in sorted((folders["ood"] / "figures").glob("maps-*.png"))}},
            names=SCORES, sentences=1,
        ),
    ]  # fmt: skip


def _tone(text: str) -> str:
    if "too few" in text:
        return "caution"
    return "good" if "no evidence" in text else "plain"


def _data(opened: Opened) -> list[list[Any]]:
    return [
        [
            d.name, len(d), at.blocks, (at.block, f"{at.block:.1f}"),
            None if at.length is None else (at.length, f"{at.length:.1f}"), len({s.volume for s in d.embeddings.samples}),
            sum(s.mask is not None for s in d.embeddings.samples),
            ", ".join(sorted({f"{s.pixel_size_nm:g}" for s in d.embeddings.samples if s.pixel_size_nm})) or None,
        ]
        for d, at in zip(opened.domains, opened.dependences, strict=True)
    ]  # fmt: skip


def report(
    call: Call,
    config: ReportOptions,
    datasets: Annotated[
        list[str],
        typer.Argument(
            help="Two or more datasets, the first is the one the others are outliers to; name:split for one split.",
            autocompletion=complete_dataset,
        ),
    ],
) -> None:
    """All of the above on one page: distances, probes, projections, outliers, with a verdict in words."""
    import shlex

    from rich.markup import escape

    from emvfm.cli.domain import fd, kd, ood, pca, prdc, probe
    from emvfm.provenance import environment
    from emvfm.report.domain_page import domain_page, verdicts
    from emvfm.studies.domains import write_domain_run
    from emvfm.studies.outlier_options import OutlierOptions
    from emvfm.studies.projection_options import PcaOptions

    config = replace(config, all_layers=False)
    opened = open_blocked(call, config, datasets)
    steps: dict[str, tuple[Callable[..., None], Any]] = {
        "fd": (fd.fd, _settings(fd.FrechetOptions, config, patches=False)),
        "kd": (kd.kd, _settings(kd.KernelOptions, config)),
        "prdc": (prdc.prdc, _settings(prdc.CoverageOptions, config)),
        "probe": (probe.probe, _settings(probe.ProbeOptions, config, permutations=199, patches=64)),
        "pca": (pca.pca, _settings(PcaOptions, config, patches=True)),
        "ood": (ood.ood, _settings(OutlierOptions, config)),
    }
    folders, summary = {}, []
    with call.console.status("") as status:
        for name, (function, settings) in steps.items():
            status.update(f"domain {name}")
            folders[name], said = _run(call, function, settings, datasets)
            sentences = list(verdicts(said))
            kept = sentences[:1] + [s for s in sentences[1:] if s.startswith("a probe trained on")]
            summary += [(text, _tone(text)) for text in kept if name != "pca"]
    summary += [
        (f"blocks of slices are taken as independent, but {d.caveat}", "caution")
        for d in opened.dependences if not d.enough
    ]  # fmt: skip
    label = opened.label
    commands = [
        f"emvfm domain {name} {shlex.join(datasets)} --config {folder / 'config.yaml'}"
        for name, folder in folders.items()
    ]
    page = domain_page(
        " × ".join(datasets), f"As {label} sees them; layer {opened.domains[0].embeddings.layers[config.layer]}.",
        summary, _data(opened), _chapters(folders, datasets[0]), commands, environment(),
    )  # fmt: skip
    record = {
        "folders": {name: str(folder) for name, folder in folders.items()},
        "summary": [text for text, _ in summary],
    }
    folder = write_domain_run(call.workspace, "report", config, opened.domains, record, {"report.html": page})
    call.result(
        {"folder": str(folder), "backbone": label, "report": str(folder / "report.html"), **record},
        *(escape(f"• {text}") for text, _ in summary),
        f"[dim]{escape(label)}[/]",
        escape(str(folder / "report.html")),
    )


def register(domain: typer.Typer) -> None:
    command(domain, "report", ReportOptions)(report)
