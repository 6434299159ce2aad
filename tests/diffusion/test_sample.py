import json
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableDiffusionPipeline
from pydantic import ValidationError

from derm_t2im.diffusion import base, prompts, sample
from derm_t2im.errors import UserError
from derm_t2im.params.generate import OTHERS, SHORT, UNFIT, Attributes, Generate

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
    assert rows["prompt"][0].endswith(", sks") and rows["prompt"][1].endswith(", zwx")
    with pytest.raises(UserError, match=r"no token for the class 'nv', only for benign, malignant"):
        sample.plan(Generate(images=4), TRAIN, ["benign", "nv"], tokens)


@pytest.mark.parametrize("left_out", prompts.ATTRIBUTES)
def test_captions_and_prompts_leave_out_the_same_attribute(left_out: str) -> None:
    table = TRAIN.assign(site="back")
    keep = [name for name in prompts.ATTRIBUTES if name != left_out]
    words = {"label": "benign ", "size": "tiny ", "count": "one ", "tone": " on dark skin", "site": ", back"}
    row = next(table.itertuples())
    whole = sample.caption(row, "sks", prompts.ATTRIBUTES)
    assert whole == "a dermoscopic image of one tiny benign lesion on dark skin, back, sks"
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
        sample.caption(row, "sks", prompts.ATTRIBUTES) == f"a dermoscopic image of a melanocytic nevus lesion{end}, sks"
    )


def test_a_longer_plan_begins_with_the_shorter() -> None:
    short, long = (sample.plan(Generate(images=n), TRAIN, ["benign", "malignant"], "") for n in (6, 12))
    pd.testing.assert_frame_equal(short, long.iloc[:6])


def test_uniform_attributes_use_every_word() -> None:
    wanted = Attributes(size="uniform", count="uniform", tone="uniform", site="uniform")
    rows = sample.plan(Generate(images=300, attributes=wanted), TRAIN, ["benign", "malignant"], "")
    for word in ("tiny", "large", "two", "very light skin", "dark skin", "scalp"):
        assert rows["prompt"].str.contains(word).any()


@pytest.fixture(scope="module")
def pipe(tiny_base: Path) -> StableDiffusionPipeline:
    return base.load(str(tiny_base))


def planned(images: int, **settings: Any) -> pd.DataFrame:
    return sample.plan(Generate(images=images, **settings), TRAIN, ["benign", "malignant"], "")


