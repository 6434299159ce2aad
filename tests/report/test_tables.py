from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from derm_t2im.report import pictures, reliance, tables, verdict, words
from derm_t2im.report.evidence import Evidence
from tests.report import example


def test_results_stand_in_one_order_whatever_the_order_of_keys() -> None:
    values = next(v for k, v in example.metrics().items() if k.name == "classification.json")
    shuffled = {k: dict(reversed(list(v.items()))) for k, v in reversed(list(values.items()))}
    assert tables.results(values) == tables.results(shuffled)
    names = [block.name for block in tables.results(values)]
    assert names[0] == "MobileNetV2, in-domain test (n = 500)" and len(names) == 4
    assert [row.name for row in tables.results(values)[0].rows] == ["real only", "hybrid", "oversampled real"]


def classification() -> dict[str, Any]:
    return next(v for k, v in example.metrics().items() if k.name == "classification.json")


def test_the_calibrated_error_has_its_own_interval() -> None:
    row = reliance.calibration(classification())[0]
    assert row.name == "real only" and row.cells[0].value == "MobileNetV2, in-domain test"
    assert (row.cells[2].value, row.cells[3].value) == ("0.060", "0.030")
    assert row.cells[3].interval == f"[0.020,{words.NBSP}0.040]"
    assert (row.cells[4].value, row.cells[5].value, row.cells[6].value) == ("0.120", "0.110", "500")


def test_the_main_table_is_laid_out_as_the_papers() -> None:
    found = reliance.main(classification())
    assert found is not None
    assert (found.tests, found.measures) == (["in-domain test", "external test"], ["Accuracy", "AUC"])
    assert [(mix, span, arch) for mix, span, arch, _ in found.rows] == [
        ("real only", 2, "MobileNetV2"), ("real only", 0, "ViT"),
        ("hybrid", 2, "MobileNetV2"), ("hybrid", 0, "ViT"),
        ("oversampled real", 2, "MobileNetV2"), ("oversampled real", 0, "ViT"),
    ]  # fmt: skip
    for mix, _, _, cells in found.rows:
        assert len(cells) == 4 and all(cell.interval and "n = 500" in cell.notes[0] for cell in cells)
        assert all((", p " in cell.notes[0]) == (mix != "real only") for cell in cells), "real is the reference"
    hybrid = found.rows[3][3][1]
    assert hybrid.notes == ["n = 500, p < 0.001", "with seeds: p = 0.21"]
    assert reliance.main({}) is None


def test_a_training_mix_that_has_no_name_here_stands_behind_the_others() -> None:
    values = classification()
    values["vit"] = {"only_colour": values["vit"]["real"], **values["vit"]}
    found = reliance.main(values)
    assert found is not None
    assert found.rows[-1][0] == "only colour"
    assert [row.name for row in tables.results(values)[1].rows][-1] == "only colour"


def test_sets_show_what_was_asked_for_and_each_class() -> None:
    found = reliance.sets(classification())
    assert found is not None
    assert (found.wanted, found.val_n, found.classes) == ("90 %", "120", ["benign", "malignant"])
    assert found.rows[0].cells[1].value == "89.0 %"
    assert found.rows[0].cells[3].interval.endswith("n = 250")
    assert reliance.sets({}) is None and reliance.abstention({}) == [] and reliance.subgroups({}) == []


def test_subgroups_name_the_worst_and_what_chance_would_give() -> None:
    values = next(v for k, v in example.metrics().items() if k.name == "subgroups.json")
    ((name, rows), (other, few)) = reliance.subgroups(values)
    assert (name, other) == ("tone", "site")
    assert rows[0].name == "real only" and len(rows) == 12
    said = [(cell.value, cell.interval) for cell in rows[0].cells]
    assert said[1:4] == [("3", "1 too small"), ("dark", "AUC 0.810"), ("light", "")]
    assert said[5] == ("0.080", "p = 0.03") or said[5] == ("0.080", "p = 0.030")
    assert few[0].cells[2].interval.startswith("balanced accuracy")


def test_verdicts_beyond_these_training_runs() -> None:
    contrasts = words.contrasts(classification())
    rows = reliance.beyond(contrasts)
    assert len(rows) == len(contrasts) == 12
    assert {row.cells[4].value for row in rows} == {"undecided", "equivalent"}
    (real, _) = verdict.verdicts(contrasts)
    expected = "With the spread of training runs: no difference shown in 4 comparisons, shown to be equivalent in 3."
    assert real.beyond == expected
    assert reliance.margin(contrasts) == ("0.02", "0.0228")


