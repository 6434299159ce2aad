"""A set of images as drift sees it: features, scores, and what was measured of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.errors import UserError
from derm_t2im.imaging.quality import COLUMNS

if TYPE_CHECKING:
    from derm_t2im.deploy.runtime import Predictor

LEAST = 10  # usable images of a set
FILES = (".parquet", ".npz")
MODEL_KEY = b"derm_t2im_model"


@dataclass(frozen=True)
class Set:
    """n images.

    Attributes:
        name: Where they came from.
        n: How many could be used.
        embeddings: (n, d), or None.
        scores: Probability of the positive finding (n,), or None.
        measures: Columns of :data:`derm_t2im.imaging.quality.COLUMNS`, each (n,), as far as they were measured.
        model: What marks the model behind embeddings and scores; empty where it is not told.
        unusable: How many could not be used, by reason.
    """

    name: str
    n: int
    embeddings: np.ndarray | None
    scores: np.ndarray | None
    measures: Mapping[str, np.ndarray]
    model: str = ""
    unusable: Mapping[str, int] = field(default_factory=dict)


def load(path: Path, model: Callable[[], Predictor]) -> Set:
    """The set at ``path``: a folder of images, or what `derm-t2im predict --embeddings` wrote.

    Args:
        path: A folder, or a file .parquet or .npz.
        model: Opens the model; asked for folders only.

    Raises:
        UserError: if there is nothing of the kind, or fewer than :data:`LEAST` images can be used.
    """
    if path.is_dir():
        found = _from_folder(path, model())
    elif path.is_file() and path.suffix.lower() in FILES:
        found = _from_file(path)
    elif path.exists():
        raise UserError(f"{path}: give a folder of images, or a file of `derm-t2im predict --embeddings`.")
    else:
        raise UserError(f"{path} is missing: give a folder of images, or a file of `derm-t2im predict --embeddings`.")
    if found.n < LEAST:
        bad = f" ({sum(found.unusable.values())} more cannot be read)" if found.unusable else ""
        raise UserError(
            f"{path} has {found.n} usable image{'' if found.n == 1 else 's'}{bad}: a comparison needs at least {LEAST}."
        )
    return found


def check_alike(ref: Set, new: Set) -> None:
    """Refuse two sets that different models saw, or of which one lacks what the other has.

    Raises:
        UserError: saying what differs.
    """
    advice = "write both anew by `derm-t2im predict --embeddings` with one model."
    if ref.model and new.model and ref.model != new.model:
        raise UserError(f"{ref.name} was seen by model {ref.model}, {new.name} by {new.model}: {advice}")
    for what in ("embeddings", "scores"):
        one, other = getattr(ref, what), getattr(new, what)
        if (one is None) != (other is None):
            raise UserError(f"{(ref if one is None else new).name} has no {what}, the other set has: {advice}")
    if ref.embeddings is not None and new.embeddings is not None:
        widths = ref.embeddings.shape[1], new.embeddings.shape[1]
        if widths[0] != widths[1]:
            raise UserError(f"embeddings of {ref.name} have {widths[0]} numbers, those of {new.name} {widths[1]}: "
                            f"they are of different models; {advice}")  # fmt: skip


def _from_folder(path: Path, predictor: Predictor) -> Set:
    from derm_t2im.deploy.predict import find_images, of_other_kinds, predict_files
    from derm_t2im.progress import say, track

    left_out: Counter[str] = Counter()
    files = find_images([path], left_out)
    if left_out:
        say(f"{path}: {of_other_kinds(left_out)}.")
    if not files:
        raise UserError(f"no image files below {path}.")
    good, unusable = [], Counter[str]()
    found = predict_files(predictor, files, measure=True, processes=True)
    for one in track(found, f"look at {path.name}", total=len(files)):
        if one.probabilities is None:
            unusable[one.reason] += 1
        else:
            good.append(one)
    columns = predictor.card.columns
    embeds = bool(good) and good[0].embedding is not None
    return Set(
        str(path),
        len(good),
        np.stack([one.embedding for one in good if one.embedding is not None]) if embeds else None,
        np.array([float(one.probabilities[columns].sum()) for one in good]) if columns else None,  # type: ignore[index]
        {name: np.array([one.measures[name] for one in good]) for name in COLUMNS if good and name in good[0].measures},
        predictor.card.sha256[:16],
        dict(sorted(unusable.items())),
    )


def _from_file(path: Path) -> Set:
    try:
        columns, model = (_parquet if path.suffix.lower() == ".parquet" else _npz)(path)
        embeddings = columns.get("embedding")
        n = len(columns["path"])
        if embeddings is not None and (embeddings.ndim != 2 or not np.isfinite(embeddings).all()):
            raise ValueError("embeddings that are no numbers")
        scores = columns.get("score")
        if scores is None and (named := [name for name in columns if name.startswith("p_malignant")]):
            scores = columns[named[0]]
        measures = {name: columns[name] for name in COLUMNS if name in columns}
        if any(len(values) != n for values in columns.values()):
            raise ValueError("columns of unequal length")
        if scores is not None:
            scores = scores.astype(np.float64)
            if not ((scores >= 0) & (scores <= 1)).all():
                raise ValueError("scores outside 0..1")
        if embeddings is None and scores is None and not measures:
            raise ValueError("neither embeddings nor scores nor measures")
    except (KeyError, ValueError, TypeError, OSError, EOFError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(f"{path} was not written by `derm-t2im predict --embeddings` ({said}).") from None
    return Set(str(path), n, embeddings, scores, measures, model)


def _parquet(path: Path) -> tuple[dict[str, np.ndarray], str]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)  # pyarrow's errors are ValueErrors or OSErrors
    columns: dict[str, Any] = {}
    for name in table.column_names:
        values = table[name].to_pylist() if name == "embedding" else table[name].to_numpy()
        columns[name] = np.array(values, np.float32) if name == "embedding" else values
    return columns, (table.schema.metadata or {}).get(MODEL_KEY, b"").decode()


def _npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as found:
            columns = {{"ids": "path", "embeddings": "embedding"}.get(name, name): found[name] for name in found.files}
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from None
    return columns, str(columns.pop("model", ""))
