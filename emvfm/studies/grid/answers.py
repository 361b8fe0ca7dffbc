"""The answer to a study's question in plain words, by the rule that was stated before it ran."""

from __future__ import annotations

from collections.abc import Sequence

from emvfm.studies.grid.spec import Rule
from emvfm.studies.grid.summary import Compared, Summary

__all__ = ["answer", "claim_text", "detail", "number", "sentence"]

_METRICS = {"iou": "IoU", "dice": "Dice"}


def number(value: float, sign: str = "") -> str:
    """Return a score with three digits and a true minus; `sign` ``+`` shows a plus, too."""
    return f"{value:{sign}.3f}".replace("-", "−")


def claim_text(rule: Rule) -> str:
    """Return in words what is claimed and how it is decided."""
    metric, margin = _METRICS[rule.metric], f"{rule.margin:g}"
    claim = {
        "not-lower": f"does not cost {margin} {metric} or more",
        "lower": f"costs more than {margin} {metric}",
        "higher": f"gains more than {margin} {metric}",
        "same": f"changes {metric} by less than {margin} either way",
    }[rule.claim]
    return (
        f"Claim: {rule.subject} {claim}. Shown ({rule.shown}) or refuted ({rule.refuted}) where the whole "
        f"{rule.level:.0%} interval of the paired difference says so; else undecided."
    ).replace("%", " %")


def _meaning(rule: Rule, outcome: str) -> str:
    return {"shown": rule.shown, "refuted": rule.refuted, "undecided": "undecided"}[outcome]


def sentence(rule: Rule, each: Compared) -> str:
    """Return one comparison in one sentence, such as: "paired training costs 0.010 IoU on vnc, …: no collapse"."""
    value, low, high = each.difference.value, each.difference.low, each.difference.high
    verb, sign = ("gains", 1) if value >= 0 else ("costs", -1)
    metric = _METRICS[rule.metric]
    if abs(value) < 0.0005:
        text = f"{rule.subject} leaves {metric} as it is on {each.test}"
    else:
        text = f"{rule.subject} {verb} {number(abs(value))} {metric} on {each.test}"
    if each.at:
        text = f"{', '.join(each.at.values())}: {text}"
    if low is None or high is None:
        text += ", no interval"
    else:
        ends = sorted((sign * low, sign * high))
        text += f", {each.difference.level:.0%} interval ".replace("%", " %")
        text += f"{number(ends[0])} to {number(ends[1])}".replace("−0.000", "0.000")
    first = next(iter(each.first.values())) if len(each.first) == 1 else ", ".join(each.first.values())
    second = ", ".join(each.second.values())
    return f"{text} ({first} against {second}): {_meaning(rule, each.outcome)}"


def detail(each: Compared) -> str:
    """Return what a comparison rests on."""
    seeds = f"{len(each.seeds)} seed" + ("s" if len(each.seeds) != 1 else "")
    text = f"{seeds}, {each.difference.n} slices in {each.blocks} blocks"
    return text + ("; few blocks: the interval is too narrow" if 1 < each.blocks < 5 else "")


def answer(summary: Summary) -> str:
    """Return the answer to the study's question in one sentence."""
    compared: Sequence[Compared] = summary.compared
    rule = summary.rule
    unfinished = "" if summary.done == summary.total else f" ({summary.done} of {summary.total} runs so far)"
    if not compared:
        return f"No answer yet: no comparison of the rule has both its sides{unfinished}."
    if len(compared) == 1:
        text = sentence(rule, compared[0])
        return text[0].upper() + text[1:] + unfinished + "."
    counted = {o: [c for c in compared if c.outcome == o] for o in ("shown", "refuted", "undecided")}
    parts = [f"{_meaning(rule, outcome)} in {len(found)}" for outcome, found in counted.items() if found]
    if len(parts) == 1:
        verdict = f"{_meaning(rule, summary.outcome)} in all {len(compared)} comparisons"
    else:
        verdict = f"{_meaning(rule, summary.outcome)}: {', '.join(parts)} of {len(compared)} comparisons"
    worst = min(compared, key=lambda c: c.difference.value)
    best = max(compared, key=lambda c: c.difference.value)
    metric = _METRICS[rule.metric]
    places = [", ".join([*each.at.values(), f"on {each.test}"]) for each in (worst, best)]
    text = (
        f"{verdict}; differences of {metric} from {number(worst.difference.value, '+')} ({places[0]}) "
        f"to {number(best.difference.value, '+')} ({places[1]})"
    )
    return text[0].upper() + text[1:] + unfinished + "."
