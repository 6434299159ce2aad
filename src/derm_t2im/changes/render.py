"""A comparison as Markdown for a pull request, as a page of its own, and as JSON."""

from __future__ import annotations

import base64
import json
import math
from typing import Any

from derm_t2im import templates
from derm_t2im.changes.compare import Change, Comparison, Estimate
from derm_t2im.report import charts, words

MARKER = "<!-- derm-t2im: results -->"
ARROWS = {"better": "▲ better", "worse": "▼ worse"}
ARROW = "\N{RIGHTWARDS ARROW}"
MOST_PARAMS = 40


def estimate(one: Estimate | None, form: words.Form = "plain") -> str:
    """A value with its interval."""
    if one is None:
        return words.NONE
    interval = words.bounds({"x_low": one.low, "x_high": one.high}, "x", form)
    return f"{words.number(one.value, form)} {interval}".strip()


def moved(change: Change, interval: bool = True) -> str:
    """Before, after and their difference, with an arrow only where its interval excludes 0."""
    if change.before is None or change.after is None or change.difference is None:
        return {"new": f"new: {estimate(change.after)}", "gone": "gone"}.get(change.outcome, words.NONE)
    d = change.difference
    if d.value == 0:
        return f"{words.number(change.after.value)}, unchanged"
    values = f"{words.number(change.before.value)} {ARROW} {words.number(change.after.value)}"
    said = words.number(d.value, "difference")
    if interval and math.isfinite(d.low):
        said += f" {words.bounds({'d_low': d.low, 'd_high': d.high}, 'd', 'difference')}"
    arrow = ARROWS.get(change.outcome, "")
    return f"{values} ({said}){' ' + arrow if arrow else ''}"


def verdict(found: Comparison) -> str:
    """The first line: the headline measure and the gates."""
    gate = found.gates[0]
    if found.headline is None:
        return f"No classifier was evaluated in both; {gate}."
    said = "" if found.headline.outcome in ARROWS else ", no difference shown"
    return f"{found.headline.name}: {moved(found.headline)}{said}; {gate}."


def _value(value: Any) -> str:
    if value is None:
        return words.NONE
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def context(found: Comparison) -> dict[str, Any]:
    """Everything that both templates show, in words."""
    paired = any(c.paired for *_, changes in found.classifiers for c in changes)
    return {
        "marker": MARKER,
        "before": found.before.short,
        "after": found.after.short,
        "verdict": verdict(found),
        "tone": found.headline.outcome if found.headline else "none",
        "gates_ok": found.gates[1],
        "paired": paired,
        "measures": [c.name for c in found.classifiers[0][3]] if found.classifiers else [],
        "classifiers": [
            (f"{words.arch(arch)}, {words.test_set(test)}", words.mix(mix), [moved(c) for c in changes])
            for arch, mix, test, changes in found.classifiers
        ],
        "hybrid": [
            (f"{words.arch(arch)}, {words.test_set(test)}", estimate(a, "difference"), estimate(b, "difference"))
            for arch, test, a, b in found.hybrid
        ],
        "synthetic": [(n, estimate(a, "percent"), estimate(b, "percent"), said) for n, a, b, said in found.synthetic],
        "fidelity": [(c.name, moved(c)) for c in found.fidelity],
        "params": [(key, _value(old), _value(new)) for key, old, new in found.params[:MOST_PARAMS]],
        "more_params": max(0, len(found.params) - MOST_PARAMS),
        "failures": found.failures,
        "onnx": found.onnx,
        "reran": found.reran,
        "stale": found.stale,
        "reproduce": found.reproduce,
    }


def markdown(found: Comparison, samples: tuple[str, str] | None = None, page: str = "") -> str:
    """A comment for a pull request.

    Args:
        found: The comparison.
        samples: Addresses of the sample sheets before and after, where a reader can see them.
        page: Address of the whole page, where curves and pictures are.
    """
    pages = templates.plain("derm_t2im.changes")
    return pages.get_template("comment.md").render(samples=samples, page=page, **context(found))


def html(found: Comparison) -> str:
    """The same as one page with curves and sample sheets inside; nothing is fetched, nothing runs."""
    from markupsafe import Markup

    pages = templates.environment("derm_t2im.changes", "derm_t2im.report")
    pages.filters["svg"] = Markup
    style = Markup(templates.source(pages, "style.css"))
    sides = []
    for snapshot in (found.before, found.after):
        sheet = base64.b64encode(snapshot.samples).decode() if snapshot.samples else ""
        rocs, bins = (snapshot.plots.get(name, []) for name in ("roc", "reliability"))
        curves = [*charts.rocs(rocs), *charts.reliabilities(bins)]
        sides.append({"name": snapshot.short, "sheet": sheet, "curves": curves})
    return pages.get_template("changes.html").render(style=style, sides=sides, **context(found))


def as_json(found: Comparison) -> str:
    """The same for programs."""

    def one(value: Estimate | None) -> Any:
        if value is None:
            return None
        return {k: v if math.isfinite(v) else None for k, v in vars(value).items()}

    def change(value: Change | None) -> Any:
        if value is None:
            return None
        sides = {key: one(getattr(value, key)) for key in ("before", "after", "difference")}
        return {"name": value.name, **sides, "outcome": value.outcome, "paired": value.paired}

    content = {
        "before": {"name": found.before.name, "commit": found.before.commit},
        "after": {"name": found.after.name, "commit": found.after.commit},
        "verdict": verdict(found),
        "headline": change(found.headline),
        "gates": {"said": found.gates[0], "passed": found.gates[1]},
        "classifiers": [
            {"arch": arch, "mix": mix, "test": test, "measures": [change(c) for c in changes]}
            for arch, mix, test, changes in found.classifiers
        ],
        "hybrid_minus_real_auc": [
            {"arch": arch, "test": test, "before": one(a), "after": one(b)} for arch, test, a, b in found.hybrid
        ],
        "kept_share": [{"class": n, "before": one(a), "after": one(b)} for n, a, b, _ in found.synthetic],
        "fidelity": [change(c) for c in found.fidelity],
        "params": {key: {"before": old, "after": new} for key, old, new in found.params},
        "failures": [
            dict(zip(("severity", "suite", "expectation", "broken", "examples"), row, strict=True))
            for row in found.failures
        ],
        "onnx": [{"arch": arch, "before": a, "after": b} for arch, a, b in found.onnx],
        "stages_changed": found.reran,
        "stages_stale": found.stale,
        "reproduce": found.reproduce,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
