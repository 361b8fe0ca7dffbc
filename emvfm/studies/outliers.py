"""From embedded datasets to studies of outliers: parts, scores of images and of patches, heat maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emvfm.datasets.catalog import parse_reference
from emvfm.domain.conformal import block_parts, conformal_p_values
from emvfm.domain.outlier_results import OutlierStudy, Scored, study_outliers
from emvfm.domain.outliers import SCORES, Detector, balanced_sample, fit_detector
from emvfm.errors import UsageError
from emvfm.studies.domains import Domain, chosen_layers
from emvfm.studies.outlier_options import OutlierOptions

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "PROTOCOL",
    "Parts",
    "ScoredStudy",
    "chosen_scores",
    "heat_maps",
    "parts_of",
    "score_rows",
    "study_domains",
]

Floats = NDArray[np.float64]

PROTOCOL = (
    "scores are fitted on the fitting part of the first dataset, the threshold is calibrated on its calibration "
    "part, and its test part is compared with the other datasets; the parts are separate blocks of slices"
)
_SPLITS = {"train": "fit", "val": "calibration", "test": "test", "gap": "gap"}


def chosen_scores(options: OutlierOptions) -> tuple[str, ...]:
    """Return the names of the scores to compute.

    Raises
    ------
    UsageError
        There is no such score, or one is given twice.
    """
    names = options.scores or tuple(SCORES)
    unknown = [name for name in names if name not in SCORES]
    if unknown or len(set(names)) < len(names):
        raise UsageError(
            "no such score" if unknown else "a score occurs twice",
            where="--scores",
            got=", ".join(unknown or names),
            expected=", ".join(SCORES),
        )
    return names


@dataclass(frozen=True)
class Parts:
    """The part of each image of the in-distribution dataset, ``fit``, ``calibration``, ``test`` or ``gap``."""

    labels: tuple[str, ...]
    source: str
    remark: str | None
    blocks: Sequence[int]

    def rows(self, part: str) -> list[int]:
        return [i for i, label in enumerate(self.labels) if label == part]

    def to_json(self) -> dict[str, Any]:
        """Return where the parts come from and their numbers of images and blocks."""
        sizes = {
            part: {"n": len(rows), "blocks": len({self.blocks[i] for i in rows})}
            for part in ("fit", "calibration", "test", "gap")
            for rows in [self.rows(part)]
        }
        return {"source": self.source, "remark": self.remark, **sizes}


def parts_of(domain: Domain, options: OutlierOptions) -> Parts:
    """Return which images to fit, calibrate and test on.

    The dataset's own splits where it has all three and no split is named, else blocks dealt by the seed.

    Raises
    ------
    UsageError
        Splits are asked for and one is empty, or there are too few blocks.
    """
    samples = domain.embeddings.samples
    splits = [sample.split for sample in samples]
    named = parse_reference(domain.name)[1]
    complete = {"train", "val", "test"} <= set(splits) and splits.count("train") >= 2
    if options.parts == "splits" and not complete:
        raise UsageError(
            "not all of train, val and test to fit, calibrate and test on",
            where=domain.name,
            got=", ".join(sorted(set(splits))),
            todo="take --parts blocks",
        )
    if options.parts == "splits" or (options.parts == "auto" and complete and not named):
        rule = domain.dataset.meta.get("split")
        random = isinstance(rule, Mapping) and "random" in str(rule.get("scheme", ""))
        remark = (
            f"the splits of {domain.name} were drawn slice by slice: neighbours of fitted slices are among the "
            "held-out ones, so its false alarms are too few"
        )
        labels = tuple(_SPLITS[split] for split in splits)
        return Parts(labels, "train, val and test of the dataset", remark if random else None, domain.blocks)
    dealt = block_parts(
        [s.volume for s in samples], [s.z for s in samples], domain.blocks,
        calibration=options.calibration, test=options.test, gap=options.gap, seed=options.seed,
    )  # fmt: skip
    remark = f"all parts of {domain.name} come from one volume: its false alarms on another may be more"
    single = len({s.volume for s in samples}) == 1
    source = f"blocks of slices, dealt by seed {options.seed}, gap {options.gap}"
    return Parts(tuple(dealt), source, remark if single else None, domain.blocks)


@dataclass(frozen=True)
class ScoredStudy:
    """A study with the scores behind it: by dataset, NaN where an image was left out."""

    study: OutlierStudy
    detector: Detector
    scores: Mapping[str, Floats]


def _tokens(
    domain: Domain, layer: int, rows: Sequence[int]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield ``(h, w, D)`` tokens of each image, and which are not mostly padding."""
    embeddings = domain.embeddings
    stored = embeddings.iter_patches(rows, layers=[embeddings.layers[layer]])
    for i, tokens in zip(rows, stored, strict=True):
        yield tokens[0].astype(np.float32), embeddings.valid(i) >= 0.5


