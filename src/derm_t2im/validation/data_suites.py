"""The suites for real images: as they came, as they were prepared, and as they were split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.validation.common import SHA256, always, files, files_exist, on_what_is_there
from derm_t2im.validation.rules import Severity, Suite, between, matches, one_of, present, unique
from derm_t2im.vocabulary import TONES

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.validate import Validate

SPLITS = ["train", "val", "test", "external", "unused"]

# Columns in which each real image must be possible -> bounds and how that is said.
POSSIBLE = {
    "lesion_area": (0.0, 1.0, "the lesion covers between none and all of the image"),
    "hair_fraction": (0.0, 1.0, "hair covers between none and all of the image"),
    "exposure": (0.0, 1.0, "brightness lies between 0 and 1"),
    "ita": (-90.0, 90.0, "the typology angle of the skin lies between -90 and 90 degrees"),
}


def data_suites(
    raw: pd.DataFrame, processed: pd.DataFrame, splits: pd.DataFrame, settings: Validate, root: Path = Path()
) -> list[Suite]:
    """Every suite for real images.

    Args:
        raw: Manifest of the images as they came.
        processed: Manifest of the processed images.
        splits: The same with ``split`` and ``seed_image``.
        settings: The bounds.
        root: Folder that paths in the manifests start from.
    """
    return [
        raw_suite(raw, settings, root),
        real_suite(processed, settings, root),
        split_suite(splits, root),
        class_suite(splits, settings),
    ]


def raw_suite(raw: pd.DataFrame, settings: Validate, root: Path = Path()) -> Suite:
    """Rules for the images and their metadata as they came.

    What is wrong with a few images warns: it was the quarantine's to refuse them, and one must not stop a run.
    """
    table = raw.assign(file_found=files_exist(raw, root))
    share = table["label"].map(table["label"].value_counts(normalize=True))
    table["class_share"] = share.astype("float64")
    if "lesion_id" in table and table["lesion_id"].notna().any():
        # a lesion has one diagnosis; ids mean something within a source only
        keys = [table[name] for name in ("source", "lesion_id") if name in table]
        table["labels_of_lesion"] = table.groupby(keys)["label"].transform("nunique").astype("float64")
    again, least = "run `dvc repro acquire`", settings.min_side
    optional = [
        matches("sha256", SHA256, "critical", "every file has its checksum", again),
        unique("sha256", "warning", "no two images are the same file", "leave repeated files out of the source"),
        between(
            "width",
            least,
            None,
            "warning",
            f"every image is at least {least} px wide",
            "leave smaller images out of the source, or lower validate.min_side",
        ),
        between(
            "height",
            least,
            None,
            "warning",
            f"every image is at least {least} px high",
            "leave smaller images out of the source, or lower validate.min_side",
        ),
        between("age", 0, 120, "warning", "ages lie between 0 and 120 years", "mend the metadata"),
        between(
            "labels_of_lesion",
            1,
            1,
            "warning",
            "all images of a lesion have one label",
            "mend the labels of these lesions in the source",
            tell=("lesion_id", "label"),
        ),
        between(
            "class_share",
            settings.min_class_share,
            None,
            "warning",
            f"each class has at least {settings.min_class_share:.1%} of the images",
            "acquire more of the class, or lower validate.min_class_share",
            tell=("label", "class_share"),
        ),
    ]
    kept, gone = on_what_is_there(optional, table)
    documented = [
        present(
            column,
            "warning",
            f"every image has its {column}",
            f"set acquire.folder.{column}, or mend the metadata (docs/data.md)",
        )
        for column in ("licence", "attribution")
        if column in table
    ]
    return Suite("raw-images", table, (*always("real", again), *kept, *documented), gone, files(table, root))


def real_suite(processed: pd.DataFrame, settings: Validate, root: Path = Path()) -> Suite:
    """Rules for the processed real images."""
    table = processed.assign(file_found=files_exist(processed, root))
    optional = [
        matches("sha256", SHA256, "critical", "every file has its checksum", "run `dvc repro preprocess`"),
        matches(
            "phash", "^[0-9a-f]{16}$", "warning", "every image has its perceptual hash", "run `dvc repro preprocess`"
        ),
        one_of("tone", list(TONES), "warning", "every skin tone is one of the six", "run `dvc repro preprocess`"),
        *(
            between(column, low, high, "warning", words, "look at these images: their measurement failed")
            for column, (low, high, words) in POSSIBLE.items()
        ),
        between(
            "sharpness",
            settings.min_sharpness,
            None,
            "warning",
            f"at least {settings.mostly:.0%} of the images are sharp enough to show structure",
            "leave blurred images out of the source, or lower validate.min_sharpness",
            settings.mostly,
        ),
    ]
    kept, gone = on_what_is_there(optional, table)
    rules = (*always("real", "run `dvc repro preprocess`"), *kept)
    return Suite("real-images", table, rules, gone, files(table, root))


def split_suite(splits: pd.DataFrame, root: Path = Path()) -> Suite:
    """Rules for the splits: nothing seen in training may be met again in a test."""
    used = splits["split"].ne("unused").fillna(False).astype(bool)
    keys = [name for name in ("group_id", "sha256") if name in splits]
    table = splits[["image_id", "label", "split", *keys]].copy()
    for key, column in (("group_id", "splits_of_group"), ("sha256", "splits_of_file")):
        if key in splits:
            count = splits[used].groupby(key)["split"].nunique()
            table[column] = splits[key].map(count).where(used).astype("float64")
    seeds = splits["seed_image"].fillna(False).astype(bool) if "seed_image" in splits else used & False
    table["seed_outside_train"] = (seeds & splits["split"].ne("train").fillna(True)).astype(bool)
    again = "run `dvc repro split`"
    optional = [
        between(
            "splits_of_group",
            1,
            1,
            "critical",
            "no lesion, patient or near-duplicate is in two splits",
            again,
            tell=("group_id", "split"),
        ),
        between("splits_of_file", 1, 1, "critical", "no file is in two splits", again, tell=("split",)),
    ]
    kept, gone = on_what_is_there(optional, table)
    rules = (
        present("split", "critical", "every image has a split", again),
        one_of("split", SPLITS, "critical", f"every split is one of {', '.join(SPLITS)}", again),
        one_of(
            "seed_outside_train",
            [False],
            "critical",
            "the generator learns from training images only",
            again,
            ("split",),
        ),
    )
    return Suite("splits", table, (*rules, *kept), gone, files(splits, root))


def class_suite(splits: pd.DataFrame, settings: Validate) -> Suite:
    """Rules for the numbers of real images per class; a row per split and class."""
    import pandas as pd

    least = settings.min_images_per_class
    labels = sorted(set(splits["label"].dropna()))
    rows = []
    for where in ("train", "test", "val"):
        counts = splits.loc[splits["split"] == where, "label"].value_counts()
        for label in labels:
            count = float(counts.get(label, 0))
            rows.append(
                {
                    "image_id": f"{where}/{label}",
                    "real_images": None if where == "val" else count,
                    "val_images": count if where == "val" else None,
                }
            )
    names = ["real_images", "val_images"]
    table = pd.DataFrame(rows, columns=["image_id", *names]).astype(dict.fromkeys(names, "float64"))
    what: list[tuple[str, Severity, str, str]] = [
        (
            "real_images",
            "critical",
            "of train and test",
            "raise split.train and split.test, or lower validate.min_images_per_class",
        ),
        ("val_images", "warning", "of val", "raise split.val, or lower validate.min_images_per_class"),
    ]
    rules = tuple(
        between(column, least, None, severity, f"each class {whose} has at least {least} images", turn)
        for column, severity, whose, turn in what
    )
    return Suite("class-sizes", table, rules)
