"""The way in that all sources share: check a row, find its file, copy it, decode it once.

A source describes what it found as a table of records; what cannot be used leaves through the
quarantine with a reason. Nothing is dropped silently and nothing is taken from outside the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from derm_t2im import manifest, progress, seeds
from derm_t2im.errors import UserError, exhausted, no_room
from derm_t2im.imaging import io, pool
from derm_t2im.sources import archives, labels
from derm_t2im.state import hash_file

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["pool", "external"]

QUARANTINE = ["image_id", "path", "kind", "label", "dx", "source", "role", "reason", "detail"]

#: Columns that a source may fill, "" where unknown. `file` is the image's path as the source gives it, below
#: the folder `within` (of the root) or inside the zip `archive`; `source` names its set.
RECORD = (
    "image_id", "file", "dx", "lesion_id", "patient_id", "age", "sex", "site", "licence", "attribution",
    "within", "archive", "source",
)  # fmt: skip


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


class Found(NamedTuple):
    """An image that lies about: its path below the folder or in a zip, or why it is not to be taken."""

    file: str
    archive: str = ""
    reason: str = ""
    detail: str = ""


def find_images(root: Path, zips: bool = False) -> dict[str, list[Found]]:
    """Images below ``root`` by their name without extension; hidden files and folders are passed over.

    With ``zips`` also those inside zips, as far as they do not lie unpacked as well.

    Raises:
        UserError: for a zip that cannot be read.
    """
    found: dict[str, list[Found]] = {}
    packed: list[Path] = []
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if any(part.startswith(".") for part in inside.parts):
            continue
        if path.is_dir():
            if path.is_symlink():  # it is not followed: one entry that is refused stands for it
                found.setdefault(path.name, []).append(Found(inside.as_posix()))
            continue
        if path.suffix.lower() in io.EXTENSIONS:
            found.setdefault(path.stem, []).append(Found(inside.as_posix()))
        elif zips and path.suffix.lower() == ".zip" and path.resolve().is_relative_to(root):
            packed.append(path)
    loose = set(found)
    for path in packed:
        for entry in archives.images(path):
            stem = PurePosixPath(entry.name.replace("\\", "/")).stem
            if stem not in loose:
                place = path.relative_to(root).as_posix()
                found.setdefault(stem, []).append(Found(entry.name, place, entry.reason, entry.detail))
    return found


def admit(
    records: pd.DataFrame,
    place: Place,
    role: Role,
    folder: Path,
    scheme: labels.Scheme,
    seed: int,
    *,
    fetch: Callable[[pd.DataFrame], list[tuple[str, str]]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn records into manifest rows: labels mapped, files copied below ``folder`` and decoded once.

    Args:
        records: Strings in columns of :data:`RECORD`, "" where unknown; ``reason`` and ``detail`` are
            filled where the source has refused a row already.
        place: Resolved folder that all files must lie in, name of the set, and the most images to
            take (0: all), stratified by set and label.
        role: ``pool`` or ``external``.
        folder: Files go to ``folder/images/<role>/``, bytes unchanged.
        scheme: Which classes, see :func:`labels.label_of`.
        seed: Decides which images a limit leaves.
        fetch: Brings the files of the chosen records below the root first and says, for each, reason
            and detail of a failure or "".

    Returns:
        The manifest's rows, and the quarantine; paths lie below ``folder``, those of the quarantine
        are relative to the root.
    """
    import pandas as pd

    records = records.reindex(columns=[*RECORD, "reason", "detail"]).fillna("").astype("string").reset_index(drop=True)
    records["source"] = records["source"].replace("", place.name)
    records["label"] = [labels.label_of(dx, scheme) or "" for dx in records["dx"]]
    _refuse_labels(records, scheme)
    _refuse_repeats(records)
    wanted = _sample(records[records["reason"] == ""], place.limit, seed).copy()
    refused = [records[records["reason"] != ""]]
    if fetch is not None and len(wanted):
        wanted[["reason", "detail"]] = fetch(wanted)
        refused.append(wanted[wanted["reason"] != ""])
        wanted = wanted[wanted["reason"] == ""]

    target = folder / "images" / role
    target.mkdir(parents=True, exist_ok=True)
    work = partial(_take, place.path, target)
    jobs = list(wanted[["image_id", "within", "archive", "file"]].astype(str).itertuples(index=False, name=None))
    try:
        results = list(progress.track(pool.each(work, jobs), f"read {place.name}", total=len(jobs)))
    finally:
        archives.close()
    taken = pd.DataFrame(results, index=wanted.index, columns=["path", "sha256", "width", "height", "reason", "detail"])
    good = taken["reason"] == ""
    rows = wanted.drop(columns=["file", "within", "archive", "reason", "detail"])[good].join(
        taken.loc[good, ["path", "sha256", "width", "height"]]
    )
    rows["age"] = pd.to_numeric(rows["age"], errors="coerce")
    rows.loc[~rows["age"].between(0, 120), "age"] = float("nan")
    for name in ("lesion_id", "patient_id", "sex", "site", "licence", "attribution"):
        rows[name] = rows[name].replace("", pd.NA)
    bad = wanted.drop(columns=["reason", "detail"])[~good].join(taken.loc[~good, ["reason", "detail"]])
    quarantine = pd.concat([*refused, bad]).rename(columns={"file": "path"})
    for frame in (rows, quarantine):
        frame["kind"], frame["role"] = "real", role
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
    """At most ``limit`` rows, classes of each set in proportion, chosen by a hash of each id."""
    if not limit or len(records) <= limit:
        return records
    order = records.assign(key=[seeds.derive(seed, "limit", str(name)) for name in records["image_id"]])
    order = order.sort_values(["key", "image_id"], kind="stable")
    # The k-th of n images of a class stands at (k + 1/2) / n: taking the lowest keeps the proportions.
    strata = order.groupby(["source", "label"])
    order["rank"] = (strata.cumcount() + 0.5) / strata["label"].transform("size")
    chosen = order.sort_values(["rank", "label", "image_id"], kind="stable").index[:limit]
    return records.loc[sorted(chosen)]


