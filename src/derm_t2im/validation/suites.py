"""The suites: real images, splits, class sizes, the synthetic set, and what fidelity measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im.validation.rules import Rule, Severity, Suite, between, matches, one_of, present, unique
from derm_t2im.vocabulary import TONES

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.validate import Validate

SHA256 = "^[0-9a-f]{64}$"
SPLITS = ["train", "val", "test", "external", "unused"]

# Measured columns in which synthetic images should look like real ones -> how that is said.
LIKE_REAL = {
    "sharpness": "sharpness",
    "exposure": "brightness",
    "colour_cast": "colour cast",
    "hair_fraction": "share of hair",
    "ruler": "ruler score",
    "ink": "ink score",
    "dark_corner": "dark corners",
    "lesion_area": "lesion size",
    "lesion_border": "lesion border",
    "ita": "skin tone (ITA)",
}

# Columns in which each real image must be possible -> bounds and how that is said.
POSSIBLE = {
    "lesion_area": (0.0, 1.0, "the lesion covers between none and all of the image"),
    "hair_fraction": (0.0, 1.0, "hair covers between none and all of the image"),
    "exposure": (0.0, 1.0, "brightness lies between 0 and 1"),
    "ita": (-90.0, 90.0, "the typology angle of the skin lies between -90 and 90 degrees"),
}


def all_suites(
    processed: pd.DataFrame,
    splits: pd.DataFrame,
    synthetic: pd.DataFrame,
    embedded: set[str],
    fidelity: Mapping[str, Any],
    settings: Validate,
    root: Path = Path(),
) -> list[Suite]:
    """Every suite.

    Args:
        processed: Manifest of the processed real images.
        splits: The same with ``split`` and ``seed_image``.
        synthetic: Manifest of the synthetic images.
        embedded: Ids of images that have features.
        fidelity: metrics/fidelity.json.
        settings: The bounds.
        root: Folder that paths in the manifests start from.
    """
    labels = sorted(set(processed["label"].dropna()))
    return [
        real_suite(processed, settings, root),
        split_suite(splits, embedded),
        class_suite(splits, synthetic, labels, settings),
        synthetic_suite(synthetic, splits, labels, embedded, settings, root),
        fidelity_suite(fidelity, labels, settings),
    ]


def _files_exist(table: pd.DataFrame, root: Path) -> list[bool]:
    return [isinstance(path, str) and (root / path).is_file() for path in table["path"]]


def _drop_unmeasured(rules: list[Rule], table: pd.DataFrame) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    """Rules on columns that are there and not empty, and the columns that are not."""
    there = {name for name in table.columns if len(table) == 0 or table[name].notna().any()}
    gone = sorted({rule.column for rule in rules if rule.column not in there})
    return tuple(rule for rule in rules if rule.column in there), tuple(gone)


def _common(kind: str, again: str) -> list[Rule]:
    return [
        unique("image_id", "critical", "every image_id occurs once", again),
        one_of("file_found", [True], "critical", "every image file is there", "run `dvc checkout`"),
        one_of("kind", [kind], "critical", f"every image is {kind}", again),
        present("label", "critical", "every image has a label", again),
    ]


def real_suite(processed: pd.DataFrame, settings: Validate, root: Path = Path()) -> Suite:
    """Rules for the processed real images."""
    table = processed.assign(file_found=_files_exist(processed, root))
    optional = [
        matches("sha256", SHA256, "critical", "every file has its checksum", "run `dvc repro preprocess`"),
        matches("phash", "^[0-9a-f]{16}$", "warning", "every image has its perceptual hash", "preprocess"),
        one_of("tone", list(TONES), "warning", "every skin tone is one of the six", "vocabulary.TONES"),
        *(
            between(column, low, high, "warning", words, "look at these images: their measurement failed")
            for column, (low, high, words) in POSSIBLE.items()
        ),
        between(
            "sharpness",
            0.05,
            None,
            "warning",
            f"at least {settings.mostly:.0%} of the images are sharp enough to show structure",
            "validate.mostly, or leave blurred images out of the source",
            settings.mostly,
        ),
    ]
    kept, gone = _drop_unmeasured(optional, table)
    return Suite("real-images", table, (*_common("real", "run `dvc repro preprocess`"), *kept), gone)


def split_suite(splits: pd.DataFrame, embedded: set[str]) -> Suite:
    """Rules for the splits: nothing seen in training may be met again in a test."""
    used = splits["split"].ne("unused").fillna(False).astype(bool)
    table = splits[["image_id", "label", "split"]].copy()
    for key, column in (("group_id", "splits_of_group"), ("sha256", "splits_of_file")):
        if key in splits:
            count = splits[used].groupby(key)["split"].nunique()
            table[column] = splits[key].map(count).where(used).astype("float64")
    seeds = splits["seed_image"].fillna(False).astype(bool) if "seed_image" in splits else used & False
    table["seed_outside_train"] = (seeds & splits["split"].ne("train").fillna(True)).astype(bool)
    table["has_features"] = [not use or name in embedded for name, use in zip(splits["image_id"], used, strict=True)]
    again = "run `dvc repro split`"
    optional = [
        between("splits_of_group", 1, 1, "critical", "no lesion, patient or near-duplicate is in two splits", again),
        between("splits_of_file", 1, 1, "critical", "no file is in two splits", again),
    ]
    kept, gone = _drop_unmeasured(optional, table)
    rules = (
        present("split", "critical", "every image has a split", again),
        one_of("split", SPLITS, "critical", f"every split is one of {', '.join(SPLITS)}", again),
        one_of("seed_outside_train", [False], "critical", "the generator learns from training images only", again),
        one_of("has_features", [True], "critical", "every used image has features", "run `dvc repro embed`"),
    )
    return Suite("splits", table, (*rules, *kept), gone)


def class_suite(splits: pd.DataFrame, synthetic: pd.DataFrame, labels: list[str], settings: Validate) -> Suite:
    """Rules for the numbers of images per class; a row per set and class."""
    import pandas as pd

    least = settings.min_images_per_class
    rows = []
    for where in ("train", "test", "val", "synthetic"):
        these = synthetic if where == "synthetic" else splits[splits["split"] == where]
        counts = these["label"].value_counts()
        for label in labels:
            count = float(counts.get(label, 0))
            rows.append(
                {
                    "image_id": f"{where}/{label}",
                    "real_images": count if where in ("train", "test") else None,
                    "val_images": count if where == "val" else None,
                    "synthetic_images": count if where == "synthetic" else None,
                }
            )
    names = ["real_images", "val_images", "synthetic_images"]
    table = pd.DataFrame(rows, columns=["image_id", *names]).astype(dict.fromkeys(names, "float64"))
    bound = "validate.min_images_per_class"
    what: list[tuple[str, Severity, str, str]] = [
        ("real_images", "critical", "of train and test", f"{bound}, or split.train and split.test"),
        ("val_images", "warning", "of val", f"{bound}, or split.val"),
        ("synthetic_images", "critical", "of the synthetic set", f"{bound}, or generate.images"),
    ]
    rules = tuple(
        between(column, least, None, severity, f"each class {whose} has at least {least} images", turn)
        for column, severity, whose, turn in what
    )
    return Suite("class-sizes", table, rules)


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
        file_found=_files_exist(synthetic, root),
        has_features=[name in embedded for name in synthetic["image_id"]],
    )
    for column in ("prompt", "seed", "sampler"):
        if column not in table:
            table[column] = None
    again = "run `dvc repro generate`"
    rules = [
        *_common("synthetic", again),
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
        values = real[column].dropna().astype(float) if column in real else None
        if values is None or values.empty:
            unknown.append(column)
            continue
        low, high = float(values.quantile(q)), float(values.quantile(1 - q))
        words = f"at least {settings.mostly:.0%} have a {name} between {low:.3g} and {high:.3g}, as real images have"
        turn = "validate.mostly or validate.quantile"
        optional.append(between(column, low, high, "warning", words, turn, settings.mostly))
    kept, gone = _drop_unmeasured(optional, table)
    return Suite("synthetic-images", table, (*rules, *kept), tuple(sorted({*gone, *unknown})))


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
    for probe, seen in (("colour", "colours"), ("border", "border")):
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
    kept, gone = _drop_unmeasured(rules, table)
    return Suite("fidelity", table, kept, gone)
