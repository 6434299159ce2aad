"""What the run is in a few words: the question, its key figures, how it was made, what it cannot show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from derm_t2im.report import tables, words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.tables import flat


class Part(NamedTuple):
    """One line on how the run was made, and the detail that it is short for (an id on the page, or nothing)."""

    name: str
    said: str
    detail: str = ""


def classes(evidence: Evidence) -> list[str]:
    """The classes of the real images."""
    return sorted(evidence.real["label"].dropna().unique()) if evidence.real is not None else []


def question(evidence: Evidence) -> str:
    """The question in one sentence that names its classes, where they are few."""
    names = classes(evidence)
    what = f"{names[0]} from {names[1]} lesions" if len(names) == 2 else "kinds of skin lesions"
    return (
        f"Does a classifier tell {what} better when it was trained on real and synthetic images together (“hybrid”) "
        "than when it was trained on the real images alone?"
    )


def is_phantom(evidence: Evidence) -> bool:
    """Whether any of the real images are rendered phantoms, by the name of their source."""
    table = evidence.raw if evidence.raw is not None else evidence.real
    if table is None or "source" not in table:
        return False
    return bool(table["source"].fillna("").str.startswith("phantom").any())


def facts(evidence: Evidence) -> list[tuple[str, str, str]]:
    """The figures at the top: name, value, what it is of."""
    out = []
    state = gate(gates(evidence))
    if state:
        out.append(("Validation gates", "passed" if state["passed"] else "failed", state["short"]))
    images = evidence.of("data").get("images")
    if words.is_number(images):
        out.append(("Real images", words.count(images), _sources_said(evidence)))
    if evidence.real is not None and "split" in evidence.real:
        train = int((evidence.real["split"] == "train").sum())
        out.append(("For training", words.count(train), f"the generator saw {words.count(_seen(evidence))} of them"))
    pool, kept = evidence.of("curation").get("pool"), evidence.of("curation").get("kept")
    if words.is_number(pool) and words.is_number(kept) and pool:
        out.append(("Synthetic images kept", words.count(kept), f"of {words.count(pool)} drawn"))
    rate = flat(evidence.of("fidelity").get("copies"))
    if words.is_number(rate.get("rate")):
        note = f"95 % interval {words.bounds(rate, 'rate', 'percent')}, n = {words.count(rate.get('n'))}"
        out.append(("Copies among those drawn", words.number(rate["rate"], "percent"), note))
    return out


def _seen(evidence: Evidence) -> int:
    seed_images = evidence.real.get("seed_image") if evidence.real is not None else None
    return int(seed_images.fillna(False).sum()) if seed_images is not None else 0


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
        "short": f"{whole} expectations, {words.count(failures)} critical failures, {words.count(notes)} warnings",
    }


def how(evidence: Evidence) -> list[Part]:
    """How the answer was found, a line for each step that left something behind."""
    parts = [_data(evidence), _splits(evidence), _generator(evidence), _classifiers(evidence), _statistics(evidence)]
    return [part for part in parts if part.said]


def _data(evidence: Evidence) -> Part:
    images = evidence.of("data").get("images")
    if not words.is_number(images):
        return Part("Data", "")
    kind = "phantoms, drawn by a program" if is_phantom(evidence) else "images"
    sources = _sources_said(evidence)
    said = f"{words.count(images)} {kind}" + (f", from {sources}" if sources else "") + "."
    out = sum(quarantined(evidence).values())
    return Part("Data", f"{said} {words.count(out) if out else 'None'} set aside as unusable.", "data")


def _splits(evidence: Evidence) -> Part:
    if evidence.real is None or "split" not in evidence.real:
        return Part("Splits", "")
    sizes = evidence.real["split"].value_counts()
    named = {"train": "for training", "val": "to choose thresholds", "test": "for the in-domain test",
             "external": "for the external test"}  # fmt: skip
    said = and_([f"{words.count(sizes[key])} {what}" for key, what in named.items() if sizes.get(key)]) + "."
    leaked = evidence.of("split").get("leaked_groups")
    if leaked == 0:
        said += " No lesion or patient is on both sides of a split, and no test image was seen in training."
    elif words.is_number(leaked):
        said += f" Lesions or patients on both sides of a split: {words.count(leaked)}."
    return Part("Splits", said, "data")


def _generator(evidence: Evidence) -> Part:
    pool, kept = evidence.of("curation").get("pool"), evidence.of("curation").get("kept")
    if not (words.is_number(pool) and words.is_number(kept)):
        return Part("Generator", "")
    saw = f", fine-tuned (LoRA) on {words.count(_seen(evidence))} of the training images" if _seen(evidence) else ""
    return Part(
        "Generator",
        f"A text-to-image diffusion model{saw}. It drew {words.count(pool)} images; rules and an independent "
        f"classifier kept {words.count(kept)}.",
        "trust",
    )


def _classifiers(evidence: Evidence) -> Part:
    found = tables.scored(evidence.of("classification"))
    if not found:
        return Part("Classifiers", "")
    archs = and_(sorted({words.arch(arch) for arch, *_ in found}))
    mixes = and_([words.mix(name) for name in sorted({m for _, m, *_ in found}, key=words.mix_place)])
    seeds = seeds_of(evidence)
    times = f" {and_([words.count(n) for n in seeds])} times (seeds)" if seeds else ""
    times = " once" if seeds == [1] else times
    hybrid = flat(evidence.of("mix").get("hybrid"))
    share = hybrid.get("synthetic_fraction")
    if not words.is_number(share) and words.is_number(hybrid.get("synthetic")) and hybrid.get("images"):
        share = hybrid["synthetic"] / hybrid["images"]
    mixed = f" Hybrid is {share:.0%} synthetic.".replace("%", " %") if words.is_number(share) else ""
    said = f"{archs}, each trained{times} on each training set: {mixes}. Equal numbers of steps for all.{mixed}"
    return Part("Classifiers", said, "all-results")


def seeds_of(evidence: Evidence) -> list[int]:
    """How often each classifier was trained."""
    found = tables.scored(evidence.of("classification"))
    return sorted({int(values["seeds"]) for *_, values in found if words.is_number(values.get("seeds"))})


def _statistics(evidence: Evidence) -> Part:
    contrasts = words.contrasts(evidence.of("classification"))
    if not contrasts:
        return Part("Statistics", "")
    said = (
        "AUC is the chance that a malignant lesion gets a higher score than a benign one"
        if classes(evidence) == ["benign", "malignant"]
        else "AUC is the chance that an image with the finding gets a higher score than one without"
    )
    said += (
        ": 0.5 is guessing, 1 perfect. Differences are of the same test images; intervals hold 95 % and come from a "
        "bootstrap over test images. “Improvement” is said where the interval lies above zero, “deterioration” where "
        "it lies below, “no improvement shown” otherwise."
    )
    return Part("Statistics", f"{said} {_holm(contrasts)}".strip(), "all-differences")


def _holm(contrasts: list[words.Contrast]) -> str:
    """How many comparisons stay below 0.05 after Holm's correction; empty where it was not made."""
    known = [c.values["p_auc_holm"] for c in contrasts if words.is_number(c.values.get("p_auc_holm"))]
    if not known:
        return ""
    if len(known) == 1:
        return ""  # nothing to correct for
    stay = sum(p < 0.05 for p in known)
    return (
        f"After Holm’s correction for all {len(known)} comparisons on this page, {stay or 'none'} of them "
        f"{'stays' if stay == 1 else 'stay'} below p = 0.05."
    )


