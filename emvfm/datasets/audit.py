"""The audit: whether a dataset may carry a study, and if not, why.

Files, masks, images, splits and duplicates are checked in `audit_checks`; whether masks belong to
their images in `pair_agreement`. Images are read one by one, and a stack's maps are dropped as soon as
its pairing is judged, so memory does not grow with the dataset.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emvfm.datasets.audit_checks import (
    Finding,
    check_duplicates,
    check_files,
    check_images,
    check_masks,
    check_neighbours,
    check_pixel_sizes,
    check_splits,
)
from emvfm.datasets.manifest import Dataset, Sample
from emvfm.datasets.pair_agreement import ENOUGH_MASKS, MIN_MASKS, PairAgreement, assess_pairing, pair_vectors
from emvfm.datasets.sample_facts import Facts, Measured, measure
from emvfm.errors import RefusedError

__all__ = ["AuditReport", "Finding", "StackPairing", "audit_dataset", "require_passed", "write_contact_sheet"]

#: Longest run of slices compared at once, which bounds memory (about 150 MB) and time.
WINDOW = 256
_RANK = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class StackPairing:
    """The judgement on one stack: which, what was found, and the ids in the order of the stack."""

    name: str
    ids: tuple[str, ...]
    agreement: PairAgreement

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as plain values."""
        return {"stack": self.name, "ids": list(self.ids), **self.agreement.to_json()}


@dataclass(frozen=True)
class AuditReport:
    """What the audit found.

    Parameters
    ----------
    dataset, digest
        Name and content digest of what was audited.
    verdict
        ``refused`` if there is an error among the findings, else ``passed``.
    findings
        Gravest first.
    pairings
        One a stack with enough masks.
    statistics
        Numbers a domain: samples, annotated, foreground shares, pixel sizes.
    seed, permutations
        Of the shuffled pairings.
    """

    dataset: str
    digest: str
    verdict: Literal["passed", "refused"]
    findings: tuple[Finding, ...]
    pairings: tuple[StackPairing, ...]
    statistics: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    permutations: int = 1000

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.severity == "error")

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.verdict == "refused":
            more = len(self.errors) - 1
            return f"refused: {self.errors[0].message}" + (f" (and {more} more)" if more else "")
        checked = [p.agreement for p in self.pairings]
        if not checked:
            return "passed; too few masks to compare their pairing with others"
        weakest = min(checked, key=lambda a: a.effect)
        return (
            f"passed: masks fit their own slices (weakest stack: effect {weakest.effect:.0f} standard "
            f"deviations of shuffled pairings, {100 * weakest.own_best_share:.0f} % fit their own slice best)"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "dataset": self.dataset,
            "digest": self.digest,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "findings": [f.to_json() for f in self.findings],
            "pairings": [
                {"stack": p.name, "ids": list(p.ids), **p.agreement.to_json()} for p in self.pairings
            ],
            "statistics": self.statistics,
            "protocol": "pair-agreement-1",
            "seed": self.seed,
            "permutations": self.permutations,
        }


def _stacks(dataset: Dataset) -> dict[str, list[Sample]]:
    """Return the samples a stack, in z; a stack whose z repeat is several stacks, one a split."""
    stacks: dict[str, list[Sample]] = defaultdict(list)
    for sample in dataset.samples:
        stacks[f"{sample.domain}/{sample.volume}"].append(sample)
    divided: dict[str, list[Sample]] = {}
    for name, members in stacks.items():
        heights = [s.z for s in members if s.z is not None]
        if len(set(heights)) == len(heights):
            divided[name] = members
        else:
            for split in dict.fromkeys(s.split for s in members):
                divided[f"{name} ({split})"] = [s for s in members if s.split == split]
    # Without z the order of the manifest stands, which is that of the names.
    return {
        name: sorted(members, key=lambda s: s.z) if all(s.z is not None for s in members) else members  # type: ignore[arg-type, return-value]
        for name, members in divided.items()
    }


def _runs(
    dataset: Dataset, samples: Sequence[Sample], facts: list[Facts], thumbnails: dict[str, np.ndarray]
) -> Iterator[list[Measured]]:
    """Measure a stack's samples; yield runs of at most about `WINDOW` that can be compared with each other.

    `facts` and `thumbnails` are filled on the way.
    """
    runs: dict[tuple[int, ...], list[Measured]] = defaultdict(list)  # only images of one size can be compared
    for sample in samples:
        measured = measure(dataset, sample)
        facts.append(measured.facts)
        if measured.thumbnail is not None:
            thumbnails[sample.id] = measured.thumbnail
        if measured.maps is None:
            continue
        run = runs[measured.maps.shape]
        run.append(measured)
        if len(run) == WINDOW + ENOUGH_MASKS:  # leave no rest too short to judge
            yield run[:WINDOW]
            del run[:WINDOW]
    yield from runs.values()


def _judge(name: str, run: Sequence[Measured], seed: int, permutations: int) -> StackPairing | None:
    """Judge the pairing of consecutive slices of one size; None if there are too few."""
    if len(run) < MIN_MASKS:
        return None
    maps = np.stack([m.maps for m in run if m.maps is not None])
    bins = np.stack([m.bins for m in run if m.bins is not None])
    vectors = pair_vectors(maps, bins)
    samples = [m.facts.sample for m in run]
    positions = [n if s.z is None else s.z for n, s in enumerate(samples)]
    agreement = assess_pairing(vectors, positions, seed=seed, permutations=permutations)
    return StackPairing(name, tuple(s.id for s in samples), agreement)


