"""Sets as strangers have them: layouts, broken files, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from derm_t2im.errors import UserError
from tests.audit.sets import audit, pixels, run, save, two_classes


def test_images_of_all_sizes_and_modes(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for k, size in enumerate([(96, 96), (64, 100), (700, 530), (1, 1), (3, 200), (17, 16)]):
        save(root / "x" / f"{k}.png", pixels(k, size))
    Image.new("L", (40, 40), 90).save(root / "x" / "grey.png")
    Image.new("RGBA", (40, 40), (9, 9, 9, 0)).save(root / "x" / "clear.png")
    save(root / "x" / "photo.JPG", pixels(9))
    found = audit(root, tmp_path)
    assert found["images"] == 9 and found["unusable"]["n"] == 0
    assert found["artefacts"]["side"]["classes"]["x"]["median"] == 40


def test_unusable_files_are_counted_by_reason(tmp_path: Path) -> None:
    root = tmp_path / "in"
    two_classes(root)
    (root / "benign" / "empty.jpg").write_bytes(b"")
    (root / "benign" / "text.png").write_text("no image")
    whole = (root / "benign" / "000.png").read_bytes()
    (root / "benign" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("I;16", (40, 40)).save(root / "malignant" / "deep.png")
    Image.new("CMYK", (40, 40)).save(root / "malignant" / "print.jpg")
    save(root / "loose.png", pixels(99))
    secret = save(tmp_path / "secret.png", pixels(98))
    (root / "benign" / "link.png").symlink_to(secret)
    (root / "notes.txt").write_text("not looked at")
    found = audit(root, tmp_path)
    assert found["images"] == 24
    assert found["unusable"]["reasons"] == {
        "empty": 1, "unreadable": 1, "truncated": 1, "wrong_mode": 2, "no_label": 1, "outside_folder": 1,
    }  # fmt: skip
    assert "not usable: benign/cut.png: truncated" in run(root, "--verbose").stdout


def test_a_table_cannot_reach_outside(tmp_path: Path) -> None:
    root = tmp_path / "in"
    save(tmp_path / "secret.png", pixels(1))
    save(root / "good.png", pixels(0))
    lines = ["path,label", "good.png,a", "../secret.png,a", f"{tmp_path / 'secret.png'},b", "gone.png,b", ",b", "a,b,c"]
    (root / "list.csv").write_text("\n".join(lines))
    found = audit(root, tmp_path)
    assert found["images"] == 1
    assert found["unusable"]["reasons"] == {"outside_folder": 2, "missing_file": 2, "malformed_row": 1}


def test_ham10000_and_isic_folders(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "ham" / "images" / f"ISIC_{k}.jpg", pixels(k))
        save(tmp_path / "isic" / f"ISIC_{k}.jpg", pixels(k))
    (tmp_path / "ham" / "HAM10000_metadata.csv").write_text(
        "lesion_id,image_id,dx\nL0,ISIC_0,nv\nL1,ISIC_1,mel\nL2,ISIC_2,bcc\nL3,ISIC_3,moon\n"
    )
    (tmp_path / "isic" / "T_GroundTruth.csv").write_text(
        "image,MEL,NV\nISIC_0,1.0,0.0\nISIC_1,0.0,1.0\nISIC_2,0.0,1.0\nISIC_3,1,0\n"
    )
    assert audit(tmp_path / "ham", tmp_path)["classes"] == {"nv": 1, "mel": 1, "bcc": 1, "moon": 1}
    mapped = audit(tmp_path / "ham", tmp_path, "--labels", "binary")
    assert mapped["classes"] == {"benign": 1, "malignant": 2}
    assert mapped["unusable"]["reasons"] == {"unmapped_label": 1}
    assert audit(tmp_path / "isic", tmp_path)["classes"] == {"MEL": 2, "NV": 2}


def test_parquet_and_an_unusual_column(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for k in range(3):
        save(root / "deep" / f"{k}.png", pixels(k))
    frame = pd.DataFrame({"file": [f"deep\\{k}.png" for k in range(3)], "truth": ["x", "y", "y"]})
    frame.to_parquet(root / "all.parquet")
    found = audit(root / "all.parquet", tmp_path, "--label", "truth")
    assert found["classes"] == {"x": 1, "y": 2}
    # Without the table the folders speak.
    assert audit(root, tmp_path, "--table", "none")["classes"] == {"deep": 3}


def test_no_labels_at_all(tmp_path: Path) -> None:
    for k in range(3):
        save(tmp_path / "in" / f"{k}.png", pixels(k % 2))
    found = audit(tmp_path / "in", tmp_path)
    assert found["unlabelled"] == 3 and found["classes"] == {} and found["duplicates"]["exact_groups"] == 1
    assert "No labels: only repeats" in run(tmp_path / "in").stdout


def test_a_limit_keeps_the_proportions(tmp_path: Path) -> None:
    two_classes(tmp_path / "in", each=20)
    found = audit(tmp_path / "in", tmp_path, "--limit", "10")
    assert found["classes"] == {"benign": 5, "malignant": 5} and found["not_looked_at"] == 30
    assert "30 images were left out by --limit" in run(tmp_path / "in", "--limit", "10").stdout
    assert found == audit(tmp_path / "in", tmp_path, "--limit", "10")


def several_tables(root: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (root / name).write_text("image,label\n")


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad" / "x").mkdir(parents=True)
    (tmp_path / "bad" / "x" / "a.png").write_text("no image")
    for name, text in {
        "unlabelled": "image,age\na,5\n",
        "flags": "image,hair,ink\na,1,1\nb,0,0\n",
        "nameless": "label,age\nx,5\n",
        "rowless": "image,label\n",
    }.items():
        save(tmp_path / name / "a.png", pixels(0))
        (tmp_path / name / "list.csv").write_text(text)
    save(tmp_path / "several" / "a.png", pixels(0))
    several_tables(tmp_path / "several")
    (tmp_path / "notes.txt").write_text("")
    for path, options, said in (
        ("gone", (), "there is no"),
        ("empty", (), "holds no images"),
        ("notes.txt", (), "is no table"),
        ("bad", (), "none of the images"),
        ("unlabelled", (), "no column with a label"),
        ("flags", (), "--label"),
        ("nameless", (), "no column with the image's id or path"),
        ("rowless", (), "lists no images"),
        ("several", (), "choose one with --table"),
        ("several", ("--table", "c.csv"), "has no table c.csv"),
        ("several", ("--table", "../notes.txt"), "has no table"),
        ("unlabelled", ("--label", "dx"), "lacks the column(s) dx"),
    ):
        done = run(tmp_path / path, *options)
        assert isinstance(done.exception, UserError), (path, done.output)
        assert said in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.parametrize("options", [("--limit", "-1"), ("--labels", "seven"), ("--nonsense",)])
def test_usage_errors_exit_with_2(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert run(tmp_path, *options).exit_code == 2


def test_the_json_file_is_strict(tmp_path: Path) -> None:
    save(tmp_path / "in" / "x" / "blank.png", pixels(0) * 0)
    save(tmp_path / "in" / "y" / "one.png", pixels(1))
    target = tmp_path / "found.json"
    run(tmp_path / "in", "--json", str(target))

    def never(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    json.loads(target.read_text(), parse_constant=never)
