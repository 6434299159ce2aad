"""Apps that are open now, and the tags in them, seen from another process."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from derm_t2im.curation import review, room
from derm_t2im.curation.browse import SESSION
from derm_t2im.errors import UserError
from derm_t2im.state import STATE


def tagged(reviewer: str, table: Path) -> tuple[int, list[str], int]:
    """Write the tags of the Apps that are open in this project to the table of decisions.

    Returns:
        How many decisions are new or changed, the images tagged both ways, and the number of Apps.

    Raises:
        UserError: if no App is open.
    """
    import pymongo
    from pymongo.errors import PyMongoError

    today = datetime.now(UTC).date().isoformat()
    found, both, seen = [], [], 0
    for file in sorted((STATE / "fiftyone").glob(f"*/{SESSION}")):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            client: pymongo.MongoClient[dict] = pymongo.MongoClient(about["uri"], serverSelectionTimeoutMS=3000)
            with client:
                tables = client[about["database"]]
                dataset = tables["datasets"].find_one({"name": about["dataset"]}) or {}
                samples = tables[dataset["sample_collection_name"]].find(
                    {"kind": "synthetic"}, {"image_id": 1, "sha256": 1, "tags": 1}
                )
                rows = [(row["image_id"], row.get("sha256"), row.get("tags", [])) for row in samples]
        except (OSError, ValueError, KeyError, PyMongoError):
            continue  # the App was closed, or killed, meanwhile
        seen += 1
        more, unclear = room.decisions(rows, reviewer, today)
        found += more
        both += unclear
    if not seen:
        raise UserError("No App is open in this project: run `derm-t2im browse`, tag images, then pull.")
    return (review.add(table, found) if found else 0), both, seen