def _take(root: Path, target: Path, job: tuple[str, str, str, str]) -> tuple[str, str, int, int, str, str]:
    """Copy one file and decode it: (path, sha256, width, height, "", ""), or reason and detail at the end."""
    image_id, within, archive, file = job
    suffix = PurePosixPath(file).suffix
    copy = target / io.file_name(image_id, suffix if suffix[1:].isalnum() else "")
    try:
        source = root / archive if archive else _inside((root / within).resolve(), file, image_id)
        try:
            if archive:
                archives.extract(source, file, copy)
            else:
                shutil.copyfile(source, copy)
        except OSError as error:
            raise (
                no_room(error, target) or exhausted(error) or io.ImageError("unreadable", error.strerror or str(error))
            ) from None
        height, width = io.read_rgb(copy).shape[:2]
        verify(copy)
        return copy.as_posix(), hash_file(copy), width, height, "", ""
    except io.ImageError as error:
        reason, detail = error.reason, error.detail
    except (ValueError, RuntimeError) as error:  # a path with NUL, a loop of links
        if told := exhausted(error):
            raise told from None
        reason, detail = "missing_file", " ".join(str(error).split())
    copy.unlink(missing_ok=True)
    return "", "", 0, 0, reason, detail


def verify(source: Path | bytes) -> None:
    """Compare the checksums of a PNG (a path or its bytes), which a decoder of its pixels passes over; others pass.

    Raises:
        ImageError: ``unreadable``.
    """
    from PIL import Image

    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        if file.read(8) != b"\x89PNG\r\n\x1a\n":
            return
        file.seek(0)
        try:
            with Image.open(file, formats=["PNG"]) as image:
                image.verify()
        except Exception as error:  # SyntaxError, OSError, struct.error
            if told := exhausted(error):
                raise told from None
            raise io.ImageError("unreadable", " ".join(str(error).split())) from None


def _inside(folder: Path, file: str, image_id: str) -> Path:
    """The resolved path of a file, which must lie in ``folder``."""
    source = (folder / file).resolve()
    if not file or "\0" in file or not source.is_relative_to(folder):
        raise io.ImageError("outside_folder" if file else "missing_file", f"{file or image_id} is not in {folder.name}")
    if not source.is_file():
        raise io.ImageError("missing_file", f"there is no file {file}")
    return source
