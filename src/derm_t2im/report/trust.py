"""Can the synthetic images be trusted: likeness, copies, shortcuts and labels, each as a sentence and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from derm_t2im.report import tables, words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.forest import Estimate, Forest, estimate, forest
from derm_t2im.report.tables import flat

INTERVALS = "Lines are 95 % intervals."


@dataclass(frozen=True)
class Finding:
    """One question about the synthetic images, its answer, and the figure that it is read off."""

    question: str
    said: str
    figure: Forest | None


def findings(evidence: Evidence) -> list[Finding]:
    """Those questions that the run measured."""
    fidelity = evidence.of("fidelity")
    found = (
        _likeness(fidelity, evidence.of("finetune")),
        _labels(fidelity, evidence.of("generate")),
        _copies(flat(fidelity.get("copies"))),
        _shortcuts(flat(fidelity.get("shortcuts"))),
    )
    return [one for one in found if one.said]


def _value(values: Mapping[str, Any], key: str, form: words.Form = "percent") -> str:
    return f"{words.number(values.get(key), form)}{words.NBSP}{words.bounds(values, key, form)}".strip()


def _likeness(fidelity: Mapping[str, Any], finetune: Mapping[str, Any]) -> Finding:
    whole = flat(fidelity.get("all"))
    rows: list[Estimate] = []
    for key, name, tone in (
        ("kid_before", "Base model", "synthetic"),
        ("kid_after", "After fine-tuning", "hybrid"),
        ("kid_floor", "Real against real", "real"),
    ):
        rows += estimate(finetune, key, name, tone=tone, detail="while fine-tuning")
    for label in sorted(name for name, values in fidelity.items() if isinstance(values, Mapping) and "kid" in values):
        if label not in ("all", "external"):
            n = f"{label}, n = "
            drawn = f"{n}{words.count(fidelity[label].get('n_synthetic'))}"
            rows += estimate(fidelity[label], "kid", "All drawn", tone="hybrid", detail=drawn)
            real = f"{n}{words.count(fidelity[label].get('n_real'))}"
            rows += estimate(fidelity[label], "kid_floor", "Real against real", tone="real", detail=real)
    said = ""
    low, floor = whole.get("kid_low"), whole.get("kid_floor_high")
    if words.is_number(low) and words.is_number(floor):
        apart = (
            "As a set, they can be told from real ones" if low > floor else "As a set, no difference from real is shown"
        )
        said = (
            f"{apart}: their distance (KID) is {_value(whole, 'kid', 'plain')}, that of two halves of the real images "
            f"{_value(whole, 'kid_floor', 'plain')}."
        )
    if words.is_number(whole.get("coverage")):
        said += f" They cover {_value(whole, 'coverage')} of the variety of real images"
        of = whole.get("coverage_real")
        said += f" (real images: {_value(whole, 'coverage_real')})." if words.is_number(of) else "."
    caption = (
        f"KID, a distance between sets of images; lower is more alike, and real against real is the floor. {INTERVALS}"
    )
    figure = forest(rows, caption, ("Images", "KID (no unit)", "KID [95 %]"))
    if figure and not said:
        said = "Their distance to real images (KID), beside that of two halves of the real images."
    return Finding("Do they look like real images?", said.strip(), figure)


def _labels(fidelity: Mapping[str, Any], generate: Mapping[str, Any]) -> Finding:
    key = "class_agreement"
    if not words.is_number(generate.get(key)):
        return Finding("", "", None)
    detail = "class asked for, n = " + words.count(generate.get(f"{key}_n", generate.get("images")))
    rows = estimate(generate, key, "Synthetic", "percent", tone="hybrid", detail=detail)
    whole = flat(fidelity.get("all"))
    said = f"An independent classifier sees the class that was asked for in {_value(generate, key)} of them"
    wrong = {k: whole.get(f"label_disagreement_real{k}") for k in ("", "_low", "_high")}
    if all(words.is_number(v) for v in wrong.values()):
        right = {"real": 1 - wrong[""], "real_low": 1 - wrong["_high"], "real_high": 1 - wrong["_low"]}  # type: ignore[operator]
        rows += estimate(right, "real", "Real, held out", "percent", tone="real",
                         detail="own class, n = " + words.count(whole.get("n_real")))  # fmt: skip
        said += f"; of held-out real images it puts {_value(right, 'real')} into their own class"
        if generate.get(f"{key}_low", 0) > right["real_high"]:
            said += ". Synthetic images are easier than real ones, not better"
    caption = f"Share that the classifier puts into the right class. {INTERVALS}"
    figure = forest(rows, caption, ("Images", "share, %", "Share [95 %]"))
    return Finding("Do they show what they are labelled?", f"{said}.", figure)


def _copies(values: Mapping[str, Any]) -> Finding:
    if not words.is_number(values.get("rate")):
        return Finding("", "", None)
    rows = estimate(values, "rate", "Synthetic", "percent", tone="hybrid", detail="n = " + words.count(values.get("n")))
    said = (
        f"{_value(values, 'rate')} of the images drawn lie closer to a training image than held-out real images do; "
        "curation rejects these"
    )
    if words.is_number(values.get("rate_real")):
        rows += estimate(values, "rate_real", "Real, held out", "percent", tone="real",
                         detail="n = " + words.count(values.get("n_real")))  # fmt: skip
        said += f". By chance the rule says so of {_value(values, 'rate_real')} of real images"
    if words.is_number(values.get("planted_recall")):
        said += f". Of planted copies it finds {_value(values, 'planted_recall')}"
    caption = f"Share taken for copies of training images. {INTERVALS}"
    figure = forest(rows, caption, ("Images", "share, %", "Share [95 %]"))
    return Finding("Are they copies?", f"{said}.", figure)


def _shortcuts(values: Mapping[str, Any]) -> Finding:
    rows: list[Estimate] = []
    easier = []
    n = f"n = {words.count(values.get('n'))}" if words.is_number(values.get("n")) else ""
    for key, name in tables.SHORTCUTS:
        found = estimate(values, f"{key}_excess_auc", name[0].upper() + name[1:], "difference", detail=n)
        rows += found
        if any(row.low > 0 for row in found):
            easier.append(f"{name} ({_value(values, f'{key}_excess_auc', 'difference')})")
    if not rows:
        return Finding("", "", None)
    if easier:
        said = f"Yes: their classes are told apart more easily than real ones, in AUC, from {'; '.join(easier)}."
    else:
        said = "None shown: from what is not the lesion, their classes are told apart no more easily than real ones."
    caption = f"AUC of a classifier that sees only this, synthetic {words.MINUS} real images. {INTERVALS}"
    figure = forest(
        rows, caption, ("It sees only", "difference in AUC", "Difference [95 %]"), ("", "easier in synthetic →")
    )
    return Finding("Do they carry shortcuts?", said, figure)
