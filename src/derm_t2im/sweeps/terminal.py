"""A sweep as tables of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from derm_t2im.sweeps import draw
from derm_t2im.sweeps.plan import Sweep

WIDTH = 140  # where there is no terminal to ask


def show(sweep: Sweep, found: Mapping[str, Any], records: Sequence[Mapping[str, Any]], file: IO[str]) -> None:
    """Print the state of each point, and a table per panel of the figure: points down, series across."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = file.isatty()
    console = Console(file=file, width=None if terminal else WIDTH, highlight=False)
    console.print(Text(f"{sweep.name}: {sweep.asks}", "bold"))
    for label, point in sorted(found["points"].items(), key=lambda item: item[1]["place"]):
        said = f"  {label}: {point['state']}"
        if "revision" in point:
            said += f" ({point['experiment']}, {point['revision'][:7]})"
        more = len(point.get("why", [])) - 3
        said += "".join(f"; {why}" for why in point.get("why", [])[:3]) + (f"; {more} more" if more > 0 else "")
        console.print(Text(said), soft_wrap=not terminal)
    for panel in draw.panels(sweep, records):
        listed = [record for each in panel.series.values() for record in each]
        heading = ", ".join(filter(None, [panel.axis, panel.title, draw.counted(listed)]))
        table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, title_justify="left", title=heading)
        table.add_column(sweep.axis.name)
        for name in panel.series:
            table.add_column(name, justify="right", no_wrap=True)
        rows: dict[str, dict[str, str]] = {}
        for name, each in panel.series.items():
            for record in each:
                row = str(record[sweep.axis.across] if sweep.axis.across else record["point"])
                rows.setdefault(row, {})[name] = _value(record)
        order = [point.label for point in sweep.points if point.label in rows]
        for row in list(rows) if sweep.axis.across else order:
            table.add_row(row, *(rows[row].get(name, "-") for name in panel.series))
        console.print()
        console.print(table)


def _value(record: Mapping[str, Any]) -> str:
    said = f"{record['value']:.3f}"
    return said + (f" ({record['low']:.3f} to {record['high']:.3f})" if "low" in record and "high" in record else "")