def and_(names: list[str]) -> str:
    """Names as a list in a sentence."""
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def quarantined(evidence: Evidence) -> dict[str, float]:
    """Images set aside, by stage and reason."""
    out: dict[str, float] = {}
    for name in ("data", "preprocess"):
        for reason, n in (evidence.of(name).get("quarantined") or {}).items():
            if words.is_number(n):
                out[reason] = out.get(reason, 0) + n
    return out


def limits(evidence: Evidence) -> list[tuple[str, str]]:
    """What this run cannot show, from the run itself: a name and a sentence each."""
    said = []
    if is_phantom(evidence):
        said.append((
            "No clinical evidence",
            "The images are phantoms, drawn by a program. They test the machinery and measure what real images "
            "cannot; nothing here says anything about patients.",
        ))  # fmt: skip
    found = tables.scored(evidence.of("classification"))
    sizes = sorted({int(values["n"]) for *_, values in found if words.is_number(values.get("n"))})
    if sizes:
        said.append((
            "Few test images",
            f"The test sets hold {and_([words.count(n) for n in sizes])} images. A difference smaller than the "
            "intervals may exist and stay unseen: “no improvement shown” does not mean “no improvement”.",
        ))  # fmt: skip
    if seeds := seeds_of(evidence):
        said.append((
            "Few training runs",
            f"Each classifier was trained with {and_([str(n) for n in seeds])} random seed{'s' * (seeds != [1])}, and "
            "the synthetic images come from one fine-tuning of one generator. The intervals over test images hold "
            "neither chance; those with the spread of training runs hold that of the seeds, and with few seeds they "
            "are wide.",
        ))  # fmt: skip
    comparisons = len(words.contrasts(evidence.of("classification")))
    if comparisons > 1:
        said.append((
            "Many comparisons",
            f"{comparisons} comparisons stand side by side. The intervals are per comparison: with that many, one "
            "that excludes zero by chance is to be expected now and then.",
        ))  # fmt: skip
    said.append((
        "A helper that errs",
        "Label agreement and fidelity lean on a small classifier that saw real training images only; its mistakes "
        "are theirs.",
    ))  # fmt: skip
    said.append((
        "Not tested",
        "Other generators and other shares of synthetic images, patients and clinics that the test sets do not hold, "
        "and use at the bedside. This page compares training sets. It is no validation of a diagnostic device, and "
        "must not be used as one.",
    ))  # fmt: skip
    return said
