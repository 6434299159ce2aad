"""`study score`: planted readers come out as planted, and nothing that is wrong with a file is lost silently."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from derm_t2im.cli import app
from derm_t2im.errors import UserError
from derm_t2im.study.answers import read_study
from tests.study import simulated, world
from tests.study.simulated import Simulated

STUDY = Path("study/one")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    world.build(folder, each=26)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = CliRunner().invoke(app, ["study", "create", "--out", str(STUDY), "--repeats", "12"])
        assert done.exit_code == 0, (done.output, done.exception)
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    shutil.copytree(made / "study", tmp_path / "study")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answered(reader: Simulated) -> list[dict[str, str]]:
    plan, key = read_study(STUDY)
    return simulated.rows(plan["study"], plan["classes"], key, reader)


def save(rows: list[dict[str, str]], name: str = "") -> str:
    return str(simulated.write(Path(f"answers-{name or rows[0]['reader']}.csv"), rows))


def score(*files: str) -> tuple[dict, str]:
    done = CliRunner().invoke(app, ["study", "score", str(STUDY), *files, "--draws", "400"])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads((STUDY / "score.json").read_text()), " ".join(done.output.split())


def test_the_right_the_wrong_and_the_biased(project):
    seeing = Simulated("seeing", d_prime=50, difficulty=0, slips=0, right=1, right_synthetic=0)
    fooled = replace(seeing, name="fooled", d_prime=-50)
    biased = replace(seeing, name="biased", d_prime=0, criterion=-50)
    found, _ = score(*(save(answered(one)) for one in (seeing, fooled, biased)))
    at = found["readers"]
    assert [at["seeing"][x] for x in ("accuracy", "sensitivity", "specificity", "auc")] == [1, 1, 1, 1]
    assert [at["fooled"][x] for x in ("accuracy", "auc")] == [0, 0]
    assert [at["biased"][x] for x in ("accuracy", "sensitivity", "specificity", "auc")] == [0.5, 1, 0, 0.5]
    assert at["seeing"]["p"] < 1e-20 and at["biased"]["p"] == 1
    assert at["seeing"]["d_prime"] > 4 and at["biased"]["d_prime"] == pytest.approx(0)
    assert at["biased"]["criterion"] < -2 < at["seeing"]["criterion"]
    assert at["seeing"]["diagnosis_real"] == 1 and at["seeing"]["diagnosis_synthetic"] == 0
    assert at["seeing"]["diagnosis_difference_high"] < -0.8
    kappas = {tuple(pair["readers"]): pair["kappa"] for pair in found["agreement"]["source"]["pairs"]}
    assert kappas == {("biased", "fooled"): 0, ("biased", "seeing"): 0, ("fooled", "seeing"): -1}


def test_chance_readers_and_what_the_study_can_say(project):
    _, key = read_study(STUDY)
    files = []
    for r in range(4):  # right on every other image, every other two, four, eight
        rows = answered(Simulated(f"r{r}"))
        for row in rows:
            item = key[row["image"]]
            right = (item.shows >> r) & 1
            row["source"] = item.kind if right else {"real": "synthetic", "synthetic": "real"}[item.kind]
        files.append(save(rows))
    found, said = score(*files)
    pooled = found["pooled"]
    assert found["images"] == 100 and pooled["answers"] == 400
    assert pooled["accuracy_low"] < 0.5 < pooled["accuracy_high"] and pooled["p"] > 0.05
    assert "cannot be told from chance; that is no proof" in said and f"{pooled['accuracy_high']:.2f}" in said
    assert abs(found["agreement"]["source"]["fleiss_kappa"]) < 0.15
    assert found["readers"]["r0"]["detectable_accuracy"] == pytest.approx(0.645, abs=1e-3)
    assert 0.5 < pooled["detectable_accuracy"] < 0.645


def test_readers_that_see_a_difference(project):
    readers = [replace(one, d_prime=2.5 + i / 4, criterion=0.0) for i, one in enumerate(simulated.READERS)]
    found, said = score(*(save(answered(one)) for one in readers))
    assert "better than chance" in said and found["pooled"]["accuracy_low"] > 0.5
    assert found["pooled"]["p"] < 0.05
    names = [one.name for one in readers]
    assert list(found["readers"]) == names and all(re.search(name, said) for name in names)


def test_the_first_look_counts_and_the_second_says_how_steady_a_reader_is(project):
    rows = answered(Simulated("ann", d_prime=50, difficulty=0, slips=0))
    _, key = read_study(STUDY)
    seen: set[int] = set()
    changed = 0
    for row in rows:
        item = key[row["image"]]
        if item.phase == "reading" and item.shows in seen:  # the second look: another mind on half of them
            changed += 1
            if changed % 2:
                row["source"] = "real" if row["source"] == "synthetic" else "synthetic"
        seen.add(item.shows)
    found, said = score(save(rows))
    again = found["readers"]["ann"]["again"]
    assert (again["n"], again["source_agreement"]) == (12, 0.5)
    assert found["readers"]["ann"]["accuracy"] == 1 and found["pooled"]["accuracy"] == 1
    assert "6/12" in said and "other images, not other readers" in said


def test_times(project):
    rows = answered(Simulated("ann"))
    for i, row in enumerate(rows):
        row["seconds"] = "1000" if row["phase"] == "practice" else str(1 + i % 3)
    rows[10]["interruptions"] = "2"
    time = score(save(rows))[0]["readers"]["ann"]["time"]
    assert (time["quarter"], time["median"], time["three_quarters"]) == (1, 2, 3)
    assert time["interrupted"] in (0, 1)  # 0 where that row is a second look


def test_what_cannot_be_used_is_counted_and_said(project):
    rows = [row for row in answered(Simulated("bob")) if row["phase"] == "reading"]
    _, key = read_study(STUDY)
    once = [row for row in rows if sum(key[r["image"]].shows == key[row["image"]].shows for r in rows) == 1]
    once[0]["source"] = "perhaps"
    once[1]["confidence"] = "9"
    once[2]["diagnosis"] = ""
    once[3]["seconds"] = "nan"
    once[4]["position"] = "first"
    once[5]["source"] = "Synthetic "  # tolerated
    gone = once[6]["image"]
    rows = [row for row in rows if row["image"] != gone]
    rows += [dict(once[7]), {**once[8], "image": "image-999"}]
    found, said = score(save(rows))
    bob = found["readers"]["bob"]
    assert {name: some["n"] for name, some in bob["problems"].items()} == {
        "wrong_source": 1, "wrong_confidence": 1, "wrong_diagnosis": 1, "wrong_seconds": 1, "wrong_position": 1,
        "answered_twice": 1, "unknown_image": 1,
    }  # fmt: skip
    assert bob["missing"] == {"n": 1, "examples": [gone]}
    assert bob["n"] == 98
    for part in (
        "Finished: 0 of 1 reader. bob answered 111 of 112; scored as far as read.",
        "wrong source, 1",
        "image-999",
        "perhaps",
    ):
        assert part in said


def test_readers_that_answered_different_images(project):
    a, b = (answered(Simulated(name, 1.0)) for name in "ab")
    found, _ = score(save(a[:70]), save(b[20:]))
    pair = found["agreement"]["source"]["pairs"][0]
    assert 0 < pair["n"] < 100 and pair["n"] == found["agreement"]["source"]["n"]
    assert found["readers"]["a"]["missing"]["n"] > 0
    assert all(math.isfinite(found["pooled"][x]) for x in ("accuracy_low", "accuracy_high", "auc", "d_prime"))


def test_unfinished_readers_are_counted_and_scored_as_far_as_they_read(project):
    ann, bea = answered(Simulated("ann", 2.0)), answered(Simulated("bea", 2.0))
    files = [save(ann), save(bea[:30]), save(bea[:3], "cat"), save([], "dan")]
    found, said = score(*files)
    assert "Finished: 1 of 4 readers. bea answered 26 of 112; scored as far as read." in said
    assert "Nothing to score yet in answers-cat.csv, answers-dan.csv." in said
    assert set(found["readers"]) == {"ann", "bea"} and found["unread"] == ["answers-cat.csv", "answers-dan.csv"]
    assert found["readers"]["bea"]["n"] <= 26 and 0 < found["readers"]["bea"]["accuracy"] <= 1
    with pytest.raises(
        UserError, match=r"answers-cat\.csv: no answer .* Nothing to score in any of the 2 files\."
    ) as told:
        score(*files[2:])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("given", [{"source": ""}, {"diagnosis": ""}, {}])
def test_one_answer_is_scored(project, given):
    row = next(row for row in answered(Simulated("ann")) if row["phase"] == "reading")
    found, said = score(save([row | given]))
    assert found["readers"]["ann"]["n"] == (0 if "source" in given else 1)
    assert "Finished: 0 of 1 reader. ann answered 1 of 112" in said


def test_a_spreadsheets_semicolons_and_byte_order_mark(project):
    file = Path(save(answered(Simulated("ann", 1.0))))
    want = score(str(file))[0]["readers"]["ann"]
    file.write_text("\ufeff" + file.read_text().replace(",", ";").replace(".", ","), encoding="utf-8")
    have = score(str(file))[0]["readers"]["ann"]
    assert have | {"file": 0} == want | {"file": 0}


def broken(case: str) -> list[str]:
    rows = answered(Simulated("ann"))
    if case == "twice":
        return [save(rows), save([{**row, "reader": "ANN"} for row in rows], "other")]
    if case == "two in one":
        return [save(rows[:50] + [{**row, "reader": "eve"} for row in rows[50:]])]
    if case == "other study":
        return [save([{**row, "study": "0" * 12} for row in rows])]
    if case == "practice":
        return [save([row for row in rows if row["phase"] == "practice"])]
    file = Path("answers-ann.csv")
    if case == "columns":
        file.write_text("image,answer\nimage-001,real\n")
    elif case == "empty":
        file.write_text(",".join(simulated.COLUMNS) + "\n")
    elif case == "bytes":
        file.write_bytes(b"\xff\xfe\x00\x01")
    return [str(file)]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("twice", "answers-ann.csv and answers-other.csv are both of reader ANN"),
        ("two in one", "one file holds the answers of one reader; this one names: ann, eve"),
        ("other study", "answers to another study \\(000000000000"),
        ("practice", "no answer to an image of this study"),
        ("columns", "the columns study, reader, position, source, confidence, diagnosis, seconds are missing"),
        ("empty", "holds no answers"),
        ("bytes", "no text in UTF-8"),
        ("gone", "answers-ann.csv: No such file"),
    ],
)
def test_a_wrong_file_is_one_clear_line(project, case, said):
    with pytest.raises(UserError, match=said) as told:
        score(*broken(case))
    assert "\n" not in str(told.value)


def test_a_key_that_was_changed_is_refused(project):
    file = save(answered(Simulated("ann")))
    key = STUDY / "key.csv"
    key.write_text(key.read_text().replace(",real,", ",synthetic,", 1))
    with pytest.raises(UserError, match=r"key.csv is not the key that plan.json was made with"):
        score(file)
    key.unlink()
    with pytest.raises(UserError, match=r"key.csv is missing"):
        score(file)


def test_equal_answers_give_equal_figures(project):
    files = [save(answered(one)) for one in simulated.READERS[:3]]
    score(*files)
    first = (STUDY / "score.json").read_bytes()
    score(*reversed(files))
    assert (STUDY / "score.json").read_bytes() == first
    assert np.isfinite(json.loads(first)["pooled"]["auc"])
