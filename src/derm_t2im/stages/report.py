"""Stage `report`: one self-contained page about the whole run."""

from __future__ import annotations

from derm_t2im import paths
from derm_t2im.params import load
from derm_t2im.params.report import Report
from derm_t2im.progress import say
from derm_t2im.report.evidence import collect
from derm_t2im.report.page import render
from derm_t2im.state import write_atomic


def run() -> None:
    """Write reports/index.html from metrics, plots, manifests and images."""
    settings = load("report", Report)
    text = render(collect(), settings)
    write_atomic(paths.REPORT, text)
    say(f"report: {paths.REPORT} ({len(text) / 1e6:.1f} MB, opens without a network)")
