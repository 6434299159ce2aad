from __future__ import annotations

import pandas as pd

from derm_t2im.report import pictures, tables, words
from tests.report import example


def test_results_stand_in_one_order_whatever_the_order_of_keys() -> None:
    values = next(v for k, v in example.metrics().items() if k.name == "classification.json")
    shuffled = {k: dict(reversed(list(v.items()))) for k, v in reversed(list(values.items()))}
    assert tables.results(values) == tables.results(shuffled)
    names = [block.name for block in tables.results(values)]
    assert names[0] == "MobileNetV2, in-domain test (n = 500)" and len(names) == 4
    assert [row.name for row in tables.results(values)[0].rows] == ["real only", "hybrid", "oversampled real"]


def test_the_calibrated_error_has_its_own_interval() -> None:
    values = next(v for k, v in example.metrics().items() if k.name == "classification.json")
    cells = dict(zip([name for _, name, _ in tables.MEASURES], tables.results(values)[0].rows[0].cells, strict=True))
    assert cells["ECE"].value == "0.060"
    assert (cells["ECE, calibrated"].value, cells["ECE, calibrated"].interval) == (
        "0.030",
        f"[0.020,{words.NBSP}0.040]",
    )


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
