from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from derm_t2im.curation import database, room, sessions
from derm_t2im.curation.context import near_copies
from derm_t2im.curation.review import Decision
from derm_t2im.errors import UserError


def tables(n: int = 12) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curated and real manifests of images that nobody opens."""
    synthetic = pd.DataFrame(
        {
            "image_id": [f"s{i}" for i in range(n)],
            "path": [f"data/s{i}.png" for i in range(n)],
            "sha256": [f"hash{i}" for i in range(n)],
            "kind": "synthetic",
            "label": ["benign", "malignant"] * (n // 2),
            "prompt": "sks lesion",
            "attributes": '{"size": "small", "tone": null}',
            "sampler": "euler",
            "steps": pd.array([20] * n, dtype="Int32"),
            "sharpness": np.linspace(0, 1, n),
            "nearest_real_id": [f"r{i // 3}" for i in range(n)],
            "nearest_real_distance": np.linspace(1, 2, n),
            "uniqueness": np.linspace(0, 1, n),
            "label_probability": np.linspace(0, 1, n),
            "probe_label": "benign",
            "probe_confidence": 0.9,
            "x": 0.0,
            "y": 1.0,
            "decision": ["kept"] * (n - 2) + ["rejected"] * 2,
            "reason": pd.array([None] * (n - 2) + ["blur", "copy"], dtype="string"),
        }
    )
    real = pd.DataFrame(
        {
            "image_id": [f"r{i}" for i in range(4)],
            "path": [f"data/r{i}.png" for i in range(4)],
            "kind": "real",
            "label": ["benign", "malignant"] * 2,
            "split": "train",
            "seed_image": pd.array([True, False, True, False], dtype="boolean"),
            "sharpness": 0.5,
            "x": 1.0,
            "y": 0.0,
        }
    )
    return synthetic, real


def test_near_copies_stand_before_their_real_image():
    synthetic = tables()[0]
    assert near_copies(synthetic, 5) == ["s0", "s1", "s2", "r0", "s3", "s4", "r1"]
    suspected = synthetic.assign(copy_of=[None] * (len(synthetic) - 1) + ["r9"])
    last = synthetic["image_id"].iloc[-1]
    assert near_copies(suspected, 2) == [last, "r9", "s0", "r0"]


def test_tags_become_decisions_and_contradictions_are_set_apart():
    tagged = [
        ("s0", "h0", ["synthetic", "kept"]),
        ("s1", "h1", ["synthetic", "keep"]),
        ("s2", None, ["Discard: two lesions merged", "kept"]),
        ("s3", "h3", ["keep", "discard"]),
        ("s4", "h4", ["discard", "discard: ink"]),
    ]
    found, both = room.decisions(tagged, "ann", "2026-01-02")
    assert found == [
        Decision("s1", "keep", "", "ann", "2026-01-02", "h1"),
        Decision("s2", "discard", "two lesions merged", "ann", "2026-01-02", ""),
        Decision("s4", "discard", "ink", "ann", "2026-01-02", "h4"),
    ]
    assert both == ["s3"]


@pytest.fixture(scope="module")
def dataset():
    try:
        database.find_mongod()
    except UserError:
        pytest.skip("FiftyOne has no mongod here: run `make setup`")
    about = room.Context(
        neighbours={"s1": [("r0", 1.25), ("r3", 2.5)]},
        decisions=[
            Decision("s1", "keep", "", "ann", "2026-01-02"),
            Decision("s1", "discard", "hair", "bob", "2026-01-02"),
            Decision("s4", "keep", "", "ann", "2026-01-02"),
        ],
        earlier=("abc1234", {f"hash{i}" for i in range(10)}),
        opinions={
            f"s{i}": {"my-net.v2_class": "benign", "my-net.v2_probability": 0.75, "segmenter_dice": 0.5 if i else None}
            for i in range(4)
        },
    )
    built = room.build(*tables(), Path("/somewhere"), "test-room", about)
    yield built
    built.delete()


@pytest.mark.fiftyone
def test_the_dataset_holds_all_images_with_their_fields_in_groups(dataset):
    assert len(dataset) == 16
    groups = {group.name: group.paths for group in dataset.app_config.sidebar_groups}
    assert groups["labels"] == ["label", "probe"]
    assert groups["opinions"] == ["opinion_mask_dice", "opinion_my_net_v2"]
    assert {"decision", "reason", "uniqueness", "nearest_real_id"} <= set(groups["curation"])
    assert {"prompt", "sampler", "steps", "asked_size"} <= set(groups["provenance"])
    assert "asked_tone" not in dataset.get_field_schema()
    one = dataset.match({"image_id": "s1"}).first()
    assert (one.label.label, one.probe.label, one.probe.confidence) == ("malignant", "benign", 0.9)
    assert one.filepath == "/somewhere/data/s1.png"
    assert (one.opinion_my_net_v2.label, one.opinion_my_net_v2.prompted, one.opinion_mask_dice) == ("benign", 0.75, 0.5)
    assert one.tags == []
    assert one.reviews == ["ann: keep", "bob: discard (hair)"]


@pytest.mark.fiftyone
@pytest.mark.parametrize(
    ("view", "ids"),
    [
        ("rejected", ["s10", "s11"]),
        ("rejected: blur", ["s10"]),
        ("rejected: copy", ["s11"]),
        ("label disagreement", ["s1", "s3", "s5", "s7", "s9", "s11"]),
        ("other models disagree", ["s1", "s3"]),
        ("kept: malignant", ["s1", "s3", "s5", "s7", "s9"]),
        ("real seed images", ["r0", "r2"]),
        ("reviewers differ", ["s1"]),
        ("new since the previous commit", ["s10", "s11"]),
        ("least typical", [f"s{i}" for i in range(11, -1, -1)]),
        (
            "near copies",
            ["s0", "s1", "s2", "r0", "s3", "s4", "s5", "r1", "s6", "s7", "s8", "r2", "s9", "s10", "s11", "r3"],
        ),
    ],
)
def test_saved_views_answer_their_question(dataset, view, ids):
    assert dataset.load_saved_view(view).values("image_id") == ids


@pytest.mark.fiftyone
def test_the_map_has_the_stored_points_by_source(dataset):
    results = dataset.load_brain_results(room.BRAIN_KEY)
    assert results.points.tolist() == [[0.0, 1.0]] * 12 + [[1.0, 0.0]] * 4
    assert dataset.list_workspaces() == ["map"]
    traces = {trace["name"]: trace for trace in room.traces(dataset)}
    assert list(traces) == ["real, unnamed (4)", "synthetic, kept (10)", "synthetic, rejected (2)"]
    assert traces["synthetic, rejected (2)"]["text"] == ["s10", "s11"]
    assert len({trace["marker"]["color"] for trace in traces.values()}) == 3


@pytest.mark.fiftyone
def test_an_image_stands_before_its_nearest_real_ones(dataset):
    ids = dataset.match({"image_id": {"$in": ["s1", "r2"]}}).values("id")
    (row,) = room.with_neighbours(dataset, ids)  # a real image has none
    assert row == [
        ("/somewhere/data/s1.png", "**s1** malignant"),
        ("/somewhere/data/r0.png", "**1.25** benign r0"),
        ("/somewhere/data/r3.png", "**2.5** malignant r3"),
    ]


@pytest.mark.fiftyone
def test_what_was_tagged_in_the_app_is_read_from_its_database(dataset):
    for name, word in (("s2", "Discard: hair"), ("s3", "keep"), ("s5", "keepsake"), ("r1", "keep")):
        dataset.match({"image_id": name}).tag_samples(word)
    own = database.connect()
    about = {"uri": own.uri, "database": own.name, "dataset": dataset.name}
    assert sorted(sessions.tags(about)) == [("s2", "hash2", ["Discard: hair"]), ("s3", "hash3", ["keep"])]
    assert dataset.load_saved_view("decided here").values("image_id") == ["s2", "s3"]
    with pytest.raises(LookupError):
        sessions.tags(about | {"dataset": "closed"})


def test_a_later_word_replaces_the_earlier_one():
    assert room.retag(["mine", "discard: hair", "Keep", "keepsake"], "keep") == ["mine", "keepsake", "keep"]
