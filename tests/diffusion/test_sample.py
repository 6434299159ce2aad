import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

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
    assert rows["prompt"][0] == "a dermoscopic image of one tiny benign lesion on dark skin, sks"
    assert rows["prompt"][1] == "a dermoscopic image of three large malignant lesions on light skin, sks"


def test_each_class_has_its_token() -> None:
    tokens = {"benign": "sks", "malignant": "zwx"}
    rows = sample.plan(Generate(images=4), TRAIN, ["benign", "malignant"], tokens)
    assert rows["prompt"][0].startswith("a sks dermoscopic") and rows["prompt"][1].startswith("a zwx dermoscopic")
    with pytest.raises(UserError, match=r"no token for the class 'nv', only for benign, malignant"):
        sample.plan(Generate(images=4), TRAIN, ["benign", "nv"], tokens)


@pytest.mark.parametrize("left_out", prompts.ATTRIBUTES)
def test_captions_and_prompts_leave_out_the_same_attribute(left_out: str) -> None:
    table = TRAIN.assign(site="back")
    keep = [name for name in prompts.ATTRIBUTES if name != left_out]
    words = {"label": "benign ", "size": "tiny ", "count": "one ", "tone": " on dark skin", "site": ", back"}
    row = next(table.itertuples())
    whole = sample.caption(row, "sks", prompts.ATTRIBUTES)
    assert whole == "a sks dermoscopic image of one tiny benign lesion on dark skin, back"
    said = sample.caption(row, "sks", keep)
    assert words[left_out] not in said and all(word in said for name, word in words.items() if name != left_out)
    wanted = Generate(images=2, attributes=Attributes(site="match"))
    plan = sample.plan(wanted, table, ["benign", "malignant"], "sks", keep=keep)
    assert plan["prompt"][0] == said
    assert left_out not in json.loads(plan["attributes"][0])


@pytest.mark.parametrize(
    ("site", "said"),
    [(site, site) for site in ("abdomen", "acral", "back", "chest", "ear", "face", "foot", "genital", "hand",
                               "lower extremity", "neck", "scalp", "trunk", "upper extremity")]
    + [("Head/Neck", "head and neck"), ("posterior torso", "back"), ("palms/soles", "acral"),
       ("oral/genital", None), ("unknown", None), ("", None), (None, None), (float("nan"), None)],
    ids=str,
)  # fmt: skip
def test_sites_of_real_metadata_reach_the_caption(site: object, said: str | None) -> None:
    """The values of HAM10000's `localization`, and of the ISIC Archive's `anatom_site_general`."""
    row = next(pd.DataFrame({"label": ["nv"], "site": [site]}).itertuples())
    end = f", {said}" if said else ""
    assert (
        sample.caption(row, "sks", prompts.ATTRIBUTES) == f"a sks dermoscopic image of a melanocytic nevus lesion{end}"
    )


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


