"""A folder of one's own images: with a table beside them, or sorted into sub-folders named by class."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from derm_t2im.errors import UserError
from derm_t2im.imaging.io import EXTENSIONS
from derm_t2im.params.acquire import DEFAULT_TABLE, FOLDER_COLUMNS
from derm_t2im.progress import say
from derm_t2im.sources import tables
from derm_t2im.sources.intake import Place, Role, admit, find_images, open_folder

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.acquire import Acquire

#: Names under which a column is found where `acquire.folder.columns` does not name it.
USUAL = {
    "image_id": ("image_id", "isic_id", "image_name", "image", "id"),
    "path": ("path", "file", "filename", "file_name", "image_path"),
    "dx": ("dx", "diagnosis", "label", "class"),
    "lesion_id": ("lesion_id",),
    "patient_id": ("patient_id",),
    "age": ("age", "age_approx"),
    "sex": ("sex", "gender"),
    "site": ("site", "localization", "anatom_site_general"),
    "licence": ("licence", "license", "copyright_license"),
    "attribution": ("attribution",),
}


@dataclass(frozen=True)
class _Set:
    """One data set: where it lies and how it is read."""

    name: str  # "" where the folder is the one set
    root: Path
    shown: str
    parameter: str
    table: str
    columns: dict[str, str]
    licence: str
    attribution: str


def collect(settings: Acquire, role: Role, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a folder of images with a table (CSV, TSV, Parquet), or with a sub-folder per class.

    With ``acquire.folder.sets`` the sub-folders of ``acquire.path`` are sets of their own, each with a
    role; ids then bear the set's name, unless ``shared_ids`` says that they mean the same everywhere.

    Returns:
        The manifest's rows and the quarantine, see :func:`derm_t2im.sources.intake.admit`.

    Raises:
        UserError: if the folder, its table or a mapped column is missing, or a set holds no usable image.
    """
    import pandas as pd

    chosen = settings if role == "pool" or has_external(settings) else settings.external
    parameter = "acquire.path" if chosen is settings else "acquire.external.path"
    root = open_folder(Path(chosen.path), parameter)
    own = settings.folder
    if own.sets and chosen is settings:
        sets = [_open_set(settings, name, root) for name, one in own.sets.items() if one.role == role]
    else:
        sets = [_Set("", root, chosen.path, parameter, own.table, own.columns, own.licence, own.attribution)]
    records = pd.concat([_read_set(one, root, own.shared_ids) for one in sets], ignore_index=True)
    limit = settings.limit if role == "pool" else settings.external.limit
    rows, bad = admit(records, Place(root, chosen.name, limit), role, folder, settings.labels, settings.seed)
    for one in sets:
        if one.name and not rows["source"].eq(one.name).any() and not (limit and len(rows) >= limit):
            reasons = bad.loc[bad["source"] == one.name, "reason"].value_counts().sort_index()
            why = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "it is empty"
            raise UserError(f"{one.parameter}: no image of {one.shown} can be used ({why}).")
    return rows, bad


def has_external(settings: Acquire) -> bool:
    """Whether the external test lies in a set of the pool's folder."""
    return settings.source == "folder" and any(one.role == "external" for one in settings.folder.sets.values())


def _open_set(settings: Acquire, name: str, root: Path) -> _Set:
    own, one = settings.folder, settings.folder.sets[name]
    shown, parameter = f"{settings.path}/{one.path or name}", f"acquire.folder.sets.{name}"
    place = open_folder(root / (one.path or name), parameter)
    if not place.is_relative_to(root):
        raise UserError(f"{parameter}: {shown} leads out of {settings.path}; its images must lie below it.")

    def given(value: Any, usual: Any) -> Any:
        return usual if value is None else value

    return _Set(
        name, place, shown, parameter, given(one.table, own.table), given(one.columns, own.columns),
        given(one.licence, own.licence), given(one.attribution, own.attribution),
    )  # fmt: skip


