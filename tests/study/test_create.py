"""`study create`: who is shown, and what a file betrays."""

from __future__ import annotations

import csv
import json
import shutil
import struct
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from derm_t2im import manifest, paths
from derm_t2im.cli import app
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import read_rgb
from derm_t2im.study import design
from tests.study import world

SMALL = ("--images", "20", "--repeats", "4", "--practice", "4")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    world.build(folder)
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create(*arguments: str, out: str = "study/one") -> Path:
    done = CliRunner().invoke(app, ["study", "create", "--out", out, *(arguments or SMALL)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return Path(out)


def key_of(folder: Path) -> pd.DataFrame:
    with (folder / "key.csv").open(newline="") as file:
        return pd.DataFrame(list(csv.DictReader(file)))


def chunks(data: bytes) -> list[tuple[bytes, int]]:
    at, found = 8, []
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        found.append((name, length))
        at += 12 + length
    return found


def test_balanced_from_held_out_and_kept_images_alone(project):
    key = key_of(create())
    shown = Counter(
        key.loc[key["phase"] == "reading"]
        .drop_duplicates("shows")[["kind", "label"]]
        .itertuples(index=False, name=None)
    )
    assert shown == {(kind, label): 5 for kind in ("real", "synthetic") for label in world.CLASSES}
    assert key["image_id"].str.match(r"real-test-|made-").all()  # no train, val, external, rejected
    assert len(key) == 20 + 4 + 4
    again = key[key["phase"] == "reading"].groupby("shows").size()
    assert sorted(again)[-5:] == [1, 2, 2, 2, 2]
    twice = key[key["shows"].isin(again[again == 2].index)].drop_duplicates("shows")
    assert Counter(twice["kind"]) == {"real": 2, "synthetic": 2}
    practised = key[key["phase"] == "practice"]
    assert not set(practised["image_id"]) & set(key.loc[key["phase"] == "reading", "image_id"])


def test_a_file_betrays_nothing_but_its_pixels(project):
    folder = create()
    key = key_of(folder)
    files = sorted((folder / "images").iterdir())
    assert [file.stem for file in files] == sorted(key["name"])
    data = [file.read_bytes() for file in files]
    # Any classifier on size, header, chunks or date sees one and the same value for all of them.
    assert len({len(some) for some in data}) == 1
    assert len({some[:41] for some in data}) == 1
    assert len({tuple(chunks(some)) for some in data}) == 1
    assert {name for name, _ in chunks(data[0])} == {b"IHDR", b"IDAT", b"IEND"}
    assert len({(file.stat().st_mtime, file.stat().st_mode) for file in files}) == 1
    # The control: the sources' own sizes would tell the two kinds apart.
    sizes = {kind: [len(Path(f"data/{kind}/{i}.png").read_bytes()) for i in some["image_id"]]
             for kind, some in key.groupby("kind")}  # fmt: skip
    assert min(sizes["real"]) > max(sizes["synthetic"])
    # Neither do names or their order: the kinds alternate as chance would have it.
    kinds = (key.sort_values("name")["kind"] == "real").to_numpy()
    assert 4 < (kinds[1:] != kinds[:-1]).sum() < len(kinds) - 4
    for row in key.itertuples():
        kind = "real" if row.kind == "real" else "synthetic"
        source = read_rgb(Path(f"data/{kind}/{row.image_id}.png"))
        assert np.array_equal(read_rgb(folder / "images" / f"{row.name}.png"), source)


def test_the_page_holds_the_images_and_no_trace_of_the_key(project):
    folder = create()
    page, key, plan = (folder / "read.html").read_text(), key_of(folder), json.loads((folder / "plan.json").read_text())
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert sorted(item["name"] for item in data["items"]) == sorted(key["name"])
    assert all(set(item) == {"name", "phase", "pair", "png"} for item in data["items"])
    assert len({len(item["png"]) for item in data["items"]}) == 1
    for secret in (*key["image_id"], *key["source_sha256"], plan["sha256"]["key.csv"], "made-", "data/"):
        assert secret not in page
    pairs = [item["pair"] for item in data["items"] if item["pair"] is not None]
    assert Counter(pairs) == dict.fromkeys(range(4), 2)  # numbered as they come, no row of a table
    assert "http://" not in page and "https://" not in page


def test_the_plan_is_fixed(project):
    one, two, other = create(out="study/a"), create(out="study/b"), create(*SMALL, "--seed", "1", out="study/c")
    for name in ("key.csv", "read.html"):
        assert (one / name).read_bytes() == (two / name).read_bytes() != (other / name).read_bytes()
    plan = json.loads((one / "plan.json").read_text())
    assert plan["seed"] == 0 and plan["images"] == 20 and plan["shown"] == 28
    assert set(plan["sha256"]) == {"key.csv", "read.html", "images", "data/splits/manifest.parquet",
                                   "data/curated/manifest.parquet"}  # fmt: skip
    assert 0.5 < plan["detectable_accuracy"]["mean_of_readers"]["5"]["best"] < plan["detectable_accuracy"]["one_reader"]
    with pytest.raises(UserError, match="study/a is there already"):
        create(out="study/a")


def test_one_image_of_a_lesion_and_no_look_alikes(project):
    kept = manifest.read(paths.CURATED_MANIFEST)
    twin, real = "made-000", "real-test-000"
    rgb = read_rgb(Path(f"data/real/{real}.png"))
    cv2.imwrite(f"data/synthetic/{twin}.png", np.ascontiguousarray(rgb[:, ::-1, ::-1]))  # mirrored: other bytes
    kept.loc[kept["image_id"] == twin, "sha256"] = None
    manifest.write(kept, paths.CURATED_MANIFEST)
    for i in (2, 4, 6):
        world.change(paths.SPLITS_MANIFEST, f"real-test-{i:03d}", group_id="one-lesion")
    key = key_of(create("--per-class", "13", "--repeats", "0", "--practice", "0"))
    plan = json.loads(Path("study/one/plan.json").read_text())
    assert plan["left_out_as_near_duplicates"] == [twin]
    assert sum(key["image_id"].isin(("real-test-002", "real-test-004", "real-test-006"))) <= 1


BAD = {
    "odd": (("--images", "21"), "--images must be even"),
    "odd practice": (("--images", "20", "--practice", "3"), "--practice must be even"),
    "few": (("--images", "2"), "give at least 4"),
    "many": (("--images", "100"), r"the test split \(one per lesion\) can give 16 images of benign, 26 are needed"),
    "repeats": (("--images", "4", "--repeats", "5"), "only 4 images"),
    "enlarged": (("--images", "8", "--repeats", "0", "--practice", "0", "--size", "2048"), "more than twice the"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_plan_is_one_clear_line(project, case):
    arguments, said = BAD[case]
    with pytest.raises(UserError, match=said) as told:
        create(*arguments)
    assert "\n" not in str(told.value)
    assert not Path("study").exists() or not list(Path("study").iterdir())


def test_refuses_what_the_generator_may_have_learnt(project):
    world.change(paths.SPLITS_MANIFEST, "real-test-000", group_id="real-train-000")
    with pytest.raises(UserError, match="real-train-000 is in the test split and in training"):
        create()
    world.change(paths.SPLITS_MANIFEST, "real-test-000", group_id="real-test-000")
    world.change(paths.CURATED_REAL, "real-test-003", split="train")
    with pytest.raises(UserError, match="real-test-003 is a test image now, but was not one when"):
        create()


def test_refuses_files_that_are_not_what_the_manifest_says(project):
    digest = manifest.read(paths.SPLITS_MANIFEST).set_index("image_id")["sha256"]
    world.change(paths.CURATED_MANIFEST, "made-005", sha256=digest["real-train-001"])
    with pytest.raises(UserError, match="made-005 is the same file as a real one"):
        create()
    world.change(paths.CURATED_MANIFEST, "made-005", sha256=None)
    everything = ("--per-class", "16", "--practice", "0")
    shutil.copy("data/real/real-train-000.png", "data/real/real-test-001.png")
    with pytest.raises(UserError, match=r"real-test-001.png has changed"):
        create(*everything)
    Path("data/real/real-test-001.png").write_bytes(b"")
    with pytest.raises(Exception, match=r"real-test-001.png"):
        create(*everything)
    assert not Path("study/one").exists()


def pool(kind: str, classes: int, each: int) -> pd.DataFrame:
    rows = [{"image_id": f"{kind}-{c}-{i}", "path": "", "sha256": "", "kind": kind, "label": f"class-{c}"}
            for c in range(classes) for i in range(each)]  # fmt: skip
    return pd.DataFrame(rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 7), st.integers(1, 40), st.integers(0, 6), st.integers(0, 9))
def test_each_class_is_as_often_real_as_synthetic(classes, half, practice, seed):
    plan = design.Plan(images=2 * half, repeats=0, practice=2 * practice, seed=seed)
    pools = {kind: pool(kind, classes, 60) for kind in design.KINDS}
    none = lambda table: np.zeros((0, 2), int)  # noqa: E731
    if half < classes:
        with pytest.raises(UserError, match=f"give at least {2 * classes}"):
            design.choose(pools, plan, none)
        return
    table = design.choose(pools, plan, none).table
    assert len(table) == 2 * half + 2 * practice and table["image_id"].is_unique
    for phase, total in ((design.READING, half), (design.PRACTICE, practice)):
        by = table[table["phase"] == phase].groupby(["kind", "label"]).size().unstack(fill_value=0)
        if total:
            assert (by.loc["real"] == by.loc["synthetic"]).all() and by.loc["real"].sum() == total
            assert by.loc["real"].max() - by.loc["real"].min() <= 1
