"""The suites for synthetic images: each one, their numbers, and what fidelity measured of the whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im.validation.common import SHA256, always, files, files_exist, on_what_is_there
from derm_t2im.validation.rules import Rule, Severity, Suite, between, matches, one_of, present, unique

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.validate import Validate

# Measured columns in which synthetic images should look like real ones -> how that is said.
LIKE_REAL = {
    "sharpness": "a sharpness",
    "exposure": "a brightness",
    "colour_cast": "a colour cast",
    "ruler": "a ruler score",
    "ink": "an ink score",
    "dark_corner": "a score for dark corners",
    "lesion_area": "a lesion size",
    "lesion_border": "a lesion border",
    "ita": "a skin tone (ITA)",
}


@dataclass(frozen=True)
class Behind:
    """Synthetic images behind numbers of the whole set, the worst first: ids, by class where it is a mapping.

    ``unlike`` are those farthest from real training images, ``disagree`` those in which the probe sees another class,
    ``copies`` each of those found to be a copy, followed by its original.
    """

    unlike: Mapping[str, tuple[str, ...]]
    disagree: Mapping[str, tuple[str, ...]]
    copies: tuple[str, ...]


def all_suites(
    splits: pd.DataFrame,
    synthetic: pd.DataFrame,
    embedded: set[str],
    fidelity: Mapping[str, Any],
    settings: Validate,
    root: Path = Path(),
    behind: Behind | None = None,
) -> list[Suite]:
    """Every suite for synthetic images.

    Args:
        splits: Manifest of the real images with ``split``.
        synthetic: Manifest of the synthetic images.
        embedded: Ids of images that have features.
        fidelity: metrics/fidelity.json.
        settings: The bounds.
        root: Folder that paths in the manifests start from.
        behind: Which images the numbers of the whole set come from.
    """
    labels = sorted(set(splits["label"].dropna()))
    return [
        features_suite(splits, embedded),
        sizes_suite(synthetic, labels, settings),
        synthetic_suite(synthetic, splits, labels, embedded, settings, root),
        fidelity_suite(fidelity, labels, settings, behind, files(splits, root) | files(synthetic, root)),
    ]


def synthetic_suite(
    synthetic: pd.DataFrame,
    splits: pd.DataFrame,
    labels: list[str],
    embedded: set[str],
    settings: Validate,
    root: Path = Path(),
) -> Suite:
    """Rules for the synthetic images; bounds of measured columns come from the real ones' quantiles."""
    table = synthetic.assign(
        file_found=files_exist(synthetic, root),
        has_features=[name in embedded for name in synthetic["image_id"]],
    )
    for column in ("prompt", "seed", "sampler"):
        if column not in table:
            table[column] = None
    again = "run `dvc repro generate`"
    drawn = "lora_sha256" in table and table["lora_sha256"].notna().any()
    # An image made elsewhere may tell nothing of how; that stops nobody from judging it.
    grave: Severity = "critical" if drawn else "warning"
    tell = again if drawn else "nothing: the images' files tell none (docs/judging.md)"
    rules = [
        *always("synthetic", again),
        one_of("label", labels, "critical", f"every label is one of {', '.join(labels)}", again),
        one_of("has_features", [True], "critical", "every image has features", "run `dvc repro embed`"),
        present("prompt", grave, "every image knows its prompt", tell),
        present("seed", grave, "every image knows its seed", tell),
        present("sampler", grave, "every image knows its sampler", tell),
    ]
    optional = [
        matches("sha256", SHA256, "critical", "every file has its checksum", again),
        unique("sha256", "warning", "no two images are the same file", "another generate.seed or generate.guidance"),
        matches("lora_sha256", SHA256, "warning", "every image knows the LoRA that drew it", again),
    ]
    real = splits[splits["split"].isin(["train", "val", "test"])]
    q = settings.quantile
    unknown = []
    for column, name in LIKE_REAL.items():
        values = real[column].dropna().astype(float) if column in real else None
        if values is None or values.empty:
            unknown.append(column)
            continue
        low, high = float(values.quantile(q)), float(values.quantile(1 - q))
        words = f"at least {settings.mostly:.0%} have {name} between {low:.3g} and {high:.3g}, as real images have"
        turn = "look at these images; validate.mostly and validate.quantile are the bounds (docs/judging.md)"
        optional.append(between(column, low, high, "warning", words, turn, settings.mostly))
    optional.append(hair_rule(real, settings))
    kept, gone = on_what_is_there(optional, table)
    return Suite("synthetic-images", table, (*rules, *kept), tuple(sorted({*gone, *unknown})), files(table, root))


def hair_rule(real: pd.DataFrame, settings: Validate) -> Rule:
    """Hair is drawn no oftener than it is taken for hair in real images, and the excess that the gate allows.

    Real images are compared as they are learned from: by what is left after hair was removed.
    """
    left = real["hair_left"].dropna().astype(float) if "hair_left" in real else real["image_id"].iloc[:0].astype(float)
    share = float((left > settings.max_hair_fraction).mean()) if len(left) else 0.0
    allowed = min(1.0, share + settings.max_hair_excess)
    words = (
        f"at most {allowed:.0%} have hair on more than {settings.max_hair_fraction:.1%} of the image "
        f"({share:.1%} of real images, prepared)"
    )
    turn = "fewer finetune.steps, or raise validate.max_hair_excess (docs/judging.md); curate rejects these images"
    return between("hair_fraction", None, settings.max_hair_fraction, "warning", words, turn, 1 - allowed)