def _pairing_findings(pairings: Sequence[StackPairing], unjudged: Sequence[str]) -> list[Finding]:
    findings = []
    for stack in pairings:
        agreement = stack.agreement
        wrong = tuple(i for i, beaten in zip(stack.ids, agreement.beaten, strict=True) if beaten)
        numbers = {k: v for k, v in agreement.to_json().items() if k != "best_offset"}
        if agreement.refusal:
            findings.append(
                Finding("pairing", "error", f"{stack.name}: {agreement.refusal}", wrong or stack.ids, numbers)
            )
        elif wrong:
            findings.append(
                Finding(
                    "pairing-samples",
                    "warning",
                    f"{stack.name}: {len(wrong)} masks fit another slice clearly better than their own",
                    wrong,
                    numbers,
                )
            )
    if unjudged:
        text = (
            f"fewer than {MIN_MASKS} usable masks in {', '.join(unjudged)}: pairing not compared with others"
        )
        findings.append(Finding("pairing-not-judged", "warning", text, (), {}))
    return findings


def _statistics(facts: Sequence[Facts]) -> dict[str, Any]:
    domains: dict[str, list[Facts]] = defaultdict(list)
    for fact in facts:
        domains[fact.sample.domain].append(fact)
    statistics = {}
    for domain, members in sorted(domains.items()):
        shares = [f.foreground for f in members if f.foreground is not None]
        splits = Counter(f.sample.split for f in members)
        statistics[domain] = {
            "samples": len(members),
            "annotated": len(shares),
            "splits": dict(sorted(splits.items())),
            "volumes": sorted({f.sample.volume for f in members}),
            "foreground_mean": round(float(np.mean(shares)), 6) if shares else None,
            "foreground_range": [round(min(shares), 6), round(max(shares), 6)] if shares else None,
            "pixel_sizes_nm": sorted({f.sample.pixel_size_nm for f in members if f.sample.pixel_size_nm}),
        }
    return statistics


def _split_rule(dataset: Dataset) -> tuple[int, bool]:
    """Return the gap the dataset promises (1 where it says nothing) and whether it is random by name."""
    rules = [dataset.meta.get("split")]
    if isinstance(rules[0], dict) and rules[0].get("scheme") == "mixed":  # merged: each source has its own
        rules = [s.get("split") for s in dataset.meta.get("sources", []) if isinstance(s, dict)]
    known = [rule for rule in rules if isinstance(rule, dict)]
    gaps = [rule["gap"] for rule in known if isinstance(rule.get("gap"), int) and rule["gap"] >= 1]
    return min(gaps, default=1), any("random" in str(rule.get("scheme", "")) for rule in known)


def audit_dataset(dataset: Dataset, seed: int = 0, permutations: int = 1000) -> AuditReport:
    """Read every sample once and look for what ruins a study.

    Parameters
    ----------
    dataset
        What to audit; its files are read from ``dataset.root``.
    seed, permutations
        Of the shuffled pairings that the given one is compared with.

    Returns
    -------
    AuditReport
        ``refused`` if masks fit other slices better than their own, if files are missing, damaged or
        changed, if masks are inverted or of another size, or if splits share images or neighbours.
    """
    facts: list[Facts] = []
    thumbnails: dict[str, np.ndarray] = {}
    pairings: list[StackPairing] = []
    unjudged: list[str] = []
    for name, samples in _stacks(dataset).items():
        judged = 0
        for run in _runs(dataset, samples, facts, thumbnails):
            label = name if judged == 0 else f"{name} ({judged + 1})"
            pairing = _judge(label, run, seed, permutations)
            if pairing is not None:
                pairings.append(pairing)
                judged += 1
        if not judged and any(s.mask is not None for s in samples):
            unjudged.append(name)
    gap, random = _split_rule(dataset)
    all_samples = [f.sample for f in facts]
    findings = [
        *_pairing_findings(pairings, unjudged),
        *check_files(facts),
        *check_masks(facts),
        *check_images(facts),
        *check_neighbours(all_samples, gap, random),
        *check_duplicates(facts, thumbnails),
        *check_pixel_sizes(all_samples),
        *check_splits(all_samples),
    ]
    findings.sort(key=lambda f: _RANK[f.severity])
    return AuditReport(
        dataset=dataset.name,
        digest=dataset.digest,
        verdict="refused" if any(f.severity == "error" for f in findings) else "passed",
        findings=tuple(findings),
        pairings=tuple(pairings),
        statistics=_statistics(facts),
        seed=seed,
        permutations=permutations,
    )


def require_passed(dataset: Dataset, force: bool = False) -> None:
    """Raise RefusedError unless the dataset's audit has passed or `force` is true."""
    verdict = dataset.meta.get("audit")
    if force or verdict == "passed":
        return
    if verdict == "forced":
        todo = "it was kept with --force although refused; mend it, or give --force here as well"
    elif verdict == "refused":
        todo = f"see {dataset.root / 'audit.json'}; mend it and compose it again, or give --force"
    else:
        todo = f"run `emvfm data audit {dataset.name}` first, or give --force"
    raise RefusedError(
        "dataset has not passed its audit", where=dataset.name, got=verdict or "no audit", todo=todo
    )


def write_contact_sheet(
    dataset: Dataset, path: Path, max_samples: int = 24, flagged: Sequence[str] = ()
) -> Path:
    """Write a PNG with up to `max_samples` images, their mask outlined, `flagged` ids first and framed."""
    from emvfm.datasets.contact_sheet import draw_contact_sheet
    from emvfm.workspace import write_bytes

    return write_bytes(path, draw_contact_sheet(dataset, max_samples, flagged))
