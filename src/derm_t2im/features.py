"""Images as vectors, computed once and used by fidelity, validation and curation.

An encoder has a name: ``probe`` is the project's own classifier, which saw real training images
only; any other name is a timm model (DINOv2, CLIP, Inception, MobileNetV2, ...) with weights from a
local safetensors file or timm's hub. Features travel as one file, byte-identical for equal content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import networks, runtime
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import ImageError, read_stack
from derm_t2im.paths import PROBE
from derm_t2im.state import hash_code, hash_file, seal, whole, write_atomic

if TYPE_CHECKING:
    from derm_t2im.networks import Network

RANDOM = "random:"
KEPT = 50_000  # rows of a store
STORES = 4  # of different networks


@dataclass(frozen=True)
class Encoder:
    """Called with uint8 images (n, h, w, 3) of any size, gives float32 (n, dim)."""

    name: str
    weights: str
    network: Network
    dim: int

    def __call__(self, images: np.ndarray, batch: int = 64) -> np.ndarray:
        """Features of images."""
        return self.network.embed(images, batch) if len(images) else np.empty((0, self.dim), np.float32)


def encoder(name: str, weights: str = "", probe_folder: Path = PROBE) -> Encoder:
    """The encoder of that name, on the device of :mod:`derm_t2im.runtime`.

    Args:
        name: ``probe``, the name of a timm model, or ``random:<timm model>`` for that architecture
            with fixed random weights.
        weights: For a timm model: a safetensors file, or ``pretrained`` for timm's hub.
        probe_folder: Where the probe lies.

    Raises:
        UserError: for an unknown name, and weights that are missing or do not fit.
    """
    _refuse_weights(name, weights)
    if name == "probe":
        network = networks.load(probe_folder)
    else:
        architecture = name.removeprefix(RANDOM)
        network = networks.build(architecture, {}, ("none",), _side(architecture), weights)
    network = network.to(runtime.device())
    blank = np.zeros((1, network.size, network.size, 3), np.uint8)
    return Encoder(name, weights, network, network.embed(blank).shape[1])


def check(name: str, weights: str = "") -> None:
    """Refuse an encoder that :func:`encoder` would, as far as can be told without its weights.

    Raises:
        UserError: for an unknown name, and weights where they do not belong or are missing.
    """
    _refuse_weights(name, weights)
    if name != "probe":
        architecture = name.removeprefix(RANDOM)
        networks.try_out("embed.encoder", architecture, {}, _side(architecture))


def _refuse_weights(name: str, weights: str) -> None:
    if name == "probe" or name.startswith(RANDOM):
        if weights:
            raise UserError(f"embed.weights is {weights!r}, but the encoder {name!r} takes none: leave it empty.")
    elif not weights:
        raise UserError(
            f"embed.encoder is {name!r}: set embed.weights to a safetensors file or to 'pretrained', "
            "or use the encoder 'probe'."
        )


def _side(architecture: str) -> int:
    import timm

    known = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture.split(".")[0]) else None
    # An unknown name is build's to complain about.
    return int(known.input_size[-1]) if known else 224


@dataclass(frozen=True)
class Features:
    """Features of some images, and the probe's opinion on them.

    Attributes:
        image_id: Which images, sorted, n of them.
        matrix: float32 (n, d).
        classes: Names of the probe's classes, k of them.
        probabilities: float32 (n, k): the probe's class probabilities.
        encoder: Name of the encoder.
        weights: Its weights, as in the parameters.
    """

    image_id: tuple[str, ...]
    matrix: np.ndarray
    classes: tuple[str, ...]
    probabilities: np.ndarray
    encoder: str
    weights: str = ""

    @property
    def own_scale(self) -> bool:
        """Whether the features' length means nothing beyond this project: see ``fidelity.kid.unit``."""
        return self.encoder == "probe" or self.encoder.startswith(RANDOM)

    def index(self, ids: Iterable[str]) -> np.ndarray:
        """Row numbers of images.

        Raises:
            UserError: if an image is not among them.
        """
        at = {name: i for i, name in enumerate(self.image_id)}
        wanted = list(ids)
        missing = [name for name in wanted if name not in at]
        if missing:
            raise UserError(
                f"{len(missing)} images have no features (first: {missing[0]}): run `dvc repro embed` first."
            )
        return np.array([at[name] for name in wanted], dtype=np.intp)

    def rows(self, ids: Iterable[str]) -> np.ndarray:
        """Features of images, float32 (len(ids), d)."""
        return self.matrix[self.index(ids)]

    def probability(self, ids: Iterable[str], labels: Sequence[str]) -> np.ndarray:
        """The probe's probability that image ``ids[i]`` has the label ``labels[i]``; NaN for labels it never saw."""
        rows = self.probabilities[self.index(ids)].astype(np.float64)
        column = {name: i for i, name in enumerate(self.classes)}
        pairs = zip(rows, labels, strict=True)
        return np.array([row[column[label]] if label in column else np.nan for row, label in pairs])

    def predicted(self, ids: Iterable[str]) -> np.ndarray:
        """The probe's most probable class of each image, as an array of names."""
        return np.array(self.classes, dtype=object)[self.probabilities[self.index(ids)].argmax(axis=1)]