def sizes_suite(synthetic: pd.DataFrame, labels: list[str], settings: Validate) -> Suite:
    """Rules for the numbers of synthetic images per class; a row per class."""
    import pandas as pd

    least = settings.min_images_per_class
    counts = synthetic["label"].value_counts()
    table = pd.DataFrame(
        {"image_id": [f"synthetic/{label}" for label in labels], "images": [float(counts.get(x, 0)) for x in labels]}
    )
    words = f"each class of the synthetic set has at least {least} images"
    turn = "raise generate.images, or lower validate.min_images_per_class"
    return Suite("synthetic-class-sizes", table, (between("images", least, None, "critical", words, turn),))


def features_suite(splits: pd.DataFrame, embedded: set[str]) -> Suite:
    """Every real image that takes part has features."""
    used = splits["split"].ne("unused").fillna(False).astype(bool)
    table = splits.loc[used, ["image_id"]].copy()
    table["has_features"] = [name in embedded for name in table["image_id"]]
    rule = one_of("has_features", [True], "critical", "every used image has features", "run `dvc repro embed`")
    return Suite("features", table, (rule,))


def fidelity_suite(
    fidelity: Mapping[str, Any],
    labels: list[str],
    settings: Validate,
    behind: Behind | None = None,
    images: Mapping[str, Path] | None = None,
) -> Suite:
    """Rules for numbers of the whole set: a table of one row, a column per number."""
    import pandas as pd

    known = behind or Behind({}, {}, ())
    values: dict[str, float | None] = {}
    rules: list[Rule] = []

    def add(
        column: str,
        value: Any,
        low: float | None,
        high: float | None,
        severity: Severity,
        words: str,
        turn: str,
        ids: tuple[str, ...] = (),
        where: str = "",
    ) -> None:
        values[column] = value
        rules.append(replace(between(column, low, high, severity, words, turn), behind=ids, where=where))

    for label in ("all", *labels):
        numbers = fidelity.get(label, {})
        whose = "all classes" if label == "all" else label
        add(
            f"kid over floor, {label}",
            _over_floor(numbers),
            None,
            settings.max_kid_over_floor,
            "critical",
            f"KID of {whose} is at most {settings.max_kid_over_floor:g} times what real images reach by chance",
            "other finetune.steps or generate.guidance, or raise validate.max_kid_over_floor (docs/judging.md)",
            known.unlike.get(label, ()),
            _worst(fidelity, _over_floor) if label == "all" else "",
        )
        add(
            f"label disagreement, {label}",
            numbers.get("label_disagreement"),
            None,
            settings.max_label_disagreement,
            "critical" if label == "all" else "warning",
            f"the probe gives at most {settings.max_label_disagreement:.0%} of {whose} another class than the prompt",
            "more finetune.steps or a higher generate.guidance, or raise validate.max_label_disagreement "
            "(docs/judging.md)",
            known.disagree.get(label, ()),
            _worst(fidelity, lambda some: some.get("label_disagreement"), labels) if label == "all" else "",
        )
    copies, most = fidelity.get("copies", {}), settings.max_copy_rate
    turn = "fewer finetune.steps or more split.seed_images, or raise validate.max_copy_rate (docs/judging.md)"
    words = f"at most {most:.1%} of the synthetic images are copies of training images"
    add("copy rate", copies.get("rate"), None, most, "warning", words, turn, known.copies)
    # Certainly too many only where the interval says so.
    least = f"{words} (interval's lower end)"
    add("copy rate, at least", copies.get("rate_low"), None, most, "critical", least, turn, known.copies)
    add(
        "planted copies found",
        copies.get("planted_recall"),
        settings.min_planted_recall,
        None,
        "warning",
        f"the search for copies finds at least {settings.min_planted_recall:.0%} of planted ones",
        "another embed.encoder, or a higher fidelity.copy_quantile (docs/judging.md)",
    )
    shortcuts, excess = fidelity.get("shortcuts", {}), settings.max_shortcut_excess
    for probe, seen in (
        ("colour", "colours alone tell"),
        ("border", "border alone tells"),
        ("coarse", "coarsest shapes alone tell"),
    ):
        add(
            f"{probe} shortcut",
            shortcuts.get(f"{probe}_excess_auc_low"),
            None,
            excess,
            "warning",
            f"the {seen} the class no more than {excess:g} AUC better than in real images (lower end)",
            "set generate.attributes to match, or raise validate.max_shortcut_excess (docs/judging.md)",
        )
    measured = {name: float("nan") if value is None else float(value) for name, value in values.items()}
    table = pd.DataFrame([{"image_id": "fidelity", **measured}])
    kept, gone = on_what_is_there(rules, table)
    return Suite("fidelity", table, kept, gone, images or {})


def _over_floor(numbers: Mapping[str, Any]) -> float | None:
    kid, floor = numbers.get("kid"), numbers.get("kid_floor_high")
    return kid / floor if kid is not None and floor else None


def _worst(
    fidelity: Mapping[str, Any], of: Callable[[Mapping[str, Any]], float | None], labels: Sequence[str] = ()
) -> str:
    """The group of each kind in which a number is highest, in words; kinds with one group say nothing."""
    kinds = {
        "class": {name: fidelity.get(name, {}) for name in labels},
        "sampler": fidelity.get("samplers", {}),
        "skin tone": fidelity.get("tones", {}),
    }
    said = []
    for kind, groups in kinds.items():
        found = {name: value for name, some in groups.items() if (value := of(some)) is not None and value == value}
        if len(found) > 1:
            name = max(found, key=lambda each: (found[each], each))
            said.append(f"{kind} {name} ({found[name]:.3g})")
    return f"highest for {', '.join(said)}" if said else ""
