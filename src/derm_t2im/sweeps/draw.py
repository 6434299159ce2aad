"""The figure of a sweep: a panel per figure, architecture and test set, with 95 % intervals and n."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from derm_t2im.sweeps.plan import Sweep

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
#: Colours of Okabe and Ito, markers and dashes: series are told apart without colour too.
LOOKS: tuple[tuple[str, str, Any], ...] = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "D", (0, (5, 1.5))),
    ("#009e73", "^", (0, (1.2, 1.2))),
    ("#cc79a7", "s", (0, (5, 1.5, 1, 1.5))),
    ("#56b4e9", "v", (0, (3, 1))),
    ("#666666", "P", (0, (1, 2))),
)


@dataclass
class Panel:
    """One pair of axes: series by name, each with its records."""

    title: str
    axis: str
    series: dict[str, list[Record]] = field(default_factory=dict)


def panels(sweep: Sweep, records: Sequence[Record]) -> list[Panel]:
    """Records by panel and series: ``mix`` (or the last placeholder) tells series apart, the others panels."""
    made: dict[tuple[str, ...], Panel] = {}
    for drawn in sweep.draw:
        words = drawn.words
        inner = sweep.axis.across or next((w for w in reversed(words) if w in ("mix", "pair")), "")
        order = drawn.only.get(inner, [])
        mine = [record for record in records if record["figure"] == drawn.name]
        for record in sorted(mine, key=lambda r: order.index(r[inner]) if order else 0):  # stable: points keep theirs
            outer = [str(record[word]) for word in words if word != inner]
            panel = made.setdefault((drawn.name, *outer), Panel(", ".join(outer).replace("_", "-"), drawn.name))
            name = record["point"] if sweep.axis.across else record.get(inner, drawn.name)
            panel.series.setdefault(str(name), []).append(record)
    return [made[key] for key in sorted(made, key=lambda key: [d.name for d in sweep.draw].index(key[0]))]


def place(sweep: Sweep, record: Record) -> str | float:
    """Where a record stands on the horizontal axis."""
    if sweep.axis.across:
        return str(record[sweep.axis.across])
    return float(record["x"]) if sweep.axis.scale != "category" else str(record["point"])


def svg(sweep: Sweep, records: Sequence[Record]) -> str:
    """The figure as a file of its own."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    made = panels(sweep, records)
    columns = min(len(made), 4 if len(made) % 4 == 0 or len(made) > 6 else 3)
    rows = -(-len(made) // columns)
    with mpl.rc_context():
        mpl.rcdefaults()
        style: Any = {"svg.hashsalt": sweep.name, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
        mpl.rcParams.update(style)
        figure = Figure(figsize=(3.3 * columns, 2.7 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for panel in made:
            _panel(sweep, panel, next(axes))
        for empty in axes:
            empty.set_visible(False)
        figure.suptitle(sweep.asks, fontsize=9.5, wrap=True)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _panel(sweep: Sweep, panel: Panel, axes: Axes) -> None:
    shown = [record for records in panel.series.values() for record in records]
    names = list(dict.fromkeys(str(place(sweep, record)) for record in shown))
    if not sweep.axis.across:
        names = [point.label for point in sweep.points if point.label in names]
    numeric = sweep.axis.scale != "category" and not sweep.axis.across
    for i, (name, records) in enumerate(panel.series.items()):
        colour, marker, dash = LOOKS[i % len(LOOKS)]
        at = [place(sweep, r) if numeric else names.index(str(place(sweep, r))) for r in records]
        shift = 0.0 if numeric else 0.14 * (i - (len(panel.series) - 1) / 2)
        x = [float(each) + shift for each in at]
        for place_, record in zip(x, records, strict=True):
            if "low" in record and "high" in record:
                axes.plot([place_] * 2, [record["low"], record["high"]], color=colour, linewidth=1.2, alpha=0.7)
        line = dash if numeric else "none"
        axes.plot(x, [r["value"] for r in records], color=colour, marker=marker, markersize=4.5, linestyle=line,
                  linewidth=1.4, label=name)  # fmt: skip
    if numeric:
        axes.set_xscale(sweep.axis.scale)
        if sweep.axis.scale == "log":
            ticks = sorted({float(place(sweep, r)) for r in shown})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
    else:
        long = max(map(len, names)) * len(names) > 36
        axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
        axes.set_xlim(-0.6, len(names) - 0.4)
    if "difference" in panel.axis:
        axes.axhline(0, color="#666666", linewidth=0.8)
    axes.grid(axis="y", linewidth=0.5, color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_xlabel(sweep.axis.name)
    axes.set_ylabel(panel.axis)
    axes.set_title(" · ".join(filter(None, [panel.title, counted(shown)])), fontsize=8.5, loc="left")
    if len(panel.series) > 1:
        abreast = min(3, len(panel.series))
        bottom, top = axes.get_ylim()  # room above all lines
        axes.set_ylim(bottom, top + 0.13 * (top - bottom) * -(-len(panel.series) // abreast))
        axes.legend(loc="upper left", ncols=abreast, columnspacing=1, handletextpad=0.2, frameon=False, fontsize=7.5)


def counted(records: Sequence[Record]) -> str:
    """The number of images, and of seeds, behind records."""
    said = []
    for name, form in (("n", "n = {}"), ("seeds", "{} seeds")):
        found = sorted({int(record[name]) for record in records if name in record})
        if found:
            said.append(form.format(f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"))
    return ", ".join(said).replace(" 1 seeds", " 1 seed")
