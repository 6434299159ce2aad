"""Image classifiers of timm behind one small interface: build, save, load, predict, embed.

A :class:`Network` knows its classes, its input size and its normalisation, so whoever holds one
passes plain uint8 images and gets plain arrays back.
"""

from __future__ import annotations

import difflib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.errors import UserError, exhausted
from derm_t2im.state import move_into_place, write_atomic

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"

# What build() sets itself; an option of that name would contradict it.
_OWN = {
    "num_classes": "the head follows the classes of the data",
    "in_chans": "images are RGB",
    "pretrained": "set weights to 'pretrained'",
    "checkpoint_path": "set weights to the path of a safetensors file",
}


@dataclass(frozen=True)
class Network:
    """A classifier with all that is needed to use it.

    ``module`` maps float32 (n, 3, size, size), normalised by ``mean`` and ``std`` (of RGB in
    0..1), to logits (n, k); column i belongs to ``classes[i]``.
    """

    module: torch.nn.Module
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    config: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: str) -> Network:
        """The same network, its weights moved to ``device``."""
        self.module.to(device)
        return self

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Images (n, h, w, 3), uint8 or float of 0..255, as the module wants them (n, 3, size, size)."""
        import torch
        from torch.nn import functional

        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        if tuple(pixels.shape[2:]) != (self.size, self.size):
            pixels = functional.interpolate(
                pixels, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        mean = torch.tensor(self.mean, device=pixels.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=pixels.device).view(1, 3, 1, 1) * 255
        return ((pixels - mean) / std).contiguous()

    def logits(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Logits, float32 (n, k), of uint8 images (n, h, w, 3); any size is resized to ``size``."""
        return self._run(images, batch, len(self.classes), self.module)

    def predict(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Class probabilities, float32 (n, k), of uint8 images (n, h, w, 3)."""
        values = self.logits(images, batch)
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return values / values.sum(axis=1, keepdims=True)

    def embed(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Pooled features before the classifier, float32 (n, d), of uint8 images (n, h, w, 3)."""
        module: Any = self.module

        def forward(x: torch.Tensor) -> torch.Tensor:
            return module.forward_head(module.forward_features(x), pre_logits=True)

        return self._run(images, batch, int(getattr(module, "head_hidden_size", None) or module.num_features), forward)

    def _run(self, images: np.ndarray, batch: int, width: int, forward: Callable[..., torch.Tensor]) -> np.ndarray:
        import torch

        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be uint8 (n, h, w, 3), not {images.dtype} {images.shape}")
        was_training = self.module.training
        self.module.eval()
        out = np.empty((len(images), width), np.float32)
        try:
            with torch.inference_mode():
                for part in _slices(len(images), batch):
                    x = torch.from_numpy(np.ascontiguousarray(images[part])).to(self.device)
                    out[part] = forward(self.prepare(x)).float().cpu().numpy()
        finally:
            self.module.train(was_training)
        return out


def _slices(n: int, batch: int) -> Iterator[slice]:
    for start in range(0, n, batch):
        yield slice(start, min(start + batch, n))


def build(
    timm_name: str,
    options: dict[str, Any],
    classes: Sequence[str],
    size: int,
    weights: str = "",
    seed: int = 0,
) -> Network:
    """A network of timm's architecture ``timm_name``, on the CPU.

    Args:
        timm_name: Name of a timm model, e.g. ``vit_base_patch16_224``.
        options: Arguments of that model. ``mean`` and ``std`` (of RGB in 0..1, three numbers each)
            replace the normalisation that timm states for the model.
        classes: Names of the classes, in the order of the outputs.
        size: Side of the input in pixels; models of a fixed input size (ViT) are built for it.
        weights: Empty for a random start, ``pretrained`` for timm's own, else the path of a
            safetensors file. A classifier head of another width is replaced by a random one.
        seed: Of the random weights.

    Raises:
        UserError: for an unknown model or option, or weights that cannot be had or do not fit.
    """
    import timm
    import torch

    base_name = timm_name.split(".")[0]
    if not timm.is_model(base_name):
        near = difflib.get_close_matches(base_name, timm.list_models(), n=5)
        raise UserError(f"{timm_name!r} is no timm model; nearest: {', '.join(near) or 'none'}.")
    try:
        stated_for_it = timm.get_pretrained_cfg(timm_name)
    except RuntimeError:
        known = ", ".join(timm.list_pretrained(f"{base_name}.*")) or "none"
        raise UserError(f"{timm_name!r}: timm has no such weights of {base_name}; it has: {known}.") from None
    for name, why in _OWN.items():
        if name in options:
            raise UserError(f"{timm_name}: leave {name!r} out of its options ({why}).")
    if weights == "pretrained":
        _need_hub(timm_name)
    arguments = dict(options)
    norm = {name: _triple(timm_name, name, arguments.pop(name)) for name in ("mean", "std") if name in arguments}
    if getattr(stated_for_it, "fixed_input_size", False):
        arguments.setdefault("img_size", size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = timm.create_model(
                timm_name, pretrained=weights == "pretrained", num_classes=len(classes), **arguments
            )
        except Exception as error:
            if told := exhausted(error):
                raise told from error
            raise _cannot_build(timm_name, options, size, weights, error) from error
        _start_head(module)
    stated: Any = module.pretrained_cfg
    if size != stated["input_size"][-1]:
        _try_size(module, timm_name, size, len(classes))
    mean = norm.get("mean") or _triple(timm_name, "mean", stated["mean"])
    std = norm.get("std") or _triple(timm_name, "std", stated["std"])
    config = {
        "timm": timm_name,
        "options": options,
        "classes": list(classes),
        "size": size,
        "mean": list(mean),
        "std": list(std),
    }
    module.eval()
    network = Network(module, tuple(classes), size, mean, std, config)
    if weights not in ("", "pretrained"):
        _adopt(module, Path(weights))
    return network


def try_out(parameter: str, timm_name: str, options: dict[str, Any], size: int) -> None:
    """Refuse a network that cannot be built, without making any of its weights.

    Raises:
        UserError: as :func:`build`, beginning with the name of the ``parameter``.
    """
    import torch

    try:
        with torch.device("meta"):
            build(timm_name, options, ("one", "other"), size)
    except UserError as error:
        raise UserError(f"{parameter}: {error}") from None


def _start_head(module: torch.nn.Module) -> None:
    """Start the classifier near zero.

    Some of timm's starts scale with 1 / sqrt(classes): for two classes MobileNetV2's logits then
    start in the tens, and a short training never recovers.
    """
    from torch import nn

    get: Any = getattr(module, "get_classifier", None)
    head = get() if get else None
    if isinstance(head, nn.Linear):
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)


def _try_size(module: torch.nn.Module, name: str, size: int, classes: int) -> None:
    """Fail now where a model cannot take images of another size than its own."""
    import torch

    try:
        with torch.inference_mode():
            made = tuple(module.eval()(torch.zeros(1, 3, size, size)).shape)
    except Exception as error:
        if told := exhausted(error):
            raise told from error
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{name} cannot take images of {size} px ({said}): give it another size.") from None
    if made != (1, classes):
        raise UserError(f"{name} makes {made} of an image of {size} px, not one number per class: it is no classifier.")


def _triple(model: str, name: str, value: Any) -> tuple[float, float, float]:
    try:
        r, g, b = (float(v) for v in value)
    except (TypeError, ValueError):
        raise UserError(f"{model}: {name} must be three numbers for RGB in 0..1, not {value!r}.") from None
    return r, g, b


def _need_hub(name: str) -> None:
    """Fail at once where weights lie neither in the cache nor within reach: the hub's own retries take a minute."""
    import huggingface_hub
    import timm
    from huggingface_hub.utils import get_session

    place = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None)
    if not place:
        return
    files = ("model.safetensors", "pytorch_model.bin")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(place, file), str) for file in files):
        return
    try:
        get_session().head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except Exception as error:
        raise UserError(
            f"{name}: its pretrained weights are not in the cache and {huggingface_hub.constants.ENDPOINT} cannot be "
            f"reached ({type(error).__name__}). Give the path of a safetensors file as weights, or leave it empty."
        ) from None


