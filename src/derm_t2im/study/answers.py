"""What readers answered, checked against the study: what cannot be used is counted, never lost silently."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from derm_t2im import state
from derm_t2im.errors import UserError
from derm_t2im.study.design import KINDS, READING
from derm_t2im.study.pack import KEY, KEY_COLUMNS, PLAN

COLUMNS = ("study", "reader", "position", "image", "source", "confidence", "diagnosis", "seconds")
CONFIDENCES = ("1", "2", "3", "4", "5")


class Unread(UserError):
    """A file of answers in which no image of the reading is answered: a reader who has only begun."""


@dataclass(frozen=True)
class Item:
    """A row of the key: a thing shown. ``shows`` is the same number for two showings of one image."""

    name: str
    phase: str
    shows: int
    kind: str
    label: str


@dataclass
class Answer:
    """One answer; None where a field is blank or none of the allowed words."""

    item: Item
    position: int
    source: str | None
    confidence: int | None
    diagnosis: str | None
    seconds: float | None
    interruptions: int


@dataclass
class Reader:
    """A reader's answers in the order in which they were given (practice left out), and what was wrong with them."""

    name: str
    path: Path
    sha256: str
    experience: float | None = None
    answers: list[Answer] = field(default_factory=list)
    practice: int = 0
    missing: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)


def read_study(folder: Path) -> tuple[dict[str, Any], dict[str, Item]]:
    """Plan and key of a study, the key by name.

    Raises:
        UserError: where one is missing or unreadable, or the key is not the one that the plan was made with.
    """
    for name in (PLAN, KEY):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: name the folder that `derm-t2im study create` made.")
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        expected, _ = plan["sha256"][KEY], (plan["classes"], plan["study"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{folder / PLAN} is no plan of a study: fetch it as `study create` wrote it.") from None
    if state.hash_file(folder / KEY) != expected:
        raise UserError(f"{folder / KEY} is not the key that {PLAN} was made with: fetch the one that was.")
    with (folder / KEY).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or set(rows[0]) != set(KEY_COLUMNS):
        raise UserError(f"{folder / KEY}: expected the columns {', '.join(KEY_COLUMNS)}.")
    items = [Item(row["name"], row["phase"], int(row["shows"]), row["kind"], row["label"]) for row in rows]
    return plan, {item.name: item for item in items}


def read_answers(path: Path, plan: Mapping[str, Any], key: Mapping[str, Item]) -> Reader:
    """The answers of one reader.

    Unknown images, second answers to one showing, and fields that are blank or none of the allowed words are
    left out and listed in ``problems``; showings without an answer in ``missing``.

    Raises:
        Unread: where no image of the reading is answered.
        UserError: where the file is none of answers to this study by one reader.
    """
    rows = _rows(path)
    studies = {row["study"] for row in rows}
    if studies != {plan["study"]}:
        other = min(studies - {plan["study"]})
        raise UserError(f"{path}: answers to another study ({other or 'none named'}, not {plan['study']}).")
    names = sorted({" ".join(row["reader"].split()) for row in rows})
    if len(names) != 1 or not names[0]:
        told = ", ".join(names[:3]) if any(names) else "none"
        raise UserError(f"{path}: one file holds the answers of one reader; this one names: {told}.")
    reader = Reader(names[0], path, state.hash_file(path), _number(rows[0].get("experience", "")))
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        item = key.get(row["image"])
        if item is None:
            _note(reader, "unknown_image", row["image"] or f"row {number}: blank")
        elif item.name in seen:
            _note(reader, "answered_twice", item.name)
        else:
            seen.add(item.name)
            if item.phase == READING:
                reader.answers.append(_answer(reader, item, row, number, plan["classes"]))
            else:
                reader.practice += 1
    if not reader.answers:
        raise Unread(f"{path}: no answer to an image of this study (practice does not count).")
    reader.missing = sorted(item.name for item in key.values() if item.phase == READING and item.name not in seen)
    reader.answers.sort(key=lambda answer: answer.position)
    return reader


def read_all(
    paths: Sequence[Path], plan: Mapping[str, Any], key: Mapping[str, Item]
) -> tuple[list[Reader], list[Path]]:
    """The readers who answered something, by name; and the files of those who did not.

    Raises:
        UserError: as :func:`read_answers` and :func:`together`; and where nobody answered anything.
    """
    readers, unread = [], {}
    for path in paths:
        try:
            readers.append(read_answers(path, plan, key))
        except Unread as error:
            unread[path] = str(error)
    if unread and not readers:
        more = f" Nothing to score in any of the {len(unread)} files." if len(unread) > 1 else ""
        raise UserError(next(iter(unread.values())) + more)
    return together(readers), list(unread)


def together(readers: Sequence[Reader]) -> list[Reader]:
    """The readers by name.

    Raises:
        UserError: where two files are of one reader, or none is given.
    """
    if not readers:
        raise UserError("no answers: name the files answers-*.csv.")
    first: dict[str, Reader] = {}
    for reader in readers:
        before = first.setdefault(reader.name.casefold(), reader)
        if before is not reader:
            raise UserError(f"{before.path} and {reader.path} are both of reader {reader.name}: give one of them.")
    return sorted(readers, key=lambda reader: reader.name)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8: save it as CSV UTF-8.") from None
    head = text.split("\n", 1)[0]
    # A spreadsheet of many a country writes semicolons.
    table = csv.DictReader(text.splitlines(), delimiter=";" if head.count(";") > head.count(",") else ",")
    lacking = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if lacking:
        raise UserError(
            f"{path}: the columns {', '.join(lacking)} are missing; it should be a file that read.html saved."
        )
    rows = [{str(name): (value or "").strip() if isinstance(value, str) or value is None else "" for name, value in
             row.items()} for row in table]  # fmt: skip
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise Unread(f"{path} holds no answers.")
    return rows


def _answer(reader: Reader, item: Item, row: Mapping[str, str], number: int, classes: Sequence[str]) -> Answer:
    def word(name: str, allowed: Sequence[str]) -> str | None:
        said = row[name]
        found = next((one for one in allowed if one.casefold() == said.casefold()), None)
        if found is None:
            _note(reader, f"wrong_{name}", f"{item.name}: {said or 'blank'}")
        return found

    seconds = _number(row["seconds"])
    if seconds is None:
        _note(reader, "wrong_seconds", f"{item.name}: {row['seconds'] or 'blank'}")
    position = _number(row["position"])
    if position is None:
        _note(reader, "wrong_position", f"{item.name}: {row['position'] or 'blank'}")
    confidence = word("confidence", CONFIDENCES)
    return Answer(
        item,
        int(position) if position is not None else number,
        word("source", KINDS),
        None if confidence is None else int(confidence),
        word("diagnosis", classes),
        seconds,
        int(_number(row.get("interruptions", "")) or 0),
    )


def _note(reader: Reader, kind: str, what: str) -> None:
    reader.problems.setdefault(kind, []).append(what[:200])


def _number(text: str) -> float | None:
    """A finite number that is not negative, with a point or a comma; None for anything else."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
