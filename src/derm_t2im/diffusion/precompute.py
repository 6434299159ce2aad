"""What fine-tuning needs of images, computed once: the autoencoder's latents and the embeddings of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import progress, seeds
from derm_t2im.diffusion import base, prompts, sample
from derm_t2im.params.generate import Attributes

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

    from derm_t2im.params.finetune import Finetune


#: Low, so that prior images vary as the base model's distribution does.
PRIOR_GUIDANCE = 3.0
#: Every size, count and skin tone equally often.
EVENLY = Attributes(size="uniform", count="uniform", tone="uniform")


@dataclass(frozen=True)
class Cache:
    """What training needs of n images.

    ``latents`` (n, v, c, h, w) of v views; ``tokens`` (n, t) of the captions and ``blank_tokens`` (t,) of none, and
    what the text encoder as it was makes of them: ``text`` (n, t, d), ``blank`` (t, d).
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    blank_tokens: torch.Tensor
    text: torch.Tensor
    blank: torch.Tensor

    def of(self, chosen: np.ndarray) -> Cache:
        """The same of some of the images, by a mask (n,)."""
        at = np.flatnonzero(chosen)
        return Cache(self.latents[at], self.tokens[at], self.blank_tokens, self.text[at], self.blank)


def encode(pipe: StableDiffusionPipeline, images: np.ndarray, captions: Sequence[str], flips: bool) -> Cache:
    """Latents and text embeddings of uint8 images (n, h, w, 3), on the pipeline's device.

    Raises:
        UserError: for a caption that is longer than the text encoder takes.
    """
    import torch

    mirrored = [np.ascontiguousarray(images[:, :, ::-1])] if flips else []
    latents = [base.latents(pipe, view) for view in (images, *mirrored)]
    return _cached(pipe, torch.stack(latents, 1), captions)


def prior(pipe: StableDiffusionPipeline, settings: Finetune, classes: Sequence[str]) -> Cache:
    """Latents and embeddings of images that the base model draws for prompts without the token (prior preservation).

    The prompts name every class, size, count and skin tone equally often, so that all these words keep their meaning
    while few seed images, most of them alike, teach the token.
    """
    import torch

    chances = [seeds.generator(settings.seed, "prior prompt", i) for i in range(settings.prior_images)]
    said = [
        prompts.compose({"label": classes[i % len(classes)], **sample.attributes(EVENLY, {}, chance)})
        for i, chance in enumerate(chances)
    ]
    latents = []
    with torch.inference_mode():
        for start in progress.track(range(0, settings.prior_images, 32), "finetune: prior images"):
            part = range(start, min(start + 32, settings.prior_images))
            chance = [torch.Generator().manual_seed(seeds.derive(settings.seed, "prior", i)) for i in part]
            drawn = pipe([said[i] for i in part], num_inference_steps=20, guidance_scale=PRIOR_GUIDANCE,
                         generator=chance, output_type="latent")  # fmt: skip
            latents.append(drawn.images)
    return _cached(pipe, torch.cat(latents)[:, None], said)


def _cached(pipe: StableDiffusionPipeline, latents: torch.Tensor, captions: Sequence[str]) -> Cache:
    import torch

    tokens = base.tokens(pipe, [*captions, ""])
    with torch.inference_mode():
        text = torch.cat([pipe.text_encoder(part)[0] for part in tokens.split(64)])
    # Outside inference mode, so that autograd accepts them.
    return Cache(latents.clone(), tokens[:-1].clone(), tokens[-1].clone(), text[:-1].clone(), text[-1].clone())
