"""Charts as inline SVG: real text, colours of the page (light and dark), one shape and dash per series."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Placeholders that the page's style sheet fills; matplotlib only ever sees these hex codes.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"}

#: Colour, marker and dash of each mix: told apart without colour too.
SERIES: dict[str, tuple[str, str, Any]] = {
    "real": ("#0a0a01", "o", "-"),
    "hybrid": ("#0a0a02", "D", (0, (5, 1.5))),
    "oversampled": ("#0a0a03", "^", (0, (1.2, 1.2))),
    "synthetic": ("#0a0a04", "s", (0, (5, 1.5, 1, 1.5))),
    "augmented": ("#0a0a05", "P", (0, (9, 2))),
    "unfiltered": ("#0a0a06", "X", (0, (5, 1.5, 1, 1.5, 1, 1.5))),
}
_VARIABLES.update({look[0]: f"--{name}" for name, look in SERIES.items()})
NARROW, WIDE, ROW = 2.9, 4.4, 0.17  # inches: a chart, one with names beside it, a row of a legend
INSIDE = 4  # names of a legend that leave the curves of a square chart to be seen
_OTHER = ("#020202", "v", (0, (3, 1)))

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}


@dataclass(frozen=True)
class Interval:
    """One row of a forest plot: an estimate with its 95 % interval, in the unit of the axis."""

    label: str
    value: float
    low: float
    high: float
    series: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a chart; ``sizes`` are counts behind its points, ``low`` and ``high`` their 95 % intervals."""

    series: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    sizes: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def roc(curves: Sequence[Curve], title: str, describe: str, n: str = "") -> str:
    """ROC curves of the mixes on one test set of ``n`` images."""
    with _context(f"roc {title}"):
        figure, axes = _blank(NARROW, 3.0 + _below(curves))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
        for curve in curves:
            colour, _, dash = SERIES.get(curve.series, _OTHER)
            axes.plot(curve.x, curve.y, color=colour, linestyle=dash, label=curve.label)
        _unit_square(axes)
        axes.set_xlabel("1 − specificity" + (f"   (n = {n})" if n else ""))
        axes.set_ylabel("sensitivity")
        _legend(figure, axes, curves, "lower right", 2.6)
        axes.set_title(title)
        return _svg(figure, title, describe)


def reliability(curves: Sequence[Curve], title: str, describe: str, n: str = "", scaled: bool = False) -> str:
    """Observed accuracy over stated confidence, as trained or ``scaled``; markers grow with their number of images."""
    with _context(f"reliability {scaled} {title}"):
        figure, axes = _blank(NARROW, 3.0 + _below(curves))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
        most = max((size for curve in curves for size in curve.sizes), default=1) or 1
        lows = [value for curve in curves for value in (*curve.x, *curve.y)]
        for curve in curves:
            colour, marker, dash = SERIES.get(curve.series, _OTHER)
            axes.plot(curve.x, curve.y, color=colour, linestyle=dash, linewidth=1.2)
            if curve.low:
                axes.vlines(curve.x, curve.low, curve.high, color=colour, linewidth=0.9, alpha=0.7)
            areas = [10 + 70 * size / most for size in curve.sizes] or 30
            axes.scatter(curve.x, curve.y, s=areas, color=colour, marker=marker, label=curve.label, linewidths=0)
        _unit_square(axes, min(0.5, *lows) if lows else 0.0)
        axes.set_xlabel("mean confidence" + (f"   (n = {n})" if n else " in the predicted class"))
        axes.set_ylabel("share that is right")
        for mark in _legend(figure, axes, curves, "upper left", 2.0).legend_handles:
            mark.set_sizes([25])  # type: ignore[union-attr]  # else as large as the first bin
        axes.set_title(title)
        return _svg(figure, title, describe)


def abstention(curves: Sequence[Curve], title: str, describe: str, n: str = "") -> str:
    """Accuracy over the share of images that is answered, with bands of 95 %."""
    columns = _columns([curve.label for curve in curves], NARROW)
    with _context(f"abstention {title}"):
        figure, axes = _blank(NARROW, 2.75 + ROW * math.ceil(len(curves) / columns))
        for curve in curves:
            colour, _, dash = SERIES.get(curve.series, _OTHER)
            if curve.low:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.12, linewidth=0)
            axes.plot(curve.x, curve.y, color=colour, linestyle=dash, label=curve.label)
        lows = [value for curve in curves for value in (*curve.y, *curve.low)]
        axes.set_xlim(0.08, 1.02)
        axes.set_ylim(max(0.0, int(min(lows, default=0.0) * 20) / 20), 1.01)
        axes.grid()
        axes.set_axisbelow(True)
        axes.set_xlabel("share answered" + (f"   (n = {n} at 1)" if n else ""))
        axes.set_ylabel("accuracy of the answers")
        figure.legend(loc="outside lower center", ncols=columns, handlelength=2.6)
        axes.set_title(title)
        return _svg(figure, title, describe)


