"""The way in that all sources share: check a row, find its file, copy it, decode it once.

A source describes what it found as a table of records; what cannot be used leaves through the
quarantine with a reason. Nothing is dropped silently and nothing is taken from outside the folder.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from derm_t2im import manifest, progress, seeds
from derm_t2im.errors import UserError
from derm_t2im.imaging import io, pool
from derm_t2im.sources import labels
from derm_t2im.state import hash_file

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["pool", "external"]

QUARANTINE = ["image_id", "path", "kind", "label", "dx", "source", "role", "reason", "detail"]

#: Columns that a source may fill; `file` is the image's path as the source gives it, "" where unknown.
RECORD = ("image_id", "file", "dx", "lesion_id", "patient_id", "age", "sex", "site", "licence", "attribution")


@dataclass(frozen=True)
class Place:
    """Where a role's images come from and what their set is called."""

    path: Path
    name: str
    limit: int


def open_folder(path: Path, parameter: str) -> Path:
    """The folder at ``path``, resolved.

    Raises:
        UserError: if it is none, naming the parameter that gave it.
    """
    if not path.is_dir():
        raise UserError(f"{parameter}: there is no folder {path}; give the folder that holds the images.")
    return path.resolve()


def find_images(root: Path) -> dict[str, list[Path]]:
    """Image files below ``root`` by their name without extension; hidden files and folders are passed over."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in io.EXTENSIONS and not hidden and not path.is_dir():
            found.setdefault(path.stem, []).append(path)
    return found


def admit(
    records: pd.DataFrame, root: Path, place: Place, role: Role, folder: Path, scheme: labels.Scheme, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn records into manifest rows: labels mapped, files copied below ``folder`` and decoded once.

    Args:
        records: Strings in columns of :data:`RECORD`, "" where unknown; ``reason`` and ``detail`` are
            filled where the source has refused a row already.
        root: Resolved folder that all files must lie in.
        place: Name of the set, and the most images to take (0: all), stratified by label.
        role: ``pool`` or ``external``.
        folder: Files go to ``folder/images/<role>/``, bytes unchanged.
        scheme: Which classes, see :func:`labels.label_of`.
        seed: Decides which images a limit leaves.

    Returns:
        The manifest's rows, and the quarantine; paths lie below ``folder``, those of the quarantine
        are relative to ``root``.
    """
    import pandas as pd

    records = records.reindex(columns=[*RECORD, "reason", "detail"]).fillna("").astype("string").reset_index(drop=True)
    records["label"] = [labels.label_of(dx, scheme) or "" for dx in records["dx"]]
    _refuse_labels(records, scheme)
    _refuse_repeats(records)
    wanted = records[records["reason"] == ""]
    wanted = _sample(wanted, place.limit, seed)
    refused = records[records["reason"] != ""]

    target = folder / "images" / role
    target.mkdir(parents=True, exist_ok=True)
    work = partial(_take, root, target)
    jobs = [(str(image_id), str(file)) for image_id, file in zip(wanted["image_id"], wanted["file"], strict=True)]
    taken = pd.DataFrame(
        list(progress.track(pool.each(work, jobs), f"read {place.name}", total=len(jobs))),
        index=wanted.index,
        columns=["path", "sha256", "width", "height", "reason", "detail"],
    )
    good = taken["reason"] == ""
    rows = wanted.drop(columns=["file", "reason", "detail"])[good].join(
        taken.loc[good, ["path", "sha256", "width", "height"]]
    )
    rows["age"] = pd.to_numeric(rows["age"], errors="coerce")
    rows.loc[~rows["age"].between(0, 120), "age"] = float("nan")
    for name in ("lesion_id", "patient_id", "sex", "site", "licence", "attribution"):
        rows[name] = rows[name].replace("", pd.NA)
    bad = wanted.drop(columns=["reason", "detail"])[~good].join(taken.loc[~good, ["reason", "detail"]])
    quarantine = pd.concat([refused, bad]).rename(columns={"file": "path"})
    for frame in (rows, quarantine):
        frame["kind"], frame["source"], frame["role"] = "real", place.name, role
    if rows.empty:
        rows = manifest.empty([*manifest.REQUIRED, "source", "role"])
    return rows, quarantine[QUARANTINE].sort_index()


def _refuse_labels(records: pd.DataFrame, scheme: labels.Scheme) -> None:
    unmapped = (records["reason"] == "") & (records["label"] == "")
    records.loc[unmapped, "detail"] = [
        f"diagnosis {dx!r} has no class under acquire.labels = {scheme}" if dx.strip() else "no diagnosis given"
        for dx in records.loc[unmapped, "dx"]
    ]
    records.loc[unmapped, "reason"] = "unmapped_label"


def _refuse_repeats(records: pd.DataFrame) -> None:
    """Of rows with one id the first stays, unless they contradict one another: then none does."""
    good = records[records["reason"] == ""]
    for image_id, same in good[good["image_id"].duplicated(keep=False)].groupby("image_id", sort=True):
        if same["label"].nunique() > 1:
            at, detail = same.index, f"{image_id} is given as {' and as '.join(sorted(set(same['label'])))}"
        else:
            at, detail = same.index[1:], f"{image_id} was given before"
        records.loc[at, "reason"], records.loc[at, "detail"] = "duplicate_id", detail


def _sample(records: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """At most ``limit`` rows, classes in proportion, chosen by a hash of each id."""
    if not limit or len(records) <= limit:
        return records
    order = records.assign(key=[seeds.derive(seed, "limit", str(name)) for name in records["image_id"]])
    order = order.sort_values(["key", "image_id"], kind="stable")
    # The k-th of n images of a class stands at (k + 1/2) / n: taking the lowest keeps the proportions.
    within = order.groupby("label").cumcount() + 0.5
    order["rank"] = within / order.groupby("label")["label"].transform("size")
    chosen = order.sort_values(["rank", "label", "image_id"], kind="stable").index[:limit]
    return records.loc[sorted(chosen)]


def _take(root: Path, target: Path, job: tuple[str, str]) -> tuple[str, str, int, int, str, str]:
    """Copy one file and decode it: (path, sha256, width, height, "", ""), or reason and detail at the end."""
    image_id, file = job
    try:
        source = (root / file).resolve()
        if not file or "\0" in file or not source.is_relative_to(root):
            raise io.ImageError(
                "outside_folder" if file else "missing_file", f"{file or image_id} is not in {root.name}"
            )
        if not source.is_file():
            raise io.ImageError("missing_file", f"there is no file {file}")
        copy = target / io.file_name(image_id, source.suffix)
        try:
            shutil.copyfile(source, copy)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise UserError(f"cannot write below {target}: {error.strerror}; make room and start again.") from None
            raise io.ImageError("unreadable", error.strerror or str(error)) from None
        try:
            height, width = io.read_rgb(copy).shape[:2]
        except io.ImageError:
            copy.unlink(missing_ok=True)
            raise
        return copy.as_posix(), hash_file(copy), width, height, "", ""
    except (ValueError, RuntimeError) as error:  # a path with NUL, a loop of links
        return "", "", 0, 0, "missing_file", " ".join(str(error).split())
    except io.ImageError as error:
        return "", "", 0, 0, error.reason, error.detail
