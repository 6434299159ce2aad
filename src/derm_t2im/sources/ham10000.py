"""HAM10000 as it is distributed, and the ISIC 2018 Task 3 sets with their one-hot ground truth.

Tschandl, Rosendahl, Kittler: The HAM10000 dataset, Scientific Data 5, 180161 (2018);
Codella et al.: Skin Lesion Analysis Toward Melanoma Detection 2018, arXiv:1902.03368 (2019).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError
from derm_t2im.sources import tables
from derm_t2im.sources.intake import Found, Place, Role, admit, find_images, open_folder
from derm_t2im.sources.labels import HAM10000

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.acquire import Acquire

LICENCE = "CC BY-NC 4.0"
ATTRIBUTION_HAM = "HAM10000, Tschandl et al. 2018, doi:10.1038/sdata.2018.161"
ATTRIBUTION_ISIC = "ISIC 2018 Task 3, Codella et al. 2019, arXiv:1902.03368; Tschandl et al. 2018"


def collect(settings: Acquire, role: Role, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read a HAM10000 or ISIC 2018 Task 3 folder; images may lie anywhere below it, also in zips.

    Returns:
        The manifest's rows and the quarantine, see :func:`derm_t2im.sources.intake.admit`.

    Raises:
        UserError: if the folder or its table is missing, the table has other columns, or a zip is broken.
    """
    import pandas as pd

    chosen = settings if role == "pool" else settings.external
    parameter = "acquire.path" if role == "pool" else "acquire.external.path"
    root = open_folder(Path(chosen.path), parameter)
    table = _find_table(root, parameter, chosen.path)
    frame, malformed = tables.read(table)
    name = f"{chosen.path}/{table.relative_to(root)}"
    records = _one_hot(frame, name) if table.stem.endswith("_GroundTruth") else _metadata(frame, name)
    records["licence"] = LICENCE
    found = find_images(root, zips=True)
    tables.locate(records, found)
    return admit(
        pd.concat([tables.with_malformed(records, malformed), _suspicious(found, records)], ignore_index=True),
        Place(root, chosen.name, chosen.limit),
        role,
        folder,
        settings.labels,
        settings.seed,
    )


def _suspicious(found: dict[str, list[Found]], records: pd.DataFrame) -> pd.DataFrame:
    """Entries of zips that must not be read and that no row of the table asks for: named all the same."""
    import pandas as pd

    asked = set(records["file"])
    refused = [one for same in found.values() for one in same if one.reason and one.file not in asked]
    return pd.DataFrame(
        [(f"{one.archive}: {one.file}", one.file, one.archive, one.reason, one.detail) for one in refused],
        columns=["image_id", "file", "archive", "reason", "detail"],
    )


def _find_table(root: Path, parameter: str, shown: str) -> Path:
    for pattern in ("HAM10000_metadata*", "*_GroundTruth.csv"):
        found = sorted(path for path in root.rglob(pattern) if path.is_file() and path.suffix in ("", ".csv", ".tab"))
        if len(found) > 1:
            names = ", ".join(path.relative_to(root).as_posix() for path in found[:3])
            raise UserError(f"{parameter}: {shown} holds several tables ({names}): give the folder of one set.")
        if found:
            return found[0]
    raise UserError(
        f"{parameter}: {shown} is no HAM10000 distribution: neither HAM10000_metadata.csv nor a *_GroundTruth.csv "
        "of ISIC 2018 Task 3 lies in it. For other sets use the source `folder`."
    )


def _metadata(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    tables.need(frame, ("image_id", "lesion_id", "dx"), name)
    unknown = {"unknown": "", "Unknown": ""}
    records = frame.reindex(columns=["image_id", "lesion_id", "dx", "age", "sex", "localization"]).fillna("")
    records = records.rename(columns={"localization": "site"})
    records["sex"] = records["sex"].replace(unknown)
    records["site"] = records["site"].replace(unknown)
    records["attribution"] = ATTRIBUTION_HAM
    return records


def _one_hot(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    import pandas as pd

    tables.need(frame, ("image", *(dx.upper() for dx in HAM10000)), name)
    classes = frame[[dx.upper() for dx in HAM10000]].apply(pd.to_numeric, errors="coerce").fillna(0.0)
    certain = (classes > 0.5).sum(axis=1) == 1
    return pd.DataFrame(
        {
            "image_id": frame["image"],
            "dx": classes.idxmax(axis=1).str.lower().where(certain, ""),
            "attribution": ATTRIBUTION_ISIC,
        }
    )
