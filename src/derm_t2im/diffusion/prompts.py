"""Prompts from attributes, and the words that the embedded base model knows.

One sentence form serves the base model's captions, the fine-tuning captions and the generation
prompts, so that a word means the same in all three.
"""

from __future__ import annotations

from collections.abc import Mapping

from derm_t2im.errors import UserError
from derm_t2im.vocabulary import COUNTS, LABEL_WORDS, SITES, SIZES, TONES, label_words

CLASS_PROMPT = "a dermoscopic image"

#: What a sentence may say of an image.
ATTRIBUTES = ("label", "size", "count", "tone", "site")

# Further sentences that the tokenizer of the embedded base model must cover: the paper's own
# prompts (Derm-T2IM, arXiv 2401.05159) and what people type into a negative prompt.
PAPER_PROMPTS = (
    "Sample of benign moles",
    "Sample of malignant lesion",
    "Generate benign skin moles",
    "Generate tiny benign mole",
    "Generate large malignant moles on skin region",
    "multiple lesion moles",
)
NEGATIVE_WORDS = "hair, ruler, ink marks, gel bubbles, dark corner, blurry, noisy, text, artefacts, low quality"


def compose(attributes: Mapping[str, str], token: str = "") -> str:
    """The prompt for a set of attributes.

    Args:
        attributes: Any of ``label``, ``size``, ``count``, ``tone``, ``site``; what is missing or
            empty is left out of the sentence.
        token: DreamBooth's rare identifier (Ruiz et al. 2023). It comes last: the text encoder reads from left to
            right, so that the words before it mean to the U-Net what they meant to the base model.

    Returns:
        E.g. ``a dermoscopic image of one large malignant lesion on tan skin, back, sks``.
    """
    said = {key: value for key, value in attributes.items() if value}
    count = said.get("count", "")
    words = [count, said.get("size", ""), label_words(said["label"]) if "label" in said else "", "lesion"]
    noun = " ".join(word for word in words if word) + ("s" if count in ("two", "three", "multiple") else "")
    article = "" if count else ("an " if noun[0] in "aeiou" else "a ")
    text = f"{CLASS_PROMPT} of {article}{noun}"
    if "tone" in said:
        text += f" on {said['tone']} skin"
    if "site" in said:
        text += f", {said['site']}"
    if token:
        text += f", {token}"
    return text


def token_of(token: str | Mapping[str, str], label: str) -> str:
    """The identifier of a class: one for all classes, or each has its own.

    Raises:
        UserError: if the mapping does not name the class.
    """
    if isinstance(token, str):
        return token
    if label not in token:
        raise UserError(
            f"finetune.token names no token for the class {label!r}, only for {', '.join(sorted(token))}: "
            "name every class, or give one token for all."
        )
    return token[label]


def corpus() -> list[str]:
    """Sentences with every word that the embedded base model's tokenizer must know whole."""
    sentences = [*PAPER_PROMPTS, NEGATIVE_WORDS, "sks", "multiple", "mole", "moles", "without hair", "with hair"]
    for label in LABEL_WORDS:
        for size in SIZES:
            for count in (*COUNTS, "multiple"):
                sentences.append(compose({"label": label, "size": size, "count": count}, "sks"))
    sentences += [compose({"tone": tone, "site": site}) for tone in TONES for site in SITES]
    return [sentence.lower() for sentence in sentences]
