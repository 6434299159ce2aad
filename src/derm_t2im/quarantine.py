"""What could not be used: counted by reason, kept in a table, fatal only past a stated share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def tally(values: pd.Series) -> dict[str, int]:
    """How often each value occurs, by name."""
    return {str(name): int(count) for name, count in values.dropna().value_counts().sort_index().items()}


def unique_ids(table: pd.DataFrame) -> pd.DataFrame:
    """The table with repeated image ids told apart: ``x``, ``x#2``, ``x#3``, ..."""
    table = table.reset_index(drop=True).copy()
    ids: list[str] = []
    seen: set[str] = set()
    for name in table["image_id"].astype(str):
        number, unique = 1, name
        while unique in seen:
            number += 1
            unique = f"{name}#{number}"
        seen.add(unique)
        ids.append(unique)
    table["image_id"] = ids
    return table


def check(table: pd.DataFrame, total: int, share: float, parameter: str, saved: Path) -> None:
    """Stop if more than ``share`` of ``total`` images are in quarantine.

    Args:
        table: The quarantine, with ``image_id``, ``reason``, ``detail``.
        total: Images that came in.
        share: Largest share to bear.
        parameter: Name of the parameter behind ``share``.
        saved: Where the whole table is kept for the user; written only when this stops the run.

    Raises:
        UserError: with the counts by reason, three examples, and what to do.
    """
    if not len(table) or len(table) <= share * total:
        return
    saved.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(saved, index=False)
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally(table["reason"]).items())
    examples = "; ".join(f"{row.image_id}: {row.reason}, {row.detail}" for row in table.head(3).itertuples())
    raise UserError(
        f"{len(table)} of {total} images cannot be used ({reasons}), more than {parameter} = {share:g} allows. "
        f"For example {examples}. All of them: {saved}. Mend them or raise {parameter}."
    )
