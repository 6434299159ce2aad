"""Stage `mix` on a small project."""

import json

import pandas as pd
import pytest

from derm_t2im import manifest, paths
from derm_t2im.errors import UserError
from derm_t2im.stages import mix
from tests.classify import project


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_writes_each_mix_and_its_counts(root):
    project.write(root)
    mix.run()
    figures = json.loads(paths.MIX_METRICS.read_text())
    assert {name: (f["images"], f["real"], f["synthetic"]) for name, f in figures.items()} == {
        "real": (16, 16, 0),
        "hybrid": (32, 16, 16),
        "oversampled": (32, 32, 0),
    }
    hybrid = manifest.read(paths.mix_manifest("hybrid"))
    assert (hybrid["weight"] == 1).all()
    curated = manifest.read(paths.CURATED_MANIFEST).set_index("image_id")["decision"]
    assert (curated[hybrid.loc[hybrid["kind"] == "synthetic", "image_id"]] == "kept").all()
    assert set(manifest.read(paths.mix_manifest("oversampled"))["weight"]) == {2}
    real = manifest.read(paths.mix_manifest("real"))
    assert set(real["split"]) == {"train"}


def test_the_same_bytes_again_and_no_mix_of_an_earlier_run(root):
    project.write(root, mix={"mixes": ["real", "hybrid", "synthetic"]})
    mix.run()
    first = paths.mix_manifest("hybrid").read_bytes()
    project.write(root, mix={"mixes": ["hybrid"]})
    mix.run()
    assert paths.mix_manifest("hybrid").read_bytes() == first
    assert [p.name for p in paths.MIXES.iterdir()] == ["hybrid.parquet"]


def test_real_needs_no_curated_images(root):
    project.write(root, mix={"mixes": ["real", "oversampled"]})
    paths.CURATED_MANIFEST.unlink()
    mix.run()
    assert paths.mix_manifest("oversampled").is_file()


def test_a_shortfall_is_stated_not_hidden(root, capsys):
    project.write(root, mix={"synthetic_fraction": 0.9})
    mix.run()
    hybrid = json.loads(paths.MIX_METRICS.read_text())["hybrid"]
    assert hybrid["synthetic_fraction_wanted"] == 0.9
    assert hybrid["synthetic_fraction"] == pytest.approx(hybrid["synthetic"] / hybrid["images"], rel=1e-5)
    assert "kept too few images for mix.synthetic_fraction=0.9" in capsys.readouterr().err


def test_without_any_curated_image_of_a_class_nothing_is_written(root):
    project.write(root)
    curated = manifest.read(paths.CURATED_MANIFEST)
    manifest.write(curated[curated["label"] != "malignant"], paths.CURATED_MANIFEST)
    with pytest.raises(UserError, match="no image of malignant"):
        mix.run()
    assert not paths.MIXES.exists()
    assert not paths.MIX_METRICS.exists()


def test_a_leaking_split_is_refused(root):
    project.write(root)
    splits = manifest.read(paths.SPLITS_MANIFEST)
    splits.loc[splits["split"] == "test", "group_id"] = "train-0"
    manifest.write(pd.DataFrame(splits), paths.SPLITS_MANIFEST)
    with pytest.raises(UserError, match="train-0"):
        mix.run()


def test_only_synthetic_images_and_the_controls(root):
    project.write(root, mix={"mixes": ["hybrid", "synthetic", "augmented", "unfiltered"], "synthetic_fraction": 1.0})
    mix.run()
    figures = json.loads(paths.MIX_METRICS.read_text())
    assert figures["hybrid"] == figures["synthetic"] and figures["hybrid"]["synthetic_fraction"] == 1
    assert figures["unfiltered"]["classes"] == figures["hybrid"]["classes"]
    assert figures["augmented"]["images"] == 16
    assert set(manifest.read(paths.mix_manifest("unfiltered"))["decision"]) == {"kept", "rejected"}
    project.write(root, mix={"mixes": ["oversampled"], "synthetic_fraction": 1.0})
    mix.run()
    assert json.loads(paths.MIX_METRICS.read_text())["oversampled"]["images"] == figures["hybrid"]["images"]
