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


def test_the_focal_loss_counts_less_what_is_right_already():
    logits = torch.randn((40, 3), generator=torch.Generator().manual_seed(0))
    truth = torch.arange(40) % 3
    plain = train.loss_of(logits, truth, 0.1)
    assert train.loss_of(logits, truth, 0.1, gamma=1e-9) == pytest.approx(plain.item(), rel=1e-6)
    weights = torch.tensor([0.5, 2.0, 1.0])
    weighted = train.loss_of(logits, truth, 0.0, weights=weights)
    assert train.loss_of(logits, truth, 0.0, gamma=1e-9, weights=weights) == pytest.approx(weighted.item(), rel=1e-6)
    # By hand: two images, p of the right class 0.9 and 0.5.
    two = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
    by_hand = (0.1**2 * -math.log(0.9) + 0.5**2 * -math.log(0.5)) / 2
    assert train.loss_of(two, torch.tensor([0, 0]), 0.0, gamma=2.0).item() == pytest.approx(by_hand, rel=1e-5)


def test_balanced_classes_count_the_same_by_what_a_pass_shows():
    shown = train.Images(np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 0, 1, 2]), np.array([3, 1, 2, 0]))
    weights = train.class_weights(shown, 3)
    assert weights[:2] == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])
    assert np.isfinite(weights).all()


def test_layer_decay_moves_the_first_layers_less_and_the_head_as_before():
    moved = {}
    for decay in (1.0, 0.3):
        network = fresh()
        before = {name: value.clone() for name, value in network.module.state_dict().items()}
        train.fit(network, images(8, 0), dataclasses.replace(HOW, steps=1, warmup=0, layer_decay=decay), 0)
        after = network.module.state_dict()
        moved[decay] = {
            name: (after[name] - before[name]).abs().mean().item() for name in ("conv1.0.weight", "fc.weight")
        }
    assert moved[0.3]["fc.weight"] == pytest.approx(moved[1.0]["fc.weight"], rel=1e-4)
    assert moved[0.3]["conv1.0.weight"] < 0.2 * moved[1.0]["conv1.0.weight"]


def test_the_average_is_what_is_judged_and_kept():
    val, how = images(30, 1), dataclasses.replace(HOW, ema=0.9)
    plain, averaged = fresh(), fresh()
    train.fit(plain, images(48, 0), HOW, 0, val)
    result = train.fit(averaged, images(48, 0), how, 0, val)
    p = averaged.predict(val.pixels)
    assert -np.log(p[np.arange(30), val.labels]).mean() == pytest.approx(result.kept["val_loss"], rel=1e-5)
    assert weights(plain) != weights(averaged)
    assert max(point["val_auc"] for point in result.curve) > 0.95


@pytest.mark.parametrize("change", [{"precision": "bf16"}, {"channels_last": True}, {"focal_gamma": 2.0},
                                    {"balance": True}, {"augment": "strong"}, {"crop": 0.5},
                                    {"ema": 0.9, "layer_decay": 0.8}], ids=str)  # fmt: skip
def test_it_learns_with_each_extra(change):
    result = train.fit(fresh(), images(48, 0), dataclasses.replace(HOW, **change), 0, images(30, 1))
    assert result.kept["val_auc"] > 0.9


def test_another_precision_or_layout_changes_the_last_bits_only():
    made = {}
    for name, change in (("as before", {}), ("layout", {"channels_last": True}), ("bf16", {"precision": "bf16"})):
        result = train.fit(fresh(), images(16, 0), dataclasses.replace(HOW, steps=2, **change), 0)
        made[name] = result.kept["train_loss"]
    assert made["layout"] == pytest.approx(made["as before"], rel=1e-5)
    assert made["bf16"] == pytest.approx(made["as before"], rel=2e-2)
    assert made["bf16"] != made["as before"]


def test_patience_ends_training_at_the_best_evaluation_and_a_few_more():
    # Labels of the validation images say nothing, so nothing improves for long.
    val = images(30, 1)
    val = train.Images.of(val.pixels, np.random.default_rng(0).permutation(val.labels))
    how = dataclasses.replace(HOW, steps=400, evaluate_every=2, patience=3)
    result = train.fit(fresh(), images(48, 0), how, 0, val)
    ranks = [(-point["val_auc"], point["val_loss"]) for point in result.curve]
    assert len(ranks) < 200
    assert ranks.index(min(ranks)) == len(ranks) - 4
    assert result.kept == result.curve[-4]


def test_patience_needs_validation_images():
    how = dataclasses.replace(HOW, patience=1)
    with pytest.raises(ValueError, match="patience needs validation images"):
        train.fit(fresh(), images(16, 0), how, 0)
    with pytest.raises(UserError, match="no validation images"):
        train.fit(fresh(), images(16, 0), how, 0, images(0, 0))


class Killed(Exception):
    pass


EXTRAS = {"ema": 0.9, "layer_decay": 0.8, "precision": "fp16", "patience": 2, "augment": "strong",
          "focal_gamma": 1.0, "balance": True, "channels_last": True}  # fmt: skip


@pytest.mark.parametrize(("at", "change"), [(6, {}), (18, {}), (12, EXTRAS)], ids=["early", "late", "all extras"])
def test_an_interrupted_run_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path, at, change):
    # A real kill: tests/stages/test_train.py. Here the work since the last checkpoint is lost too.
    how = dataclasses.replace(HOW, **change)

    def stop(point):
        if point["step"] == at:
            raise Killed

    def go(work=None, report=None):
        network = fresh(drop_rate=0.2)
        result = train.fit(network, images(48, 0), how, 3, images(30, 1), work, report)
        return weights(network), result

    with pytest.raises(Killed):
        go(tmp_path, stop)
    kept = torch.load(tmp_path / train.CHECKPOINT, weights_only=True)
    assert kept["step"] == at
    assert ("scale" in kept["scaler"], bool(kept["average"])) == (bool(change), bool(change))
    assert go(tmp_path) == go()


def test_a_run_that_gave_up_gives_up_again_after_a_kill(tmp_path):
    def stop(point):
        raise Killed

    val = images(30, 1)
    how = dataclasses.replace(HOW, steps=100, evaluate_every=1, patience=1)
    first = train.fit(fresh(), images(48, 0), how, 0, val, tmp_path)
    steps = first.curve[-1]["step"]
    assert steps < 100
    again = train.fit(fresh(), images(48, 0), how, 0, val, tmp_path, stop)  # no step is left to report
    assert again == first