def test_confusion_shares_are_of_the_row_and_zeros_stay() -> None:
    records = [
        {"arch": "vit", "test": "external", "mix": "real", "actual": "a", "predicted": "a", "n": 3},
        {"arch": "vit", "test": "external", "mix": "real", "actual": "a", "predicted": "b", "n": 1},
        {"arch": "vit", "test": "external", "mix": "real", "actual": "b", "predicted": "b", "n": 0},
    ]
    ((name, (matrix,)),) = tables.confusions(records)
    assert name == "ViT, external test"
    assert matrix.counts == [[3, 1], [0, 0]]
    assert matrix.shares == [[0.75, 0.25], [0.0, 0.0]]


def test_kept_sets_surplus_apart_from_faults() -> None:
    table = pd.DataFrame(
        {
            "label": ["a"] * 5,
            "decision": ["kept", "kept", "rejected", "rejected", "rejected"],
            "reason": [None, None, "surplus", "blur", "copy"],
        }
    )
    (row,) = tables.kept(table)
    assert [cell.value for cell in row.cells] == ["5", "2", "40.0 %", "2", "1"]


def test_bars_leave_out_zeros_and_put_the_largest_first() -> None:
    found = tables.bars({"blur": 2, "hair": 0, "copy": 6, "odd": None}, whole=16)
    assert [(bar.name, bar.n, bar.said) for bar in found] == [("copy", "6", "37.5 %"), ("blur", "2", "12.5 %")]


def test_sources_group_by_licence_and_attribution() -> None:
    table = pd.DataFrame(
        {"source": ["x", "x", "y"], "licence": ["CC0", "CC0", None], "attribution": ["A", "A", "B"]}, dtype="string"
    )
    rows = [(row.name, [cell.value for cell in row.cells]) for row in tables.sources(table)]
    assert rows == [("x", ["CC0", "A", "2"]), ("y", ["not stated", "B", "1"])]


def test_samples_are_drawn_by_id_not_by_place(evidence) -> None:  # type: ignore[no-untyped-def]
    table = evidence.real
    one = pictures.by_class(evidence.root, table, 6)
    other = pictures.by_class(evidence.root, table.sample(frac=1, random_state=3), 6)
    assert one == other
    assert [(group.name, len(group.pictures)) for group in one] == [("benign", 3), ("malignant", 3)]


def test_hair_pairs_are_those_with_most_hair(evidence) -> None:  # type: ignore[no-untyped-def]
    pairs = pictures.hair_pairs(evidence.root, evidence.raw, evidence.real, most=3)
    most = evidence.real.nlargest(3, "hair_fraction")["image_id"].tolist()
    assert [pair.left.name for pair in pairs] == most
    assert all(pair.left.src != pair.right.src for pair in pairs)


def test_rejected_copies_stand_beside_what_they_repeat(evidence) -> None:  # type: ignore[no-untyped-def]
    train = evidence.real[evidence.real["split"] == "train"]
    rejected = evidence.synthetic.query("decision == 'rejected'")
    source, copy = train["image_id"].iloc[0], rejected["image_id"].iloc[1]
    named = rejected.assign(copy_of=source)
    named.loc[named["image_id"] == copy, "reason"] = "copy"
    (pair,) = pictures.copy_pairs(evidence.root, train, named)
    assert (pair.left.name, pair.right.name) == (source, copy)
    assert "rejected" in pair.right.provenance
    assert pictures.copy_pairs(evidence.root, train, named[named["reason"] != "copy"]) == []


def test_rejected_images_without_a_reason_are_shown_as_such(evidence) -> None:  # type: ignore[no-untyped-def]
    rejected = evidence.synthetic.query("decision == 'rejected'")
    (group,) = pictures.by_reason(evidence.root, rejected.drop(columns="reason"), 4)
    assert (group.name, group.total, len(group.pictures)) == ("no reason", len(rejected), 4)


def test_each_class_and_their_mean_stand_with_their_n() -> None:
    assert tables.per_class(classification()) == []
    values = {"auc": 0.8, "auc_low": 0.7, "auc_high": 0.9, "recall": 0.5, "precision": None, "n": 4}
    found = {"vit": {"real": {"external": {"n": 9, "classes": {"df": values}, "macro": {"auc": 0.75}}}}}
    (block,) = tables.per_class(found)
    assert block.name == "real only: ViT, external test"
    assert [(row.name, row.n) for row in block.rows] == [("df", "4"), ("mean over the classes", "9")]
    assert [cell.value for cell in block.rows[0].cells] == ["0.800", words.NONE, "50.0 %", words.NONE, words.NONE]
    assert block.rows[0].cells[0].interval == f"[0.700,{words.NBSP}0.900]" and block.rows[1].cells[0].value == "0.750"


def test_an_exported_file_of_an_architecture_that_was_dropped_is_no_result() -> None:
    onnx = {name: {"n": 120} for name in ("vit", "dropped")}
    evidence = Evidence(Path(), {"classification": classification()}, onnx)
    assert [row.name for row in tables.onnx(evidence)] == ["ViT"]
