from pathlib import Path

import pytest

from derm_t2im.diffusion import architecture, base, prompts
from derm_t2im.errors import UserError

MINI = Path(__file__).parents[2] / "models" / "base" / "mini"


def test_tokenizer_knows_the_words_of_our_prompts_whole() -> None:
    words = architecture.tokenizer()
    said = prompts.compose(
        {"label": "malignant", "size": "large", "count": "three", "tone": "dark", "site": "back"}, "sks"
    )
    assert [t.removesuffix("</w>") for t in words.tokenize(said)] == said.replace(",", " ,").split()
    for prompt in prompts.PAPER_PROMPTS:
        assert len(words.tokenize(prompt)) == len(prompt.split())


@pytest.mark.parametrize("text", ["Übung", "naïve 42!", "日本", ""])
def test_tokenizer_takes_any_text(text: str) -> None:
    ids = architecture.tokenizer()(text)["input_ids"]
    assert len(ids) >= 2


def test_embedded_base_is_small_and_complete() -> None:
    size = sum(file.stat().st_size for file in MINI.rglob("*") if file.is_file())
    assert size <= 12_000_000
    assert not [f for f in MINI.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    pipe = base.load(str(MINI))
    assert base.image_size(pipe) == 64
    assert len(pipe.tokenizer) == len(architecture.tokenizer())


def test_missing_base_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no diffusers folder"):
        base.load(str(tmp_path / "nothing"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="pickled"):
        base.load(str(tmp_path))
