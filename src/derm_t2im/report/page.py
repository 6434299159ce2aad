"""The report as one HTML page: nothing is fetched, nothing runs in the browser, equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from derm_t2im import paths, templates
from derm_t2im.params.report import Report
from derm_t2im.report import charts, explanations, pictures, reliance, tables, verdict, words
from derm_t2im.report.evidence import Evidence

PHANTOM = "Phantoms: rendered test images, no clinical evidence."
RESEARCH = "Research only, not a medical device."


def render(evidence: Evidence, settings: Report) -> str:
    """The whole page as text.

    Args:
        evidence: What the run left behind; a part that is missing leaves its section out or says so.
        settings: Title, and how many sample images a grid shows.
    """
    from markupsafe import Markup

    pages = templates.environment("derm_t2im.report")
    pages.filters["svg"] = Markup  # our own charts, whose texts are escaped when drawn
    style = Markup(templates.source(pages, "style.css"))
    return pages.get_template("page.html").render(style=style, **context(evidence, settings))


def context(evidence: Evidence, settings: Report) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    classification = evidence.of("classification")
    contrasts = words.contrasts(classification)
    tested = reliance.tested(classification)
    margin, gain = reliance.margin(contrasts)
    phantom = is_phantom(evidence)
    synthetic, root = evidence.synthetic, evidence.root
    kept = rejected = None
    if synthetic is not None and "decision" in synthetic:
        kept, rejected = synthetic[synthetic["decision"] == "kept"], synthetic[synthetic["decision"] == "rejected"]
    train = None
    if evidence.real is not None and "split" in evidence.real:
        train = evidence.real[evidence.real["split"] == "train"]
    fidelity = evidence.of("fidelity")
    found = {
        "title": settings.title,
        "banner": f"{PHANTOM} {RESEARCH}" if phantom else RESEARCH,
        "phantom": phantom,
        "subtitle": _subtitle(evidence),
        "verdicts": verdict.verdicts(contrasts),
        "holm": _holm(contrasts),
        "facts": facts(evidence),
        "main": reliance.main(classification),
        "beyond": reliance.beyond(contrasts),
        "margin": margin,
        "gain": gain,
        "needed": tables.needed(contrasts),
        "calibration": reliance.calibration(classification),
        "abstention": reliance.abstention(classification),
        "abstentions": charts.abstentions(evidence.plots.get("abstention", []), tested),
        "sets": reliance.sets(classification),
        "subgroups": [
            (name, rows, charts.subgroups(evidence.plots.get("subgroups", []), name))
            for name, rows in reliance.subgroups(evidence.of("subgroups"))
        ],
        "results": tables.results(classification),
        "measures": [name for _, name, _ in tables.MEASURES],
        "operating": tables.operating(classification),
        "mixes": tables.mixes(evidence.of("mix")),
        "samplers": tables.samplers(evidence.of("generate")),
        "differences": tables.differences(contrasts),
        "forests": charts.contrasts(contrasts),
        "rocs": charts.rocs(evidence.plots.get("roc", []), tested),
        "reliabilities": charts.reliabilities(evidence.plots.get("reliability", []), tested),
        "reliabilities_calibrated": charts.reliabilities(
            evidence.plots.get("reliability_calibrated", []), tested, scaled=True
        ),
        "confusions": tables.confusions(evidence.plots.get("confusion", [])),
        "real_grid": pictures.by_class(root, train, settings.samples) if train is not None else [],
        "kept_grid": pictures.by_class(root, kept, settings.samples) if kept is not None else [],
        "rejected_grid": pictures.by_reason(root, rejected, settings.samples) if rejected is not None else [],
        "before": pictures.sheet(root / paths.LORA / "before.png", "Drawn by the base model before fine-tuning"),
        "after": pictures.sheet(root / paths.LORA / "after.png", "Drawn after fine-tuning, same prompts and seeds"),
        "hair": _hair(evidence),
        "repeats": pictures.copy_pairs(root, train, rejected) if train is not None and rejected is not None else [],
        "explanations": explanations.section(evidence),
        "curation": evidence.of("curation"),
        "kept": tables.kept(synthetic),
        "rejected": tables.bars(evidence.of("curation").get("rejected", {}), evidence.of("curation").get("pool")),
        "fidelity": tables.fidelity(fidelity),
        "fidelity_headings": [name for _, name in tables.FIDELITY],
        "fidelity_groups": [
            ("Sampler", tables.fidelity(fidelity.get("samplers", {}))),
            ("Skin tone", tables.fidelity(fidelity.get("tones", {}))),
        ],
        "kid_charts": charts.kid(evidence.of("finetune"), fidelity),
        "copies": copies(fidelity.get("copies", {})),
        "shortcuts": tables.shortcuts(fidelity.get("shortcuts", {})),
        "prompts": tables.prompts(evidence.of("generate")),
        "finetune": _finetune(evidence.of("finetune")),
        "gate": gate(gates(evidence)),
        "broken": [row for found in gates(evidence) for row in tables.broken(found)],
        "truths": tables.truths(evidence.of("preprocess")),
        "onnx": tables.onnx(evidence),
        "classes": sorted(evidence.real["label"].dropna().unique()) if evidence.real is not None else [],
        "splits": tables.split_sizes(evidence.real),
        "leaked": evidence.of("split").get("leaked_groups"),
        "sources": tables.sources(evidence.raw),
        "quarantined": tables.bars(_quarantined(evidence)),
        "limits": limits(evidence, phantom, len(contrasts)),
    }
    parts = ("calibration", "abstention", "sets", "subgroups", "reliabilities")
    return found | {"reliance": any(found[part] for part in parts)}


def _holm(contrasts: list[words.Contrast]) -> str:
    """How many comparisons stay below 0.05 after Holm's correction; empty where it was not made."""
    known = [c.values["p_auc_holm"] for c in contrasts if words.is_number(c.values.get("p_auc_holm"))]
    if not known:
        return ""
    stay = sum(p < 0.05 for p in known)
    return (
        f"The intervals are per comparison. After Holm’s correction for all {len(known)} comparisons on this page, "
        f"{stay or 'none'} of them {'stays' if stay == 1 else 'stay'} below p = 0.05."
    )


