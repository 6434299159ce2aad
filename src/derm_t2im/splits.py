"""Who learns and who tests: groups that must stay together, and splits that keep them so.

A group is a connected component of images that share a lesion, a patient or identical bytes, or that
are near-duplicates (:mod:`derm_t2im.duplicates`). Whole groups only go to a split, so nothing seen in
training is met again in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import seeds
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.split import Split

SPLITS = ("train", "val", "test", "external", "unused")


def group_ids(table: pd.DataFrame, near: np.ndarray) -> list[str]:
    """The group of each image, named after the first ``image_id`` in it.

    Args:
        table: manifest rows with ``image_id`` and, where known, ``sha256``, ``lesion_id``,
            ``patient_id``, ``source``. Ids of lesions and patients mean something within a source only.
        near: int (m, 2), positions of near-duplicates.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(table)
    edges = [near.reshape(-1, 2).astype(np.int64)]
    for keys in _keys(table).values():
        known = np.flatnonzero(keys.notna())
        if len(known):
            # each image with the first of its key
            first = keys.iloc[known].groupby(keys.iloc[known]).transform(lambda same: same.index[0])
            edges.append(np.stack([known, first.to_numpy(dtype=np.int64)], axis=1))
    links = np.concatenate(edges)
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    component = connected_components(graph, directed=False)[1] if count else np.zeros(0, int)
    names: dict[int, str] = {}
    ids = table["image_id"].astype(str).tolist()
    for image, at in sorted(zip(ids, component.tolist(), strict=True)):
        names.setdefault(at, image)
    return [names[at] for at in component.tolist()]


def _keys(table: pd.DataFrame) -> dict[str, pd.Series]:
    """What must not be torn apart: per column, a key for each image (missing where unknown)."""
    import pandas as pd

    source = table["source"].fillna("") if "source" in table else pd.Series("", index=table.index)
    keys = {}
    for name in ("sha256", "lesion_id", "patient_id"):
        if name in table:
            value = table[name].astype("string")
            value = value.mask(value == "")
            keys[name] = (value if name == "sha256" else source.astype("string") + "\x1f" + value).reset_index(
                drop=True
            )
    return keys


def assign(table: pd.DataFrame, settings: Split) -> pd.DataFrame:
    """Give each image a split; whole groups only.

    The test set is drawn first, then validation, then training, each in an order that a hash of
    (seed, group) fixes: a smaller training set leaves the test set as it is. Each split follows the
    shares of (source, label) in what is left to draw from.

    Args:
        table: manifest rows with ``image_id``, ``label``, ``role``, ``group_id`` and, where known, ``source``.
        settings: sizes in images, and the seed.

    Returns:
        The table with ``split`` (train, val, test, external or unused) and ``seed_image``. Sizes are
        met as nearly as whole groups allow and never exceeded. External images whose group touches
        the pool are unused.

    Raises:
        UserError: where more images are asked for than there are.
    """
    table = table.reset_index(drop=True).copy()
    external = table["role"].eq("external").fillna(False).to_numpy(dtype=bool)
    group = table["group_id"].astype(str).to_numpy()
    touches = np.isin(group, np.unique(group[~external]))
    pool, free = np.flatnonzero(~external), np.flatnonzero(external & ~touches)
    asked = settings.train + settings.val + settings.test
    if asked > len(pool):
        raise UserError(
            f"split: train + val + test ask for {settings.train} + {settings.val} + {settings.test} = {asked} images, "
            f"but the pool has {len(pool)}: lower split.train, split.val or split.test, or acquire more images."
        )
    if external.any() and settings.external > external.sum():
        raise UserError(
            f"split.external asks for {settings.external} images, but the external set has {int(external.sum())}: "
            "lower split.external, or acquire more images."
        )
    source = table["source"].fillna("").astype(str) if "source" in table else ""
    stratum = (source + "\x1f" + table["label"].astype(str)).to_numpy()
    split = np.full(len(table), "unused", dtype=object)
    for name, size in (("test", settings.test), ("val", settings.val), ("train", settings.train)):
        left = pool[split[pool] == "unused"]
        split[_draw(left, stratum, group, size, settings.seed)] = name
    split[_draw(free, stratum, group, settings.external, settings.seed)] = "external"
    table["split"] = split
    seed_image = np.zeros(len(table), dtype=bool)
    seed_image[_seeds(table, np.flatnonzero(split == "train"), settings)] = True
    table["seed_image"] = seed_image
    return table


