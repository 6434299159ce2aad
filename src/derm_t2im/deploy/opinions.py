"""What other models see in images: any classifier's view of the class asked for, and a segmenter's of the lesion.

A model is one of

- an ONNX file of this project, which describes itself;
- any other ONNX file with a description beside it, ``NAME.json`` for ``NAME.onnx``: ``classes`` (names in the
  order of the output), and where they differ from the defaults ``size`` (224), ``mean`` and ``std`` (of RGB in
  0..1; ImageNet's), ``layout`` (nchw, or nhwc), ``output`` (logits, or probabilities). Its first input takes
  float32 RGB images, its first output gives a row for each;
- a folder with ``config.json`` and ``model.safetensors`` as this project saves networks, or a timm checkpoint
  ``NAME.safetensors`` with a ``NAME.json`` of ``timm`` (the model's name) and ``classes``, and where they differ
  from the defaults ``size`` (224), ``options``, which may hold ``mean`` and ``std``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import networks, runtime
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import ImageError, read_rgb, square
from derm_t2im.intervals import wilson

if TYPE_CHECKING:
    import pandas as pd

BATCH = 64
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
#: uint8 images (h, w, 3) of any sizes -> class probabilities (n, k).
Classify = Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Classifier:
    """A model with the names of its classes."""

    name: str
    classes: tuple[str, ...]
    classify: Classify


def load(path: Path) -> Classifier:
    """The classifier in a file or folder; see the module for what it may be.

    Raises:
        UserError: if it is missing, of no known form, or its description is missing or wrong.
    """
    if not path.exists():
        raise UserError(f"{path}: no such model; give an .onnx or .safetensors file, or a folder of a saved network.")
    if path.is_dir():
        return _network(path.name, networks.load(path, runtime.device()))
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix == ".safetensors":
        about = _description(path)
        options = about.get("options", {})
        if not isinstance(about.get("timm"), str) or not isinstance(options, dict):
            raise UserError(
                f"{path.with_suffix('.json')}: give the timm model's name as `timm`, its `options` as {{}}."
            )
        size = _size(about, path)
        made = networks.build(about["timm"], options, about["classes"], size, str(path))
        return _network(path.stem, made.to(runtime.device()))
    raise UserError(f"{path}: {path.suffix or 'a file without a suffix'} is no model; give .onnx or .safetensors.")


def _network(name: str, network: networks.Network) -> Classifier:
    def classify(images: Sequence[np.ndarray]) -> np.ndarray:
        return network.predict(np.stack([square(image, network.size) for image in images]))

    return Classifier(name, network.classes, classify)


def _onnx(path: Path) -> Classifier:
    from derm_t2im.deploy.card import PREFIX
    from derm_t2im.deploy.runtime import Predictor, metadata, open_session

    session = open_session(path)
    if any(key.startswith(PREFIX) for key in metadata(session)):
        predictor = Predictor(path, allow_cpu=True)
        name = path.parent.name if path.stem == "model" and path.parent.name else path.stem

        def own(images: Sequence[np.ndarray]) -> np.ndarray:
            return predictor.predict(np.stack([predictor.prepare(image) for image in images]))

        return Classifier(name, predictor.classes, own)
    about = _description(path)
    size = _size(about, path)
    layout, output = about.get("layout", "nchw"), about.get("output", "logits")
    if layout not in ("nchw", "nhwc") or output not in ("logits", "probabilities"):
        raise UserError(f"{path.with_suffix('.json')}: layout is nchw or nhwc, output is logits or probabilities.")
    mean, std = (_three(about, name, path) for name in ("mean", "std"))
    source, target = session.get_inputs()[0].name, session.get_outputs()[0].name
    width = len(about["classes"])

    def classify(images: Sequence[np.ndarray]) -> np.ndarray:
        pixels = np.stack([square(image, size) for image in images]).astype(np.float32) / 255
        pixels = (pixels - mean) / std
        if layout == "nchw":
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        try:
            values = np.asarray(session.run([target], {source: pixels})[0], np.float64)
        except Exception as error:  # onnxruntime's errors share no public base
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{path} takes no images of {size} px as its description says: {said}") from None
        if values.shape != (len(images), width):
            raise UserError(
                f"{path} gives {values.shape} for {len(images)} images, its description names {width} classes."
            )
        if output == "logits":
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        return values

    return Classifier(path.stem, tuple(about["classes"]), classify)


def _description(path: Path) -> dict[str, Any]:
    """What NAME.json says beside a model; ``classes`` is there and sound."""
    file = path.with_suffix(".json")
    if not file.is_file():
        raise UserError(f'{path} does not say what it is: describe it in {file}, at least {{"classes": [...]}}.')
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        classes = about["classes"]
        sound = len(set(classes)) == len(classes) >= 2 and all(isinstance(name, str) for name in classes)
    except (ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise UserError(f"{file}: give the names of the model's classes as `classes`, two or more, each once.")
    return dict(about)


def _size(about: dict[str, Any], path: Path) -> int:
    size = about.get("size", 224)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{path.with_suffix('.json')}: size is {size!r}; give the side of the input in pixels.")
    return size


def _three(about: dict[str, Any], name: str, path: Path) -> np.ndarray:
    try:
        values = np.array(about.get(name, IMAGENET[name]), np.float32).reshape(3)
    except (TypeError, ValueError):
        raise UserError(f"{path.with_suffix('.json')}: {name} is three numbers, of RGB in 0..1.") from None
    return values


def read(table: pd.DataFrame, where: Path) -> Iterator[np.ndarray]:
    """The images of a manifest, one after the other.

    Raises:
        UserError: if one is missing or unreadable; it names the first.
    """
    for name, path in zip(table["image_id"], table["path"], strict=True):
        try:
            yield read_rgb(Path(path))
        except (ImageError, OSError) as error:
            raise UserError(
                f"{where}: the image {name} ({path}) cannot be read: {error}. Run `dvc checkout`."
            ) from None


def truths(table: pd.DataFrame) -> list[np.ndarray | None]:
    """The true lesion masks of images, bool (h, w), None where they are not known."""
    import cv2

    known = table["mask_path"].tolist() if "mask_path" in table else [None] * len(table)
    masks: list[np.ndarray | None] = []
    for path in known:
        grey = cv2.imread(path, cv2.IMREAD_GRAYSCALE) if isinstance(path, str) else None
        masks.append(None if grey is None else np.asarray(grey) > 127)
    return masks


def view(classifier: Classifier, images: Iterable[np.ndarray], labels: Sequence[str]) -> pd.DataFrame:
    """One model's view: columns ``probability`` (of each image's own label) and ``class`` (the most probable).

    Raises:
        UserError: if a label is none of the model's classes.
    """
    import pandas as pd

    if unknown := sorted(set(labels) - set(classifier.classes)):
        raise UserError(
            f"{classifier.name} knows {', '.join(classifier.classes)}, the images are of {', '.join(unknown)} too: "
            "give a model of the same classes."
        )
    rest = iter(images)
    rows = [classifier.classify(part) for part in iter(lambda: list(islice(rest, BATCH)), [])]
    found = np.concatenate(rows) if rows else np.empty((0, len(classifier.classes)))
    at = [classifier.classes.index(label) for label in labels]
    return pd.DataFrame(
        {
            "probability": np.round(found[np.arange(len(at)), at].astype(np.float64), 6),
            "class": np.array(classifier.classes, dtype=object)[found.argmax(axis=1)],
        }
    )


def agreement(seen: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Share of images that a model puts into their own class, with Wilson's interval, and n."""
    same = np.array(seen, dtype=object) == np.array(labels, dtype=object)
    low, high = wilson(int(same.sum()), len(same))
    return {"agreement": float(same.mean()), "agreement_low": low, "agreement_high": high, "n": len(same)}


def by(seen: Sequence[str], table: pd.DataFrame, column: str) -> dict[str, dict[str, float]]:
    """:func:`agreement` within each value of a column."""
    import pandas as pd

    both = pd.DataFrame({"seen": list(seen), "label": table["label"].tolist(), "of": table[column].tolist()})
    return {str(name): agreement(part["seen"].tolist(), part["label"].tolist()) for name, part in both.groupby("of")}


def columns(path: Path) -> pd.DataFrame:
    """What :func:`derm_t2im.deploy.commands.opinions` wrote, a row per ``image_id``, to be joined to other tables.

    Raises:
        UserError: if it was not written yet.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path} is missing: run `derm-t2im opinions MODEL...` first.")
    return pd.read_parquet(path).set_index("image_id")
