"""What each classifier is trained on: rows of one table per mix, images never copied.

- ``real``: the real training images.
- ``hybrid``: these, and synthetic images of which each class gets the same number.
- ``oversampled``: the real images alone, each class repeated to the number that ``hybrid`` shows of
  it: the control for the mere number of images and for the balance of the classes.
- ``synthetic``: the synthetic images of ``hybrid`` alone.
- ``augmented``: the real images, for a classifier that is trained with strong augmentation (:data:`AUGMENT`): what
  can be had without a generator.
- ``unfiltered``: as ``hybrid``, with as many synthetic images of each class, but drawn at random from all that were
  drawn, before curation: the control for curation.

With a fraction of 1, ``hybrid`` and ``unfiltered`` hold no real image and as many synthetic ones of each class as
curation kept of the scarcest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from derm_t2im import seeds
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

ALLOWED = ("real", "hybrid", "oversampled", "synthetic", "augmented", "unfiltered")
#: Mixes whose classifier is trained with another augmentation than ``train.augment``.
AUGMENT: dict[str, str] = {"augmented": "strong"}


def synthetic_needed(real: int, fraction: float, classes: tuple[str, ...]) -> dict[str, int]:
    """Number of synthetic images per class with which they are ``fraction`` < 1 of the hybrid mix."""
    total = round(real * fraction / (1 - fraction))
    share, over = divmod(total, len(classes))
    return {label: share + (i < over) for i, label in enumerate(classes)}


def within_reach(kept: pd.DataFrame, needed: dict[str, int]) -> dict[str, int]:
    """``needed``, lowered alike for all classes to what the scarcest class of the ``kept`` images allows.

    Raises:
        UserError: if a label is none of the classes, or a class that is needed has no image.
    """
    unknown = sorted(set(kept["label"]) - set(needed))
    if unknown:
        raise UserError(f"curated images have the labels {unknown}, but training knows {', '.join(needed)} only.")
    have = kept["label"].value_counts()
    most = min((int(have.get(label, 0)) for label, n in needed.items() if n), default=0)
    if not most and any(needed.values()):
        lacking = ", ".join(label for label, n in needed.items() if n and not have.get(label, 0))
        raise UserError(f"curation kept no image of {lacking}: raise generate.images or set mix.synthetic_fraction=0.")
    return {label: min(n, most) for label, n in needed.items()}


def needs_curated(names: Sequence[str], fraction: float) -> bool:
    """Whether the curated images are needed for these mixes."""
    return bool({"hybrid", "synthetic", "unfiltered"} & set(names)) or (fraction == 1 and "oversampled" in names)


def choose_synthetic(kept: pd.DataFrame, needed: dict[str, int], seed: int, queue: str = "mix") -> pd.DataFrame:
    """The wanted number of each class of the ``kept`` images, which must have that many.

    An image's place in the ``queue`` of this name depends on its id alone, so a larger fraction takes the images of
    a smaller one and more.
    """
    place = kept["image_id"].map(lambda name: seeds.derive(seed, queue, name))
    ordered = kept.assign(_queue=place).sort_values("_queue").drop(columns="_queue")
    place = ordered.groupby("label").cumcount()
    return ordered[place < ordered["label"].map(needed)]


def oversample(real: pd.DataFrame, target: dict[str, int], seed: int) -> pd.DataFrame:
    """Real rows with weights that add up to ``target`` per class, each image as often as the next or once more.

    Raises:
        UserError: if a class that is wanted has no images.
    """
    weights = real["image_id"].map(lambda _: 0)
    for label, total in target.items():
        rows = real[real["label"] == label]
        if not len(rows):
            raise UserError(f"the training split has no image of class {label}: enlarge split.train or the source.")
        share, over = divmod(total, len(rows))
        queue = rows["image_id"].map(lambda name: seeds.derive(seed, "oversample", name)).sort_values()
        weights[rows.index] = share
        weights[queue.index[:over]] += 1
    return real.assign(weight=weights)


def build(
    names: list[str],
    real: pd.DataFrame,
    kept: pd.DataFrame | None,
    fraction: float,
    seed: int,
    drawn: pd.DataFrame | None = None,
) -> dict[str, pd.DataFrame]:
    """The table of each mix in ``names``, with the column ``weight``.

    Args:
        names: Mixes wanted.
        real: Manifest rows of the real training images.
        kept: Manifest rows of the synthetic images that curation kept; see :func:`needs_curated`.
        fraction: Share of synthetic images in the hybrid mix, 0 <= fraction <= 1; where curation kept too few for
            it, all mixes are built for the share that can be reached.
        seed: Decides which synthetic images are taken, and which real ones are shown once more.
        drawn: Manifest rows of all synthetic images, kept or not; needed by unfiltered.

    Raises:
        UserError: if a class has no image.
    """

    if not len(real):
        raise UserError("the training split is empty: enlarge split.train or the source.")
    if wrong := [name for name in names if name not in ALLOWED]:
        raise UserError(f"{wrong[0]!r} is no mix; allowed: {', '.join(ALLOWED)}.")
    classes = tuple(sorted(real["label"].unique()))
    real = real.assign(weight=1)
    beside = real if fraction < 1 else real.iloc[:0]  # the real images of hybrid and unfiltered
    synthetic = real.iloc[:0]
    if not needs_curated(names, fraction):
        needed = synthetic_needed(len(real), fraction, classes)
    elif kept is None:
        raise ValueError("these mixes need the curated images")
    else:
        wanted = synthetic_needed(len(real), fraction, classes) if fraction < 1 else dict.fromkeys(classes, len(kept))
        needed = within_reach(kept, wanted)
        synthetic = choose_synthetic(kept, needed, seed).assign(weight=1)
        _refuse_twins(real, synthetic)
    mixes = {}
    for name in names:
        if name in ("real", "augmented"):
            mixes[name] = real
        elif name == "oversampled":
            seen = beside["label"].value_counts()
            mixes[name] = oversample(real, {label: int(seen.get(label, 0)) + n for label, n in needed.items()}, seed)
        elif name == "hybrid":
            mixes[name] = _together(beside, synthetic)
        elif name == "unfiltered":
            if drawn is None:
                raise ValueError("the mix unfiltered needs all images drawn")
            anyhow = choose_synthetic(drawn, needed, seed, "unfiltered").assign(weight=1)
            _refuse_twins(real, anyhow)
            mixes[name] = _together(beside, anyhow)
        else:
            if not len(synthetic):
                raise UserError("the mix `synthetic` is empty: mix.synthetic_fraction must be above 0 for it.")
            mixes[name] = synthetic
    return mixes


def _together(real: pd.DataFrame, synthetic: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    if not len(synthetic):
        return real
    return pd.concat([real, synthetic]) if len(real) else synthetic


def _refuse_twins(real: pd.DataFrame, synthetic: pd.DataFrame) -> None:
    twice = sorted(set(real["image_id"]) & set(synthetic["image_id"]))
    if twice:
        raise UserError(f"{len(twice)} image ids are both real and synthetic (first: {twice[0]}).")


def describe(mix: pd.DataFrame) -> dict[str, Any]:
    """How many images a pass over a mix shows: in all, real, synthetic, and per class."""
    shown = mix["weight"].astype(int)
    synthetic = int(shown[mix["kind"] == "synthetic"].sum())
    return {
        "images": int(shown.sum()),
        "files": len(mix),
        "real": int(shown.sum()) - synthetic,
        "synthetic": synthetic,
        "synthetic_fraction": synthetic / max(int(shown.sum()), 1),
        "classes": {str(label): int(n) for label, n in shown.groupby(mix["label"]).sum().items()},
    }