def _image_scores(
    domains: Sequence[Domain], parts: Parts, layer: int, options: OutlierOptions
) -> Iterator[tuple[Detector, str, dict[str, Floats]]]:
    vectors = {domain.name: domain.vectors(options, layer) for domain in domains}
    own, fitted = domains[0], parts.rows("fit")
    sources = [own.embeddings.samples[i].domain for i in fitted]
    for name in chosen_scores(options):
        detector = fit_detector(
            name, vectors[own.name][fitted], k=options.k, explained=options.explained, groups=sources
        )
        scores = {domain.name: detector.score(vectors[domain.name]) for domain in domains}
        scores[own.name][fitted] = detector.in_sample(vectors[own.name][fitted])
        scores[own.name][parts.rows("gap")] = np.nan
        yield detector, "image", scores


def _patch_scores(
    domains: Sequence[Domain], parts: Parts, layer: int, options: OutlierOptions
) -> Iterator[tuple[Detector, str, dict[str, Floats]]]:
    own, fitted = domains[0], parts.rows("fit")
    flat = (tokens[valid] for tokens, valid in _tokens(own, layer, fitted))
    sample = balanced_sample(flat, [own.blocks[i] for i in fitted], options.patch_sample, seed=options.seed)
    detectors = [
        fit_detector(
            name, sample, k=options.k, explained=options.explained, bank=options.bank, seed=options.seed
        )
        for name in chosen_scores(options)
    ]
    found = {
        (detector.name, scale): {domain.name: np.full(len(domain), np.nan) for domain in domains}
        for detector in detectors
        for scale in ("patch mean", "patch p95")
    }
    for domain in domains:
        rows = [i for i in range(len(domain)) if domain is not own or parts.labels[i] != "gap"]
        for i, (tokens, valid) in zip(rows, _tokens(domain, layer, rows), strict=True):
            for detector in detectors:
                scores = detector.score(tokens[valid])
                found[detector.name, "patch mean"][domain.name][i] = scores.mean()
                found[detector.name, "patch p95"][domain.name][i] = np.quantile(scores, 0.95)
    for detector in detectors:
        for scale in ("patch mean", "patch p95"):
            yield detector, scale, found[detector.name, scale]


def study_domains(
    domains: Sequence[Domain], parts: Parts, options: OutlierOptions, *, console: Console | None = None
) -> list[ScoredStudy]:
    """Score every image by every chosen score, layer and scale; the first dataset is in-distribution.

    With ``options.patches`` at most ``options.patch_sample`` patches are held for fitting, and images are
    scored one at a time.
    """
    own, studies = domains[0], []

    def scored(scores: Floats, blocks: Sequence[int], rows: Sequence[int]) -> Scored:
        return Scored(scores[list(rows)], [blocks[i] for i in rows])

    for layer in chosen_layers(options, domains):
        found = list(_image_scores(domains, parts, layer, options))
        if options.patches:
            if console is not None:
                console.print(f"scoring patches of block {own.embeddings.layers[layer]}")
            found += _patch_scores(domains, parts, layer, options)
        for detector, scale, scores in found:
            study = study_outliers(
                own.name,
                detector.name,
                scored(scores[own.name], own.blocks, parts.rows("calibration")),
                scored(scores[own.name], own.blocks, parts.rows("test")),
                {d.name: scored(scores[d.name], d.blocks, range(len(d))) for d in domains[1:]},
                layer=own.embeddings.layers[layer],
                scale=scale,
                note=detector.note,
                n_fit=len(parts.rows("fit")),
                blocks_fit=len({own.blocks[i] for i in parts.rows("fit")}),
                dimension=detector.dimension,
                false_alarms=options.false_alarms,
                level=options.level,
                bootstrap=options.bootstrap,
                seed=options.seed,
            )
            studies.append(ScoredStudy(study, detector, scores))
    return studies


