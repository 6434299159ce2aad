"""Tables of metadata as people have them: CSV with whatever separator and encoding, TSV, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError
from derm_t2im.sources.intake import Found

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t", "|")


def read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read a table as strings, "" where a cell is empty.

    Separators are taken from the header line; text is UTF-8 (with or without a byte order mark),
    UTF-16 with one, or else Latin-1.

    Returns:
        The rows, and a description of each line with a wrong number of cells.

    Raises:
        UserError: if the file is missing, empty, or no table.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"there is no table {path}.")
    if path.suffix.lower() == ".parquet":
        try:
            frame = pd.read_parquet(path)
        except Exception as error:  # pyarrow has many types for a broken file
            raise UserError(f"{path} is no Parquet table: {' '.join(str(error).split())[:200]}") from None
        text = frame.astype("string").fillna("")
        return text.rename(columns=lambda name: str(name).strip()), []
    lines = _decode(path).splitlines(keepends=True)
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} is empty: it needs a header line and a row per image.")
    header = next(line for line in lines if line.strip())
    separator = max(SEPARATORS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))
    malformed: list[str] = []
    rows: list[list[str]] = []
    try:
        reader = csv.reader(io.StringIO("".join(lines)), delimiter=separator)
        names: list[str] | None = None
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
            elif len(cells) != len(names):
                malformed.append(f"line {reader.line_num} has {len(cells)} cells, the header {len(names)}")
            else:
                rows.append([cell.strip() for cell in cells])
    except csv.Error as error:
        raise UserError(f"{path} is no table of text: {error}.") from None
    assert names is not None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{path} has the column {twice[0]!r} more than once.")
    return pd.DataFrame(rows, columns=names, dtype="string"), malformed


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def need(frame: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    """Raise a UserError unless ``frame`` has all ``columns``."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise UserError(
            f"{name} lacks the column(s) {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}."
        )


def locate(records: pd.DataFrame, files: dict[str, list[Found]]) -> None:
    """Fill the columns ``file`` and ``archive`` by ``image_id``: the one image that bears that name.

    An id that no file or more than one bears is refused (``missing_file``, ``ambiguous_file``), and so
    is one whose file was refused where it was found.
    """
    places: list[Found] = []
    for image_id in records["image_id"]:
        found = files.get(image_id) or files.get(Path(image_id).stem, [])
        found = [one for one in found if not one.reason] or found
        if len(found) == 1:
            places.append(found[0])
        else:
            reason = "ambiguous_file" if found else "missing_file"
            places.append(Found("", "", reason, f"{len(found) or 'no'} image files are called {image_id}"))
    for column in ("file", "archive", "reason", "detail"):
        records[column] = [getattr(place, column) for place in places]


def with_malformed(records: pd.DataFrame, malformed: list[str]) -> pd.DataFrame:
    """The records, and a refused one for each line that could not be read."""
    import pandas as pd

    if not malformed:
        return records
    broken = pd.DataFrame(
        {"image_id": [text.split(" has ")[0] for text in malformed], "reason": "malformed_row", "detail": malformed}
    )
    return pd.concat([records, broken], ignore_index=True)
