"""Which images a set holds, and what it says about each: read in place, nothing copied, nothing guessed.

A set is a folder with a sub-folder per class (below folders named train, test, ... where it has splits), a
folder with a table, or a table itself: CSV, Parquet, or one of our manifests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im import seeds
from derm_t2im.errors import UserError
from derm_t2im.quarantine import unique_ids
from derm_t2im.sources import folder, intake, labels, tables

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("image_id", "file", "label", "split", "kind", "lesion_id", "patient_id", "source")

#: Names of columns, beyond those of the source `folder`, under which we look.
NAMES = {
    **{name: folder.USUAL[name] for name in ("image_id", "path", "lesion_id", "patient_id")},
    "label": ("label", *folder.USUAL["dx"]),
    "split": ("split", "fold", "subset", "partition", "set"),
    "kind": ("kind",),
    "source": ("source", "dataset"),
}
SPLIT_FOLDERS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "external", "holdout"}
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
KNOWN_TABLES = ("manifest.parquet", "metadata.csv", "HAM10000_metadata*", "*_GroundTruth.csv")
UNUSED = "unused"  # in our manifests: rows that belong to no split


@dataclass(frozen=True)
class Collection:
    """The images of a set.

    ``rows`` has :data:`COLUMNS`, ``file`` a path that can be opened, the others missing where unknown;
    ``refused`` has ``image_id``, ``reason``, ``detail``.
    """

    layout: str
    rows: pd.DataFrame
    refused: pd.DataFrame


def collect(path: Path, table: str | None, label: str | None, scheme: labels.Scheme) -> Collection:
    """List the images at ``path``.

    Args:
        path: A folder, or a table.
        table: Name of the table within the folder; ``none`` to go by sub-folders though there is one.
        label: Name of the column with the label, where it has an unusual one.
        scheme: How labels become classes, see :func:`derm_t2im.sources.labels.label_of`.

    Raises:
        UserError: for a missing path, a folder without images, a table without ids, paths or labels.
    """
    if not path.exists():
        raise UserError(f"audit: there is no {path}; give a folder of images, or a table that lists them.")
    if path.is_file():
        if path.suffix.lower() not in TABLE_SUFFIXES:
            raise UserError(f"audit: {path} is no table (.csv, .tsv, .parquet): give a folder or a table.")
        return _labelled(*_from_table(path, path.parent.resolve(), label), f"table {path.name}", scheme)
    root = path.resolve()
    chosen = _choose(root, path, table)
    if chosen is not None:
        name = chosen.relative_to(root).as_posix()
        return _labelled(*_from_table(chosen, root, label), f"table {name}", scheme)
    return _labelled(_from_folders(root, path), [], "sub-folders", scheme)


def sample(rows: pd.DataFrame, limit: int, seed: int = 0) -> pd.DataFrame:
    """At most ``limit`` rows (0: all), classes and splits in proportion, chosen by a hash of each id."""
    if not limit or len(rows) <= limit:
        return rows
    stratum = rows["label"].fillna("") + "\x1f" + rows["split"].fillna("")
    key = rows["image_id"].map(lambda name: seeds.derive(seed, "audit", str(name)))
    order = rows.assign(stratum=stratum, key=key).sort_values("key", kind="stable")
    # The k-th of n images of a stratum stands at (k + 1/2) / n: taking the lowest keeps the proportions.
    share = (order.groupby("stratum").cumcount() + 0.5) / order.groupby("stratum")["key"].transform("size")
    return rows.loc[sorted(share.sort_values(kind="stable").index[:limit])].reset_index(drop=True)


def _choose(root: Path, shown: Path, table: str | None) -> Path | None:
    """The table to go by; None where classes are sub-folders."""
    if table == "none":
        return None
    if table:
        chosen = (root / table).resolve()
        if not chosen.is_file() or not chosen.is_relative_to(root):
            raise UserError(f"audit: {shown} has no table {table}.")
        return chosen
    for pattern in KNOWN_TABLES:
        found = sorted(p for p in root.glob(pattern) if p.is_file())
        if len(found) == 1:
            return found[0]
    found = sorted(p for p in root.iterdir() if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith("."))
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:5])
        raise UserError(f"audit: {shown} has {len(found)} tables ({names}): choose one with --table, or --table none.")
    return found[0] if found else None


def _from_folders(root: Path, shown: Path) -> pd.DataFrame:
    import pandas as pd

    files = sorted(root / one.file for same in intake.find_images(root).values() for one in same)
    if not files:
        raise UserError(f"audit: {shown} holds no images (and no table); give the folder that holds them.")
    records = []
    for file in files:
        parts = file.relative_to(root).parts
        split = parts[0].lower() if len(parts) > 1 and parts[0].lower() in SPLIT_FOLDERS else ""
        rest = parts[1:] if split else parts
        # Images that lie loose have no label: the audit then looks for repeats alone.
        label = rest[0] if len(rest) > 1 else ""
        records.append(("/".join(parts), str(file), label, split))
    table = pd.DataFrame(records, columns=["image_id", "file", "label", "split"], dtype="string")
    table["reason"] = table["detail"] = ""
    _refuse_outside(table, root)
    return table


def _from_table(table: Path, root: Path, label: str | None) -> tuple[pd.DataFrame, list[str]]:
    """Rows of a table with ``file`` filled, and what is wrong with lines that could not be read."""
    import pandas as pd

    frame, malformed = tables.read(table)
    columns = _columns(frame, table, label)
    records = frame[list(columns.values())].set_axis(list(columns), axis=1)
    if "label" not in columns:
        records["label"] = _one_hot(frame.drop(columns=list(columns.values())), table)
    records["reason"], records["detail"] = "", ""
    if "path" in records:
        paths = records.pop("path").str.replace("\\", "/", regex=False)
        base = _base(root, paths)
        records["file"] = [str(base / text) if text and "\0" not in text else "" for text in paths]
        if "image_id" not in records:
            records["image_id"] = paths
        records.loc[records["file"] == "", ["reason", "detail"]] = ["missing_file", "the row names no file"]
        _refuse_outside(records, base)
    else:
        tables.locate(records, intake.find_images(root))
        records["file"] = [str(root / text) if text else "" for text in records["file"]]
        _refuse_outside(records, root)
    if not len(records):
        raise UserError(f"audit: {table} lists no images.")
    return records.astype(pd.StringDtype()), malformed


def _refuse_outside(records: pd.DataFrame, root: Path) -> None:
    """Refuse rows whose file, links followed, does not lie within the folder of the set."""

    def leaves(file: str) -> bool:
        try:
            return not Path(file).resolve().is_relative_to(root)
        except (OSError, RuntimeError):  # a loop of links
            return True

    outside = records["file"].map(lambda file: leaves(str(file))).astype(bool) & (records["reason"] == "")
    records.loc[outside, ["reason", "detail"]] = ["outside_folder", "its file lies outside the folder of the set"]


def _columns(frame: pd.DataFrame, table: Path, label: str | None) -> dict[str, str]:
    """Our name of a column -> the table's."""
    by_case = {str(column).casefold(): str(column) for column in frame.columns}
    found: dict[str, str] = {}
    if label is not None:
        tables.need(frame, (label,), str(table))
        found["label"] = label
    for ours, theirs in NAMES.items():
        usual = next((by_case[name] for name in theirs if name in by_case), None)
        if ours not in found and usual is not None and usual not in found.values():
            found[ours] = usual
    if not {"image_id", "path"} & set(found):
        raise UserError(
            f"audit: {table} has no column with the image's id or path (such as image_id or path); it has "
            f"{', '.join(map(str, frame.columns))}."
        )
    return found