@pytest.mark.parametrize("name", [*SHORT, *OTHERS])
def test_every_sampler_draws_and_repeats_itself(pipe: StableDiffusionPipeline, name: str) -> None:
    rows = planned(2, steps=4, guidance=2, samplers=(name,))
    first, second = sample.draw(pipe, rows), sample.draw(pipe, rows.iloc[::-1])[::-1]
    assert first.shape == (2, 64, 64, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_every_scheduler_compatible_with_stable_diffusion_is_drawn_with_or_refused() -> None:
    from diffusers import EulerDiscreteScheduler

    compatible = {each.removesuffix("Scheduler") for each in EulerDiscreteScheduler._compatibles}
    assert compatible <= {*SHORT.values(), *OTHERS, *UNFIT}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("UniPC", "no sampler.*Did you mean 'UniPCMultistep'.*Allowed: 'euler', 'euler_a'"),
        ("DPMSolverSDEScheduler", "does not fit: its noise does not come from the seed"),
        ("EDMEuler", "does not fit: .*EDM"),
        ("FlowMatchEulerDiscreteScheduler", "does not fit: .*flow matching"),
        ("AutoencoderKL", "no sampler"),
    ],
)
def test_what_does_not_fit_is_refused_when_parameters_are_read(
    pipe: StableDiffusionPipeline, name: str, said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        Generate(samplers=(name,))
    with pytest.raises(UserError, match=said):
        sample.draw(pipe, planned(1).assign(sampler=name))


def test_samplers_do_not_cut_latents_off() -> None:
    """Latents lie beyond -1 and 1; DDIM and DDPM clip unless the base says otherwise, and many do not."""
    pipe = base.load("models/base/mini")
    pipe.scheduler = type(pipe.scheduler).from_config({**pipe.scheduler.config, "clip_sample": True})
    asked = Generate(images=4, steps=20, samplers=("euler",))
    rows = sample.plan(asked, pd.DataFrame({"label": ["benign", "malignant"]}), ["benign", "malignant"], "")
    expected = sample.draw(pipe, rows).astype(int)
    got = sample.draw(pipe, rows.assign(sampler="ddim")).astype(int)
    assert np.abs(got - expected).mean() < 4


def test_a_sampler_has_one_name() -> None:
    names = ("EulerDiscreteScheduler", "PNDM", "heun", "UniPCMultistepScheduler")
    assert Generate(samplers=names).samplers == ("euler", "plms", "heun", "UniPCMultistep")
    assert Generate(samplers=("UniPCMultistep",)).samplers == ("UniPCMultistep",)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_is_the_same_bits_in_any_company_and_on_any_threads(tiny_base: Path, precision: str) -> None:
    pipe = base.load(str(tiny_base), precision)
    rows = planned(sample.CHUNK + 6, steps=3, samplers=("euler_a", "heun", "dpmpp_2m"))
    before = torch.get_num_threads()
    expected = dict(zip(rows["image_id"], sample.draw(pipe, rows), strict=True))
    try:
        for threads, batch, chosen in (
            (1, 1, [3]),
            (2, 64, [12, 0]),
            (2, 1, [5, 4, 13]),
            (2, 16, np.random.default_rng(0).permutation(len(rows))),
            (3, 2 * sample.CHUNK, np.arange(len(rows))[::-1]),
        ):
            torch.set_num_threads(threads)
            part = rows.iloc[chosen]
            for name, image in zip(part["image_id"], sample.draw(pipe, part, batch), strict=True):
                assert np.array_equal(image, expected[name]), (threads, batch, name)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_images_are_those_of_the_plain_pipeline(pipe: StableDiffusionPipeline) -> None:
    rows = planned(3, steps=4, samplers=("euler",), negative_prompt="hair", noise_mean="free")
    plain = copy(pipe)
    plain.scheduler = sample.scheduler(pipe, "euler")
    for row, image in zip(rows.itertuples(), sample.draw(pipe, rows), strict=True):
        one = plain(
            row.prompt, negative_prompt="hair", num_inference_steps=4, guidance_scale=row.guidance, output_type="np",
            generator=torch.Generator().manual_seed(row.seed),
        ).images[0]  # fmt: skip
        assert np.abs(np.round(one * 255) - image).max() <= 1


def test_threads_do_not_disturb_each_others_prompts(pipe: StableDiffusionPipeline) -> None:
    rows = planned(6 * sample.CHUNK, steps=1, guidance=1, samplers=("euler",))
    rows["prompt"] = [f"lesion {'of the back ' * (i % 5)}{i}" for i in range(len(rows))]  # all other, of all lengths
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        beside = sample.draw(pipe, rows, 4 * sample.CHUNK)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(beside, sample.draw(pipe, rows, 1))


def test_no_guidance_is_one_pass(pipe: StableDiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, forward = [], pipe.unet.forward
    monkeypatch.setattr(pipe.unet, "forward", lambda x, *a, **k: lengths.append(len(x)) or forward(x, *a, **k))
    for guidance in (1.0, 3.0):
        sample.draw(pipe, planned(2, steps=1, guidance=guidance, samplers=("euler",)))
    assert lengths == [sample.CHUNK, 2 * sample.CHUNK]


def test_images_that_are_not_finite_are_an_error(tiny_base: Path) -> None:
    pipe = base.load(str(tiny_base))
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"'euler' with generate.steps 2 .* not finite: choose"):
        sample.draw(pipe, planned(1, steps=2, samplers=("euler",)))


def test_the_first_noise_has_the_mean_of_its_row(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = base.load(str(tiny_base))
    rows = sample.plan(Generate(images=4, steps=2, samplers=("euler",)), TRAIN, ["benign", "malignant"], "")
    begun, prepare = [], pipe.prepare_latents

    def seen(*arguments: object) -> object:
        begun.append(arguments[-1][: len(rows)])
        return prepare(*arguments)

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


def test_prompts_read_as_sentences() -> None:
    assert prompts.compose({}) == "a dermoscopic image of a lesion"
    assert prompts.compose({"label": "akiec"}) == "a dermoscopic image of an actinic keratosis lesion"
    assert prompts.compose({"label": "nv", "count": "two"}) == "a dermoscopic image of two melanocytic nevus lesions"
