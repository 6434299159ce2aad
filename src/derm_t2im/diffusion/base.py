"""Loading the base model: a folder, a hub id or a checkpoint file of the Stable Diffusion 1 family."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im import state
from derm_t2im.diffusion import checkpoint
from derm_t2im.errors import UserError, exhausted, no_room

if TYPE_CHECKING:
    import numpy as np
    import torch
    from diffusers import StableDiffusionPipeline

PREDICTED = ("epsilon", "v_prediction")  # what a U-Net may predict
PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
# What is fetched of a repository: one set of safetensors weights, not the fp16 and pickled copies beside it.
WANTED = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*",
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")),
    *(
        f"{part}/{name}{end}"
        for part, name in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"))
        for end in (".safetensors", "-?????-of-?????.safetensors", ".safetensors.index.json")
    ),
    *(f"text_encoder/model{end}" for end in (".safetensors", "-?????-of-?????.safetensors", ".safetensors.index.json")),
)


def quiet() -> None:
    """Keep the progress bars and notices of diffusers and transformers off the terminal."""
    import logging

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        # Their errors are raised as well, and one of ours says it in a line.
        library.utils.logging.set_verbosity(logging.CRITICAL)
        library.utils.logging.disable_progress_bar()


def is_hub_id(base: str) -> bool:
    """Whether ``base`` names a repository of the hub: owner/name, with nothing of that name or owner on the disk."""
    named = HUB_ID.fullmatch(base) and not base.endswith((".safetensors", ".ckpt"))
    return bool(named) and not Path(base).exists() and not Path(base.split("/")[0]).is_dir()


def check(base: str) -> None:
    """Refuse what is not there or plainly no base, without a download or loading weights; a hub id passes.

    Raises:
        UserError: naming the three forms, or what the folder or file is.
    """
    if is_hub_id(base):
        return
    if Path(base).is_dir():
        _refuse_others(base, Path(base))
    elif Path(base).exists():
        checkpoint.refuse_others(Path(base), checkpoint.shapes(Path(base)))
    else:
        raise UserError(
            f"finetune.base: there is no folder or file {base!r}; give a diffusers folder, a .safetensors checkpoint, "
            "or a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5. The embedded base is models/base/mini; "
            "`derm-t2im base train` makes one."
        )


def check_size(base: str, size: int) -> None:
    """Refuse images of another side than a base draws, where it is a folder on the disk and says so.

    Raises:
        UserError: naming both sizes.
    """
    try:
        unet, vae = (json.loads((Path(base) / part / "config.json").read_text()) for part in ("unet", "vae"))
        drawn = int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)
    except (OSError, ValueError, KeyError, TypeError):  # another form of base, or none: said elsewhere
        return
    if drawn != size:
        raise UserError(
            f"preprocess.size is {size}, but the base model {base} draws {drawn} px: set it to {drawn}, or choose "
            "another finetune.base."
        )


def locate(base: str) -> Path:
    """Where a base lies: a folder or file as it is, a hub id as the snapshot folder in the hub's cache.

    A repository is fetched when it is not there or has changed; an interrupted download goes on where it stopped.

    Raises:
        UserError: if it is not there, or cannot be fetched.
    """
    if not is_hub_id(base):
        check(base)
        return Path(base)
    return _snapshot(base)


@cache  # one question to the hub per process, and one answer for its whole run
def _snapshot(base: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    name, _, revision = base.partition("@")
    said = f"finetune.base: {base!r}"
    by_hand = f"`hf download {name}{revision and f' --revision {revision}'}`"
    elsewhere = f"run {by_hand} where there is a network and copy that cache (HF_HOME), or give a folder on the disk."
    try:
        folder = Path(snapshot_download(name, revision=revision or None, allow_patterns=list(WANTED)))
    except errors.GatedRepoError:
        raise UserError(
            f"{said} is gated: accept its terms on its page at the hub, `hf auth login`, and start again; "
            "or give a folder on the disk."
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise UserError(
            f"{said} is neither here nor at the hub (or it is private: `hf auth login`); check the spelling, "
            "or give a folder on the disk."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{said}: the repository has no revision {revision or 'main'!r}; check what follows the @."
        ) from None
    except errors.IncompleteSnapshotError:
        raise UserError(
            f"{said} is not whole in the cache (an interrupted download) and the hub cannot be reached; start again "
            f"with a network (and without HF_HUB_OFFLINE), it goes on where it stopped; or {elsewhere}"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{said} is not in the cache and the hub cannot be reached (no network, or HF_HUB_OFFLINE is set); "
            f"{elsewhere}"
        ) from None
    except Exception as error:  # the HTTP library's many types
        if isinstance(error, OSError) and (no_room(error) or isinstance(error, PermissionError)):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"{said}: the download stopped ({reason}); start again, it goes on where it stopped; or {elsewhere}"
        ) from error
    if not (folder / "model_index.json").is_file() or not list((folder / "unet").glob("*.safetensors")):
        raise UserError(
            f"{said} is no Stable Diffusion 1 repository in diffusers' form with safetensors weights "
            "(unet/diffusion_pytorch_model.safetensors); choose another, or give a folder or .safetensors file."
        )
    return folder


def sha256(base: str) -> str:
    """SHA-256 over what is loaded of a base, in hex, wherever it lies.

    Raises:
        UserError: as :func:`locate`.
    """
    place = locate(base)
    if not is_hub_id(base):
        return state.hash_tree(place)
    # Other files in the hub's cache (fp16 copies, a README) are nothing that is loaded.
    names = sorted({file.relative_to(place).as_posix() for pattern in WANTED for file in place.glob(pattern)})
    listed = [f"{name}\0{state.hash_file(place / name)}\n" for name in names]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def load(base: str, precision: str = "fp32", device: str = "cpu") -> StableDiffusionPipeline:
    """Load a diffusers folder or hub repository with safetensors weights, or a checkpoint file.

    Args:
        base: The folder, hub id (``owner/name`` or ``owner/name@revision``) or ``.safetensors`` file.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: A torch device.

    Raises:
        UserError: if it is missing, incomplete, cannot be fetched, or is of another family than Stable Diffusion 1.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    place = locate(base)
    quiet()
    dtype = getattr(torch, PRECISIONS[precision])
    if place.is_dir():
        _refuse_others(base, place)
    try:
        if place.is_file():
            pipe = checkpoint.load(place, dtype)
        else:
            pipe = StableDiffusionPipeline.from_pretrained(
                place,
                dtype=dtype,
                use_safetensors=True,
                safety_checker=None,
                feature_extractor=None,  # the safety checker's
                requires_safety_checker=False,
                local_files_only=True,
            )
    except UserError:
        raise
    except Exception as error:  # diffusers raises many types for a broken folder
        if told := exhausted(error):
            raise told from error
        raise UserError(f"finetune.base: {base!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        if getattr(pipe, part, None) is None:
            raise UserError(f"finetune.base: {base!r} has no {part}; it is no Stable Diffusion 1 pipeline.")
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _refuse_others(base: str, folder: Path) -> None:
    """Raise a UserError that names what a diffusers folder is, if it is not Stable Diffusion 1 as safetensors."""
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"finetune.base: {base!r} is no diffusers folder (it has no model_index.json). "
            "The embedded base is models/base/mini; `derm-t2im base train` makes one."
        )
    try:
        kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
        unet = folder / "unet" / "config.json"
        shape = json.loads(unet.read_text(encoding="utf-8")) if unet.is_file() else {}
        noise = folder / "scheduler" / "scheduler_config.json"
        predicts = json.loads(noise.read_text(encoding="utf-8")).get("prediction_type", "epsilon")
        given, drawn = shape.get("in_channels", 4), shape.get("out_channels", 4)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"finetune.base: {base!r} cannot be loaded: a configuration is missing or no valid JSON ({error})."
        ) from None
    if kind != "StableDiffusionPipeline":
        raise UserError(
            f"finetune.base: {base!r} is a {kind}; only the Stable Diffusion 1 family (StableDiffusionPipeline) is "
            "trained here."
        )
    if given != drawn:
        inpainting = "an inpainting model" if given == 2 * drawn + 1 else "no text-to-image model"
        raise UserError(
            f"finetune.base: {base!r} is {inpainting}: its U-Net has {given} input channels, not {drawn}; give the "
            "text-to-image model."
        )
    if predicts not in PREDICTED:
        raise UserError(f"finetune.base: {base!r} predicts {predicts!r}; supported: {', '.join(PREDICTED)}.")
    for part in ("unet", "vae", "text_encoder"):
        files = list((folder / part).glob("*.safetensors"))
        if not files:
            raise UserError(f"finetune.base: {base}/{part} has no safetensors weights; pickled weights are not loaded.")
        for file in files:
            checkpoint.shapes(file)  # an error for one that is cut short
    if not list((folder / "tokenizer").glob("*.json")):
        raise UserError(f"finetune.base: {base!r} has no folder tokenizer with its vocabulary.")