def is_phantom(evidence: Evidence) -> bool:
    """Whether any of the real images are rendered phantoms, by the name of their source."""
    table = evidence.raw if evidence.raw is not None else evidence.real
    if table is None or "source" not in table:
        return False
    return bool(table["source"].fillna("").str.startswith("phantom").any())


def _subtitle(evidence: Evidence) -> str:
    found = tables.scored(evidence.of("classification"))
    archs = sorted({words.arch(arch) for arch, *_ in found})
    mixes = [words.mix(mix) for mix in sorted({m for _, m, *_ in found}, key=words.mix_place)]
    if not archs:
        return "No classifier has been evaluated yet."
    return f"{_and(archs)}, trained on {_and(mixes)} images with equal numbers of steps, tested on images never seen."


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def facts(evidence: Evidence) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, what it is of."""
    out = []
    images = evidence.of("data").get("images")
    if words.is_number(images):
        out.append(("real images", words.count(images), _sources_said(evidence)))
    if evidence.real is not None and "split" in evidence.real:
        train = int((evidence.real["split"] == "train").sum())
        seed_images = evidence.real.get("seed_image")
        seen = int(seed_images.fillna(False).sum()) if seed_images is not None else 0
        out.append(("for training", words.count(train), f"the generator saw {words.count(seen)} of them"))
    pool, kept = evidence.of("curation").get("pool"), evidence.of("curation").get("kept")
    if words.is_number(pool) and words.is_number(kept) and pool:
        out.append(("synthetic images kept", words.count(kept), f"of {words.count(pool)} drawn"))
    rate = evidence.of("fidelity").get("copies", {})
    if words.is_number(rate.get("rate")):
        note = f"95 % interval {words.bounds(rate, 'rate', 'percent')}, n = {words.count(rate.get('n'))}"
        out.append(("copies of real images", words.number(rate["rate"], "percent"), note))
    state = gate(gates(evidence))
    if state:
        out.append(("validation gates", "passed" if state["passed"] else "failed", state["short"]))
    return out


def _sources_said(evidence: Evidence) -> str:
    if evidence.raw is None or "source" not in evidence.raw:
        return ""
    return ", ".join(sorted(evidence.raw["source"].dropna().unique()))


def gates(evidence: Evidence) -> list[Mapping[str, Any]]:
    """What the validation gates found, those that have run."""
    return [found for found in (evidence.of("validation_data"), evidence.of("validation")) if found]


def gate(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The validation gates together, in words; empty where none has run."""
    if not found:
        return {}
    failures, notes, expectations = (
        sum(each.get(key) or 0 for each in found) for key in ("critical_failures", "warnings", "expectations")
    )
    whole = words.count(expectations)
    return {
        "passed": failures == 0,
        "short": f"{whole} expectations, {words.count(notes)} warnings",
        "expectations": whole,
        "critical": words.count(failures),
        "warnings": words.count(notes),
    }