def _read_set(one: _Set, root: Path, shared_ids: bool) -> pd.DataFrame:
    table = one.root / one.table if one.table else None
    if table is not None and not table.resolve().is_relative_to(one.root):
        raise UserError(f"{one.parameter}: the table {one.table} lies outside {one.shown}.")
    if table is not None and (table.is_file() or one.table != DEFAULT_TABLE):
        records = _from_table(table, one.columns, f"{one.shown}/{one.table}", one.root)
    else:
        records = _from_folders(one.root, one.parameter, one.shown, one.table)
    for name, usual in (("licence", one.licence), ("attribution", one.attribution)):
        given = records[name] if name in records else records["image_id"].map(lambda _: "")
        records[name] = given.fillna("").replace("", usual)
    records["source"] = one.name
    records["within"] = one.root.relative_to(root).as_posix()
    if one.name and not shared_ids:
        # Patient 12 of one clinic is not patient 12 of another.
        for name in ("image_id", "lesion_id", "patient_id"):
            if name in records:
                text = records[name].fillna("")
                records[name] = (f"{one.name}:" + text).where(text != "", "")
    return records


def _from_table(table: Path, mapping: dict[str, str], name: str, root: Path) -> pd.DataFrame:
    frame, malformed = tables.read(table)
    tables.need(frame, tuple(mapping.values()), name)
    by_case = {str(column).casefold(): column for column in frame.columns}
    taken = dict(mapping)
    for ours in FOLDER_COLUMNS:
        usual = next((by_case[theirs] for theirs in USUAL[ours] if theirs in by_case), None)
        if ours not in taken and usual is not None and usual not in taken.values():
            taken[ours] = usual
    if "dx" not in taken or not {"image_id", "path"} & set(taken):
        raise UserError(
            f"{name} needs a column with the diagnosis and one with the image's id or path; it has "
            f"{', '.join(map(str, frame.columns))}. Name them: acquire.folder.columns = {{dx: ..., image_id: ...}}."
        )
    if unused := [str(column) for column in frame.columns if column not in taken.values()]:
        shown = ", ".join(unused[:8]) + (", ..." if len(unused) > 8 else "")
        say(f"{name}: columns not used: {shown} (acquire.folder.columns can name lesion_id, patient_id, ...)")
    records = frame[list(taken.values())].set_axis(list(taken), axis=1)
    for column in ("sex", "site"):
        if column in records:
            records[column] = records[column].str.lower().replace("unknown", "")
    if "image_id" not in records:
        records["image_id"] = [_identity(Path(path)) for path in records["path"]]
    if "path" in records:
        records = records.rename(columns={"path": "file"})
        records["file"] = records["file"].str.replace("\\", "/", regex=False)
    else:
        tables.locate(records, find_images(root))
    _say_unlisted(root, name, set(records["file"].dropna()))
    nameless = records["image_id"] == ""
    if nameless.any():
        records.loc[nameless, ["reason", "detail"]] = ["missing_id", "the row names no image"]
        records.loc[nameless, "image_id"] = [f"row {at + 2}" for at in records.index[nameless]]
    return tables.with_malformed(records, malformed)


def _from_folders(root: Path, parameter: str, shown: str, table: str) -> pd.DataFrame:
    import pandas as pd

    files = sorted(Path(found.file) for same in find_images(root).values() for found in same)
    _say_others(root, shown)
    sorted_in = [path for path in files if len(path.parts) > 1]
    if not sorted_in:
        loose = f"; {len(files)} images lie loose in it" if files else ""
        raise UserError(
            f"{parameter}: {shown} has neither the table {table or '(none named)'} nor sub-folders of images "
            f"named by class{loose}. See docs/data.md."
        )
    return pd.DataFrame(
        {
            "image_id": [_identity(path) for path in files],
            "file": [path.as_posix() for path in files],
            "dx": [path.parts[0] if len(path.parts) > 1 else "" for path in files],
        },
        dtype="string",
    )


def _say_others(root: Path, shown: str) -> None:
    """Name the kinds of files that lie in a folder and are not read."""
    kinds = Counter(
        path.suffix.lower() or path.name
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in EXTENSIONS
    )
    if kinds:
        named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        say(f"{shown}: files that are no images are not read: {named}")


def _say_unlisted(root: Path, name: str, listed: set[str]) -> None:
    """Count the images in a folder that its table does not list."""
    there = {found.file for same in find_images(root).values() for found in same}
    if missing := sorted(there - {PurePosixPath(file).as_posix() for file in listed}):
        say(f"{name}: {len(missing)} images in the folder are not in the table and not read (first: {missing[0]})")


def _identity(path: Path) -> str:
    """An id from a path: its parts, without the extension."""
    return "_".join(path.with_suffix("").parts).lstrip("/") if path.name else ""