def _draw(left: np.ndarray, stratum: np.ndarray, group: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Positions of at most ``size`` of ``left``: whole groups, strata in proportion."""
    names, counts = np.unique(stratum[left], return_counts=True)
    if size <= 0 or not len(left):
        return np.zeros(0, np.int64)
    room = dict(zip(names.tolist(), _apportion(counts, min(size, len(left))), strict=True))
    members: dict[str, list[int]] = {}
    for at in left.tolist():
        members.setdefault(group[at], []).append(at)
    order = sorted(members, key=lambda name: seeds.derive(seed, "split", name))
    taken: list[int] = []
    later = []
    for name in order:
        needs: dict[str, int] = {}
        for at in members[name]:
            needs[stratum[at]] = needs.get(stratum[at], 0) + 1
        if all(room[key] >= need for key, need in needs.items()):
            for key, need in needs.items():
                room[key] -= need
            taken += members[name]
        else:
            later.append(name)
    # Groups too large for what their stratum had left leave gaps: any group that fits closes them.
    for name in later:
        if len(taken) + len(members[name]) <= size:
            taken += members[name]
    return np.array(taken, np.int64)


def _apportion(counts: np.ndarray, size: int) -> list[int]:
    """``size`` seats in proportion to ``counts``, by largest remainder; never more than a count."""
    exact = counts * size / counts.sum()
    seats = np.floor(exact).astype(int)
    order = np.argsort(-(exact - seats), kind="stable")
    seats[order[: size - int(seats.sum())]] += 1
    return seats.tolist()


def _seeds(table: pd.DataFrame, train: np.ndarray, settings: Split) -> np.ndarray:
    """Positions of the generator's images: classes as even as they can be, groups before their repeats."""
    labels, ids, groups = (table[name].astype(str).to_numpy() for name in ("label", "image_id", "group_id"))
    queues: dict[str, list[int]] = {}
    for label in sorted(set(labels[train])):
        mine = sorted(
            train[labels[train] == label], key=lambda at: seeds.derive(settings.seed, "seed image", str(ids[at]))
        )
        seen: dict[str, int] = {}
        rank = {}
        for at in mine:
            rank[at] = seen[groups[at]] = seen.get(groups[at], -1) + 1
        queues[label] = sorted(mine, key=rank.__getitem__)
    chosen: list[int] = []
    while len(chosen) < min(settings.seed_images, len(train)):
        for label in sorted(queues, key=lambda name: (-len(queues[name]), name)):
            if queues[label] and len(chosen) < settings.seed_images:
                chosen.append(queues[label].pop(0))
    return np.array(sorted(chosen), np.int64)


def leaked_groups(table: pd.DataFrame, near: np.ndarray) -> int:
    """How many things are met in more than one split: lesions, patients, files, groups, near-duplicates.

    Looks at the finished table only, row by row, and shares no code with what made it; 0 is the only good answer.

    Args:
        table: manifest rows with ``split`` and, where known, ``source``, ``lesion_id``, ``patient_id``,
            ``sha256``, ``group_id``.
        near: int (m, 2), positions of near-duplicates.
    """
    import pandas as pd

    met: dict[tuple[str, ...], set[str]] = {}
    splits = table["split"].astype(str).tolist()
    sources = table["source"].fillna("").astype(str).tolist() if "source" in table else [""] * len(table)
    for column in ("sha256", "group_id", "lesion_id", "patient_id"):
        if column not in table:
            continue
        for value, split, source in zip(table[column].tolist(), splits, sources, strict=True):
            if split == "unused" or pd.isna(value) or value == "":
                continue
            # two clinics may number their lesions alike
            owner = source if column in ("lesion_id", "patient_id") else ""
            met.setdefault((column, owner, str(value)), set()).add(split)
    torn = sum(len(where) > 1 for where in met.values())
    apart = [{splits[first], splits[second]} - {"unused"} for first, second in near.reshape(-1, 2).tolist()]
    return torn + sum(len(where) > 1 for where in apart)


def kinds_of_pairs(table: pd.DataFrame, near: np.ndarray) -> dict[str, int]:
    """Near-duplicates counted: within a known lesion, across known lesions, across labels, across roles.

    Args:
        table: manifest rows with ``label`` and, where known, ``lesion_id``, ``role``, ``source``.
        near: int (m, 2), positions of near-duplicates.
    """
    first, second = near[:, 0].astype(int), near[:, 1].astype(int)
    lesion = _keys(table).get("lesion_id")
    known = np.zeros(len(near), bool)
    same = np.zeros(len(near), bool)
    if lesion is not None:
        there = lesion.notna().to_numpy(dtype=bool)
        text = lesion.fillna("").to_numpy(dtype=object)
        known, same = there[first] & there[second], text[first] == text[second]

    def differ(column: str) -> int:
        if column not in table:
            return 0
        values = table[column].fillna("").astype(str).to_numpy(dtype=object)
        return int((values[first] != values[second]).sum())

    return {
        "within_lesions": int((known & same).sum()),
        "across_lesions": int((known & ~same).sum()),
        "across_labels": differ("label"),
        "across_roles": differ("role"),
    }
