"""Apps that are open now, and the tags in them.

Each open App leaves a note of where its dataset is. What was tagged is read from the database, by
the process that serves the App and by any other. The former also keeps a copy in a file until it is in
the table: an App that is killed, or cannot write the table, loses no decision.
"""

from __future__ import annotations

import fcntl
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from derm_t2im.curation import database, review, room
from derm_t2im.errors import UserError
from derm_t2im.state import STATE, write_atomic

SESSION = "session.json"  # lies in the run's folder below .state/fiftyone/ while the App is open
UNWRITTEN = STATE / "review"  # the copies, a file per App
_PATIENCE = 3000  # ms to wait for a server: all of them are near

#: Id, SHA-256 and tags of an image.
Tagged = tuple[str, str | None, list[str]]


def announce(dataset: str, reviewer: str) -> dict[str, str]:
    """Leave the note of the App of this process, and who decides in it; returns its content."""
    own = database.connect()
    about = {"uri": own.uri, "database": own.name, "dataset": dataset, "reviewer": reviewer}
    write_atomic(own.folder / SESSION, json.dumps(about))
    return about


def keep(tagged: list[Tagged], reviewer: str) -> None:
    """Keep a copy of the tags in the App of this process."""
    write_atomic(_copy(database.connect().folder), json.dumps({"reviewer": reviewer, "tagged": tagged}))


def written() -> None:
    """The tags in the App of this process are in the table: remove the copy."""
    _copy(database.connect().folder).unlink(missing_ok=True)


def _copy(run: Path) -> Path:
    return UNWRITTEN / f"{run.name}.json"


def withdraw() -> None:
    """Remove the note of the App of this process."""
    (database.connect().folder / SESSION).unlink(missing_ok=True)


def tags(about: dict[str, str]) -> list[Tagged]:
    """The synthetic images that carry a person's word, in the App of a note.

    Raises:
        LookupError: if the App is closed, or its database does not answer.
    """
    import pymongo
    from pymongo.errors import PyMongoError

    said = {"kind": "synthetic", "tags": {"$regex": room.SAID, "$options": "i"}}
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            about["uri"], serverSelectionTimeoutMS=_PATIENCE
        )
        with client:
            tables = client[about["database"]]
            dataset = tables["datasets"].find_one({"name": about["dataset"]})
            if dataset is None:
                raise LookupError(about["dataset"])
            rows = tables[dataset["sample_collection_name"]].find(said, {"image_id": 1, "sha256": 1, "tags": 1})
            return [(row["image_id"], row.get("sha256"), row.get("tags", [])) for row in rows]
    except PyMongoError as error:
        raise LookupError(str(error)) from None


def take(tagged: list[Tagged], reviewer: str, table: Path) -> tuple[int, list[str]]:
    """Write tags to the table of decisions.

    Returns:
        How many decisions are new or changed, and the images tagged both ways, which are left out.
    """
    today = datetime.now(UTC).date().isoformat()
    found, both = room.decisions(tagged, reviewer, today)
    return (write(table, found) if found else 0), both


def write(table: Path, said: list[review.Decision]) -> int:
    """Put decisions into the table, one process at a time: what two write at once would be lost for one of them.

    Returns:
        How many were new or different.
    """
    STATE.mkdir(exist_ok=True)
    with (STATE / "review.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return review.add(table, said)


def recover(table: Path) -> list[tuple[str, int, list[str]]]:
    """Write the tags of Apps that are no more and did not write them to the table of decisions.

    Returns:
        For each App its reviewer, how many decisions are new or changed, and the images tagged both ways.
    """
    alive = {_copy(run) for run in _open()}
    done = []
    for file in sorted(UNWRITTEN.glob("run-*.json")):
        if file in alive:
            continue
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
            name, tagged = said["reviewer"], [(image, digest, words) for image, digest, words in said["tagged"]]
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{file}, what was tagged in an App that was killed, is damaged: remove it.") from None
        if tagged:
            done.append((name, *take(tagged, name, table)))
        file.unlink(missing_ok=True)
    return done


def pull(reviewer: str, table: Path) -> tuple[int, list[str], list[str]]:
    """Write the tags of all Apps that are open in this project to the table of decisions, each as its own reviewer's.

    Args:
        reviewer: Whose they should be; empty: whoever opened the App.
        table: The table of decisions.

    Returns:
        How many decisions are new or changed, the images tagged both ways, and the reviewer of each App.

    Raises:
        UserError: if an open App is another reviewer's.
    """
    found = _open()
    if others := sorted({name for name, _ in found.values() if reviewer and name != reviewer}):
        raise UserError(
            f"What is tagged in the open App is {', '.join(others)}'s, not {reviewer}'s: pull without --reviewer. For "
            f"decisions of {reviewer} close it and run `derm-t2im browse --reviewer {reviewer}`."
        )
    changed, both = 0, list[str]()
    for run, (name, tagged) in found.items():
        new, conflicting = take(tagged, name, table)
        changed, both = changed + new, both + conflicting
        _copy(run).unlink(missing_ok=True)  # made anew at the next tag
    return changed, both, [name for name, _ in found.values()]


def _open() -> dict[Path, tuple[str, list[Tagged]]]:
    """Reviewer and tags of each open App of this project, by its folder."""
    found: dict[Path, tuple[str, list[Tagged]]] = {}
    for file in sorted((STATE / "fiftyone").glob(f"*/{SESSION}")):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            found[file.parent] = (about["reviewer"], tags(about))
        except (OSError, ValueError, KeyError, LookupError):
            continue  # the App was closed, or killed, meanwhile
    return found