def extract(
    ids: Sequence[str],
    paths: Sequence[Path | str],
    encode: Encoder,
    probe: Network,
    batch: int = 64,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
    store: Path | None = None,
) -> Features:
    """Features and probe probabilities of image files, read batch by batch.

    Every pass has ``batch`` rows, the last one filled up, since kernels may round another way for another number: what
    an image gets does not depend on which others are computed with it.

    Args:
        ids: Image ids.
        paths: Their files.
        encode: The encoder.
        probe: The probe, for class probabilities.
        batch: Images per pass.
        track: Wraps the iteration over batches, for progress.
        store: Folder that keeps rows by the SHA-256 of the image file and what computed them; what it has is not
            computed again.

    Raises:
        UserError: if an image cannot be read; it names the file.
    """
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    matrix = np.empty((len(ids), encode.dim), np.float32)
    probabilities = np.empty((len(ids), len(probe.classes)), np.float32)
    kept = _Store(store / f"{_key(encode.network, probe, batch)}.safetensors") if store else None
    digests = [hash_file(Path(paths[i])) if kept and Path(paths[i]).is_file() else "" for i in order]
    todo = []
    for row, digest in enumerate(digests):
        known = kept.get(digest) if kept else None
        if known is None:
            todo.append(row)
        else:
            matrix[row], probabilities[row] = known
    for start in track(range(0, len(todo), batch)):
        rows = todo[start : start + batch]
        try:
            images = read_stack([paths[order[row]] for row in rows])
        except ImageError as error:
            raise UserError(f"An image of this pipeline cannot be read: {error}. Run `dvc checkout`.") from None
        full = np.concatenate([images, np.repeat(images[:1], batch - len(images), axis=0)])
        matrix[rows] = encode(full, batch)[: len(rows)]
        probabilities[rows] = probe.predict(full, batch)[: len(rows)]
    if kept and todo:
        kept.add(digests, matrix, probabilities)
    return Features(
        tuple(str(ids[i]) for i in order), matrix, tuple(probe.classes), probabilities, encode.name, encode.weights
    )


class _Store:
    """Rows of earlier runs, by SHA-256 of the image file."""

    def __init__(self, file: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self.file = file
        try:
            found = load_file(file) if whole(file.parent, file) else {}
            self._digests = [bytes(row).hex() for row in found["sha256"]]
            self._features, self._probabilities = found["features"], found["probabilities"]
        except (OSError, SafetensorError, KeyError):  # none yet, or not whole: it is only a cache
            self._digests = []
        self._at = {digest: row for row, digest in enumerate(self._digests)}

    def get(self, digest: str) -> tuple[np.ndarray, np.ndarray] | None:
        row = self._at.get(digest)
        return None if row is None else (self._features[row], self._probabilities[row])

    def add(self, digests: Sequence[str], matrix: np.ndarray, probabilities: np.ndarray) -> None:
        """Keep these rows and the latest others, at most :data:`KEPT`; those of other networks go."""
        from safetensors.numpy import save as to_bytes

        new = {digest: row for row, digest in enumerate(digests) if digest}
        old = [row for digest, row in self._at.items() if digest not in new]
        old = old[max(0, len(old) + len(new) - KEPT) :]
        if old:
            matrix = np.concatenate([self._features[old], matrix[list(new.values())]])
            probabilities = np.concatenate([self._probabilities[old], probabilities[list(new.values())]])
        else:
            matrix, probabilities = matrix[list(new.values())], probabilities[list(new.values())]
        named = [*(self._digests[row] for row in old), *new]
        tensors = {
            "sha256": np.frombuffer(bytes.fromhex("".join(named)), np.uint8).reshape(-1, 32),
            "features": np.ascontiguousarray(matrix),
            "probabilities": np.ascontiguousarray(probabilities),
        }
        write_atomic(self.file, to_bytes(tensors))
        seal(self.file.parent, self.file)
        for other in sorted(self.file.parent.glob("*.safetensors"), key=lambda f: f.stat().st_mtime)[:-STORES]:
            other.unlink(missing_ok=True)


def _key(*parts: object) -> str:
    """What decides a row beside the image: networks with their weights, the batch, and what computes."""
    import torch

    digest = hashlib.sha256(f"{torch.__version__} {torch.get_num_threads()} {hash_code(networks)}".encode())
    for part in parts:
        if isinstance(part, networks.Network):
            digest.update(json.dumps(part.config, sort_keys=True, default=str).encode())
            for name, value in sorted(part.module.state_dict().items()):
                digest.update(f"{name} {value.device.type}".encode() + value.detach().cpu().numpy().tobytes())
        else:
            digest.update(str(part).encode())
    return digest.hexdigest()[:24]


def save(features: Features, path: Path) -> None:
    """Write features as safetensors: atomically, byte-identical for equal content."""
    from safetensors.numpy import save as to_bytes

    # One metadata key, because the order of several is not fixed.
    about = json.dumps(
        {
            "image_id": features.image_id,
            "classes": features.classes,
            "encoder": features.encoder,
            "weights": features.weights,
        },
        sort_keys=True,
    )
    tensors = {
        "features": np.ascontiguousarray(features.matrix, np.float32),
        "probabilities": np.ascontiguousarray(features.probabilities, np.float32),
    }
    write_atomic(path, to_bytes(tensors, metadata={"about": about}))


def load(path: Path) -> Features:
    """Read what :func:`save` wrote.

    Raises:
        UserError: if the file is missing or holds no features.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro embed` (or `dvc pull`) first.")
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads(file.metadata()["about"])
            matrix, probabilities = file.get_tensor("features"), file.get_tensor("probabilities")
        return Features(
            tuple(about["image_id"]), matrix, tuple(about["classes"]), probabilities, about["encoder"], about["weights"]
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not hold features ({error}).") from None
