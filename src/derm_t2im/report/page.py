"""The report as one HTML page: nothing is fetched, nothing runs in the browser, equal input gives equal bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from derm_t2im import paths, templates
from derm_t2im.params.report import Report
from derm_t2im.report import (
    charts,
    draws,
    explanations,
    pictures,
    reliance,
    summary,
    sweeps,
    tables,
    trust,
    verdict,
    words,
)
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.origin import Origin

PHANTOM = "Phantoms: rendered test images, no clinical evidence."
RESEARCH = "Research only, not a medical device."


def render(evidence: Evidence, settings: Report, made: Origin | None = None) -> str:
    """The whole page as text.

    Args:
        evidence: What the run left behind; a part that is missing leaves its section out or says so.
        settings: Title, and how many sample images a grid shows.
        made: What the run was made from.
    """
    from markupsafe import Markup

    pages = templates.environment("derm_t2im.report")
    pages.filters["svg"] = Markup  # our own charts, whose texts are escaped when drawn
    style = Markup(templates.source(pages, "style.css"))
    found = {"style": style, "made": made or Origin(), **context(evidence, settings)}
    return _unbroken(pages.get_template("page.html").render(**found))


def _unbroken(page: str) -> str:
    """No line ends between a number and its sign: 95 %, n = 500, p < 0.001."""
    page = re.sub(r"(?<=\d) %", f"{words.NBSP}%", page)
    return re.sub(r"\b([np]) (=|&lt;) (?=\d)", rf"\1{words.NBSP}\2{words.NBSP}", page)


def context(evidence: Evidence, settings: Report) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    phantom = summary.is_phantom(evidence)
    contrasts = words.contrasts(evidence.of("classification"))
    return {
        "title": settings.title,
        "banner": f"{PHANTOM} {RESEARCH}" if phantom else RESEARCH,
        "phantom": phantom,
        "question": summary.question(evidence),
        "answer": verdict.answer(contrasts),
        "verdicts": verdict.verdicts(contrasts, evidence.of("classification")),
        "draws": draws.table(evidence),
        "draw_seeds": draws.seeds(evidence),
        "other_draws": draws.not_shown(evidence),
        "facts": summary.facts(evidence),
        "how": summary.how(evidence),
        "findings": trust.findings(evidence),
        "explanations": explanations.section(evidence),
        "sweeps": sweeps.section(evidence),
        "limits": summary.limits(evidence),
        **_pictures(evidence, settings.samples),
        **_classifiers(evidence, contrasts),
        **_synthetic(evidence),
        **_data(evidence),
    }


def _pictures(evidence: Evidence, most: int) -> dict[str, Any]:
    root, synthetic, train, kept, rejected = evidence.root, evidence.synthetic, None, None, None
    if synthetic is not None and "decision" in synthetic:
        kept, rejected = synthetic[synthetic["decision"] == "kept"], synthetic[synthetic["decision"] == "rejected"]
    if evidence.real is not None and "split" in evidence.real:
        train = evidence.real[evidence.real["split"] == "train"]
    rejects = pictures.by_reason(root, rejected, most) if rejected is not None else []
    lora = root / paths.LORA
    hair = evidence.raw is not None and evidence.real is not None
    return {
        "beside": pictures.beside(root, train, kept, most),
        "rejected_grid": rejects,
        "kept_few": pictures.by_class(root, kept, len(rejects[0].pictures)) if rejects and kept is not None else [],
        "before": pictures.sheet(lora / "before.png", "Drawn by the base model before fine-tuning"),
        "after": pictures.sheet(lora / "after.png", "Drawn after fine-tuning, same prompts and seeds"),
        "hair": pictures.hair_pairs(root, evidence.raw, evidence.real) if hair else [],  # type: ignore[arg-type]
        "repeats": pictures.copy_pairs(root, train, rejected) if train is not None and rejected is not None else [],
    }


def _classifiers(evidence: Evidence, contrasts: list[words.Contrast]) -> dict[str, Any]:
    classification, plots = evidence.of("classification"), evidence.plots
    tested = reliance.tested(classification)
    margin, gain = reliance.margin(contrasts)
    return {
        "main": reliance.main(classification),
        "beyond": reliance.beyond(contrasts),
        "margin": margin,
        "gain": gain,
        "ensembles": tables.ensembles(contrasts),
        "needed": tables.needed(contrasts),
        "calibration": reliance.calibration(classification),
        "abstention": reliance.abstention(classification),
        "abstentions": charts.abstentions(plots.get("abstention", []), tested),
        "sets": reliance.sets(classification),
        "subgroups": [
            (name, rows, charts.subgroups(plots.get("subgroups", []), name))
            for name, rows in reliance.subgroups(evidence.of("subgroups"))
        ],
        "results": tables.results(classification),
        "measures": [name for _, name, _ in tables.MEASURES],
        "per_class": tables.per_class(classification),
        "class_measures": [name for _, name, _ in tables.OF_CLASS],
        "operating": tables.operating(classification),
        "aim": tables.aim(classification),
        "differences": tables.differences(contrasts),
        "rocs": charts.rocs(plots.get("roc", []), tested),
        "reliabilities": charts.reliabilities(plots.get("reliability", []), tested),
        "reliabilities_calibrated": charts.reliabilities(plots.get("reliability_calibrated", []), tested, scaled=True),
        "confusions": tables.confusions(plots.get("confusion", [])),
        "onnx": tables.onnx(evidence),
    }


def _synthetic(evidence: Evidence) -> dict[str, Any]:
    fidelity, curation = evidence.of("fidelity"), evidence.of("curation")
    return {
        "kept": tables.kept(evidence.synthetic),
        "rejected": tables.bars(curation.get("rejected", {}), curation.get("pool")),
        "fidelity": tables.fidelity(fidelity),
        "fidelity_headings": [name for _, name in tables.FIDELITY],
        "fidelity_groups": [
            ("Sampler", tables.fidelity(fidelity.get("samplers", {}))),
            ("Skin tone", tables.fidelity(fidelity.get("tones", {}))),
        ],
        "prompts": tables.prompts(evidence.of("generate")),
        "samplers": tables.samplers(evidence.of("generate")),
        "finetune": _finetune(evidence.of("finetune")),
    }


def _data(evidence: Evidence) -> dict[str, Any]:
    gates = summary.gates(evidence)
    return {
        "gate": summary.gate(gates),
        "broken": [row for found in gates for row in tables.broken(found)],
        "truths": tables.truths(evidence.of("preprocess")),
        "mixes": tables.mixes(evidence.of("mix")),
        "classes": summary.classes(evidence),
        "splits": tables.split_sizes(evidence.real),
        "leaked": evidence.of("split").get("leaked_groups"),
        "sources": tables.sources(evidence.raw),
        "quarantined": tables.bars(summary.quarantined(evidence)),
    }


def _finetune(values: Mapping[str, Any]) -> list[tables.Row]:
    known = {
        "heldout_loss_before": "Held-out denoising loss of the base model",
        "heldout_loss": "Held-out denoising loss after fine-tuning",
        "kid_before": "KID of the base model",
        "kid_after": "KID after fine-tuning",
        "kid_floor": "KID of real against real images",
    }
    return [
        tables.Row(said, [tables.cell(values, key, digits=4)], words.count(values.get("heldout_n")))
        for key, said in known.items()
        if words.is_number(values.get(key))
    ]
