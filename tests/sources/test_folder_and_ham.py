"""Folders of images in all the shapes that people bring them in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from derm_t2im import sources
from derm_t2im.errors import UserError
from derm_t2im.params.acquire import Acquire
from derm_t2im.state import hash_file


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def collect(tmp_path: Path, source: str = "folder", **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    values = {"source": source, "path": str(tmp_path / "in"), "external": {"source": "none"}, **changes}
    settings = Acquire.model_validate(values)
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return sources.collect(settings, "pool", out)


def reasons(quarantine: pd.DataFrame) -> dict[str, str]:
    return dict(zip(quarantine["image_id"], quarantine["reason"], strict=True))


def test_class_folders(tmp_path: Path) -> None:
    files = [
        picture(tmp_path / "in" / "Melanoma" / "a.JPG", 1),
        picture(tmp_path / "in" / "nevus" / "deep" / "b.png", 2),
    ]
    picture(tmp_path / "in" / "eczema" / "c.png")
    picture(tmp_path / "in" / "loose.png")
    picture(tmp_path / "in" / "nevus" / ".thumb.png")
    rows, bad = collect(tmp_path, name="mine", folder={"licence": "CC0-1.0"})
    assert dict(zip(rows["image_id"], rows["label"], strict=True)) == {
        "Melanoma_a": "malignant",
        "nevus_deep_b": "benign",
    }
    assert reasons(bad) == {"eczema_c": "unmapped_label", "loose": "unmapped_label"}
    assert "eczema" in bad.set_index("image_id")["detail"]["eczema_c"]
    assert set(rows["licence"]) == {"CC0-1.0"} and set(rows["source"]) == {"mine"} and set(rows["role"]) == {"pool"}
    by_id = rows.set_index("image_id")
    assert by_id["sha256"]["Melanoma_a"] == hash_file(files[0]) == hash_file(Path(by_id["path"]["Melanoma_a"]))
    assert (by_id["width"].tolist(), by_id["height"].tolist()) == ([20, 20], [16, 16])
    assert all(Path(path).is_relative_to(tmp_path / "out" / "images" / "pool") for path in rows["path"])


HEADERS = "image_id,dx,age,sex,localization,lesion_id\nImg1,mel,71.0,male,back,L1\nImg2,nv,,Unknown,unknown,\n"


@pytest.mark.parametrize(
    "data",
    [
        HEADERS.encode(),
        HEADERS.encode("utf-8-sig"),
        HEADERS.replace(",", ";").encode("utf-16"),
        HEADERS.replace(",", "\t").replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + HEADERS.replace(",", ";").replace("back", "R\xfccken").encode("latin-1"),
        HEADERS.replace(",", ";").replace("back", "R\xfccken").encode("latin-1"),
    ],
    ids=["plain", "bom", "utf16-semicolon", "tabs-crlf", "bom-latin1", "latin1-semicolon"],
)
def test_tables_in_many_guises(tmp_path: Path, data: bytes) -> None:
    picture(tmp_path / "in" / "x" / "Img1.jpeg", 1)
    picture(tmp_path / "in" / "Img2.PNG", 2)
    (tmp_path / "in" / "metadata.csv").write_bytes(data)
    rows, bad = collect(tmp_path)
    assert bad.empty
    first, second = rows.sort_values("image_id").to_dict("records")
    assert (first["label"], first["age"], first["sex"], first["lesion_id"]) == ("malignant", 71.0, "male", "L1")
    assert first["site"] in ("back", "rücken")
    assert (second["label"], second["dx"]) == ("benign", "nv")
    assert (
        pd.isna(second["age"]) and pd.isna(second["sex"]) and pd.isna(second["site"]) and pd.isna(second["lesion_id"])
    )


def test_parquet_and_mapped_columns(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "pics" / "a.png", 1)
    table = pd.DataFrame({"Bild": ["pics\\a.png"], "Befund": ["seborrheic keratosis"], "Alter": [44]})
    table.to_parquet(tmp_path / "in" / "t.parquet")
    columns = {"path": "Bild", "dx": "Befund", "age": "Alter"}
    rows, bad = collect(tmp_path, labels="ham10000", folder={"table": "t.parquet", "columns": columns})
    assert bad.empty and rows["label"].tolist() == ["bkl"] and rows["age"].tolist() == [44.0]


def test_bad_rows_leave_with_a_reason_and_nothing_is_lost(tmp_path: Path) -> None:
    root = tmp_path / "in"
    picture(tmp_path / "secret.png", 9)
    for k, name in enumerate(["good", "twice", "clash", "a/same", "b/same", "cut"]):
        picture(root / f"{name}.jpg", k)
    data = (root / "cut.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(data[: len(data) // 2])
    (root / "none.jpg").write_bytes(b"")
    (root / "link.jpg").symlink_to(tmp_path / "secret.png")
    Image.new("CMYK", (9, 9)).save(root / "cmyk.jpg")
    lines = [
        "image_id,path,dx",
        "good,good.jpg,mel",
        "twice,twice.jpg,nv",
        "twice,twice.jpg,nv",
        "clash,clash.jpg,nv",
        "clash,clash.jpg,mel",
        "cut,cut.jpg,nv",
        "empty,none.jpg,nv",
        "gone,gone.jpg,nv",
        "escape,../secret.png,nv",
        f"absolute,{tmp_path / 'secret.png'},nv",
        "link,link.jpg,nv",
        "cmyk,cmyk.jpg,nv",
        "odd,good.jpg,wart",
        "blank,good.jpg,",
        ",good.jpg,nv",
        "short,good.jpg",
        "nul,good\x00.jpg,nv",
    ]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    rows, bad = collect(tmp_path)
    assert sorted(rows["image_id"]) == ["good", "twice"]
    assert len(rows) + len(bad) == len(lines) - 1
    assert sorted(bad["reason"]) == sorted(
        ["duplicate_id"] * 3
        + ["truncated", "empty", "missing_file", "missing_file", "wrong_mode", "missing_id", "malformed_row"]
        + ["outside_folder"] * 3
        + ["unmapped_label"] * 2
    )
    found = reasons(bad)
    assert found["escape"] == found["absolute"] == found["link"] == "outside_folder"
    assert (found["cut"], found["empty"], found["cmyk"]) == ("truncated", "empty", "wrong_mode")
    assert bad["detail"].str.len().gt(0).all()
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 2, "files of refused images stay behind"


def test_a_name_shared_by_two_files_is_ambiguous(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a" / "x.png", 1)
    picture(tmp_path / "in" / "b" / "x.png", 2)
    picture(tmp_path / "in" / "y.png", 3)
    (tmp_path / "in" / "metadata.csv").write_text("image_id,dx\nx,nv\ny,nv\n")
    rows, bad = collect(tmp_path)
    assert rows["image_id"].tolist() == ["y"] and reasons(bad) == {"x": "ambiguous_file"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,site\na,back\n", "diagnosis.*image_id, site"),
        ("", "is empty"),
        ("image_id,dx,dx\na,nv,nv\n", "'dx' more than once"),
    ],
)
def test_unusable_tables_are_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        collect(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"acquire\.path.*no folder"):
        collect(tmp_path)
    picture(tmp_path / "in" / "a.png")
    with pytest.raises(UserError, match="1 images lie loose"):
        collect(tmp_path)
    with pytest.raises(UserError, match=r"no table .*mine\.csv"):
        collect(tmp_path, folder={"table": "mine.csv"})
    with pytest.raises(UserError, match="lies outside"):
        collect(tmp_path, folder={"table": "../mine.csv"})
    (tmp_path / "in" / "metadata.csv").write_text("image_id,dx\na,nv\n")
    with pytest.raises(UserError, match=r"lacks the column.*Befund.*image_id, dx"):
        collect(tmp_path, folder={"columns": {"dx": "Befund"}})
    with pytest.raises(UserError, match="no HAM10000 distribution"):
        collect(tmp_path, source="ham10000")
    with pytest.raises(ValueError, match="no such column: diagnose"):
        Acquire.model_validate({"folder": {"columns": {"diagnose": "x"}}})


def test_a_limit_is_stratified_and_deterministic_and_nested(tmp_path: Path) -> None:
    lines = ["image_id,dx"]
    for k in range(40):
        picture(tmp_path / "in" / f"i{k}.png", k, (8, 8))
        lines.append(f"i{k},{'mel' if k < 10 else 'nv'}")
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(lines))
    rows, bad = collect(tmp_path, limit=12)
    assert bad.empty and rows["label"].value_counts().to_dict() == {"benign": 9, "malignant": 3}
    again, _ = collect(tmp_path, limit=12)
    assert set(again["image_id"]) == set(rows["image_id"])
    fewer, _ = collect(tmp_path, limit=6)
    assert set(fewer["image_id"]) < set(rows["image_id"])
    other, _ = collect(tmp_path, limit=12, seed=1)
    assert set(other["image_id"]) != set(rows["image_id"])


def test_ham10000_layout(tmp_path: Path) -> None:
    root = tmp_path / "in"
    for k, name in enumerate(["ISIC_1", "ISIC_2", "ISIC_3"]):
        picture(root / f"HAM10000_images_part_{k % 2 + 1}" / f"{name}.jpg", k)
    (root / "HAM10000_metadata.csv").write_text(
        "lesion_id,image_id,dx,dx_type,age,sex,localization\n"
        "HAM_1,ISIC_1,akiec,histo,80.0,male,scalp\n"
        "HAM_1,ISIC_2,akiec,histo,80.0,male,scalp\n"
        "HAM_2,ISIC_3,vasc,consensus,,unknown,unknown\n"
        "HAM_3,ISIC_4,nv,follow_up,45.0,female,back\n"
    )
    rows, bad = collect(tmp_path, source="ham10000", labels="ham10000")
    assert rows["label"].tolist() == ["akiec", "akiec", "vasc"]
    assert rows["lesion_id"].tolist() == ["HAM_1", "HAM_1", "HAM_2"]
    assert rows["site"].fillna("").tolist() == ["scalp", "scalp", ""]
    assert set(rows["licence"]) == {"CC BY-NC 4.0"} and rows["attribution"].str.contains("Tschandl").all()
    assert reasons(bad) == {"ISIC_4": "missing_file"}


def test_isic_2018_ground_truth_as_external_set(tmp_path: Path) -> None:
    for name in ("ISIC_7", "ISIC_8", "ISIC_9"):
        picture(tmp_path / "ext" / "images" / f"{name}.jpg")
    (tmp_path / "ext" / "ISIC2018_Task3_Test_GroundTruth.csv").write_text(
        "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
        "ISIC_7,1.0,0.0,0.0,0.0,0.0,0.0,0.0\n"
        "ISIC_8,0.0,0.0,0.0,0.0,0.0,1.0,0.0\n"
        "ISIC_9,0.5,0.5,0.0,0.0,0.0,0.0,0.0\n"
    )
    external = {"source": "ham10000", "path": str(tmp_path / "ext"), "name": "isic2018"}
    settings = Acquire.model_validate({"external": external})
    rows, bad = sources.collect(settings, "external", tmp_path / "out")
    assert dict(zip(rows["image_id"], rows["label"], strict=True)) == {"ISIC_7": "malignant", "ISIC_8": "benign"}
    assert set(rows["role"]) == {"external"} and set(rows["source"]) == {"isic2018"}
    assert reasons(bad) == {"ISIC_9": "unmapped_label"}


def test_no_external_set(tmp_path: Path) -> None:
    rows, bad = sources.collect(Acquire.model_validate({"external": {"source": "none"}}), "external", tmp_path)
    assert rows.empty and bad.empty


@pytest.mark.real
def test_the_real_sets_are_read(tmp_path: Path) -> None:
    data = Path(os.environ.get("DERM_T2IM_DATA", Path(__file__).parents[2] / "../shared/data"))
    if not (data / "ham10000-224").is_dir() or not (data / "isic2018-test-224").is_dir():
        pytest.skip("needs ham10000-224 and isic2018-test-224 below DERM_T2IM_DATA")
    settings = Acquire.model_validate(
        {
            "source": "ham10000",
            "path": str(data / "ham10000-224"),
            "limit": 90,
            "external": {"source": "ham10000", "path": str(data / "isic2018-test-224"), "limit": 60},
        }
    )
    pool, refused = sources.collect(settings, "pool", tmp_path)
    external, refused_external = sources.collect(settings, "external", tmp_path)
    assert (len(pool), len(external), len(refused), len(refused_external)) == (90, 60, 0, 0)
    assert pool["label"].eq("malignant").sum() == 24  # 938 of 3,461
    assert set(pool["width"]) == {224}


def clinics(tmp_path: Path) -> None:
    """Three sets below one folder; two of them use the same ids."""
    for k, place in enumerate(("clinic-a/x", "clinic-b", "atlas/melanoma")):
        for n in range(3):
            picture(tmp_path / "in" / place / f"{n}.png", 10 * k + n)
    (tmp_path / "in/clinic-a/metadata.csv").write_text(
        "image_id,path,dx,patient_id,license\n1,x/1.png,nv,p1,CC0\n2,x/2.png,mel,,\n0,x/0.png,nv,p1,\n"
    )
    (tmp_path / "in/clinic-b/b.csv").write_text("Bild;Befund;patient_id\n1;nevus;p1\n2;bcc;p2\n0;../atlas/0;\n")


SETS = {
    "clinic-a": {"licence": "CC BY 4.0", "attribution": "Clinic A"},
    "b": {"path": "clinic-b", "role": "external", "table": "b.csv", "columns": {"image_id": "Bild", "dx": "Befund"}},
    "atlas": {},
}


def test_several_sets_with_roles(tmp_path: Path) -> None:
    clinics(tmp_path)
    folder = {"sets": SETS, "licence": "ours", "attribution": "us"}
    rows, bad = collect(tmp_path, folder=folder)
    assert bad.empty and rows["source"].value_counts().to_dict() == {"clinic-a": 3, "atlas": 3}
    by_id = rows.set_index("image_id")
    assert set(by_id.index) == {f"clinic-a:{n}" for n in range(3)} | {f"atlas:melanoma_{n}" for n in range(3)}
    assert by_id["label"]["atlas:melanoma_0"] == "malignant"
    assert by_id["licence"][["clinic-a:1", "clinic-a:2", "atlas:melanoma_0"]].tolist() == ["CC0", "CC BY 4.0", "ours"]
    assert by_id["attribution"][["clinic-a:1", "atlas:melanoma_0"]].tolist() == ["Clinic A", "us"]
    assert by_id["patient_id"].dropna().tolist() == ["clinic-a:p1"] * 2

    values = {"source": "folder", "path": str(tmp_path / "in"), "external": {"source": "none"}, "folder": folder}
    external, bad = sources.collect(Acquire.model_validate(values), "external", tmp_path / "out")
    assert external["image_id"].tolist() == ["b:1", "b:2"] and set(external["source"]) == {"b"}
    assert set(external["role"]) == {"external"} and external["patient_id"].tolist() == ["b:p1", "b:p2"]
    assert reasons(bad) == {"b:0": "unmapped_label"}


def test_shared_ids_stay_as_they_are_and_clash(tmp_path: Path) -> None:
    clinics(tmp_path)
    picture(tmp_path / "in/clinic-b/3.png", 99)
    table = tmp_path / "in/clinic-b/b.csv"
    table.write_text(table.read_text().replace("2;bcc", "2;nevus") + "3;df;\n")
    sets = {name: {**one, "role": "pool"} for name, one in SETS.items()}
    rows, bad = collect(tmp_path, folder={"sets": sets, "shared_ids": True})
    assert sorted(rows["image_id"]) == ["0", "1", "3", "melanoma_0", "melanoma_1", "melanoma_2"]
    assert sorted(bad["reason"]) == ["duplicate_id"] * 3 + ["unmapped_label"], "1 is given twice, 2 contradicts itself"
    assert len(rows) + len(bad) == 10


def test_a_set_takes_nothing_from_its_neighbour_or_from_outside(tmp_path: Path) -> None:
    clinics(tmp_path)
    table = tmp_path / "in/clinic-a/metadata.csv"
    table.write_text(table.read_text() + "thief,../clinic-b/1.png,nv,,\n")
    rows, bad = collect(tmp_path, folder={"sets": SETS})
    assert len(rows) == 6 and reasons(bad) == {"clinic-a:thief": "outside_folder"}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"acquire\.folder\.sets\.link: .*leads out of"):
        collect(tmp_path, folder={"sets": {"link": {}}})


def test_a_limit_keeps_the_sets_in_proportion(tmp_path: Path) -> None:
    for name, number in (("a", 20), ("b", 10)):
        for n in range(number):
            picture(tmp_path / "in" / name / ("mel" if n % 2 else "nv") / f"{n}.png", n, (8, 8))
    rows, _ = collect(tmp_path, limit=12, folder={"sets": {"a": {}, "b": {}}})
    assert rows.groupby(["source", "label"]).size().tolist() == [4, 4, 2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": {"sets": {"a": {"path": "../x"}}}}, "sub-folder of acquire.path"),
        ({"folder": {"sets": {"a": {"path": "/x"}}}}, "sub-folder of acquire.path"),
        ({"folder": {"sets": {"a": {"path": "x"}, "b": {"path": "x/y"}}}}, "sets a and b overlap"),
        ({"folder": {"sets": {"a b": {}}}}, "no name for a set"),
        ({"folder": {"sets": {"a": {"role": "external"}}}}, "no set has the role pool"),
        ({"folder": {"sets": {"a": {"columns": {"diagnose": "x"}}}}}, "no such column: diagnose"),
        ({"external": {"source": "folder"}, "folder": {"sets": SETS}}, "external set .b."),
        ({"external": {"source": "phantom"}}, "rendered phantoms are no test for real images"),
    ],
)
def test_settings_that_contradict_themselves(changes: dict[str, Any], message: str) -> None:
    values = {"source": "folder", "external": {"source": "none"}, **changes}
    with pytest.raises(ValueError, match=message):
        Acquire.model_validate(values)


def test_a_set_without_a_usable_image_is_named(tmp_path: Path) -> None:
    clinics(tmp_path)
    for path in (tmp_path / "in/atlas/melanoma").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"acquire\.folder\.sets\.atlas: no image of .*in/atlas .*\(3 empty\)"):
        collect(tmp_path, folder={"sets": SETS})
    with pytest.raises(UserError, match=r"acquire\.folder\.sets\.nothing.*no folder"):
        collect(tmp_path, folder={"sets": {"nothing": {}}})
