"""The suites for synthetic images: each one, their numbers, and what fidelity measured of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im.validation.common import SHA256, always, files_exist, on_what_is_there
from derm_t2im.validation.rules import Rule, Severity, Suite, between, matches, one_of, present, unique

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.validate import Validate

# Measured columns in which synthetic images should look like real ones -> how that is said.
LIKE_REAL = {
    "sharpness": "a sharpness",
    "exposure": "a brightness",
    "colour_cast": "a colour cast",
    "hair_fraction": "a share of hair",
    "ruler": "a ruler score",
    "ink": "an ink score",
    "dark_corner": "a score for dark corners",
    "lesion_area": "a lesion size",
    "lesion_border": "a lesion border",
    "ita": "a skin tone (ITA)",
}
REAL_COLUMN = {"hair_fraction": "hair_left"}  # where the like of a column has another name among real images


def all_suites(
    splits: pd.DataFrame,
    synthetic: pd.DataFrame,
    embedded: set[str],
    fidelity: Mapping[str, Any],
    settings: Validate,
    root: Path = Path(),
) -> list[Suite]:
    """Every suite for synthetic images.

    Args:
        splits: Manifest of the real images with ``split``.
        synthetic: Manifest of the synthetic images.
        embedded: Ids of images that have features.
        fidelity: metrics/fidelity.json.
        settings: The bounds.
        root: Folder that paths in the manifests start from.
    """
    labels = sorted(set(splits["label"].dropna()))
    return [
        features_suite(splits, embedded),
        sizes_suite(synthetic, labels, settings),
        synthetic_suite(synthetic, splits, labels, embedded, settings, root),
        fidelity_suite(fidelity, labels, settings),
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
    rules = [
        *always("synthetic", again),
        one_of("label", labels, "critical", f"every label is one of {', '.join(labels)}", again),
        one_of("has_features", [True], "critical", "every image has features", "run `dvc repro embed`"),
        present("prompt", "critical", "every image knows its prompt", again),
        present("seed", "critical", "every image knows its seed", again),
        present("sampler", "critical", "every image knows its sampler", again),
    ]
    optional = [
        matches("sha256", SHA256, "critical", "every file has its checksum", again),
        unique("sha256", "warning", "no two images are the same file", "generate.guidance or generate.seed"),
        matches("lora_sha256", SHA256, "warning", "every image knows the LoRA that drew it", again),
    ]
    real = splits[splits["split"].isin(["train", "val", "test"])]
    q = settings.quantile
    unknown = []
    for column, name in LIKE_REAL.items():
        # Real images are compared as they are learned from: without the hair that was removed.
        of_real = REAL_COLUMN.get(column, column)
        values = real[of_real].dropna().astype(float) if of_real in real else None
        if values is None or values.empty:
            unknown.append(column)
            continue
        low, high = float(values.quantile(q)), float(values.quantile(1 - q))
        words = f"at least {settings.mostly:.0%} have {name} between {low:.3g} and {high:.3g}, as real images have"
        turn = "validate.mostly or validate.quantile"
        optional.append(between(column, low, high, "warning", words, turn, settings.mostly))
    kept, gone = on_what_is_there(optional, table)
    return Suite("synthetic-images", table, (*rules, *kept), tuple(sorted({*gone, *unknown})))


def sizes_suite(synthetic: pd.DataFrame, labels: list[str], settings: Validate) -> Suite:
    """Rules for the numbers of synthetic images per class; a row per class."""
    import pandas as pd

    least = settings.min_images_per_class
    counts = synthetic["label"].value_counts()
    table = pd.DataFrame(
        {"image_id": [f"synthetic/{label}" for label in labels], "images": [float(counts.get(x, 0)) for x in labels]}
    )
    words = f"each class of the synthetic set has at least {least} images"
    turn = "validate.min_images_per_class, or generate.images"
    return Suite("synthetic-class-sizes", table, (between("images", least, None, "critical", words, turn),))


def features_suite(splits: pd.DataFrame, embedded: set[str]) -> Suite:
    """Every real image that takes part has features."""
    used = splits["split"].ne("unused").fillna(False).astype(bool)
    table = splits.loc[used, ["image_id"]].copy()
    table["has_features"] = [name in embedded for name in table["image_id"]]
    rule = one_of("has_features", [True], "critical", "every used image has features", "run `dvc repro embed`")
    return Suite("features", table, (rule,))


def fidelity_suite(fidelity: Mapping[str, Any], labels: list[str], settings: Validate) -> Suite:
    """Rules for numbers of the whole set: a table of one row, a column per number."""
    import pandas as pd

    values: dict[str, float | None] = {}
    rules: list[Rule] = []

    def add(
        column: str, value: Any, low: float | None, high: float | None, severity: Severity, words: str, turn: str
    ) -> None:
        values[column] = value
        rules.append(between(column, low, high, severity, words, turn))

    for label in ("all", *labels):
        numbers = fidelity.get(label, {})
        whose = "all classes" if label == "all" else label
        kid, floor = numbers.get("kid"), numbers.get("kid_floor_high")
        add(
            f"kid over floor, {label}",
            kid / floor if kid is not None and floor else None,
            None,
            settings.max_kid_over_floor,
            "critical",
            f"KID of {whose} is at most {settings.max_kid_over_floor:g} times what real images reach by chance",
            "validate.max_kid_over_floor, or finetune.steps and generate.guidance",
        )
        add(
            f"label disagreement, {label}",
            numbers.get("label_disagreement"),
            None,
            settings.max_label_disagreement,
            "critical" if label == "all" else "warning",
            f"the probe gives at most {settings.max_label_disagreement:.0%} of {whose} another class than the prompt",
            "validate.max_label_disagreement, or finetune.steps and generate.guidance",
        )
    copies, most = fidelity.get("copies", {}), settings.max_copy_rate
    turn = "validate.max_copy_rate, or fewer finetune.steps"
    words = f"at most {most:.1%} of the synthetic images are copies of training images"
    add("copy rate", copies.get("rate"), None, most, "warning", words, turn)
    # Certainly too many only where the interval says so.
    add("copy rate, at least", copies.get("rate_low"), None, most, "critical", f"{words} (interval's lower end)", turn)
    add(
        "planted copies found",
        copies.get("planted_recall"),
        settings.min_planted_recall,
        None,
        "warning",
        f"the search for copies finds at least {settings.min_planted_recall:.0%} of planted ones",
        "embed.encoder or fidelity.copy_quantile",
    )
    shortcuts, excess = fidelity.get("shortcuts", {}), settings.max_shortcut_excess
    for probe, seen in (("colour", "colours"), ("border", "border"), ("coarse", "coarsest shapes")):
        add(
            f"{probe} shortcut",
            shortcuts.get(f"{probe}_excess_auc_low"),
            None,
            excess,
            "warning",
            f"the {seen} alone tell the class no more than {excess:g} AUC better than in real images (lower end)",
            "validate.max_shortcut_excess, or generate.attributes",
        )
    measured = {name: float("nan") if value is None else float(value) for name, value in values.items()}
    table = pd.DataFrame([{"image_id": "fidelity", **measured}])
    kept, gone = on_what_is_there(rules, table)
    return Suite("fidelity", table, kept, gone)