def _one_hot(classes: pd.DataFrame, table: Path) -> pd.Series:
    """Labels from a column of zeros and ones per class, as ISIC's ground truths have them."""
    import pandas as pd

    numbers = classes.apply(pd.to_numeric, errors="coerce")
    certain = numbers.isin([0, 1]).all(axis=1) & (numbers.sum(axis=1) == 1)
    if numbers.shape[1] < 2 or not certain.any() or certain.mean() < 0.9:
        raise UserError(
            f"audit: {table} has no column with a label (such as label, dx, diagnosis); name it with --label. "
            f"Further columns: {', '.join(map(str, classes.columns)) or 'none'}."
        )
    return numbers.idxmax(axis=1).astype("string").where(certain, "")


def _base(root: Path, paths: pd.Series) -> Path:
    """The folder that paths are relative to: the table's or, as in our manifests, the repository around it."""
    first = next((text for text in paths if text), "")
    repository = next((folder for folder in root.parents if (folder / "dvc.yaml").is_file()), None)
    if repository is not None and not (root / first).is_file() and (repository / first).is_file():
        return repository
    return root


def _labelled(records: pd.DataFrame, malformed: list[str], layout: str, scheme: labels.Scheme) -> Collection:
    """Labels as classes, ids made unique, refused rows apart."""
    import pandas as pd

    records = records.reindex(columns=[*COLUMNS, "reason", "detail"])
    records["reason"], records["detail"] = records["reason"].fillna(""), records["detail"].fillna("")
    given = records["label"].fillna("")
    if (given != "").any():
        records["label"] = pd.Series([labels.label_of(text, scheme) or "" for text in given], dtype="string")
        unmapped = (records["label"] == "") & (records["reason"] == "")
        records.loc[unmapped, "detail"] = [
            f"{text!r} is no diagnosis of the scheme {scheme}" if text else "it has no label"
            for text in given[unmapped]
        ]
        records.loc[unmapped, "reason"] = ["unmapped_label" if text else "no_label" for text in given[unmapped]]
    for name in COLUMNS[2:]:
        records[name] = records[name].replace("", pd.NA)
    records = unique_ids(records.assign(image_id=records["image_id"].fillna("").replace("", "(no id)")))
    good = records["reason"] == ""
    refused = records.loc[~good, ["image_id", "reason", "detail"]]
    lines = pd.DataFrame(
        {"image_id": [text.split(" has ")[0] for text in malformed], "reason": "malformed_row", "detail": malformed}
    )
    return Collection(
        layout,
        records.loc[good, list(COLUMNS)].reset_index(drop=True),
        pd.concat([refused, lines], ignore_index=True).astype("string"),
    )
