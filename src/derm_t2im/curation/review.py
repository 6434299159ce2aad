"""What people decided: the table data/review/decisions.csv, a row per image and reviewer.

Columns: ``image_id``, ``decision`` (keep or discard), ``reason``, ``reviewer``, ``date``
(YYYY-MM-DD) and ``sha256`` of the image that the person saw (may be empty). A later row of the same
reviewer replaces an earlier one. A decision about an image that has been drawn anew since (another
sha256) no longer counts, nor does one on which two reviewers differ: both are reported.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError
from derm_t2im.state import write_atomic

if TYPE_CHECKING:
    import pandas as pd

FIELDS = ("image_id", "decision", "reason", "reviewer", "date", "sha256")
_OPTIONAL = ("sha256",)
KEEP = "keep"
DISCARD = "discard"


@dataclass(frozen=True)
class Decision:
    """One person's word on one image."""

    image_id: str
    decision: str
    reason: str
    reviewer: str
    date: str
    sha256: str = ""


@dataclass(frozen=True)
class Verdicts:
    """The decisions that count, and those that do not.

    Attributes:
        counting: The decision to obey, by image id.
        conflicts: Ids of images on which reviewers differ.
        unknown: Ids that are not in the pool.
        outdated: Ids whose image has changed since.
        given: Decisions in the table, after a reviewer's later word replaced the earlier.
    """

    counting: dict[str, Decision] = field(default_factory=dict)
    conflicts: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    given: int = 0


def read(path: Path) -> list[Decision]:
    """The decisions in a file, in its order; none where there is no file.

    Raises:
        UserError: naming the line that cannot be understood.
    """
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = csv.DictReader(io.StringIO(text), strict=True)
        header = rows.fieldnames or []
        wrong = [name for name in header if name not in FIELDS]
        missing = [name for name in FIELDS if name not in header and name not in _OPTIONAL]
        if wrong or missing:
            raise UserError(f"{path}: its header must be {','.join(FIELDS)} (it is {','.join(header)!r}).")
        return [_decision(row, f"{path}:{rows.line_num}") for row in rows]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8 CSV.") from None
    except csv.Error as error:
        raise UserError(f"{path}: not a CSV table ({error}).") from None


def _decision(row: dict[str, str | None], where: str) -> Decision:
    if str(row.get("image_id", "")).startswith(("<<<<<<<", "=======", ">>>>>>>")):
        raise UserError(f"{where}: a mark of a Git conflict: take the marks out and keep the rows of both sides.")
    if None in row or any(row.get(name) is None for name in FIELDS if name not in _OPTIONAL):
        raise UserError(f"{where}: the line must have as many values as the header; quote values that hold a comma.")
    values = {name: (row.get(name) or "").strip() for name in FIELDS}
    if values["decision"] not in (KEEP, DISCARD):
        raise UserError(f"{where}: the decision is {values['decision']!r}; allowed: {KEEP}, {DISCARD}.")
    for name in ("image_id", "reviewer"):
        if not values[name]:
            raise UserError(f"{where}: {name} is empty.")
    try:
        date.fromisoformat(values["date"])
    except ValueError:
        raise UserError(f"{where}: the date is {values['date']!r}; write it as YYYY-MM-DD.") from None
    return Decision(**values)


def settle(decisions: list[Decision], pool: pd.DataFrame) -> Verdicts:
    """Which decisions count for the images of a pool.

    Args:
        decisions: As read.
        pool: A manifest with ``image_id`` and, where images are to be told from their successors
            of the same id, ``sha256``.
    """
    last = {(d.image_id, d.reviewer): d for d in decisions}
    hashes = dict(zip(pool["image_id"], pool["sha256"], strict=True)) if "sha256" in pool.columns else {}
    known = set(pool["image_id"])
    by_image: dict[str, list[Decision]] = {}
    unknown, outdated = set(), set()
    for decision in last.values():
        if decision.image_id not in known:
            unknown.add(decision.image_id)
        elif decision.sha256 and hashes and decision.sha256 != hashes[decision.image_id]:
            outdated.add(decision.image_id)
        else:
            by_image.setdefault(decision.image_id, []).append(decision)
    conflicts = {name for name, said in by_image.items() if len({d.decision for d in said}) > 1}
    counting = {name: said[-1] for name, said in sorted(by_image.items()) if name not in conflicts}
    return Verdicts(counting, sorted(conflicts), sorted(unknown), sorted(outdated), len(last))


def add(path: Path, new: list[Decision]) -> int:
    """Put decisions into the table; a reviewer's word on an image replaces their earlier one.

    Returns:
        How many were new or different.
    """
    old = read(path)
    table = {(d.image_id, d.reviewer): d for d in old}
    changed = 0
    for decision in new:
        key = (decision.image_id, decision.reviewer)
        before = table.get(key)
        same = before and (before.decision, before.reason, before.sha256) == (
            decision.decision,
            decision.reason,
            decision.sha256,
        )
        if not same:
            table[key] = decision
            changed += 1
    if changed or not path.is_file():
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(table[key]) for key in sorted(table))
        write_atomic(path, buffer.getvalue())
    return changed
