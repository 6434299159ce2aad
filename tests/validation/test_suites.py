"""Each rule, fed with what it must catch, through Great Expectations."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from derm_t2im.errors import UserError
from derm_t2im.imaging import inline, io
from derm_t2im.params.validate import Validate
from derm_t2im.validation import data_suites, docs, expectations, gate, suites

SETTINGS = Validate(min_images_per_class=3)
LABELS = ["benign", "malignant"]


def real(n=40):
    splits = ["train"] * 16 + ["val"] * 8 + ["test"] * 8 + ["external"] * 8
    return pd.DataFrame(
        {
            "image_id": [f"r{i:02d}" for i in range(n)],
            "path": [f"r{i:02d}.png" for i in range(n)],
            "kind": "real",
            "label": [LABELS[i % 2] for i in range(n)],
            "sha256": [f"{i:064x}" for i in range(n)],
            "group_id": [f"g{i}" for i in range(n)],
            "split": splits,
            "seed_image": [i < 4 for i in range(n)],
            "sharpness": [0.4 + 0.01 * (i % 10) for i in range(n)],
            "ita": [10.0 + i for i in range(n)],
            "tone": "tan",
        }
    )


def synthetic(n=20):
    return pd.DataFrame(
        {
            "image_id": [f"s{i:02d}" for i in range(n)],
            "path": [f"s{i:02d}.png" for i in range(n)],
            "kind": "synthetic",
            "label": [LABELS[i % 2] for i in range(n)],
            "sha256": [f"{i + 1000:064x}" for i in range(n)],
            "prompt": "sks benign lesion",
            "seed": range(n),
            "sampler": "euler",
            "lora_sha256": f"{7:064x}",
            "sharpness": [0.4 + 0.01 * (i % 10) for i in range(n)],
        }
    )


def fidelity(**changes):
    whole = {"kid": 0.1, "kid_floor_high": 0.05, "label_disagreement": 0.2}
    out = {
        "all": dict(whole),
        "benign": dict(whole),
        "malignant": dict(whole),
        "copies": {"rate": 0.01, "rate_low": 0.002, "planted_recall": 0.98},
        "shortcuts": {"colour_excess_auc_low": 0.01, "border_excess_auc_low": 0.01},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        out[section][name] = value
    return out


@pytest.fixture
def check(tmp_path):
    """Run suites on changed tables; gives the failed outcomes by severity, and the suites."""

    def run(
        real_table=None, made=None, numbers=None, without_features=(), without_files=(), only=None, docs=None, raw=None
    ):
        real_table = real() if real_table is None else real_table
        made = synthetic() if made is None else made
        for path in [*real_table["path"], *made["path"]]:
            if path not in without_files:
                (tmp_path / path).touch()
        embedded = {*real_table["image_id"], *made["image_id"]} - set(without_features)
        processed = real_table.drop(columns=["split", "seed_image"])
        came = processed.assign(width=80, height=70) if raw is None else raw
        every = [
            *data_suites.data_suites(came, processed, real_table, SETTINGS, tmp_path),
            *suites.all_suites(real_table, made, embedded, numbers or fidelity(), SETTINGS, tmp_path),
        ]
        checked = [suite for suite in every if only in (None, suite.name)]
        outcomes = expectations.run(checked, docs)
        assert len(outcomes) == sum(len(suite.rules) for suite in checked) > 0
        failed = [outcome for outcome in outcomes if not outcome.passed]
        return (
            {o.rule.words: o for o in failed if o.rule.severity == "critical"},
            {o.rule.words: o for o in failed if o.rule.severity == "warning"},
            checked,
        )

    return run


def put(table, column, rows, value):
    table[column] = table[column].astype(object)
    table.loc[rows, column] = value
    return table


def test_sound_tables_pass(check):
    critical, warnings, checked = check()
    assert critical == {} and warnings == {}
    missing = {name for suite in checked for name in suite.not_measured}
    assert {"lesion_area", "ita", "labels_of_lesion"} <= missing


@pytest.mark.parametrize(
    ("suite", "faults"),
    [
        (
            "real-images",
            [
                ("label", [3], None, "every image has a label"),
                ("kind", [4, 5], "synthetic", "every image is real"),
                ("sha256", [6], "abc", "every file has its checksum"),
            ],
        ),
        (
            "splits",
            [
                ("split", [8], "training", "every split is one of train, val, test, external, unused"),
                ("seed_image", [20], True, "the generator learns from training images only"),
                ("group_id", [5, 30], "one", "no lesion, patient or near-duplicate is in two splits"),
                ("sha256", [7, 35], f"{77:064x}", "no file is in two splits"),
            ],
        ),
        (
            "synthetic-images",
            [
                ("label", [5], "naevus", "every label is one of benign, malignant"),
                ("prompt", [6], None, "every image knows its prompt"),
                ("seed", [7], None, "every image knows its seed"),
                ("sampler", [8], None, "every image knows its sampler"),
            ],
        ),
    ],
)
def test_critical_rules_name_the_images(check, suite, faults):
    made = suite == "synthetic-images"
    table, letter = (synthetic(), "s") if made else (real(), "r")
    for column, rows, value, _ in faults:
        put(table, column, rows, value)
    critical, _, _ = check(made=table, only=suite) if made else check(table, only=suite)
    assert {words: o.examples for words, o in critical.items()} == {
        words: tuple(f"{letter}{row:02d}" for row in rows) for _, rows, _, words in faults
    }


def test_an_id_that_occurs_twice(check):
    critical, _, _ = check(made=put(synthetic(), "image_id", [5], "s04"), only="synthetic-images")
    assert critical["every image_id occurs once"].examples == ("s04", "s04")


def test_a_group_may_have_unused_images(check):
    table = put(put(real(), "group_id", [2, 30], "g2"), "split", [30], "unused")
    critical, _, _ = check(table, only="splits")
    assert not any("near-duplicate" in words for words in critical)


def test_missing_files_and_features(check):
    critical, _, _ = check(without_files=["r01.png", "s02.png"], without_features=["r07", "s03"])
    found = {(o.suite, o.examples) for o in critical.values()}
    assert critical["every image has features"].examples == ("s03",)
    assert critical["every used image has features"].examples == ("r07",)
    assert ("synthetic-images", ("s02",)) in found


def test_too_few_images_of_a_class(check):
    made = put(synthetic(), "label", list(range(1, 20, 2))[:8], "benign")
    table = put(real(), "label", list(range(1, 16, 2))[:7], "benign")
    critical, _, _ = check(table, made=made)
    assert {(o.examples, o.observed) for o in critical.values()} == {
        (("synthetic/malignant",), 2),
        (("train/malignant",), 1),
    }
    assert all("validate.min_images_per_class" in o.rule.turn for o in critical.values())


def test_raw_images_and_their_metadata(check):
    raw = real().drop(columns=["split", "seed_image"]).assign(width=80, height=70, source="a", age=50.0, licence="CC0")
    raw["lesion_id"] = [f"l{i // 4}" for i in range(40)]
    raw["label"] = ["benign" if i < 20 else "malignant" for i in range(40)]
    assert check(raw=raw, only="raw-images")[:2] == ({}, {})
    for column, rows, value in (
        ("width", [3], 20),
        ("label", [5], "malignant"),
        ("age", [7], 900.0),
        ("licence", [8], None),
        ("sha256", [9], f"{10:064x}"),
    ):
        put(raw, column, rows, value)
    critical, warnings, _ = check(raw=raw.convert_dtypes(), only="raw-images")
    assert critical == {}, "a few odd images stop no run"
    assert {o.rule.column: o.examples for o in warnings.values()} == {
        "width": ("r03",),
        "labels_of_lesion": ("r04", "r05", "r06", "r07"),
        "age": ("r07",),
        "licence": ("r08",),
        "sha256": ("r09", "r10"),
    }


def test_a_rare_class_is_pointed_out(check):
    raw = real(40).drop(columns=["split", "seed_image"]).assign(width=80, height=70)
    raw = pd.concat([raw] * 3, ignore_index=True).assign(image_id=[f"r{i:03d}" for i in range(120)])
    raw["label"] = ["benign"] * 118 + ["malignant"] * 2
    _, warnings, _ = check(raw=raw, only="raw-images")
    assert "validate.min_class_share" in {o.rule.column: o.rule.turn for o in warnings.values()}["class_share"]


def test_measured_bounds_come_from_the_real_images(check):
    made = put(synthetic(), "sharpness", range(3), 0.01)
    _, warnings, _ = check(made=made, only="synthetic-images")
    assert [o.rule.column for o in warnings.values()] == ["sharpness"]
    made = put(synthetic(), "sharpness", [0], 0.01)  # within `mostly`
    assert check(made=made, only="synthetic-images")[1] == {}


@pytest.mark.parametrize(
    ("change", "column", "severity"),
    [
        ({"all__kid": 5.0}, "kid over floor, all", "critical"),
        ({"malignant__kid": 5.0}, "kid over floor, malignant", "critical"),
        ({"all__label_disagreement": 0.6}, "label disagreement, all", "critical"),
        ({"benign__label_disagreement": 0.6}, "label disagreement, benign", "warning"),
        ({"copies__rate_low": 0.06}, "copy rate, at least", "critical"),
        ({"copies__rate": 0.06}, "copy rate", "warning"),
        ({"copies__planted_recall": 0.5}, "planted copies found", "warning"),
        ({"shortcuts__colour_excess_auc_low": 0.4}, "colour shortcut", "warning"),
    ],
)
def test_bounds_on_fidelity(check, change, column, severity):
    critical, warnings, _ = check(numbers=fidelity(**change), only="fidelity")
    failed = {o.rule.column: (o.rule.severity, o.observed) for o in (*critical.values(), *warnings.values())}
    assert list(failed) == [column] and failed[column][0] == severity


def test_what_fidelity_could_not_measure_is_listed_not_judged(check):
    critical, _, checked = check(numbers=fidelity(all__kid=None), only="fidelity")
    assert critical == {} and "kid over floor, all" in checked[-1].not_measured


def test_the_message_has_at_most_ten_lines_and_the_metrics_add_up(check):
    table = real()
    for column, value in (("label", None), ("kind", "x"), ("sha256", "x"), ("split", "x"), ("tone", "x")):
        put(table, column, range(10), value)
    put(table, "group_id", range(0, 40), "one")
    critical, _, checked = check(table, numbers=fidelity(all__kid=9.0))
    outcomes = list(critical.values())
    assert len(outcomes) > gate.SHOWN
    lines = gate.message(outcomes, Path("reports/validation")).splitlines()
    assert len(lines) <= 10 and f"{len(outcomes)} critical expectations failed" in lines[0]
    found = gate.metrics(outcomes, checked)
    assert found["critical_failures"] == len(outcomes) == len(found["failures"])
    json.dumps(found)
    assert gate.message([], Path("reports/validation")) == ""


def test_pages_need_no_network(check, tmp_path):
    check(put(real(), "label", [3], None), docs=tmp_path / "docs")
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) == 17  # the front page, and for each of eight suites its rules and its results
    for page in pages:
        text = page.read_text()
        assert "<script" not in text and "stylesheet" not in text and "<style>" in text
        assert not re.search(r'src="(?!data:)', text)
    assert not (tmp_path / "docs/static").exists()
    front = (tmp_path / "docs/index.html").read_text()
    links = [part.split('"')[0] for part in front.split('href="')[1:]]
    assert len(links) == 8 and all((tmp_path / "docs" / link).is_file() for link in links)


def test_a_failure_names_image_value_bound_and_what_to_do(check):
    table = put(put(real(), "group_id", [5, 30], "one"), "label", [3], None)
    critical, _, _ = check(table, only="splits")
    [outcome] = critical.values()
    said = gate.message([outcome], Path("reports/validation_data"))
    assert "2 of 40 break it: r05 (group_id one, split train), r30 (group_id one, split test)" in said
    assert "What to do: run `dvc repro split`" in said and "reports/validation_data/index.html" in said


def test_a_number_of_the_whole_set_names_its_group_and_images(check):
    numbers = fidelity(all__kid=5.0)
    numbers["samplers"] = {"euler": {"kid": 1.0, "kid_floor_high": 0.1}, "plms": {"kid": 3.0, "kid_floor_high": 0.1}}
    made = synthetic()
    suite = suites.fidelity_suite(
        numbers,
        LABELS,
        SETTINGS,
        suites.Behind({"all": ("s07", "s03")}, {}, ()),
        dict.fromkeys(made["image_id"], Path()),
    )
    [outcome] = [o for o in expectations.run([suite]) if not o.passed]
    said = gate.message([outcome], Path("reports/validation"))
    assert "at most 40 times" in said and "it is 100, highest for sampler plms (30); look at s07, s03." in said
    assert "validate.max_kid_over_floor (docs/judging.md)" in said


@pytest.mark.parametrize(("drawn", "left", "warned"), [(0.15, 0.0, False), (0.25, 0.0, True), (0.25, 0.1, False)])
def test_hair_may_exceed_that_of_real_images_by_so_much(check, drawn, left, warned):
    table, made = real(40), synthetic(20)
    table["hair_left"] = [0.02 if i < left * 40 else 0.0 for i in range(40)]
    table.loc[32:, "split"] = "train"
    made["hair_fraction"] = [0.02 if i < drawn * 20 else 0.001 for i in range(20)]
    _, warnings, _ = check(table, made=made, only="synthetic-images")
    found = {o.rule.column: o.examples for o in warnings.values()}
    assert found == ({"hair_fraction": ("s00", "s01", "s02", "s03", "s04")} if warned else {})


def test_pictures_stand_beside_the_ids_that_fail(check, tmp_path):
    pixels = np.full((64, 64, 3), 120, np.uint8)
    io.write_png(tmp_path / "s06.png", pixels)
    made = put(put(synthetic(), "prompt", [6, 7], None), "sampler", [8], "<b>x")
    made.loc[7, "path"] = "gone.png"
    check(made=made, without_files=["gone.png"], only="synthetic-images", docs=tmp_path / "docs")
    page = (tmp_path / "docs/index.html").read_text()
    shown = re.findall(r"<figure>(.*?)</figure>", page)
    assert inline.data_uri(pixels, docs.SIDE) in page
    assert [one for one in shown if "s06" in one and "data:image/jpeg" in one]
    assert [one for one in shown if "no picture" in one and "s07" in one and "gone.png" in one]
    assert "What to do: run `dvc repro generate`." in page


def test_missing_values_of_a_manifest_as_it_is_read_are_named_in_words_and_numbers(tmp_path):
    """A set of one class, one of whose images tells no prompt."""
    made = synthetic()
    made = made[made["label"] == "benign"].astype({"prompt": "string"})
    made.loc[made.index[2], "prompt"] = pd.NA
    checked = suites.all_suites(real(), made, {*real()["image_id"], *made["image_id"]}, fidelity(), SETTINGS)
    with pytest.raises(UserError, match=f"every image knows its prompt; 1 of 10 break it: {made['image_id'].iat[2]}"):
        gate.hold(checked, tmp_path / "docs", tmp_path / "validation.json")
    failures = json.loads((tmp_path / "validation.json").read_text())["failures"]
    assert {f["column"]: f["observed"] for f in failures}["prompt"] is None


def test_images_made_elsewhere_may_tell_nothing_of_how():
    made = synthetic().drop(columns=["prompt", "seed", "sampler", "lora_sha256"])
    (suite,) = (
        one
        for one in suites.all_suites(real(), made, {*real()["image_id"], *made["image_id"]}, fidelity(), SETTINGS)
        if one.name == "synthetic-images"
    )
    graveness = {o.rule.column: o.rule.severity for o in expectations.run([suite]) if not o.passed}
    told_nothing = {column: "warning" for column in ("prompt", "seed", "sampler")}
    assert {column: graveness.get(column) for column in told_nothing} == told_nothing
