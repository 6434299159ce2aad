"""Stage `probe` on a small project."""

import json

import pytest

from derm_t2im import networks, paths, state
from derm_t2im.errors import UserError
from derm_t2im.stages import probe
from tests.classify import project


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_network_and_its_figures_the_same_each_time(root):
    project.write(root)
    probe.run()
    metrics, weights = paths.PROBE_METRICS.read_bytes(), (paths.PROBE / "model.safetensors").read_bytes()
    figures = json.loads(metrics)
    assert figures["train_images"] == project.SIZES["train"]
    val = figures["val"]
    assert val["n"] == project.SIZES["val"]
    assert val["accuracy_low"] <= val["accuracy"] <= val["accuracy_high"]
    assert val["auc"] > 0.7
    assert networks.load(paths.PROBE).classes == ("benign", "malignant")
    assert not list(state.STATE.rglob("*.pt"))
    probe.run()
    assert (paths.PROBE_METRICS.read_bytes(), (paths.PROBE / "model.safetensors").read_bytes()) == (metrics, weights)


def test_test_and_synthetic_images_are_never_opened(root):
    project.write(root)
    for pattern in ("test-*", "external-*", "synthetic-*"):
        for path in (root / "data/processed/images").glob(pattern):
            path.unlink()
    probe.run()
    assert paths.PROBE_METRICS.is_file()


def test_an_unknown_model_is_explained(root):
    project.write(root, probe={"model": "resnet10"})
    with pytest.raises(UserError, match="resnet10t"):
        probe.run()
    assert not paths.PROBE.exists()
