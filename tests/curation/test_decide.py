from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from derm_t2im import manifest
from derm_t2im.curation.decide import Outcome, Pool, curate
from derm_t2im.curation.review import Decision
from derm_t2im.curation.rules import REASONS
from derm_t2im.errors import UserError
from derm_t2im.params.curate import Curate

D = 6


def brute_uniqueness(ids, matrix):
    apart = np.linalg.norm(matrix[:, None] - matrix[None], axis=2)
    return np.sort(apart, axis=1)[:, 1] / apart.max()


def brute_duplicates(ids, matrix, distance):
    stays, out = [], {}
    for i in range(len(ids)):
        apart = [float(np.linalg.norm(matrix[i] - matrix[j])) for j in stays]
        if apart and min(apart) <= distance:
            out[ids[i]] = (ids[stays[int(np.argmin(apart))]], min(apart))
        else:
            stays.append(i)
    return out


@pytest.fixture
def world():
    rng = np.random.default_rng(3)
    splits = ["train"] * 60 + ["val"] * 40 + ["test"] * 20
    real = pd.DataFrame(
        {
            "image_id": [f"r{i:03d}" for i in range(120)],
            "path": "p",
            "kind": "real",
            "label": ["benign", "malignant"] * 60,
            "split": splits,
            "group_id": [f"g{i:03d}" for i in range(120)],
            "fine_detail": rng.uniform(0.5, 1, 120),
            "hair_left": 0.0,
        }
    )
    n = 40
    table = pd.DataFrame(
        {
            "image_id": [f"s{i:03d}" for i in range(n)],
            "path": "p",
            "kind": "synthetic",
            "sha256": [f"h{i}" for i in range(n)],
            "label": ["benign", "malignant"] * (n // 2),
            "fine_detail": 0.8,
            "hair_fraction": 0.0,
            "ruler": 0.0,
            "ink": 0.0,
        }
    )
    real_matrix = rng.normal(size=(120, D))
    # Within the cloud, but neither copies nor twins: real held-out images, moved a little.
    matrix = real_matrix[60:100] + 0.2 * rng.normal(size=(n, D))
    probability = np.full(n, 0.9)
    return table, matrix, probability, real, real_matrix


def run(world, decisions=(), copy_of=None, twins=(), **settings) -> Outcome:
    table, matrix, probability, real, real_matrix = world
    other = table["label"].map({"benign": "malignant", "malignant": "benign"})
    opinion = np.where(probability > 0.5, table["label"], other).astype(object)
    copies = table["image_id"].map(copy_of or {}).astype(object).where(lambda ids: ids.notna(), None)
    pairs = np.array(twins, int).reshape(-1, 2)
    sure = np.maximum(probability, 1 - probability)
    pool = Pool(table, matrix, probability, opinion, sure, copies.to_numpy(), pairs)
    values = {"keep": 40, "off_manifold_quantile": 0.9999, "near_duplicate_quantile": 1e-6} | settings
    return curate(pool, real, real_matrix, list(decisions), Curate(**values), brute_uniqueness, brute_duplicates)


def row(outcome: Outcome, name: str) -> pd.Series:
    return outcome.synthetic.set_index("image_id").loc[name]


def kept(outcome: Outcome) -> set[str]:
    return set(outcome.synthetic.loc[outcome.synthetic["decision"] == "kept", "image_id"])


def test_every_image_gets_one_decision_one_reason_and_a_sentence(world):
    found = run(world, keep=20).synthetic
    assert set(found["decision"]) == {"kept", "rejected"}
    assert (found["reason"].isna() == (found["decision"] == "kept")).all()
    assert set(found["reason"].dropna()) <= set(REASONS)
    assert found["explanation"].str.endswith(".").all()
    manifest.conform(found)


def test_planted_defects_are_found_for_their_reason(world):
    table, matrix, probability, _, real_matrix = world
    matrix[0] = real_matrix[5]
    matrix[2] = 50.0
    table.loc[4, "ruler"] = 0.9
    probability[6] = 0.1
    matrix[8] = matrix[10] + 1e-6
    probability[8] = 0.8
    outcome = run(world, copy_of={"s000": "r005"})
    assert [row(outcome, f"s{i:03d}")["reason"] for i in (0, 2, 4, 6, 8)] == [
        "copy",
        "off_manifold",
        "ruler",
        "label_disagreement",
        "near_duplicate",
    ]
    assert row(outcome, "s000")["nearest_real_id"] == "r005"
    assert "s010" in row(outcome, "s008")["explanation"]
    assert outcome.metrics["rejected"]["copy"] >= 1


def test_one_of_several_that_show_one_picture_stays(world):
    probability = world[2]
    probability[[3, 5, 7]] = 0.7, 0.95, 0.8
    outcome = run(world, twins=[(3, 5), (3, 7), (5, 7), (9, 11)])
    reasons = [row(outcome, f"s{i:03d}")["reason"] for i in (3, 5, 7)]
    assert reasons[0] == reasons[2] == "near_duplicate" and pd.isna(reasons[1])
    assert row(outcome, "s003")["explanation"] == "It shows the same picture as s005, which stays."
    assert outcome.metrics["rejected"]["near_duplicate"] >= 3

    wanted = run(world, [Decision("s003", "keep", "", "ann", "2026-01-02")], twins=[(3, 5)])
    assert {"s003"} <= kept(wanted) and row(wanted, "s005")["reason"] == "near_duplicate"


def test_images_that_were_never_measured_are_said(world):
    lacking = (world[0].drop(columns="fine_detail"), *world[1:])
    with pytest.raises(UserError, match=r"synthetic images have no measured `fine_detail`.*dvc repro generate"):
        run(lacking)
    before = (*world[:3], world[3].drop(columns="hair_left"), world[4])
    with pytest.raises(UserError, match=r"real training images have no measured `hair_left`.*dvc repro preprocess"):
        run(before)


def test_hair_is_judged_by_what_real_images_have_left(world):
    table, *_, real, _ = world
    table.loc[4, "hair_fraction"] = 0.02
    assert row(run(world), "s004")["reason"] == "hair"
    real["hair_left"] = 0.03
    assert row(run(world), "s004")["decision"] == "kept"


def test_the_twin_of_a_rejected_image_stays(world):
    table, matrix, *_ = world
    matrix[8] = matrix[10]
    table.loc[10, "ink"] = 1.0
    outcome = run(world)
    assert row(outcome, "s010")["reason"] == "ink"
    assert pd.isna(row(outcome, "s008")["reason"]) or row(outcome, "s008")["reason"] == "surplus"


def test_classes_stay_equal_and_the_shortfall_is_stated(world):
    table = world[0]
    table.loc[table["label"].eq("malignant") & (table.index > 20), "ink"] = 1.0
    outcome = run(world)
    m = outcome.metrics
    counts = {name: c["kept"] for name, c in m["classes"].items()}
    assert counts["benign"] == counts["malignant"] == m["classes"]["malignant"]["passed"]
    assert m["balance"] == 1
    assert m["kept"] + sum(m["rejected"].values()) == m["pool"] == 40
    assert m["shortfall"] == 40 - m["kept"] and m["generate_images_needed"] > 40
    assert m["kept_share_low"] < m["kept_share"] < m["kept_share_high"]


def test_no_shortfall_no_larger_pool(world):
    m = run(world, keep=10).metrics
    assert (m["kept"], m["shortfall"], m["generate_images_needed"]) == (10, 0, 40)


def test_reviewers_are_obeyed_against_the_rules(world):
    world[0].loc[0, "ink"] = 1.0
    decisions = [
        Decision("s000", "keep", "a mole, no ink", "ann", "2026-01-02"),
        Decision("s002", "discard", "two lesions merged", "bob", "2026-01-03"),
    ]
    outcome = run(world, decisions)
    assert "s000" in kept(outcome)
    assert row(outcome, "s000")["explanation"] == "Kept by ann on 2026-01-02: a mole, no ink."
    assert row(outcome, "s002")["reason"] == "reviewer"
    assert row(outcome, "s002")["explanation"] == "Discarded by bob on 2026-01-03: two lesions merged."
    assert outcome.metrics["reviews"] == {"given": 2, "obeyed": 2, "conflicts": 0, "outdated": 0, "unknown": 0}


def test_a_reviewers_image_is_drawn_before_others(world):
    plain = kept(run(world, keep=4))
    chosen = next(name for name in world[0]["image_id"] if name not in plain)
    assert chosen in kept(run(world, [Decision(chosen, "keep", "", "ann", "2026-01-02")], keep=4))


def test_a_conflict_is_shown_and_the_rules_decide(world):
    world[0].loc[0, "ink"] = 1.0
    decisions = [Decision("s000", word, "", who, "2026-01-02") for word, who in (("keep", "ann"), ("discard", "bob"))]
    outcome = run(world, decisions)
    assert row(outcome, "s000")["reason"] == "ink"
    assert row(outcome, "s000")["explanation"].endswith("Reviewers differ on it.")
    assert outcome.verdicts.conflicts == ["s000"]


def test_test_images_do_not_take_part(world):
    before = run(world)
    world[4][100:] = world[1][:20]  # test images that look like synthetic ones
    after = run(world)
    for name in ("decision", "reason", "nearest_real_id", "nearest_real_distance"):
        pd.testing.assert_series_equal(before.synthetic[name], after.synthetic[name])
    assert before.metrics == after.metrics


def test_a_class_without_an_image_stops_with_the_counts(world):
    table = world[0]
    table.loc[table["label"] == "malignant", "ink"] = 1.0
    with pytest.raises(UserError, match=r"malignant: 20 drawn, rejected for 20 ink"):
        run(world)


def test_too_few_real_images_stop_with_what_to_do(world):
    world[3].loc[world[3]["split"] == "val", "split"] = "test"
    with pytest.raises(UserError, match=r"raise split\.train and split\.val"):
        run(world)


def test_the_same_input_gives_the_same_outcome(world):
    a, b = run(world), run(world)
    pd.testing.assert_frame_equal(a.synthetic, b.synthetic)
    pd.testing.assert_frame_equal(a.real, b.real)
    assert a.metrics == b.metrics
