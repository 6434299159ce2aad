"""Repeats, contradictions and leaks: planted ones are found, and only they."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from derm_t2im import manifest
from tests.audit.sets import audit, pixels, run, save, two_classes


def jpeg(rgb: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=50)
    return np.array(Image.open(buffer))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flipped": lambda rgb: rgb[:, ::-1],
    "turned": lambda rgb: np.rot90(rgb),
    "cropped": lambda rgb: cv2.resize(rgb[2:-8, 5:-5], (96, 96), interpolation=cv2.INTER_AREA),
    "jpeg": jpeg,
    "brighter": lambda rgb: (rgb.astype(float) * 1.1).clip(0, 255).astype(np.uint8),
}


def test_a_clean_set_is_said_to_be_clean(tmp_path: Path) -> None:
    two_classes(tmp_path / "in")
    found = audit(tmp_path / "in", tmp_path)
    assert found["images"] == 24 and found["classes"] == {"benign": 12, "malignant": 12} and not found["failed"]
    assert found["duplicates"]["exact_groups"] == found["duplicates"]["near_pairs"] == found["unusable"]["n"] == 0
    assert found["contradictions"]["n"] == found["leaks"]["n"] == 0
    assert not any(area["sign"] for probe in found["shortcuts"].values() for area in probe.values())
    assert not any(area["sign"] for one in found["artefacts"].values() for area in one["areas"].values())
    lines = run(tmp_path / "in").stdout.splitlines()
    assert lines[1].startswith("No findings: no picture under two labels, no splits given.")


def test_repeats_within_a_class_are_no_failure(tmp_path: Path) -> None:
    two_classes(tmp_path / "in")
    # The same pixels in another file, and a near-duplicate.
    save(tmp_path / "in" / "benign" / "again.bmp", pixels(0))
    save(tmp_path / "in" / "malignant" / "like.png", CHANGES["flipped"](pixels(1)))
    found = audit(tmp_path / "in", tmp_path)
    assert (found["duplicates"]["exact_groups"], found["duplicates"]["exact_images"]) == (1, 2)
    assert [image["image_id"] for image in found["duplicates"]["near"][0]["images"]] == [
        "malignant/001.png",
        "malignant/like.png",
    ]
    assert found["duplicates"]["near_pairs"] == 1 and found["contradictions"]["n"] == 0


@pytest.mark.parametrize("change", list(CHANGES))
def test_one_picture_under_two_labels_fails(tmp_path: Path, change: str) -> None:
    two_classes(tmp_path / "in")
    save(tmp_path / "in" / "malignant" / "x.png", CHANGES[change](pixels(4)))
    found = audit(tmp_path / "in", tmp_path, code=1)
    assert found["contradictions"]["n"] == 1 and found["leaks"]["n"] == 0 and found["failed"]
    assert {(image["image_id"], image["label"]) for image in found["contradictions"]["examples"][0]["images"]} == {
        ("benign/004.png", "benign"),
        ("malignant/x.png", "malignant"),
    }


def test_many_copies_are_one_group_and_one_contradiction(tmp_path: Path) -> None:
    two_classes(tmp_path / "in")
    for k in range(30):
        save(tmp_path / "in" / "benign" / f"copy{k}.png", pixels(0))
    save(tmp_path / "in" / "malignant" / "copy.png", pixels(0))
    save(tmp_path / "in" / "malignant" / "like.png", CHANGES["turned"](pixels(0)))
    found = audit(tmp_path / "in", tmp_path, code=1)
    assert (found["duplicates"]["exact_groups"], found["duplicates"]["exact_images"]) == (1, 32)
    assert found["duplicates"]["near_pairs"] == 1
    identical, near = [find["what"] for find in found["contradictions"]["examples"]]
    assert identical == "identical pixels" and near.startswith("near-duplicates, correlation 1.00")


@pytest.mark.parametrize("change", ["same", "turned"])
def test_one_picture_in_two_split_folders_fails(tmp_path: Path, change: str) -> None:
    two_classes(tmp_path / "in" / "train", start=0)
    two_classes(tmp_path / "in" / "test", start=100)
    assert audit(tmp_path / "in", tmp_path)["splits"] == {
        "test": {"benign": 12, "malignant": 12},
        "train": {"benign": 12, "malignant": 12},
    }
    save(tmp_path / "in" / "test" / "benign" / "x.png", CHANGES.get(change, np.asarray)(pixels(6)))
    found = audit(tmp_path / "in", tmp_path, code=1)
    assert found["leaks"]["n"] == 1 and found["contradictions"]["n"] == 0
    assert {image["split"] for image in found["leaks"]["examples"][0]["images"]} == {"train", "test"}
    done = run(tmp_path / "in", "--verbose")
    lines = done.stdout.splitlines()
    assert lines[1].startswith("2 findings (1 critical, 1 warning), the worst first: 1 leak; repeats (")
    assert lines[2].startswith("Do not train or test on this set as it is: put both images of each leak into one split")
    line = next(line for line in done.stdout.splitlines() if line.startswith("LEAK: "))
    assert str(tmp_path / "in" / "test" / "benign" / "x.png") in line and line.count(" = ") == 1


def table(root: Path, **columns: list[str]) -> None:
    count = len(next(iter(columns.values())))
    for k in range(count):
        save(root / f"i{k}.png", pixels(k))
    pd.DataFrame({"image": [f"i{k}" for k in range(count)], **columns}).to_csv(root / "list.csv", index=False)


@pytest.mark.parametrize(
    ("columns", "leaks", "contradictions"),
    [
        ({"dx": ["nv", "nv", "mel"], "split": ["train", "test", "test"], "lesion_id": ["a", "a", "b"]}, 1, 0),
        ({"dx": ["nv", "nv", "mel"], "split": ["train", "test", "test"], "patient_id": ["p", "q", "p"]}, 1, 0),
        ({"dx": ["nv", "mel", "mel"], "lesion_id": ["a", "a", "b"]}, 0, 1),
        ({"dx": ["nv", "mel", "mel"], "patient_id": ["a", "a", "b"]}, 0, 0),  # a patient may have both
        ({"dx": ["nv", "nv", "mel"], "split": ["train", "test", ""], "lesion_id": ["a", "", "a"]}, 0, 1),
        ({"dx": ["nv", "nv"], "split": ["0", "1"], "lesion_id": ["a", "a"], "source": ["x", "y"]}, 0, 0),
    ],
    ids=["lesion-leaks", "patient-leaks", "lesion-contradicts", "patient-does-not", "no-split", "other-source"],
)
def test_lesions_and_patients_that_are_torn(
    tmp_path: Path, columns: dict[str, list[str]], leaks: int, contradictions: int
) -> None:
    table(tmp_path / "in", **columns)
    found = audit(tmp_path / "in", tmp_path, code=1 if leaks or contradictions else 0)
    assert (found["leaks"]["n"], found["contradictions"]["n"]) == (leaks, contradictions)


def test_a_table_that_gives_an_image_two_labels_contradicts_itself(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(root / "a.png", pixels(0))
    save(root / "b.png", pixels(1))
    (root / "metadata.csv").write_text("image_id;label\na;x\na;y\nb;x\nb;x\n")
    found = audit(root, tmp_path, code=1)
    assert found["contradictions"]["n"] == 1 and found["duplicates"]["exact_groups"] == 2
    assert {image["image_id"] for image in found["contradictions"]["examples"][0]["images"]} == {"a", "a#2"}


def our_manifest(root: Path) -> Path:
    rows = []
    for k, (split, kind) in enumerate(
        [("train", "real"), ("test", "real"), ("unused", "real"), ("train", "synthetic"), ("val", "real")]
    ):
        save(root / "data" / "processed" / f"{k}.png", pixels(k))
        rows.append((f"i{k}", f"data/processed/{k}.png", kind, "ab"[k % 2], split))
    (root / "dvc.yaml").write_text("stages: {}\n")
    target = root / "data" / "splits" / "manifest.parquet"
    manifest.write(pd.DataFrame(rows, columns=["image_id", "path", "kind", "label", "split"]), target)
    return target


def test_our_manifest_wherever_one_stands(tmp_path: Path) -> None:
    found = audit(our_manifest(tmp_path / "repository"), tmp_path)
    assert found["images"] == 5 and found["unusable"]["n"] == 0
    assert found["kinds"] == {"real": {"a": 2, "b": 2} | {"a": 3, "b": 1}, "synthetic": {"b": 1}}
    assert set(found["splits"]) == {"train", "test", "unused", "val"}
    # A folder with the manifest in it, too.
    assert audit(tmp_path / "repository" / "data" / "splits", tmp_path)["images"] == 5


def test_unused_rows_leak_nothing_and_synthetic_copies_are_named(tmp_path: Path) -> None:
    target = our_manifest(tmp_path / "repository")
    images = tmp_path / "repository" / "data" / "processed"
    save(images / "2.png", pixels(0))  # unused: no leak
    found = audit(target, tmp_path)
    assert found["leaks"]["n"] == 0 and found["duplicates"]["exact_groups"] == 1
    save(images / "3.png", pixels(1)[::-1])  # the generator copied a test image
    found = audit(target, tmp_path, code=1)
    assert found["copies"]["n"] == 1 and found["leaks"]["n"] == 1
    assert {image["kind"] for image in found["copies"]["examples"][0]["images"]} == {"real", "synthetic"}


def test_the_same_folder_under_two_labels_in_full(tmp_path: Path) -> None:
    two_classes(tmp_path / "in")
    shutil.copytree(tmp_path / "in" / "benign", tmp_path / "in" / "other")
    found = audit(tmp_path / "in", tmp_path, code=1)
    assert found["contradictions"]["n"] == 12
    # All pictures of two classes are the same, and cross-validation is not fooled by it.
    assert found["shortcuts"]["colour"]["malignant"]["n"] == 36
