from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from derm_t2im.diffusion import png

ROW = {
    "prompt": "a dermoscopic image of one large malignant lesion on tan skin, back, sks",
    "negative_prompt": "hair, ruler",
    "steps": 20,
    "sampler": "euler_a",
    "guidance": 7.0,
    "guidance_rescale": 0.0,
    "noise_mean": "",
    "seed": 12345,
    "base_sha256": "ab" * 32,
    "lora_sha256": "cd" * 32,
}


def test_settings_survive_in_the_web_uis_own_chunk(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    png.write(file, pixels, png.describe(ROW, 64, "cd" * 32))
    with Image.open(file) as image:
        text = image.text["parameters"]
        assert np.array_equal(np.asarray(image), pixels)
    # the form of the web UI: prompt, negative prompt, one line of settings
    assert text.splitlines() == [
        ROW["prompt"],
        "Negative prompt: hair, ruler",
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 12345, Size: 64x64, Model hash: ababababab, "
        'Lora hashes: "derm-t2im: cdcdcdcdcdcd", Version: derm-t2im',
    ]
    found = png.read(file)
    assert found["prompt"] == ROW["prompt"]
    assert found["negative_prompt"] == "hair, ruler"
    assert (found["Steps"], found["Sampler"], found["CFG scale"], found["Seed"]) == ("20", "Euler a", "7", "12345")


def test_what_the_web_ui_does_not_know_is_said() -> None:
    found = png.parse(png.describe({**ROW, "guidance_rescale": 0.7, "noise_mean": "[0.05, -0.1]"}, 64))
    assert (found["CFG rescale"], found["Noise mean"], found["Version"]) == ("0.7", "0.05 -0.1", "derm-t2im")


def test_samplers_are_called_as_the_web_ui_calls_them() -> None:
    named = {"KDPM2AncestralDiscrete": "DPM2 a", "UniPCMultistep": "UniPC", "DDPM": "DDPM"}
    for ours, theirs in named.items():
        assert png.parse(png.describe({**ROW, "sampler": ours}, 64))["Sampler"] == theirs


@given(
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).map(
        str.strip
    )
)
def test_any_prompt_comes_back(prompt: str) -> None:
    found = png.parse(png.describe({**ROW, "prompt": prompt, "negative_prompt": ""}, 64))
    if "Negative prompt:" not in prompt:
        assert found["prompt"] == prompt
    assert found["Seed"] == "12345"


def test_a_png_without_settings_has_none(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    assert png.read(tmp_path / "b.png") == {}
