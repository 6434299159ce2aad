"""Rows of the report's tables, from metrics and manifests: plain records, already in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from derm_t2im.report import words
from derm_t2im.report.evidence import Evidence

if TYPE_CHECKING:
    import pandas as pd

#: Measures of the table of results: key, heading, form.
MEASURES: tuple[tuple[str, str, words.Form], ...] = (
    ("accuracy", "Accuracy", "percent"),
    ("balanced_accuracy", "Balanced accuracy", "percent"),
    ("auc", "AUC", "plain"),
    ("auc_seed_sd", "AUC, SD over seeds", "plain"),
    ("average_precision", "Average precision", "plain"),
    ("sensitivity_at_90_specificity", "Sensitivity at 90\N{NO-BREAK SPACE}% specificity", "percent"),
    ("f1", "F1", "plain"),
    ("sensitivity", "Sensitivity", "percent"),
    ("specificity", "Specificity", "percent"),
)
#: The same of each class against the rest.
OF_CLASS: tuple[tuple[str, str, words.Form], ...] = (
    ("auc", "AUC", "plain"),
    ("average_precision", "Average precision", "plain"),
    ("recall", "Recall", "percent"),
    ("precision", "Precision", "percent"),
    ("f1", "F1", "plain"),
)
FIDELITY: tuple[tuple[str, str], ...] = (  # key, heading
    ("cmmd", "CMMD"),
    ("fid_infinity", "FID∞"),
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("density", "Density"),
    ("coverage", "Coverage"),
    ("vendi", "Vendi score"),
)
PROMPTS: tuple[tuple[str, str, words.Form], ...] = (
    ("class_agreement", "The probe sees the class that the prompt asked for", "percent"),
    ("size_rank_correlation", "Lesion size: asked for and measured, rank correlation", "plain"),
    ("count_rank_correlation", "Number of lesions: asked for and measured, rank correlation", "plain"),
    ("tone_rank_correlation", "Skin tone: asked for and measured, rank correlation", "plain"),
)
SHORTCUTS = (
    ("colour", "six colour statistics"),
    ("border", "the image border alone"),
    ("coarse", "a coarse thumbnail"),
)


@dataclass(frozen=True)
class Cell:
    """A value in words with its interval in words."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """One line of a table: its name, its cells, and how many images stand behind it."""

    name: str
    cells: list[Cell]
    n: str = ""
    note: str = ""


@dataclass(frozen=True)
class Block:
    """Rows below one heading."""

    name: str
    rows: list[Row]


def cell(values: Mapping[str, Any], key: str, form: words.Form = "plain", digits: int = 3) -> Cell:
    """An estimate ``key`` with its interval."""
    return Cell(words.number(values.get(key), form, digits), words.bounds(values, key, form, digits))


def scored(classification: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, Any]]]:
    """(architecture, mix, test set, values) of every classifier, test set by test set."""
    found = [
        (arch, mix, test, values)
        for arch, mixes in classification.items()
        if isinstance(mixes, Mapping) and arch != "contrasts"
        for mix, tests in mixes.items()
        if isinstance(tests, Mapping)
        for test, values in tests.items()
        if isinstance(values, Mapping) and "n" in values
    ]
    return sorted(found, key=lambda item: (words.test_place(item[2]), item[0], words.mix_place(item[1])))


def results(classification: Mapping[str, Any]) -> list[Block]:
    """The table of results: a block per test set and architecture, a row per training mix."""
    blocks: dict[tuple[str, str], Block] = {}
    for arch, mix, test, values in scored(classification):
        name = f"{words.arch(arch)}, {words.test_set(test)} (n = {words.count(values['n'])})"
        block = blocks.setdefault((test, arch), Block(name, []))
        cells = [cell(values, key, form) for key, _, form in MEASURES]
        block.rows.append(Row(words.mix(mix), cells, words.count(values["n"])))
    return list(blocks.values())


def per_class(classification: Mapping[str, Any]) -> list[Block]:
    """Each class against the rest, and the mean over the classes; a block per classifier; empty for two classes."""
    blocks = []
    for arch, mix, test, values in scored(classification):
        classes = flat(values.get("classes"))
        if not classes:
            continue
        known = [(name, flat(found)) for name, found in classes.items()]
        known.append(("mean over the classes", {**flat(values.get("macro")), "n": values["n"]}))
        rows = [
            Row(name, [cell(found, key, form) for key, _, form in OF_CLASS], words.count(found.get("n")))
            for name, found in known
        ]
        blocks.append(Block(f"{words.mix(mix)}: {words.arch(arch)}, {words.test_set(test)}", rows))
    return blocks


def operating(classification: Mapping[str, Any]) -> list[Row]:
    """Sensitivity and specificity at thresholds chosen on validation images."""
    rows = []
    for arch, mix, test, values in scored(classification):
        point = flat(values.get("operating"))
        if words.is_number(point.get("threshold")):
            cells = [
                Cell(f"{words.arch(arch)}, {words.test_set(test)}"),
                Cell(words.number(point["threshold"])),
                cell(point, "sensitivity", "percent"),
                cell(point, "specificity", "percent"),
                Cell(words.count(values["n"])),
            ]
            rows.append(Row(words.mix(mix), cells))
    return rows


def aim(classification: Mapping[str, Any]) -> str:
    """The sensitivity on validation images that thresholds were chosen for; empty where there is none."""
    points = (flat(values.get("operating")) for *_, values in scored(classification))
    known = [p["val_sensitivity"] for p in points if words.is_number(p.get("val_sensitivity"))]
    return f"{100 * known[0]:.3g} %" if known else ""


def flat(values: Any) -> Mapping[str, Any]:
    """A mapping, empty where there is none."""
    return values if isinstance(values, Mapping) else {}


def differences(contrasts: Sequence[words.Contrast]) -> list[Row]:
    """The table of contrasts: differences in AUC and accuracy, their p values (plain, and Holm's), the outcome."""
    rows = []
    for c in contrasts:
        name = f"{words.mix(c.a)} {words.MINUS} {words.mix(c.b)}"
        cells = [
            Cell(f"{words.arch(c.arch)}, {words.test_set(c.test)}"),
            Cell(words.count(c.n)),
            cell(c.values, "auc", "difference"),
            Cell(words.p_value(c.values.get("p_auc")), _holm(c.values.get("p_auc_holm"))),
            cell(c.values, "accuracy", "points"),
            Cell(words.p_value(c.values.get("p")), _holm(c.values.get("p_holm"))),
            Cell(c.outcome("auc")),
        ]
        rows.append(Row(name, cells, words.count(c.n)))
    return rows


def ensembles(contrasts: Sequence[words.Contrast]) -> list[Row]:
    """The second opinion, on the seeds' mean probabilities: DeLong's test of AUC, exact McNemar's of the decisions."""
    rows = []
    for c in contrasts:
        found = c.values
        if not words.is_number(found.get("ensemble_p_mcnemar")):
            continue
        only = [words.count(found.get(f"ensemble_only_{side}_right")) for side in "ab"]
        cells = [
            Cell(f"{words.arch(c.arch)}, {words.test_set(c.test)}"),
            Cell(words.count(c.n)),
            Cell(words.number(found.get("ensemble_auc"), "difference")),
            Cell(words.p_value(found.get("ensemble_p_delong")), _holm(found.get("ensemble_p_delong_holm"))),
            Cell(words.number(found.get("ensemble_accuracy"), "points")),
            Cell(f"{only[0]} : {only[1]}"),
            Cell(words.p_value(found["ensemble_p_mcnemar"]), _holm(found.get("ensemble_p_mcnemar_holm"))),
        ]
        rows.append(Row(f"{words.mix(c.a)} {words.MINUS} {words.mix(c.b)}", cells))
    return rows


def needed(contrasts: Sequence[words.Contrast]) -> list[Row]:
    """How many test images would show a difference with 80 % power: the observed one, and the one planned for."""
    keys = ("needed_n_auc", "needed_n_auc_gain", "needed_n_accuracy", "needed_n_accuracy_gain")
    return [
        Row(
            f"{words.mix(c.a)} {words.MINUS} {words.mix(c.b)}",
            [
                Cell(f"{words.arch(c.arch)}, {words.test_set(c.test)}"),
                Cell(words.count(c.n)),
                Cell(words.number(c.values.get("ensemble_auc"), "difference")),
                *(Cell(words.count(c.values.get(key))) for key in keys[:2]),
                Cell(words.number(c.values.get("ensemble_accuracy"), "points")),
                *(Cell(words.count(c.values.get(key))) for key in keys[2:]),
            ],
        )
        for c in contrasts
        if any(words.is_number(c.values.get(key)) for key in keys)
    ]


def _holm(p: Any) -> str:
    return f"Holm {words.p_value(p)}" if words.is_number(p) else ""


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: ``counts[actual][predicted]`` with the share of the row behind each."""

    name: str
    classes: list[str]
    counts: list[list[int]]
    shares: list[list[float]]


def confusions(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Confusion]]]:
    """Confusion matrices by architecture and test set, one per mix."""
    known: dict[tuple[str, str], dict[str, dict[tuple[str, str], int]]] = {}
    for r in records:
        place = known.setdefault((str(r["test"]), str(r["arch"])), {}).setdefault(str(r["mix"]), {})
        key = (str(r["actual"]), str(r["predicted"]))
        place[key] = place.get(key, 0) + int(r["n"])
    out = []
    for test, arch in sorted(known, key=lambda k: (words.test_place(k[0]), k)):
        by_mix = known[test, arch]
        order = sorted(by_mix, key=words.mix_place)
        shown = [_confusion(words.mix(m), by_mix[m]) for m in order]
        out.append((f"{words.arch(arch)}, {words.test_set(test)}", shown))
    return out


def _confusion(name: str, counts: Mapping[tuple[str, str], int]) -> Confusion:
    classes = sorted({label for pair in counts for label in pair})
    rows = [[counts.get((actual, predicted), 0) for predicted in classes] for actual in classes]
    shares = [[n / max(1, sum(row)) for n in row] for row in rows]
    return Confusion(name, classes, rows, shares)


def fidelity(metrics: Mapping[str, Any]) -> list[Row]:
    """Fidelity per class (or other group): KID beside its floor, then the other metrics beside real against real."""
    rows = []
    labels = [name for name, values in metrics.items() if isinstance(values, Mapping) and "kid" in values]
    for label in sorted((name for name in labels if name not in ("all", "external")), key=str) + ["all"] * (
        "all" in labels
    ):
        values = metrics[label]
        cells = [cell(values, "kid", digits=3), cell(values, "kid_floor", digits=3)]
        for key, _ in FIDELITY:
            real = words.number(values.get(f"{key}_real", values.get(f"{key}_floor")), digits=2)
            cells.append(Cell(words.number(values.get(key), digits=2), f"real {real}" if real != words.NONE else ""))
        n = f"{words.count(values.get('n_synthetic'))} / {words.count(values.get('n_real'))}"
        rows.append(Row("all classes" if label == "all" else label, cells, n))
    return rows


def shortcuts(values: Mapping[str, Any]) -> list[Row]:
    """How far a probe gets that sees no lesion: AUC beyond what it reaches in real images."""
    return [
        Row(f"AUC from {said}, beyond real images", [cell(values, f"{key}_excess_auc", "difference")])
        for key, said in SHORTCUTS
        if words.is_number(values.get(f"{key}_excess_auc"))
    ]


def samplers(values: Mapping[str, Any]) -> list[str]:
    """The samplers that images were drawn with, in order of name."""
    return sorted(flat(values.get("samplers")))


def prompts(values: Mapping[str, Any]) -> list[Row]:
    """How well images follow their prompts: all of them, then those of each sampler."""
    parts = [values, *(flat(values["samplers"][name]) for name in samplers(values))]
    return [
        Row(
            said,
            [cell(part, key, form, 2) for part in parts],
            words.count(values.get(f"{key}_n", values.get("images"))),
        )
        for key, said, form in PROMPTS
        if words.is_number(values.get(key))
    ]


def mixes(values: Mapping[str, Any]) -> list[Row]:
    """What each training set shows in one pass."""
    order = sorted((name for name in values if flat(values[name])), key=words.mix_place)
    return [
        Row(
            words.mix(name),
            [Cell(words.count(flat(values[name]).get(key))) for key in ("images", "files", "real", "synthetic")],
            note=_short_of(flat(values[name])),
        )
        for name in order
    ]


def _short_of(mix: Mapping[str, Any]) -> str:
    wanted, reached = mix.get("synthetic_fraction_wanted"), mix.get("synthetic_fraction")
    if not (words.is_number(wanted) and words.is_number(reached)):
        return ""
    return f"{wanted:.0%} synthetic was asked for; curation left enough for {reached:.0%}"


def broken(validation: Mapping[str, Any]) -> list[Row]:
    """Expectations that do not hold: which, how serious, how many rows break it."""
    rows = []
    for found in validation.get("failures") or []:
        number = f"{words.count(found.get('broken'))} of {words.count(found.get('rows'))}"
        if found.get("rows") == 1 and words.is_number(found.get("observed")):
            number = f"it is {found['observed']:.4g}"
        rows.append(
            Row(
                str(found.get("expectation")), [Cell(str(found.get(k))) for k in ("suite", "severity")] + [Cell(number)]
            )
        )
    return rows


def truths(preprocess: Mapping[str, Any]) -> list[Row]:
    """How measurements follow the known truth of phantoms."""
    return [
        Row(words.reason(name), [cell(values, "rank_correlation", digits=2)], words.count(values.get("n")))
        for name, values in flat(preprocess.get("truth")).items()
        if words.is_number(values.get("rank_correlation"))
    ]


@dataclass(frozen=True)
class Bar:
    """A count with its share of the whole, 0..1."""

    name: str
    n: str
    share: float
    said: str


def bars(counts: Mapping[str, Any], whole: float | None = None) -> list[Bar]:
    """Counts, the largest first, as shares of ``whole`` (their sum, if not given)."""
    known = {str(name): float(n) for name, n in counts.items() if words.is_number(n)}
    total = whole or sum(known.values()) or 1.0
    order = sorted(known, key=lambda name: (-known[name], name))
    return [
        Bar(words.reason(name), words.count(known[name]), known[name] / total, f"{100 * known[name] / total:.1f} %")
        for name in order
        if known[name]
    ]


def kept(synthetic: pd.DataFrame | None) -> list[Row]:
    """Per class: images drawn, kept, rejected for a fault, and left over without one."""
    if synthetic is None or "decision" not in synthetic:
        return []
    rows = []
    for label, group in synthetic.groupby("label", observed=True):
        stays = int((group["decision"] == "kept").sum())
        surplus = int((group["reason"].fillna("") == "surplus").sum()) if "reason" in group else 0
        cells = [
            Cell(words.count(len(group))),
            Cell(words.count(stays)),
            Cell(words.number(stays / len(group), "percent")),
            Cell(words.count(len(group) - stays - surplus)),
            Cell(words.count(surplus)),
        ]
        rows.append(Row(str(label), cells))
    return rows


def sources(raw: pd.DataFrame | None) -> list[Row]:
    """Where the real images come from: source, licence, attribution, number."""
    if raw is None:
        return []
    keys = [key for key in ("source", "licence", "attribution") if key in raw]
    if not keys:
        return []
    groups = raw.assign(**{key: raw[key].fillna("not stated") for key in keys}).groupby(keys, sort=True).size()
    return [
        Row(str(name[0]), [*(Cell(str(part)) for part in name[1:]), Cell(words.count(n))])
        for name, n in ((name if isinstance(name, tuple) else (name,), n) for name, n in groups.items())
    ]


def split_sizes(real: pd.DataFrame | None) -> list[Row]:
    """Images per split and class."""
    if real is None or "split" not in real:
        return []
    labels = sorted(real["label"].dropna().unique())
    order = ("train", "val", "test", "external", "unused")
    table = real.groupby(["split", "label"], observed=True).size()
    rows = []
    for split in (name for name in order if (real["split"] == name).any()):
        numbers = [int(table.get((split, label), 0)) for label in labels]
        rows.append(Row(split, [*(Cell(words.count(n)) for n in numbers), Cell(words.count(sum(numbers)))]))
    return rows


def onnx(evidence: Evidence) -> list[Row]:
    """The exported classifiers and how they agree with the networks that they come from.

    Git keeps the file of an architecture that was dropped from the parameters: what was not tested is left out.
    """
    classification = evidence.of("classification")
    return [
        Row(
            words.arch(name),
            [
                Cell(
                    f"{values['max_abs_difference']:.1e}" if words.is_number(values.get("max_abs_difference")) else "–"
                ),
                Cell(words.count(values.get("threshold_flips"))),
                Cell(words.count(values.get("n"))),
                Cell(f"{values['size_mb']:.1f} MB" if words.is_number(values.get("size_mb")) else words.NONE),
            ],
        )
        for name, values in evidence.onnx.items()
        if not classification or name in classification
    ]