def score_rows(domains: Sequence[Domain], parts: Parts, studies: Sequence[ScoredStudy]) -> list[list[Any]]:
    """Return a header and one row an image, score, layer and scale; images of the gap are left out."""
    header = ["layer", "scale", "score", "dataset", "part", "sample", "volume", "z", "block", "value"]
    table: list[list[Any]] = [[*header, "p_value", "flagged"]]
    held = parts.rows("calibration")
    for found in studies:
        study, line = found.study, found.study.calibration
        calibration = found.scores[domains[0].name][held]
        blocks = [domains[0].blocks[i] for i in held]
        for domain in domains:
            values = found.scores[domain.name]
            p_values = conformal_p_values(values, calibration, blocks)
            labels = parts.labels if domain is domains[0] else ("outside",) * len(domain)
            for i, sample in enumerate(domain.embeddings.samples):
                if labels[i] == "gap":
                    continue
                fresh = labels[i] in ("test", "outside")  # a p-value means nothing where the score was fitted
                z = "" if sample.z is None else sample.z
                place = [domain.name, labels[i], sample.id, sample.volume, z, domain.blocks[i]]
                row = [study.layer, study.scale, study.score, *place, float(values[i])]
                table.append([*row, float(p_values[i]) if fresh else "", int(values[i] > line.threshold)])
    return table


def _apart(order: Sequence[int], blocks: Sequence[int], n: int) -> list[int]:
    """Return the first `n` of `order`, of different blocks while there are some: neighbours look the same."""
    chosen, seen = [], set()
    for i in order:
        if blocks[i] not in seen:
            chosen.append(i)
            seen.add(blocks[i])
    rest = [i for i in order if i not in chosen]
    return (chosen + rest)[:n]


def heat_maps(
    domains: Sequence[Domain], parts: Parts, found: ScoredStudy, layer: int, n: int
) -> dict[str, list[dict[str, Any]]]:
    """Return, by dataset, the rows of `emvfm.report.ood_figures.outlier_heat_maps`.

    Parameters
    ----------
    found
        A study of patches; its scores of images choose which are drawn.
    layer
        Position among the stored layers.
    n
        Most outlying and least outlying images of each dataset; of the first, of its test part.
    """
    from emvfm.datasets.images import read_image

    drawn: dict[str, list[dict[str, Any]]] = {}
    for domain in domains:
        scores = found.scores[domain.name]
        rows = parts.rows("test") if domain is domains[0] else list(range(len(domain)))
        falling = sorted(rows, key=lambda i: -scores[i])
        most = _apart(falling, domain.blocks, min(n, -(-len(rows) // 2)))
        least = _apart([i for i in falling[::-1] if i not in most], domain.blocks, n)
        drawn[domain.name] = []
        for label, chosen in (("most outlying", most), ("least outlying", least)):
            items = []
            for i, (tokens, valid) in zip(chosen, _tokens(domain, layer, chosen), strict=True):
                values = np.full(valid.shape, np.nan)
                values[valid] = found.detector.score(tokens[valid])
                share = domain.embeddings.valid(i)
                # Padding is below and to the right, so the first column and row tell the image's size.
                size = (float(share[:, 0].sum() / share[0, 0]), float(share[0].sum() / share[0, 0]))
                sample = domain.embeddings.samples[i]
                image = read_image(domain.dataset.image_path(sample))
                items.append((image, values, size, f"{sample.id}: {scores[i]:.3g}"))
            drawn[domain.name].append({"label": label, "items": items})
    return drawn
