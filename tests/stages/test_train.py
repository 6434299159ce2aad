"""Stage `train` on a small project, a kill included."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from derm_t2im import manifest, networks, paths, state
from derm_t2im.errors import UserError
from derm_t2im.stages import mix, train
from tests.classify import project


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(arch, mix_name):
    folder = paths.classifier(arch, mix_name)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return files, paths.train_metrics(arch, mix_name).read_bytes()


def test_a_model_per_seed_with_curve_and_metrics(root):
    project.write(root)
    mix.run()
    train.run("vit", "hybrid")
    files, metrics = outcome("vit", "hybrid")
    expected = {f"seed-{k}/{name}" for k in (0, 1) for name in ("model.safetensors", "config.json", "curve.json")}
    assert set(files) == expected
    assert files["seed-0/model.safetensors"] != files["seed-1/model.safetensors"]
    figures = json.loads(metrics)
    assert figures["val_auc"] == pytest.approx((figures["seed-0"]["val_auc"] + figures["seed-1"]["val_auc"]) / 2)
    assert [point["step"] for point in json.loads(files["seed-0/curve.json"])["curve"]] == [6, 12]
    assert networks.load(paths.classifier("vit", "hybrid") / "seed-1").classes == ("benign", "malignant")
    assert not list(state.STATE.rglob("*.safetensors"))


def test_the_test_images_are_never_opened(root):
    project.write(root, train={"seeds": [0], "steps": 6})
    for pattern in ("test-*", "external-*"):
        for path in (root / "data/processed/images").glob(pattern):
            path.unlink()
    mix.run()
    train.run("cnn", "real")
    assert paths.train_metrics("cnn", "real").is_file()


# All that a checkpoint has to hold; that of a plain run holds less (tests/classify/test_training.py).
EXTRAS = {
    "precision": "bf16", "channels_last": True, "layer_decay": 0.9, "ema": 0.9, "loss": "focal", "focal_gamma": 1.0,
    "class_weights": "balanced", "augment": "strong", "crop": 0.7,
}  # fmt: skip


def test_a_killed_stage_goes_on_to_the_same_result(root, monkeypatch):
    monkeypatch.setenv("DERM_T2IM_THREADS", "1")
    # Long enough that the kill comes in the second seed's run, with most of it to do.
    project.write(root, train={"steps": 60, "evaluate_every": 5, **EXTRAS})
    mix.run()
    code = "from derm_t2im.stages import train; train.run('cnn', 'oversampled')"
    process = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(12000):
        if list(state.STATE.glob("*/*/models/seed-0")) and list(state.STATE.glob("*/*/seed-1/checkpoint.pt")):
            break
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not paths.classifier("cnn", "oversampled").exists()
    assert not paths.train_metrics("cnn", "oversampled").exists()
    (first,) = state.STATE.glob("*/*/models/seed-0/model.safetensors")
    finished = first.stat().st_mtime_ns

    train.run("cnn", "oversampled")
    resumed = outcome("cnn", "oversampled")
    again = paths.classifier("cnn", "oversampled") / "seed-0" / "model.safetensors"
    assert again.stat().st_mtime_ns == finished  # the first seed was not trained again
    train.run("cnn", "oversampled")
    assert again.stat().st_mtime_ns != finished
    assert outcome("cnn", "oversampled") == resumed


def test_wrong_names_and_missing_mixes_are_explained(root):
    project.write(root)
    with pytest.raises(UserError, match=r"'vgg' is not in train.models; described: cnn, vit"):
        train.run("vgg", "real")
    with pytest.raises(UserError, match=r"real\.parquet is missing"):
        train.run("cnn", "real")


def test_a_mix_without_a_class_is_refused(root):
    project.write(root)
    mix.run()
    table = manifest.read(paths.mix_manifest("real"))
    manifest.write(table[table["label"] == "benign"], paths.mix_manifest("real"))
    with pytest.raises(UserError, match="no image of malignant"):
        train.run("cnn", "real")


def test_warm_up_must_end_before_training_does(root):
    project.write(root, train={"warmup": 12})
    with pytest.raises(UserError, match=r"warmup \(12\) must be less than steps \(12\)"):
        train.run("cnn", "real")


def test_patience_ends_the_runs_and_the_curve_says_when(root):
    project.write(root, train={"steps": 300, "evaluate_every": 2, "patience": 2, "seeds": [0]})
    mix.run()
    train.run("cnn", "real")
    curve = json.loads((paths.classifier("cnn", "real") / "seed-0" / "curve.json").read_text())
    assert curve["curve"][-1]["step"] < 300
    assert curve["kept"] == curve["curve"][-3]


def test_only_real_images_choose_the_weights(root):
    project.write(root)
    mix.run()
    table = manifest.read(paths.SPLITS_MANIFEST)
    made = table.copy()
    made.loc[made["image_id"] == "val-003", "kind"] = "synthetic"
    manifest.write(made, paths.SPLITS_MANIFEST)
    with pytest.raises(UserError, match=r"1 validation images are not real \(first: val-003\)"):
        train.run("cnn", "real")
    manifest.write(table[table["split"] != "val"], paths.SPLITS_MANIFEST)
    with pytest.raises(UserError, match="needs validation images"):
        train.run("cnn", "real")


def test_a_mix_may_bring_its_own_augmentation(root, monkeypatch):
    project.write(root, train={"seeds": [0], "steps": 6})
    mix.run()
    train.run("cnn", "real")
    standard = outcome("cnn", "real")[0]
    paths.mix_manifest("augmented").write_bytes(paths.mix_manifest("real").read_bytes())
    train.run("cnn", "augmented")
    strong = outcome("cnn", "augmented")[0]
    assert strong["seed-0/model.safetensors"] != standard["seed-0/model.safetensors"]
    project.write(root, train={"seeds": [0], "steps": 6, "augment": "strong"})
    mix.run()
    train.run("cnn", "real")
    assert outcome("cnn", "real")[0]["seed-0/model.safetensors"] == strong["seed-0/model.safetensors"]


def test_a_file_of_weights_starts_every_mix(root):
    project.write(root, train={"seeds": [0], "steps": 3})
    mix.run()
    train.run("cnn", "real")
    weights = root / "start.safetensors"
    weights.write_bytes((paths.classifier("cnn", "real") / "seed-0" / networks.WEIGHTS_FILE).read_bytes())
    model = project.PARAMS["train"]["models"]["cnn"] | {"lr": 1e-9}
    started = {"seeds": [0], "steps": 3, "models": {"cnn": model | {"weights": str(weights), "freeze_norm": True}}}
    project.write(root, train=started | {"archs": ["cnn"]})
    mix.run()
    train.run("cnn", "hybrid")
    before = networks.load(paths.classifier("cnn", "real") / "seed-0")
    after = networks.load(paths.classifier("cnn", "hybrid") / "seed-0")
    for name, value in before.module.state_dict().items():
        assert torch.allclose(value, after.module.state_dict()[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp16"}, "train.precision: fp16 needs a GPU"),
        ({"precision": "fp8"}, "train.precision: .*fp32"),
        ({"layer_decay": 0.0}, "train.layer_decay: .*greater than 0"),
        ({"ema": 1.0}, "train.ema: .*less than 1"),
        ({"loss": "hinge"}, "train.loss: .*'cross_entropy' or 'focal'"),
        ({"class_weights": "equal"}, "train.class_weights: .*'none' or 'balanced'"),
        ({"augment": "weak"}, "train.augment: .*'strong'"),
        ({"crop": 0.0}, "train.crop: .*greater than 0"),
        ({"patience": -1}, "train.patience: .*greater than or equal to 0"),
    ],
)
def test_wrong_values_are_explained(root, monkeypatch, change, message):
    monkeypatch.setenv("DERM_T2IM_DEVICE", "cpu")
    project.write(root, train=change)
    mix.run()
    with pytest.raises(UserError, match=message):
        train.run("cnn", "real")
