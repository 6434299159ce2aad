"""A folder of one's own images: with a table beside them, or sorted into sub-folders named by class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError
from derm_t2im.params.acquire import DEFAULT_TABLE, FOLDER_COLUMNS
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


def collect(settings: Acquire, role: Role, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a folder of images with a table (CSV, TSV, Parquet), or with a sub-folder per class.

    Returns:
        The manifest's rows and the quarantine, see :func:`derm_t2im.sources.intake.admit`.

    Raises:
        UserError: if the folder, its table or a mapped column is missing, or it holds no image.
    """
    chosen = settings if role == "pool" else settings.external
    parameter = "acquire.path" if role == "pool" else "acquire.external.path"
    root = open_folder(Path(chosen.path), parameter)
    own = settings.folder
    table = root / own.table if own.table else None
    if table is not None and not table.resolve().is_relative_to(root):
        raise UserError(f"acquire.folder.table: {own.table} lies outside {chosen.path}.")
    if table is not None and (table.is_file() or own.table != DEFAULT_TABLE):
        records = _from_table(table, own.columns, f"{chosen.path}/{own.table}", root)
    else:
        records = _from_folders(root, parameter, chosen.path, own.table)
    for name, usual in (("licence", own.licence), ("attribution", own.attribution)):
        given = records[name] if name in records else records["image_id"].map(lambda _: "")
        records[name] = given.fillna("").replace("", usual)
    return admit(records, root, Place(root, chosen.name, chosen.limit), role, folder, settings.labels, settings.seed)


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
        tables.locate(records, find_images(root), root)
    nameless = records["image_id"] == ""
    if nameless.any():
        records.loc[nameless, ["reason", "detail"]] = ["missing_id", "the row names no image"]
        records.loc[nameless, "image_id"] = [f"row {at + 2}" for at in records.index[nameless]]
    return tables.with_malformed(records, malformed)


def _from_folders(root: Path, parameter: str, shown: str, table: str) -> pd.DataFrame:
    import pandas as pd

    files = sorted(path.relative_to(root) for same in find_images(root).values() for path in same)
    sorted_in = [path for path in files if len(path.parts) > 1]
    if not sorted_in:
        loose = f"; {len(files)} images lie loose in it" if files else ""
        raise UserError(
            f"{parameter}: {shown} has neither the table {table or '(none named)'} nor sub-folders of images "
            f"named by class{loose}. See acquire.folder."
        )
    return pd.DataFrame(
        {
            "image_id": [_identity(path) for path in files],
            "file": [path.as_posix() for path in files],
            "dx": [path.parts[0] if len(path.parts) > 1 else "" for path in files],
        },
        dtype="string",
    )


def _identity(path: Path) -> str:
    """An id from a path: its parts, without the extension."""
    return "_".join(path.with_suffix("").parts).lstrip("/") if path.name else ""