def test_the_first_noise_has_the_mean_of_its_row(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = base.load(str(tiny_base))
    rows = sample.plan(Generate(images=4, steps=2, samplers=("euler",)), TRAIN, ["benign", "malignant"], "")
    begun, prepare = [], pipe.prepare_latents

    def seen(*arguments: object) -> object:
        begun.append(prepare(*arguments) / pipe.scheduler.init_noise_sigma)
        return begun[-1] * pipe.scheduler.init_noise_sigma

    monkeypatch.setattr(pipe, "prepare_latents", seen)
    wanted = np.linspace(-0.1, 0.1, pipe.unet.config.in_channels).round(4)
    drawn = [sample.draw(pipe, rows.assign(noise_mean=m)) for m in ("[0.0]", json.dumps(list(wanted)), "")]
    zero, matched, free = begun
    assert zero.mean((2, 3)).abs().max() < 1e-6 < 1e-3 < free.mean((2, 3)).abs().max()
    assert np.allclose(matched.mean((2, 3)).numpy(), wanted, atol=1e-6)
    for other in (matched, free):  # the same noise otherwise, from the same seeds
        assert (other - other.mean((2, 3), keepdim=True) - zero).abs().max() < 1e-5
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_matched_colours_are_those_of_the_example_that_the_prompt_follows() -> None:
    means = np.arange(len(TRAIN), dtype=float)[:, None] * [1.0, -1.0]
    for tone in ("match", "uniform"):
        wanted = Generate(images=60, attributes=Attributes(tone=tone), noise_mean_strength=0.5)
        rows = sample.plan(wanted, TRAIN, ["benign", "malignant"], "", means)
        known = set()
        for row in rows.itertuples():
            said, mean = json.loads(row.attributes), json.loads(row.noise_mean)
            if said["tone"] not in set(TRAIN["tone"]):
                assert mean == [0.0]  # no seed image has that tone
                continue
            example = TRAIN.iloc[round(2 * mean[0])]
            assert mean[1] == -mean[0] and said["tone"] == example["tone"]
            known.add(example.name)
        assert len(known) > 4
    for how, text in (("zero", "[0.0]"), ("free", "")):
        rows = sample.plan(Generate(images=4, noise_mean=how), TRAIN, ["benign", "malignant"], "", means)
        assert set(rows["noise_mean"]) == {text}


def test_noise_means_are_standard_scores_on_the_scale_of_the_noise() -> None:
    latents = (
        torch.randn(400, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 + torch.arange(3.0)[:, None, None]
    )
    latents[:, 2] = 5.0
    means = sample.noise_means(latents)
    assert np.allclose(means.mean(0), 0, atol=1e-9) and np.allclose(means.std(0), [1 / 16, 1 / 16, 0])
    assert np.corrcoef(means[:, 0], latents[:, 0].mean((1, 2)).numpy())[0, 1] > 0.999


@pytest.mark.parametrize("sampler", ["euler_a", "plms", "dpmpp_2m"])
def test_an_image_has_the_same_bits_whatever_is_drawn_with_it(tiny_base: Path, sampler: str) -> None:
    pipe = base.load(str(tiny_base))
    rows = sample.plan(Generate(images=18, steps=3, samplers=(sampler,)), TRAIN, ["benign", "malignant"], "sks")
    together = sample.draw(pipe, rows)
    threads = torch.get_num_threads()
    try:
        for order, count in (([5], 1), ([17, 5], 2), ([16, 0, 5, 11], threads), ([*range(17, -1, -1)], 1)):
            torch.set_num_threads(count)
            again = sample.draw(base.load(str(tiny_base)), rows.iloc[order], batch=count + 2)
            assert np.array_equal(again, together[order]), (order, count)
    finally:
        torch.set_num_threads(threads)


def test_every_scheduler_that_fits_draws_or_says_why_not(tiny_base: Path) -> None:
    pipe = base.load(str(tiny_base))
    rows = sample.plan(Generate(images=2, steps=3), TRAIN, ["benign", "malignant"], "")
    names = sorted(kind.__name__ for kind in pipe.scheduler.compatibles)
    drew = set()
    for name in names:
        try:
            images = sample.draw(pipe, rows.assign(sampler=name))
        except UserError as error:
            assert name in str(error)
            continue
        assert images.shape == (2, 64, 64, 3) and images.std() > 1, name
        assert np.array_equal(images[1:], sample.draw(pipe, rows.iloc[1:].assign(sampler=name))), name
        drew.add(name)
    assert {"UniPCMultistepScheduler", "LMSDiscreteScheduler", "DEISMultistepScheduler"} <= drew
    short = sample.draw(pipe, rows.assign(sampler="UniPCMultistep"))
    assert np.array_equal(short, sample.draw(pipe, rows.assign(sampler="UniPCMultistepScheduler")))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eulr", r"did you mean euler\? Allowed: euler, euler_a, plms"),
        ("UniPCMultistp", "did you mean UniPCMultistep"),
        ("FlowMatchEulerDiscreteScheduler", "does not exist for this model"),
    ],
)
def test_an_unknown_sampler_names_the_known(tiny_base: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sample.scheduler(base.load(str(tiny_base)), name)


def test_prompts_read_as_sentences() -> None:
    assert prompts.compose({}) == "a dermoscopic image of a lesion"
    assert prompts.compose({"label": "akiec"}) == "a dermoscopic image of an actinic keratosis lesion"
    assert prompts.compose({"label": "nv", "count": "two"}) == "a dermoscopic image of two melanocytic nevus lesions"
