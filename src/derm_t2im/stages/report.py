"""Stage `report`: one self-contained page about the whole run."""

from __future__ import annotations

from derm_t2im import paths
from derm_t2im.params.schema import load_all
from derm_t2im.progress import say
from derm_t2im.report.evidence import collect
from derm_t2im.report.origin import origin
from derm_t2im.report.page import render
from derm_t2im.state import write_atomic


def run() -> None:
    """Write reports/index.html from metrics, plots, manifests and images."""
    parameters = load_all()
    made = origin(parameters.model_dump(by_alias=True, mode="json"))
    text = render(collect(), parameters.report, made)
    write_atomic(paths.REPORT, text)
    say(f"report: {paths.REPORT} ({len(text) / 1e6:.1f} MB, opens without a network)")
