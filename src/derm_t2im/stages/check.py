"""Stage `check`: parameters are sound and what they point at is there, before anything else runs.

DVC removes the outputs of a stage before it looks for the stage's dependencies. Without this stage, a mistyped
folder would cost the data and be answered by an errno.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from derm_t2im import features, networks, paths, runtime, state
from derm_t2im.diffusion import base
from derm_t2im.errors import UserError
from derm_t2im.params.schema import Params, load_all
from derm_t2im.progress import say
from derm_t2im.sources import labels

PLACES = ("acquire.path", "acquire.external.path")


def run() -> None:
    """Write data/check.json: the names of what was looked at, the same after every check that passes."""
    params = load_all()
    wrong = [*_places(params), *_refused(params), *_tokens(params), *_counts(params)]
    if wrong:
        raise UserError(f"params.yaml: {' '.join(wrong)} Nothing was run or removed.")
    looked = ["parameters", *PLACES, "finetune.base", "generate.lora", "generate.images_from"]
    state.write_json(paths.CHECK, {"checked": looked})
    say("check: the parameters are sound, and what they name on the disk is there")


def _places(params: Params) -> Iterator[str]:
    """Folders and files that are not there."""
    for name, place in zip(PLACES, (params.acquire.path, params.acquire.external.path), strict=True):
        if not Path(place).is_dir():
            yield f"{name}: there is no folder {place}."
    if params.generate.lora and not Path(params.generate.lora).is_file():
        yield f"generate.lora: there is no file {params.generate.lora!r}."
    if params.generate.images_from and not Path(params.generate.images_from).is_dir():
        yield f"generate.images_from: there is no folder {params.generate.images_from!r}."
    weights = {
        "probe.weights": params.probe.weights,
        "embed.weights": params.embed.weights,
        **{f"train.models.{arch}.weights": params.train.models[arch].weights for arch in params.train.archs},
    }
    for name, file in weights.items():
        if file not in ("", "pretrained") and not Path(file).is_file():
            yield f"{name}: there is no file {file!r}; or use '' or pretrained."


def _refused(params: Params) -> Iterator[str]:
    """What a module refuses that would be asked for it much later."""
    tuned, size = params.finetune, params.preprocess.size
    looks = [
        lambda: base.check(tuned.base),
        lambda: base.check_size(tuned.base, size),
        lambda: runtime.check_precision("finetune.precision", tuned.precision),
        lambda: runtime.check_precision("generate.precision", params.generate.precision),
        lambda: runtime.check_precision("train.precision", params.train.precision),
        lambda: _network("probe.model", params.probe.model, params.probe.options, size, params.probe.weights),
        lambda: features.check(params.embed.encoder, params.embed.weights),
    ]
    for arch in params.train.archs:
        model = params.train.models[arch]
        looks.append(
            lambda arch=arch, model=model: _network(  # type: ignore[misc]
                f"train.models.{arch}", model.timm, model.options, model.size or size, model.weights
            )
        )
    for look in looks:
        try:
            look()
        except UserError as error:
            yield str(error)
    if tuned.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        yield "finetune.optimizer: adamw8bit needs bitsandbytes; `pip install bitsandbytes`."


def _network(parameter: str, name: str, options: dict[str, Any], size: int, weights: str) -> None:
    """Refuse a network that cannot be built, or a file of weights that is not of it."""
    networks.try_out(parameter, name, options, size)
    if Path(weights).is_file():
        try:
            networks.build(name, options, ("one", "other"), size, weights)
        except UserError as error:
            raise UserError(f"{parameter}: {error}") from None


def _tokens(params: Params) -> Iterator[str]:
    """Classes without a token."""
    if params.acquire.labels != "as_is" and isinstance(params.finetune.token, dict):
        untold = sorted(set(labels.classes(params.acquire.labels)) - set(params.finetune.token))
        if untold:
            yield f"finetune.token: no token for {', '.join(untold)}."


def _counts(params: Params) -> Iterator[str]:
    """Numbers of images that cannot come together, as far as that is known before any is there."""
    split, drawn, keep = params.split, params.generate, params.curate.keep
    ours = not drawn.images_from
    if ours and keep > drawn.images:
        yield f"curate.keep: {keep} images cannot be kept of generate.images={drawn.images}; keep fewer or draw more."
    pool, external = params.acquire.phantom.images, params.acquire.phantom.external_images
    asked = split.train + split.val + split.test
    if params.acquire.source == "phantom":
        least = min(pool, params.acquire.limit or pool)
        if asked > least:
            yield (
                f"split: train + val + test ask for {asked} images, but acquire makes {least}; raise "
                "acquire.phantom.images (and acquire.limit), or lower the sizes."
            )
    if params.acquire.external.source == "phantom":
        least = min(external, params.acquire.external.limit or external)
        if split.external > least:
            yield (
                f"split.external asks for {split.external} images, but acquire makes {least}; raise "
                "acquire.phantom.external_images (and acquire.external.limit), or lower it."
            )
    if params.acquire.labels == "as_is":
        return
    known, each = labels.classes(params.acquire.labels), params.validation.min_images_per_class
    if keep < len(known):
        yield f"curate.keep: {keep} is less than one image for each of the {len(known)} classes."
    sizes = {
        "split.train": split.train,
        "split.test": split.test,
        **({"generate.images": drawn.images} if ours else {}),
    }
    for name, count in sizes.items():
        if params.acquire.source == "phantom" and count < (2 * each):  # phantoms are benign and malignant
            yield (
                f"{name}: {count} images cannot hold validate.min_images_per_class={each} of both classes; raise the "
                "one or lower the other."
            )
