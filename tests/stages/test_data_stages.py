"""Stages acquire, preprocess and split, run as dvc runs them: in a folder with a params.yaml."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from derm_t2im import cli, manifest, paths, state
from derm_t2im.errors import UserError
from derm_t2im.imaging import io
from derm_t2im.sources import phantom
from derm_t2im.stages import acquire, preprocess, split
from tests.sources import archive_server

ROOT = Path(__file__).parents[2]


def configure(**changes: Any) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for dotted, value in changes.items():
        *parts, last = dotted.split("__")
        section = values
        for part in parts:
            section = section[part]
        section[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(values))


def metrics(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DERM_T2IM_WORKERS", "1")
    configure()
    return tmp_path


def own_images(folder: str, number: int, style: phantom.Style = phantom.CLINIC_A, size: int = 48) -> None:
    root = Path(folder)
    (root / "pics").mkdir(parents=True)
    lines = ["image_id,path,dx,lesion_id"]
    for k in range(number):
        p = phantom.render(style, 1, folder, k, size=size)
        Image.fromarray(p.image).save(root / "pics" / f"{k}.png")
        lines.append(f"{folder}-{k},pics/{k}.png,{p.label},{k // 2}")
    (root / "metadata.csv").write_text("\n".join(lines))


def folder_world(number: int = 24, external: int = 8, **changes: Any) -> None:
    own_images("mine", number)
    own_images("theirs", external, phantom.CLINIC_B)
    configure(
        acquire__source="folder", acquire__path="mine", acquire__external__source="folder",
        acquire__external__path="theirs", split__train=10, split__val=4, split__test=6, split__external=6,
        split__seed_images=4, **changes,
    )  # fmt: skip


def test_from_phantoms_to_splits(place: Path) -> None:
    configure(acquire__phantom__images=24, acquire__phantom__external_images=8, split__train=10, split__val=4,
              split__test=6, split__external=6, split__seed_images=4)  # fmt: skip
    acquire.run()
    raw = manifest.read(paths.RAW_MANIFEST)
    assert len(raw) == 32 and raw["path"].str.startswith("data/raw/images/").all()
    assert all(Path(path).is_file() for column in ("path", "mask_path", "hair_path") for path in raw[column].dropna())
    data = metrics(paths.DATA_METRICS)
    assert data["images"] == 32 == sum(data["classes"].values())
    assert data["roles"]["external"]["images"] == 8 and data["quarantined"] == {}
    assert len(manifest.read(paths.RAW_QUARANTINE)) == 0

    preprocess.run()
    table = manifest.read(paths.PROCESSED_MANIFEST)
    assert len(table) == 32 and (table["truth_area"] == raw["truth_area"]).all()
    assert table["phash"].str.fullmatch("[0-9a-f]{16}").all()
    assert all(state.hash_file(Path(row.path)) == row.sha256 for row in table.itertuples())
    assert io.read_stack(table["path"].tolist()).shape == (32, 64, 64, 3)
    measured = metrics(paths.PREPROCESS_METRICS)
    assert sum(measured["tones"].values()) == 32
    area = measured["truth"]["lesion_area"]
    assert area["n"] == 32 and area["rank_correlation_low"] < area["rank_correlation"] < area["rank_correlation_high"]

    split.run()
    final, numbers = manifest.read(paths.SPLITS_MANIFEST), metrics(paths.SPLIT_METRICS)
    assert numbers["leaked_groups"] == 0 and numbers["groups"] == 32
    assert numbers["images"] == {"train": 10, "val": 4, "test": 6, "external": 6, "unused": 6}
    assert final["seed_image"].sum() == numbers["seed_images"] == 4
    assert numbers["seed_classes"] == {"benign": 2, "malignant": 2}
    assert not Path(".state/preprocess").exists() or not any(Path(".state/preprocess").iterdir())


def test_the_same_again_gives_the_same_bytes(place: Path) -> None:
    folder_world()
    digests = []
    for _ in range(2):
        for stage in (acquire, preprocess, split):
            stage.run()
        digests.append([state.hash_tree(path) for path in (paths.RAW, paths.PROCESSED, paths.SPLITS, paths.METRICS)])
        for path in (paths.RAW, paths.PROCESSED, paths.SPLITS, paths.METRICS):
            shutil.rmtree(path)
    assert digests[0] == digests[1]


def test_lesions_stay_together(place: Path) -> None:
    folder_world()
    for stage in (acquire, preprocess, split):
        stage.run()
    final = manifest.read(paths.SPLITS_MANIFEST)
    pool = final[(final["role"] == "pool") & (final["split"] != "unused")]
    assert (pool.groupby("lesion_id")["split"].nunique() == 1).all()
    assert metrics(paths.SPLIT_METRICS)["largest_group"] == 2


def test_an_external_copy_of_a_pool_image_is_dropped(place: Path) -> None:
    folder_world()
    turned = Image.open("mine/pics/3.png").transpose(Image.Transpose.ROTATE_90)
    turned.save("theirs/pics/0.png")
    for stage in (acquire, preprocess, split):
        stage.run()
    numbers = metrics(paths.SPLIT_METRICS)
    assert numbers["near_duplicates"] == 1 and numbers["leaked_groups"] == 0
    assert numbers["external_dropped"] == 2  # the copy and the other image of its lesion
    final = manifest.read(paths.SPLITS_MANIFEST).set_index("image_id")
    assert final["group_id"]["theirs-0"] == final["group_id"]["mine-3"]


def test_bad_input_is_counted_and_survived(place: Path) -> None:
    folder_world(acquire__max_quarantined=0.2)
    Path("mine/pics/0.png").write_bytes(b"")
    whole = Path("mine/pics/1.png").read_bytes()
    Path("mine/pics/1.png").write_bytes(whole[:200])
    acquire.run()
    data = metrics(paths.DATA_METRICS)
    assert data["images"] == 30 and data["quarantined"] == {"empty": 1, "truncated": 1}
    bad = manifest.read(paths.RAW_QUARANTINE).set_index("image_id")
    assert bad["reason"].to_dict() == {"mine-0": "empty", "mine-1": "truncated"}


def test_too_much_bad_input_stops_with_counts_and_examples(place: Path) -> None:
    folder_world()
    for k in range(4):
        Path(f"mine/pics/{k}.png").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"4 of 24 images cannot be used \(4 empty\).*mine-0: empty.*quarantine\.csv"
    ) as e:
        acquire.run()
    assert "acquire.max_quarantined" in str(e.value) and "\n" not in str(e.value)
    assert not paths.RAW.exists()
    saved = next(Path(".state").rglob("quarantine.csv"))
    assert len(saved.read_text().splitlines()) == 5


def test_an_id_in_both_sets_stays_in_the_pool(place: Path) -> None:
    folder_world(acquire__max_quarantined=0.2)
    text = Path("theirs/metadata.csv").read_text()
    Path("theirs/metadata.csv").write_text(text.replace("theirs-0", "mine-0"))
    acquire.run()
    raw = manifest.read(paths.RAW_MANIFEST).set_index("image_id")
    assert raw["role"]["mine-0"] == "pool"
    assert metrics(paths.DATA_METRICS)["roles"]["external"]["quarantined"] == {"duplicate_id": 1}


def test_what_is_in_quarantine_is_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_world(acquire__max_quarantined=0.3)
    table = Path("mine/metadata.csv")
    lines = table.read_text().splitlines()
    lines[1:4] = ["a,pics/0.png,eczema,1", "b,pics/1.png,,1", "c,pics/none.png,nv,2"]
    table.write_text("\n".join(lines))
    acquire.run()
    said = "3 in quarantine (1 missing_file, 2 unmapped_label; no class for: (none), eczema) -> data/raw"
    assert said in capsys.readouterr().err
    assert metrics(paths.DATA_METRICS)["unmapped"] == {"": 1, "eczema": 1}


def test_a_real_pool_is_not_tested_on_phantoms(place: Path) -> None:
    configure(acquire__source="folder")
    with pytest.raises(UserError, match=r"^params\.yaml: acquire: .*acquire\.external\.source to none.*set\.$"):
        acquire.run()


def test_own_images_stay_out_of_git(place: Path) -> None:
    shutil.copy(ROOT / ".gitignore", ".gitignore")
    subprocess.run(["git", "init", "-q"], check=True)
    asked = ["data/import/a/b.jpg", "data/import-external/x.csv", "data/import/.gitkeep"]
    ignored = subprocess.run(["git", "check-ignore", *asked], capture_output=True, text=True, check=False)
    assert ignored.stdout.split() == asked[:2]


def test_nothing_to_read_is_said(place: Path) -> None:
    configure(acquire__source="folder", acquire__path="nowhere", acquire__external__source="none")
    with pytest.raises(UserError, match="nowhere"):
        acquire.run()
    with pytest.raises(UserError, match=r"manifest\.parquet is missing"):
        preprocess.run()
    with pytest.raises(UserError, match=r"manifest\.parquet is missing"):
        split.run()


def test_small_images_are_refused_by_preprocess(place: Path) -> None:
    folder_world(preprocess__min_side=40, preprocess__max_quarantined=0.1)
    Image.fromarray(np.zeros((39, 60, 3), np.uint8)).save("mine/pics/5.png")
    acquire.run()
    preprocess.run()
    assert metrics(paths.PREPROCESS_METRICS)["quarantined"] == {"too_small": 1}
    assert manifest.read(paths.PROCESSED_QUARANTINE)["image_id"].tolist() == ["mine-5"]
    configure(**{"preprocess__min_side": 49})
    with pytest.raises(UserError, match=r"32 of 32 images cannot be used.*preprocess\.max_quarantined"):
        preprocess.run()
    assert paths.PROCESSED_MANIFEST.is_file(), "the earlier result stays"


def odd_images(folder: Path) -> dict[str, str]:
    """An image of every odd kind, by file name: what becomes of it, "" where it is taken."""
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    plain = Image.fromarray(pixels)
    plain.save(folder / "MIXED.JpEg", quality=95)
    (folder / "cut.jpg").write_bytes((folder / "MIXED.JpEg").read_bytes()[:900])
    plain.convert("CMYK").save(folder / "cmyk.jpg")
    plain.convert("P").save(folder / "palette.PNG")
    plain.convert("RGBA").save(folder / "alpha.png")
    plain.save(folder / "still.gif")
    plain.save(folder / "moving.gif", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    cv2.imwrite(str(folder / "deep.png"), pixels.astype(np.uint16) * 257)
    exif = plain.getexif()
    exif[0x0112] = 6
    plain.save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    plain.save(folder / "crc.png")
    data = bytearray((folder / "crc.png").read_bytes())
    at = data.index(b"IDAT")
    data[at + 4 + int.from_bytes(data[at - 4 : at], "big")] ^= 0xFF  # the checksum itself, behind sound pixels
    (folder / "crc.png").write_bytes(data)
    return {
        "MIXED.JpEg": "", "palette.PNG": "", "alpha.png": "", "still.gif": "", "turned.jpg": "",
        "cut.jpg": "truncated", "cmyk.jpg": "wrong_mode", "moving.gif": "animated", "deep.png": "wrong_mode",
        "dot.png": "too_small", "huge.png": "too_large", "crc.png": "unreadable",
    }  # fmt: skip


def test_odd_images_are_taken_or_refused_by_reason_and_none_is_lost(place: Path) -> None:
    folder_world(8, 2, acquire__max_quarantined=0.9, preprocess__max_quarantined=0.9)
    kinds = odd_images(Path("mine/pics"))
    with Path("mine/metadata.csv").open("a") as table:
        table.writelines(f"\n{file},pics/{file},nv," for file in kinds)
    acquire.run()
    preprocess.run()
    refused = {
        row.image_id: row.reason
        for path in (paths.RAW_QUARANTINE, paths.PROCESSED_QUARANTINE)
        for row in manifest.read(path).itertuples()
    }
    taken = set(manifest.read(paths.PROCESSED_MANIFEST)["image_id"])
    assert {file: refused.get(file, "") for file in kinds} == kinds
    assert taken == {f"mine-{k}" for k in range(8)} | {f"theirs-{k}" for k in range(2)} | {
        file for file, reason in kinds.items() if not reason
    }
    raw = manifest.read(paths.RAW_MANIFEST).set_index("image_id")
    assert (raw["width"]["turned.jpg"], raw["height"]["turned.jpg"]) == (48, 64)


@pytest.fixture
def tiny_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 256 kB to work on; `place` lies outside."""
    target = place / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(target)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root and the right to mount")
    try:
        monkeypatch.chdir(target)
        yield target
    finally:
        monkeypatch.chdir(place)
        # lazily: the tracker of a process pool outlives it, and stands in there
        subprocess.run(["umount", "-l", str(target)], check=True)


