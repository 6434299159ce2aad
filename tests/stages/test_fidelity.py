import json

import pytest
import small_world

from derm_t2im import manifest, paths
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import read_rgb
from derm_t2im.stages import embed, fidelity


@pytest.fixture
def world(tmp_path, monkeypatch):
    small_world.build(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metrics():
    return json.loads(paths.FIDELITY_METRICS.read_text())


def test_metrics_are_whole_and_the_same_on_a_second_run(world):
    embed.run()
    fidelity.run()
    found = metrics()
    assert set(found) == {"benign", "malignant", "all", "copies", "shortcuts", "external", "samplers", "tones"}
    assert found["all"]["n_real"] == 56 and found["all"]["n_synthetic"] == 40  # val and test, never train
    assert {"kid", "kid_floor", "precision", "recall", "density", "coverage", "vendi", "fid"} <= set(found["benign"])
    assert {"rate", "rate_low", "rate_high", "n", "planted_recall"} <= set(found["copies"])
    assert found["copies"]["n_references"] == 10
    before = paths.FIDELITY_METRICS.read_bytes()
    fidelity.run()
    assert paths.FIDELITY_METRICS.read_bytes() == before


def test_copies_of_seed_images_raise_the_rate(world):
    splits, made = manifest.read(paths.SPLITS_MANIFEST), manifest.read(paths.SYNTHETIC_MANIFEST)
    seeds = splits.loc[splits["seed_image"].fillna(False), "path"].tolist()
    for name, path in zip(made["image_id"][:10], seeds, strict=True):
        small_world.overwrite(world, made, name, read_rgb(world / path)[:, ::-1])
    embed.run()
    fidelity.run()
    assert metrics()["copies"]["rate"] >= 0.25
    assert metrics()["copies"]["planted"]["exact"] == 1.0


def test_without_held_out_images_there_is_a_clear_error(world):
    embed.run()
    small_world.change(paths.SPLITS_MANIFEST, lambda table: table[table["split"] == "train"])
    with pytest.raises(UserError, match="0 held-out, 40 synthetic"):
        fidelity.run()


def test_one_synthetic_image_is_a_clear_error(world):
    small_world.change(paths.SYNTHETIC_MANIFEST, lambda table: table.head(1))
    embed.run()
    with pytest.raises(UserError, match=r"two images or more on both sides: \d+ held-out, 1 synthetic"):
        fidelity.run()


def test_without_features_the_stage_to_run_is_named(world):
    with pytest.raises(UserError, match="dvc repro embed"):
        fidelity.run()
