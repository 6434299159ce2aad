from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from derm_t2im.diffusion import base, prompts, sample
from derm_t2im.errors import UserError
from derm_t2im.params.generate import Attributes, Generate

TRAIN = pd.DataFrame(
    {
        "label": ["benign", "malignant"] * 4,
        "lesion_area": [0.02, 0.3] * 4,
        "lesion_count": [1, 3] * 4,
        "tone": ["dark", "light"] * 4,
    }
)


def test_plan_is_balanced_and_says_what_was_measured() -> None:
    rows = sample.plan(Generate(images=8), TRAIN, ["benign", "malignant"], "sks")
    assert rows["label"].value_counts().to_dict() == {"benign": 4, "malignant": 4}
    assert rows["image_id"].is_unique and rows["seed"].is_unique
    assert rows["prompt"][0] == "a sks dermoscopic image of one tiny benign lesion on dark skin"
    assert rows["prompt"][1] == "a sks dermoscopic image of three large malignant lesions on light skin"


def test_a_longer_plan_begins_with_the_shorter() -> None:
    short, long = (sample.plan(Generate(images=n), TRAIN, ["benign", "malignant"], "") for n in (6, 12))
    pd.testing.assert_frame_equal(short, long.iloc[:6])


def test_uniform_attributes_use_every_word() -> None:
    wanted = Attributes(size="uniform", count="uniform", tone="uniform", site="uniform")
    rows = sample.plan(Generate(images=300, attributes=wanted), TRAIN, ["benign", "malignant"], "")
    for word in ("tiny", "large", "two", "very light skin", "dark skin", "scalp"):
        assert rows["prompt"].str.contains(word).any()


def test_every_sampler_draws_and_repeats_itself(tiny_base: Path) -> None:
    pipe = base.load(str(tiny_base))
    for name in sample.SAMPLERS:
        rows = sample.plan(Generate(images=2, steps=3, samplers=(name,)), TRAIN, ["benign", "malignant"], "")
        first, second = sample.draw(pipe, rows), sample.draw(pipe, rows)
        assert first.shape == (2, 64, 64, 3) and first.dtype == np.uint8
        assert np.array_equal(first, second)
        assert not np.array_equal(first[0], first[1])


def test_centred_noise_starts_every_channel_at_zero(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = base.load(str(tiny_base))
    rows = sample.plan(Generate(images=4, steps=2, samplers=("euler",)), TRAIN, ["benign", "malignant"], "")
    assert rows["centred_noise"].all()
    begun, prepare = [], pipe.prepare_latents

    def seen(*arguments: object) -> object:
        begun.append(prepare(*arguments) / pipe.scheduler.init_noise_sigma)
        return begun[-1] * pipe.scheduler.init_noise_sigma

    monkeypatch.setattr(pipe, "prepare_latents", seen)
    centred, drawn = sample.draw(pipe, rows), sample.draw(pipe, rows.assign(centred_noise=False))
    assert begun[0].mean((2, 3)).abs().max() < 1e-6 < 1e-3 < begun[1].mean((2, 3)).abs().max()
    # the same noise otherwise, from the same seeds
    assert (begun[1] - begun[1].mean((2, 3), keepdim=True) - begun[0]).abs().max() < 1e-5
    assert not np.array_equal(centred, drawn)


def test_an_image_does_not_depend_on_its_neighbours(tiny_base: Path) -> None:
    pipe = base.load(str(tiny_base))
    rows = sample.plan(Generate(images=6, steps=3, samplers=("euler_a",)), TRAIN, ["benign", "malignant"], "")
    together = sample.draw(pipe, rows)
    alone = np.concatenate([sample.draw(pipe, rows.iloc[i : i + 1]) for i in range(6)])
    # other batch sizes may round the last bit of a float another way, never more
    assert np.abs(together.astype(int) - alone.astype(int)).max() <= 1


def test_unknown_sampler_names_the_known(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="allowed: euler, euler_a, plms"):
        sample.set_sampler(base.load(str(tiny_base)), "eulr")


def test_prompts_read_as_sentences() -> None:
    assert prompts.compose({}) == "a dermoscopic image of a lesion"
    assert prompts.compose({"label": "akiec"}) == "a dermoscopic image of an actinic keratosis lesion"
    assert prompts.compose({"label": "nv", "count": "two"}) == "a dermoscopic image of two melanocytic nevus lesions"