def copies(values: Mapping[str, Any]) -> list[tables.Row]:
    """Copies found, how many held-out real images would count as such, and whether planted ones are found."""
    known = (
        ("rate", "n", "Synthetic images closer to a training image than held-out real images are"),
        ("rate_real", "n_real", "The same among held-out real images (what the rule gives by chance)"),
        ("planted_recall", "planted_n", "Planted copies that the search finds (flipped, turned, cropped, recoloured)"),
    )
    return [
        tables.Row(said, [tables.cell(values, key, "percent")], words.count(values.get(n)))
        for key, n, said in known
        if words.is_number(values.get(key))
    ]


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


def _hair(evidence: Evidence) -> list[pictures.Pair]:
    if evidence.raw is None or evidence.real is None:
        return []
    return pictures.hair_pairs(evidence.root, evidence.raw, evidence.real)


def _quarantined(evidence: Evidence) -> dict[str, float]:
    """Images set aside, by stage and reason."""
    out: dict[str, float] = {}
    for name in ("data", "preprocess"):
        for reason, n in (evidence.of(name).get("quarantined") or {}).items():
            if words.is_number(n):
                out[reason] = out.get(reason, 0) + n
    return out


def limits(evidence: Evidence, phantom: bool, comparisons: int) -> list[str]:
    """What this run cannot show, from the run itself."""
    said = []
    if phantom:
        said.append(
            "The images are phantoms, drawn by a program. They test the machinery and measure what real images "
            "cannot; nothing here says anything about patients."
        )
    found = tables.scored(evidence.of("classification"))
    sizes = sorted({int(values["n"]) for *_, values in found if words.is_number(values.get("n"))})
    if sizes:
        said.append(
            f"The test sets hold {_and([words.count(n) for n in sizes])} images. A difference smaller than the "
            "intervals above may exist and stay unseen: “no improvement shown” does not mean “no improvement”."
        )
    seeds = sorted({int(values["seeds"]) for *_, values in found if words.is_number(values.get("seeds"))})
    if seeds:
        said.append(
            f"Each classifier was trained with {_and([str(n) for n in seeds])} random seeds. The synthetic images "
            "come from one fine-tuning of one generator. The intervals are of the choice of test images; neither the "
            "chance of the seeds nor that of the generator is in them."
        )
    if comparisons > 1:
        said.append(
            f"{comparisons} comparisons stand side by side. The intervals are per comparison: with that many, one "
            "that excludes zero by chance is to be expected now and then."
        )
    said.append(
        "Label agreement and fidelity lean on a small classifier that saw real training images only; its mistakes "
        "are theirs."
    )
    said.append(
        "This page compares training sets. It is no validation of a diagnostic device, and must not be used as one."
    )
    return said
