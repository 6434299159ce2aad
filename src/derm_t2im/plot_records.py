"""Files of plot records below ``plots/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from derm_t2im import state


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records, each with the keys of all, null where it has none: `dvc plots` goes by the first one's."""
    keys = dict.fromkeys(key for record in records for key in record)
    state.write_json(path, [{key: record.get(key) for key in keys} for record in records])
