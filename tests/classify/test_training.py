"""Training: it learns, it is repeatable, and a killed run ends where an uninterrupted one does."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from derm_t2im import networks
from derm_t2im.classify import train
from derm_t2im.errors import UserError

OPTIONS = {"channels": [8, 12, 16, 24], "stem_width": 8}
HOW = train.Settings(steps=24, batch=8, lr=5e-3, weight_decay=0.01, warmup=4, evaluate_every=6)


def images(n, seed, classes=2):
    """Class 1 is redder than class 0, class 2 bluer."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    pixels = rng.integers(60, 160, (n, 32, 32, 3))
    pixels[labels == 1, :, :, 0] += 60
    pixels[labels == 2, :, :, 2] += 60
    return train.Images.of(pixels.astype(np.uint8), labels.astype(np.int64))


def fresh(classes=2, **kwargs):
    return networks.build("resnet10t", OPTIONS | kwargs, [f"c{k}" for k in range(classes)], 32, seed=0)


def weights(network):
    return {name: value.numpy().tobytes() for name, value in network.module.state_dict().items()}


@pytest.mark.parametrize("classes", [2, 3])
def test_it_learns_and_keeps_the_best_evaluation(classes):
    network, val = fresh(classes), images(30, 1, classes)
    result = train.fit(network, images(48, 0, classes), HOW, 0, val)
    assert [point["step"] for point in result.curve] == [6, 12, 18, 24]
    best = max(point["val_auc"] for point in result.curve)
    assert best > 0.95
    assert result.kept["val_auc"] == best
    p = network.predict(val.pixels)
    assert -np.log(p[np.arange(30), val.labels]).mean() == pytest.approx(result.kept["val_loss"], rel=1e-5)
    assert not network.module.training


def test_without_validation_the_last_step_is_kept():
    result = train.fit(fresh(), images(16, 0), dataclasses.replace(HOW, steps=8), 0)
    assert result.kept == result.curve[-1]
    assert result.kept["step"] == 8
    assert set(result.kept) == {"step", "train_loss"}


def test_a_seed_gives_the_same_weights_and_the_global_state_does_not_matter():
    how = dataclasses.replace(HOW, steps=6)
    made = []
    for state, seed in ((1, 0), (2, 0), (1, 5)):
        torch.manual_seed(state)
        network = fresh(drop_rate=0.3)
        train.fit(network, images(16, 0), how, seed)
        made.append(weights(network))
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_repeating_images_by_weight_is_repeating_rows():
    once = images(8, 0)
    weighted = train.Images(once.pixels, once.labels, np.array([2, 2, 2, 2, 0, 0, 0, 0]))
    fewer = train.Images.of(once.pixels[:4].copy(), once.labels[:4].copy())
    networks_made = []
    for shown in (weighted, fewer):
        network = fresh()
        # One pass of eight images: the same images in another order.
        train.fit(network, shown, dataclasses.replace(HOW, steps=1, augment="none", evaluate_every=1), 0)
        networks_made.append(network.logits(once.pixels))
    assert networks_made[0] == pytest.approx(networks_made[1], abs=1e-3)


def test_frozen_norm_keeps_its_statistics():
    network = fresh()
    before = network.module.state_dict()["bn1.running_mean"].clone()
    train.fit(network, images(16, 0), dataclasses.replace(HOW, steps=3, freeze_norm=True), 0)
    assert torch.equal(network.module.state_dict()["bn1.running_mean"], before)


def test_the_learning_rate_warms_up_and_ends_near_zero():
    rates = [train.learning_rate(HOW, step) for step in range(HOW.steps)]
    assert rates[:4] == pytest.approx([HOW.lr * k / 4 for k in (1, 2, 3, 4)])
    assert max(rates) == HOW.lr
    assert sorted(rates[4:], reverse=True) == rates[4:]
    assert rates[-1] < 0.02 * HOW.lr


def test_a_diverging_run_says_what_to_turn():
    network = fresh()
    with torch.no_grad():
        network.module.conv1[0].weight.fill_(math.nan)
    with pytest.raises(UserError, match=r"loss is nan at step 1; lower the learning rate"):
        train.fit(network, images(16, 0), HOW, 0)


def test_nothing_to_train_on():
    with pytest.raises(UserError, match="no images"):
        train.fit(fresh(), images(0, 0), HOW, 0)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train.fit(fresh(), images(16, 0), dataclasses.replace(HOW, steps=3), 0, work=tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        train.fit(fresh(), images(16, 0), HOW, 0, work=tmp_path)


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [6, 18])
def test_an_interrupted_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, at):
    # A real kill: tests/stages/test_train.py. Here the work since the last checkpoint is lost too.
    def stop(point):
        if point["step"] == at:
            raise Killed

    def go(work=None, report=None):
        network = fresh(drop_rate=0.2)
        result = train.fit(network, images(48, 0), HOW, 3, images(30, 1), work, report)
        return weights(network), result

    with pytest.raises(Killed):
        go(tmp_path, stop)
    assert torch.load(tmp_path / train.CHECKPOINT, weights_only=True)["step"] == at
    assert go(tmp_path) == go()
