"""What a folder holds beside the images that are read is said, or in quarantine; nothing vanishes."""

from pathlib import Path

import numpy as np
import pytest

from derm_t2im.imaging import io
from derm_t2im.params.acquire import Acquire
from derm_t2im.sources import folder


def image(path: Path, value: int) -> None:
    io.write_png(path, np.random.default_rng(value).integers(0, 255, (40, 40, 3), dtype=np.uint8))


def read(root: Path, target: Path, **settings: object) -> tuple[list[str], dict[str, str]]:
    target.mkdir(parents=True, exist_ok=True)
    chosen = Acquire.model_validate(
        {"source": "folder", "path": str(root), "external": {"source": "none"}, "folder": settings}
    )
    rows, bad = folder.collect(chosen, "pool", target)
    return sorted(rows["image_id"]), dict(zip(bad["image_id"], bad["reason"], strict=True))


def test_a_linked_folder_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    for k in range(3):
        image(tmp_path / "in" / "nevus" / f"{k}.png", k)
        image(tmp_path / "elsewhere" / f"{k}.png", 10 + k)
    (tmp_path / "in" / "melanoma").symlink_to(tmp_path / "elsewhere")
    used, refused = read(tmp_path / "in", tmp_path / "out")
    assert used == ["nevus_0", "nevus_1", "nevus_2"]
    assert set(refused) == {"melanoma"} and refused["melanoma"] in ("outside_folder", "unmapped_label")


def test_other_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tmp_path / "in" / "nevus" / "1.png", 1)
    for name in ("a.dcm", "b.DCM", "c.heic"):
        (tmp_path / "in" / "nevus" / name).write_bytes(b"x")
    read(tmp_path / "in", tmp_path / "out")
    assert "files that are no images are not read: 2 .dcm, 1 .heic" in capsys.readouterr().err


def test_a_table_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k in range(3):
        image(tmp_path / "in" / "pics" / f"{k}.png", k)
    table = "image_id,path,dx,Patient\n0,pics/0.png,nevus,A\n1,./pics/1.png,nevus,B\n"
    (tmp_path / "in" / "metadata.csv").write_text(table)
    used, _ = read(tmp_path / "in", tmp_path / "out")
    said = capsys.readouterr().err
    assert used == ["0", "1"]
    assert "columns not used: Patient (acquire.folder.columns" in said
    assert "1 images in the folder are not in the table and not read (first: pics/2.png)" in said
    read(tmp_path / "in", tmp_path / "again", columns={"patient_id": "Patient"})
    assert "columns not used" not in capsys.readouterr().err