def _cannot_build(name: str, options: dict[str, Any], size: int, weights: str, error: Exception) -> UserError:
    said = " ".join(str(error).split())[:300]
    if isinstance(error, TypeError | AssertionError | ValueError) or weights != "pretrained":
        return UserError(f"{name} cannot be built for {size} px with the options {options}: {said}")
    return UserError(
        f"{name}: pretrained weights could not be had from the timm hub ({type(error).__name__}: {said}). "
        "Give the path of a safetensors file as weights, or leave it empty for a random start."
    )


def _adopt(module: torch.nn.Module, path: Path) -> None:
    """Load a safetensors file; a classifier head of another width stays as it is, positions are interpolated."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"weights {str(path)!r}: no such file; allowed: '', pretrained, or a safetensors file.")
    try:
        tensors = load_file(path)
    except Exception as error:
        raise UserError(f"weights {str(path)!r}: not a safetensors file ({error}).") from None
    own = module.state_dict()
    resized = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if resized and own.keys() == tensors.keys() and any(own[name].shape != tensors[name].shape for name in own):
        try:  # as timm does it with its own weights: a ViT's positions of another input size are interpolated
            tensors = dict(resized(tensors, module))
        except Exception as error:
            raise UserError(f"weights {str(path)!r} do not fit the model ({' '.join(str(error).split())}).") from None
    head = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
    head_names = [name for name in own if name.startswith(heads)] if heads else []
    if any(name not in tensors or tensors[name].shape != own[name].shape for name in head_names):
        for name in head_names:
            tensors[name] = own[name]
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - tensors.keys() - counters)
    unknown = sorted(tensors.keys() - own.keys())
    other = sorted(n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape)
    if missing or unknown or other:
        raise UserError(
            f"weights {str(path)!r} do not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown, "
            f"{len(other)} of another shape (first: {(missing + unknown + other)[0]})"
            + ("; are they of a model of another size?" if other and not missing and not unknown else ".")
        )
    module.load_state_dict(tensors, strict=False)


def save(network: Network, folder: Path) -> None:
    """Write ``model.safetensors`` and ``config.json`` to ``folder``, whole or not at all."""
    from safetensors.torch import save as to_bytes

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.module.state_dict().items()}
    write_atomic(partial / WEIGHTS_FILE, to_bytes(tensors))
    write_atomic(partial / CONFIG_FILE, json.dumps(network.config, indent=2, sort_keys=True) + "\n")
    move_into_place(partial, folder)


def load(folder: Path, device: str = "cpu") -> Network:
    """The network that :func:`save` wrote to ``folder``.

    Raises:
        UserError: if it is missing, incomplete, or its weights do not fit its description.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: run `dvc repro` (or `dvc pull`) first.")
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        options = {**config["options"], "mean": config["mean"], "std": config["std"]}
        arguments = config["timm"], options, tuple(config["classes"]), int(config["size"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG_FILE} does not describe a network ({error!r}).") from None
    network = build(*arguments, weights=str(folder / WEIGHTS_FILE))
    return Network(**{**vars(network), "config": config}).to(device)