def grouped(
    labels: Sequence[str], series: Sequence[tuple[str, str, Sequence[Interval | None]]], axis: str, title: str,
    describe: str, limits: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Estimates with 95 % intervals of several series in each group, one group below the other.

    Args:
        labels: Names of the groups, from top to bottom.
        series: (key, name, an estimate per group or None where there is none).
        axis: Name of the axis.
        title: Heading of the chart.
        describe: What the chart shows, for those who do not see it.
        limits: Of the axis.
    """
    from matplotlib.ticker import MaxNLocator

    columns = _columns([name for _, name, _ in series], WIDE)
    lines = math.ceil(len(series) / columns)
    with _context(f"grouped {title} {axis}"):
        figure, axes = _blank(WIDE, 1.0 + ROW * lines + (0.16 + 0.15 * len(series)) * len(labels))
        for k, (key, name, rows) in enumerate(series):
            colour, marker, _ = SERIES.get(key, _OTHER)
            shift = min(0.22, 0.8 / len(series)) * (k - (len(series) - 1) / 2)
            known = [(i + shift, row) for i, row in enumerate(rows) if row is not None]
            for y, row in known:
                axes.plot([row.low, row.high], [y, y], color=colour, linewidth=1.5, solid_capstyle="butt")
            axes.plot([row.value for _, row in known], [y for y, _ in known], color=colour, marker=marker,
                      linestyle="none", markersize=4.5, label=name)  # fmt: skip
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        if limits:
            axes.set_xlim(*limits)
        axes.set_xlabel(axis)
        axes.set_title(title)
        figure.legend(loc="outside lower center", ncols=columns, handlelength=1.2)
        return _svg(figure, title, describe)


def _columns(labels: Sequence[str], width: float) -> int:
    """Columns of a legend that these names fit into, below a chart ``width`` inches wide."""
    each = 0.5 + 0.058 * max(map(len, labels), default=0)
    return max(1, min(len(labels), int(width / each)))


def _below(curves: Sequence[Curve]) -> float:
    """Inches that the legend of a square chart takes below it."""
    columns = _columns([c.label for c in curves], NARROW)
    return 0.1 + ROW * math.ceil(len(curves) / columns) if len(curves) > INSIDE else 0.0


def _legend(
    figure: Figure, axes: Axes, curves: Sequence[Curve], inside: Literal["lower right", "upper left"], length: float
) -> Legend:
    """The legend of a square chart: inside, or below it where it has too many names."""
    if len(curves) <= INSIDE:
        return axes.legend(loc=inside, handlelength=length)
    columns = _columns([c.label for c in curves], NARROW)
    return figure.legend(loc="outside lower center", ncols=columns, handlelength=length)


def _blank(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _unit_square(axes: Axes, low: float = 0.0) -> None:
    low = max(0.0, int(low * 10) / 10)
    pad = 0.02 * (1 - low)
    axes.set_xlim(low - pad, 1 + pad)
    axes.set_ylim(low - pad, 1 + pad)
    axes.set_aspect("equal")
    axes.grid()
    axes.set_axisbelow(True)


@contextmanager
def _context(name: str) -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()  # whatever matplotlibrc this machine has
        # The salt makes the ids of one chart stable, and unlike those of the others on the page.
        style: Any = {**_STYLE, "svg.hashsalt": name}
        mpl.rcParams.update(style)
        yield


def _svg(figure: Figure, title: str, describe: str) -> str:
    """The figure as an inline <svg>: no fixed size, no metadata, the page's colours and font."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # would apply to the page
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    for code, variable in _VARIABLES.items():
        text = text.replace(code, f"var({variable})")
    text = text.replace("'DejaVu Sans'", "inherit").replace("font-family: inherit", "font-family: var(--font)")
    # ids of patches and axes repeat from chart to chart; only those that are referred to must stay
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", text)
    width = float(figure.get_figwidth()) * 72
    label = html.escape(f"{title}. {describe}", quote=True)
    opening = f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" aria-label="{label}" '
    opening += f'style="max-width:{width * 1.6 if width < 250 else width * 1.3:.0f}px" '
    text = re.sub(r'(viewBox="[^"]+").*?>', rf"{opening}\1>", text[text.index("viewBox") :], count=1, flags=re.DOTALL)
    return text.strip()