def ballast(disk: Path, left: int) -> Path:
    """Fill the disk but for ``left`` bytes."""
    path = disk / "ballast"
    path.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
    return path


def test_a_full_disk_is_one_clear_line_and_costs_nothing(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.chdir(tiny_disk.parent)
        folder_world(12, 2)
    shutil.copy("../params.yaml", "params.yaml")
    changed = yaml.safe_load(Path("params.yaml").read_text())
    changed["acquire"]["path"], changed["acquire"]["external"]["path"] = "../mine", "../theirs"
    Path("params.yaml").write_text(yaml.safe_dump(changed))
    acquire.run()
    before = state.hash_tree(paths.RAW)
    filled = ballast(tiny_disk, 40 * 1024)
    with pytest.raises(UserError, match=r"cannot write below .*: No space left on device; make room") as caught:
        acquire.run()
    assert "\n" not in str(caught.value) and state.hash_tree(paths.RAW) == before, "the earlier result stays"
    filled.unlink()
    acquire.run()
    assert state.hash_tree(paths.RAW) == before


def test_a_full_disk_stops_phantoms_and_any_later_stage_in_one_line(
    tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(acquire__source="phantom", acquire__external__source="none")
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["acquire"]["phantom"] |= {"images": 8, "size": 32}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    filled = ballast(tiny_disk, 16 * 1024)
    with pytest.raises(UserError, match=r"cannot write below .*: No space left on device; make room"):
        acquire.run()
    filled.unlink()
    acquire.run()
    filled = ballast(tiny_disk, 8 * 1024)
    monkeypatch.setattr("sys.argv", ["derm-t2im", "stage", "preprocess"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 1 and said[-1].startswith("Error: cannot write below "), said
    filled.unlink()
    preprocess.run()
    assert len(manifest.read(paths.PROCESSED_MANIFEST)) == 8


@pytest.mark.parametrize("left", [3, 28], ids=["listing", "images"])
def test_a_full_disk_stops_a_download(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with archive_server.serving(archive_server.Archive(images=14, page=50)) as archive:
        isic = {"query": "x", "base_url": f"{archive.url}/api/v2", "requests_per_second": 100}
        configure(acquire__source="isic", acquire__external__source="none")
        values = yaml.safe_load(Path("params.yaml").read_text())
        values["acquire"]["isic"].update(isic)
        Path("params.yaml").write_text(yaml.safe_dump(values))
        filled = ballast(tiny_disk, left * 1024)
        with pytest.raises(UserError, match=r"cannot write below .*: No space left on device; make room"):
            acquire.run()
        held = {path.name for path in tiny_disk.rglob("ISIC_*.jpg")}
        assert bool(held) == (left > 3) and not list(tiny_disk.rglob("*.partial")) and not paths.RAW.exists()
        filled.unlink()
        acquire.run()
        assert metrics(paths.DATA_METRICS)["sources"]["pool"]["images"] == 14
        assert all(archive.fetched()[name[:12]] == 1 for name in held), "what had come is not fetched again"


def test_sets_of_one_folder_go_through_the_stages(place: Path) -> None:
    Path("all").mkdir()
    for name, number, style in (("here", 24, phantom.CLINIC_A), ("there", 8, phantom.CLINIC_B)):
        own_images(f"all/{name}", number, style)
    configure(
        acquire__source="folder", acquire__path="all", acquire__external__source="none",
        acquire__folder__sets={"here": {}, "there": {"role": "external", "licence": "CC0-1.0"}},
        split__train=10, split__val=4, split__test=6, split__external=6, split__seed_images=4,
    )  # fmt: skip
    for stage in (acquire, preprocess, split):
        stage.run()
    numbers = metrics(paths.DATA_METRICS)
    assert {name: one["images"] for name, one in numbers["sources"].items()} == {"here": 24, "there": 8}
    assert numbers["roles"]["external"]["images"] == 8 and numbers["licences"] == {"CC0-1.0": 8, "unknown": 24}
    final = manifest.read(paths.SPLITS_MANIFEST)
    assert set(final.loc[final["split"] == "external", "source"]) == {"there"}


@pytest.mark.parametrize("method", ["none", "blackhat", "directional"])
def test_every_hair_method_runs(place: Path, method: str) -> None:
    folder_world(8, 2, preprocess__hair__method=method)
    acquire.run()
    preprocess.run()
    table = manifest.read(paths.PROCESSED_MANIFEST)
    if method == "none":
        raw = manifest.read(paths.RAW_MANIFEST)
        expected = io.square(io.read_rgb(Path(raw["path"][0])), 64)
        np.testing.assert_array_equal(io.read_rgb(Path(table["path"][0])), expected)
    assert table["hair_fraction"].notna().all()


def test_preprocess_goes_on_after_a_kill(place: Path) -> None:
    folder_world(60, 4)
    acquire.run()
    preprocess.run()
    expected = state.hash_tree(paths.PROCESSED), state.hash_file(paths.PREPROCESS_METRICS)
    shutil.rmtree(paths.PROCESSED)

    child = multiprocessing.get_context("spawn").Process(target=preprocess.run)
    child.start()
    deadline = time.monotonic() + 60
    journal: list[str] = []
    while len(journal) < 6 and time.monotonic() < deadline:
        journal = [line for path in Path(".state").rglob("rows.jsonl") for line in path.read_text().splitlines()]
        time.sleep(0.002)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL, "it was to be killed half-way"
    assert not paths.PROCESSED.exists()
    notes = next(Path(".state").rglob("rows.jsonl"))
    before = notes.read_text().splitlines()
    with notes.open("a") as file:
        file.write('{"image_id": "mine-')  # a line cut short
    first = json.loads(before[0].partition(" ")[2])["image_id"]
    done = next(Path(".state").rglob(io.file_name(first, ".png")))
    untouched = done.stat().st_mtime_ns, done.stat().st_ino
    preprocess.run()
    kept = paths.PROCESSED / done.relative_to(notes.parent / paths.PROCESSED.name)
    assert (kept.stat().st_mtime_ns, kept.stat().st_ino) == untouched, "finished work is not done again"
    assert (state.hash_tree(paths.PROCESSED), state.hash_file(paths.PREPROCESS_METRICS)) == expected


def test_contradictions_are_lesions_and_pictures_and_not_patients() -> None:
    table = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "source": "s",
            "lesion_id": ["1", "2", "3", "3", "5", "6"],
            "patient_id": ["p", "p", None, None, None, None],
            "label": ["benign", "malignant"] * 3,
        }
    )
    none = np.zeros((0, 2), np.int64)
    assert split._contradictions(table, none) == 1, "lesion 3; patient p has two lesions"
    assert split._contradictions(table, np.array([[4, 5]])) == 2, "and one picture under two lesion ids"