def image_size(pipe: StableDiffusionPipeline) -> int:
    """Side of the images that a pipeline draws, in pixels."""
    return int(pipe.unet.config.sample_size) * int(pipe.vae_scale_factor)


def tokens(pipe: StableDiffusionPipeline, texts: Sequence[str]) -> torch.Tensor:
    """Token ids (n, longest), padded, on the pipeline's device.

    Raises:
        UserError: for a text that is longer than the text encoder takes; nothing is cut off unseen.
    """
    # A tokenizer need not know what its encoder takes.
    longest = min(pipe.tokenizer.model_max_length, pipe.text_encoder.config.max_position_embeddings)
    for text in dict.fromkeys(texts):
        length = len(pipe.tokenizer(text, truncation=False, verbose=False).input_ids)
        if length > longest:
            raise UserError(
                f"the prompt has {length} tokens and the text encoder takes {longest}: {text[:80]!r}...; "
                "shorten generate.negative_prompt or finetune.token, or leave out words (generate.attributes)."
            )
    ids = pipe.tokenizer(list(texts), padding="max_length", max_length=longest, return_tensors="pt").input_ids
    return ids.to(pipe.device)


def latents(pipe: StableDiffusionPipeline, images: np.ndarray) -> torch.Tensor:
    """Scaled latents (n, channels, h, w) of uint8 images (n, size, size, 3), on the pipeline's device."""
    import torch

    with torch.inference_mode():
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(pipe.device, pipe.vae.dtype) / 127.5 - 1
        parts = [pipe.vae.encode(part).latent_dist.mode() for part in x.split(16)]
        return torch.cat(parts) * pipe.vae.config.scaling_factor
