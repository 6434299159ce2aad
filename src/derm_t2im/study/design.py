"""Which images a study shows: pure functions on manifests.

Real images come from the test split alone, one per group (lesion, patient, near-duplicates), so that the
generator has met none of them and no two are of one lesion. Synthetic images come from those that
curation kept, by chance and not by looks. Each class is shown equally often real and synthetic: the
class then says nothing about the source, and an accuracy of 0.5 is chance whatever a reader leans to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from derm_t2im import paths, seeds
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

KINDS = ("real", "synthetic")
READING, PRACTICE = "reading", "practice"
HELD_OUT = "test"


@dataclass(frozen=True)
class Plan:
    """What is asked for: ``images`` in all (both kinds), ``per_class`` of each class and kind instead if not 0."""

    images: int = 100
    per_class: int = 0
    repeats: int = 10
    practice: int = 4
    seed: int = 0


class Chosen(NamedTuple):
    """The images of a study, in no order that means anything, and what was left out as a near-duplicate.

    ``table`` has ``image_id``, ``path``, ``sha256``, ``kind``, ``label`` and ``phase`` (practice | reading).
    """

    table: pd.DataFrame
    pools: dict[str, dict[str, int]]
    left_out: list[str]


def spread(total: int, labels: Sequence[str]) -> dict[str, int]:
    """``total`` images over the labels, as evenly as it goes; the first ones get the odd ones."""
    share, over = divmod(total, len(labels))
    return {label: share + (i < over) for i, label in enumerate(labels)}


def wanted(plan: Plan, labels: Sequence[str]) -> dict[str, int]:
    """Images of each label that each kind gives to the reading.

    Raises:
        UserError: where the plan cannot be balanced.
    """
    if plan.images % 2 or plan.practice % 2:
        name = "--images" if plan.images % 2 else "--practice"
        raise UserError(f"{name} must be even: half of the images are real, half synthetic.")
    need = dict.fromkeys(labels, plan.per_class) if plan.per_class else spread(plan.images // 2, labels)
    total = 2 * sum(need.values())
    if min(need.values()) < 1:
        raise UserError(f"--images {plan.images} are too few for {len(labels)} classes of two kinds: "
                        f"give at least {2 * len(labels)}.")  # fmt: skip
    if plan.repeats > total:
        raise UserError(f"--repeats {plan.repeats}: only {total} images are there to be shown again.")
    return need


def pools(splits: pd.DataFrame, curated: pd.DataFrame, seen: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Images that may be shown, by kind.

    Args:
        splits: Manifest of the real images with ``split``, ``group_id`` and ``seed_image``.
        curated: Manifest of the synthetic images with ``decision``.
        seen: The real images as they were when these synthetic ones were curated.

    Raises:
        UserError: where the generator may have learnt from an image that would be shown as real, or an
            image is in both tables.
    """
    real = splits[splits["split"] == HELD_OUT]
    learnt = splits[splits["split"].isin(("train", "val"))]
    leak = sorted(set(real["group_id"].dropna()) & set(learnt["group_id"].dropna()))
    if leak:
        raise UserError(f"{paths.SPLITS_MANIFEST}: the group {leak[0]} is in the test split and in training; "
                        "run `dvc repro split`.")  # fmt: skip
    before = seen[seen["split"] != HELD_OUT]
    moved = sorted(set(real["image_id"]) & set(before["image_id"]))
    if moved:
        raise UserError(f"{moved[0]} is a test image now, but was not one when the synthetic images were made: "
                        "run `dvc repro` first.")  # fmt: skip
    synthetic = curated[(curated["kind"] == "synthetic") & (curated["decision"] == "kept")]
    same = set(synthetic["sha256"].dropna()) & set(splits["sha256"].dropna())
    if same:
        name = synthetic.loc[synthetic["sha256"].isin(same), "image_id"].iat[0]
        raise UserError(f"the synthetic image {name} is the same file as a real one: run `dvc repro curate`.")
    return {"real": real, "synthetic": synthetic}


def choose(
    candidates: dict[str, pd.DataFrame],
    plan: Plan,
    near: Callable[[pd.DataFrame], np.ndarray],
) -> Chosen:
    """Draw the images of a study.

    Args:
        candidates: By kind, see :func:`pools`.
        plan: How many of each.
        near: Positions (m, 2) of near-duplicates among the rows of a table. One of each pair is left out and
            another image drawn: of a real and a synthetic image that look alike, one gives the other away.

    Raises:
        UserError: where a class of a kind has too few images; the message says how many can be had.
    """
    import pandas as pd

    labels = sorted(set(candidates["real"]["label"]) | set(candidates["synthetic"]["label"]))
    if not labels:
        raise UserError("no images: the test split and the kept synthetic images are both empty; run `dvc repro`.")
    need = {READING: wanted(plan, labels), PRACTICE: spread(plan.practice // 2, labels)}
    queues = {kind: _queue(candidates[kind], plan.seed) for kind in KINDS}
    left_out: list[str] = []
    while True:
        rest = {kind: queue[~queue["image_id"].isin(left_out)] for kind, queue in queues.items()}
        table = pd.concat([_draw(rest[kind], kind, need) for kind in KINDS], ignore_index=True)
        drop = {_weaker(table, int(a), int(b)) for a, b in near(table)}
        if not drop:
            sizes = {kind: {x: int((queues[kind]["label"] == x).sum()) for x in labels} for kind in KINDS}
            return Chosen(table, sizes, sorted(left_out))
        left_out += sorted(drop)


def _queue(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The images in an order by chance that depends on seed and ids alone, the first of each group only."""
    place = table["image_id"].map(lambda name: seeds.derive(seed, "study", name))
    ordered = table.assign(_place=place).sort_values("_place").drop(columns="_place")
    if "group_id" in ordered.columns:
        group = ordered["group_id"].where(ordered["group_id"].notna(), ordered["image_id"])
        ordered = ordered[~group.duplicated()]
    return ordered


def _draw(queue: pd.DataFrame, kind: str, need: dict[str, dict[str, int]]) -> pd.DataFrame:
    import pandas as pd

    parts = []
    for label, count in need[READING].items():
        warmup = need[PRACTICE][label]
        here = queue[queue["label"] == label]
        if len(here) < count + warmup:
            where = f"the {HELD_OUT} split (one per lesion)" if kind == "real" else "the kept synthetic images"
            raise UserError(
                f"{where} can give {len(here)} images of {label}, {count + warmup} are needed "
                f"({count} to read, {warmup} to practise): lower --images or --practice."
            )
        columns = ["image_id", "path", "sha256", "kind", "label"]
        parts.append(here[columns][:count].assign(phase=READING))
        parts.append(here[columns][count : count + warmup].assign(phase=PRACTICE))
    return pd.concat(parts)


def _weaker(table: pd.DataFrame, first: int, second: int) -> str:
    """Of two look-alikes the one to leave out: the synthetic one of two kinds, else the second."""
    pair = table.iloc[[first, second]]
    synthetic = pair[pair["kind"] == "synthetic"]
    return str((synthetic if len(synthetic) == 1 else pair)["image_id"].iat[-1])
