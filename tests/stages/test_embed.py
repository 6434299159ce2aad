import numpy as np
import pytest
import small_world

from derm_t2im import features, manifest, paths
from derm_t2im.errors import UserError
from derm_t2im.stages import embed


@pytest.fixture
def world(tmp_path, monkeypatch):
    small_world.build(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_features_of_all_used_images_equal_bytes_on_a_second_run(world):
    embed.run()
    real, made = features.load(paths.FEATURES_REAL), features.load(paths.FEATURES_SYNTHETIC)
    splits = manifest.read(paths.SPLITS_MANIFEST)
    assert set(real.image_id) == set(splits.loc[splits["split"] != "unused", "image_id"])
    assert set(made.image_id) == set(manifest.read(paths.SYNTHETIC_MANIFEST)["image_id"])
    assert made.classes == ("benign", "malignant") and made.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(real.matrix).all() and real.matrix.std() > 0
    before = paths.FEATURES_REAL.read_bytes(), paths.FEATURES_SYNTHETIC.read_bytes()
    embed.run()
    assert before == (paths.FEATURES_REAL.read_bytes(), paths.FEATURES_SYNTHETIC.read_bytes())


def test_another_encoder_and_still_the_probes_opinion(world):
    small_world.set_parameter(world, "embed", encoder="random:test_resnet", batch=200)
    embed.run()
    made = features.load(paths.FEATURES_SYNTHETIC)
    assert made.encoder == "random:test_resnet" and made.matrix.shape[1] == 96
    assert made.classes == ("benign", "malignant")


def test_a_named_encoder_without_weights_says_what_to_do(world):
    small_world.set_parameter(world, "embed", encoder="vit_small_patch14_dinov2.lvd142m")
    with pytest.raises(UserError, match=r"embed\.weights .*safetensors"):
        embed.run()


def test_a_broken_image_is_named(world):
    (world / "data/processed/images/test-003.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"test-003\.png"):
        embed.run()
    assert not paths.FEATURES_REAL.exists()
