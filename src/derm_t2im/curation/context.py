"""What a person wants to see beside the manifests: the nearest real images, and what is new."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import features, paths
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

NEIGHBOURS = 5
SHOWN_PAIRS = 60  # near copies beside their real neighbour: that many looks are a person's patience
_LOOK_BACK = 10  # different curated sets that are looked into
_OUT = re.compile(rf"path: {re.escape(paths.CURATED.as_posix())}\n(?:\s+\w+: [^\n]*\n)*?\s+md5: ([0-9a-f]+)")


def nearest_real(
    synthetic: pd.DataFrame, real: pd.DataFrame, root: Path, k: int = NEIGHBOURS
) -> dict[str, list[tuple[str, float]]]:
    """The ``k`` training images nearest to each synthetic image, with distances in feature space.

    Where the features below ``root`` are absent, or are not those that curation used, it is the one
    nearest image that the manifest names.

    Args:
        synthetic: data/curated/manifest.parquet.
        real: data/curated/real.parquet.
        root: The folder that holds data/features.
        k: Most neighbours.

    Returns:
        (id, distance) by image id, nearest first; before them the image that it may be a copy of.
    """
    from sklearn.neighbors import NearestNeighbors

    ids, near = synthetic["image_id"].tolist(), synthetic["nearest_real_id"].tolist()
    stored = synthetic["nearest_real_distance"].to_numpy(dtype=np.float64)
    one = {name: [(at, float(apart))] for name, at, apart in zip(ids, near, stored, strict=True)}
    train = real.loc[real["split"] == "train", "image_id"].tolist()
    try:
        points = features.load(root / paths.FEATURES_REAL).rows(train).astype(np.float64)
        queries = features.load(root / paths.FEATURES_SYNTHETIC).rows(ids).astype(np.float64)
    except UserError:
        return one
    if points.shape[1:] != queries.shape[1:] or not len(ids):
        return one
    distance, at = NearestNeighbors(n_neighbors=min(k, len(train))).fit(points).kneighbors(queries)
    if not np.allclose(distance[:, 0], stored, rtol=1e-4, atol=1e-6):
        return one
    found = {
        name: [(train[j], float(d)) for j, d in zip(row, apart, strict=True)]
        for name, row, apart in zip(ids, at, distance, strict=True)
    }
    place = {name: i for i, name in enumerate(train)}
    suspected = synthetic["copy_of"].tolist() if "copy_of" in synthetic else [None] * len(ids)
    for name, query, original in zip(ids, queries, suspected, strict=True):
        if original in place:
            others = [pair for pair in found[name] if pair[0] != original]
            apart = float(np.linalg.norm(query - points[place[original]]))
            found[name] = [(original, apart), *others][:k]
    return found


def opinions(synthetic: pd.DataFrame, folder: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """What `derm-t2im opinions` left in ``folder`` about these very images, by image id; and a note, or nothing.

    An image of the same id and other bytes, from another run, has no opinion.
    """
    import pandas as pd

    file = folder / "opinions.parquet"
    if not file.is_file():
        return {}, ""
    try:
        said = pd.read_parquet(file)
        keys = ["image_id", "sha256"]
        same = said.merge(synthetic[keys], on=keys).drop(columns=["sha256", "label"]).set_index("image_id")
    except (OSError, ValueError, KeyError):  # pyarrow's errors are ValueErrors
        return {}, f"No opinions of other models: {file} is none that `derm-t2im opinions` wrote"
    if not len(same) and len(synthetic):
        return {}, f"No opinions of other models: {file} is about other images; run `derm-t2im opinions` again"
    return {str(name): {str(k): v for k, v in row.items()} for name, row in same.to_dict("index").items()}, ""


def near_copies(synthetic: pd.DataFrame, n: int = SHOWN_PAIRS) -> list[str]:
    """Ids of ``n`` synthetic images, each group followed by its real image.

    First those suspected to be copies, before what they may repeat, then those nearest to a real image.
    """
    pairs = synthetic.assign(beside=synthetic["nearest_real_id"], suspected=False)
    if "copy_of" in synthetic:
        known = synthetic["copy_of"].notna()
        pairs = pairs.assign(beside=synthetic["copy_of"].where(known, pairs["beside"]), suspected=known)
    near = pairs.sort_values(["suspected", "nearest_real_distance", "image_id"], ascending=[False, True, True]).head(n)
    groups: dict[str, list[str]] = {}
    for name, real in zip(near["image_id"], near["beside"], strict=True):
        groups.setdefault(real, []).append(name)
    return [name for real, names in groups.items() for name in (*names, real)]


def earlier(synthetic: pd.DataFrame, repository: Path, rev: str = "HEAD") -> tuple[str, set[str]]:
    """The last committed curated set that has other images than this one.

    Args:
        synthetic: The curated manifest with ``sha256``.
        repository: Folder of the Git and DVC repository.
        rev: Where to begin looking back.

    Returns:
        The short name of the commit, and the SHA-256 of the images of its set.

    Raises:
        LookupError: why there is none.
    """
    ours = set(synthetic["sha256"])
    seen: set[str] = set()
    try:
        log = _git(repository, "log", "--format=%h", rev, "--", "dvc.lock").split()
        for commit in log:
            found = _OUT.search(_git(repository, "show", f"{commit}:./dvc.lock"))
            if not found or found[1] in seen:
                continue
            seen.add(found[1])
            if len(seen) > _LOOK_BACK:
                break
            theirs = _committed(repository, commit)
            if theirs != ours:
                return commit, theirs
    except (OSError, subprocess.CalledProcessError):
        raise LookupError("this folder has no Git history") from None
    raise LookupError("no earlier commit holds a curated set with other images")


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def _committed(repository: Path, commit: str) -> set[str]:
    import dvc.api
    import pandas as pd

    name, root = paths.CURATED_MANIFEST.as_posix(), str(repository.resolve())
    try:
        content = dvc.api.read(name, repo=root, rev=commit, mode="rb")
        return set(pd.read_parquet(io.BytesIO(content), columns=["sha256"])["sha256"])
    except Exception as error:  # DVC raises what its storages raise
        raise LookupError(
            f"the curated set of {commit} is neither in DVC's cache nor in a remote (`dvc fetch --all-commits`; "
            f"{type(error).__name__})"
        ) from None
