"""The figures of a reader study as a short table of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

WIDTH = 140  # where there is no terminal to ask
NAME = 16  # of a reader, before it is broken
HEADS = (
    "accuracy (95 %)",
    "p",
    "sens.",
    "spec.",
    "AUC (95 %)",
    "d'",
    "c",
    "dx real",
    "dx synth.",
    "again",
    "s / image",
)


def show(found: Mapping[str, Any], file: IO[str]) -> None:
    """Print a row per reader and one for all, agreement, what was wrong, and what it means."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = file.isatty()
    console = Console(file=file, width=None if terminal else WIDTH, highlight=False)
    table = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False)
    longest = max(map(len, found["readers"]))
    table.add_column("reader", overflow="fold", min_width=min(longest, NAME), max_width=NAME)
    for head in HEADS:
        table.add_column(head, no_wrap=True, justify="right")
    for name, about in found["readers"].items():
        table.add_row(*(Text(_plain(cell)) for cell in _row(name, about)))
    if len(found["readers"]) > 1:
        table.add_section() if terminal else table.add_row()
        table.add_row(*(Text(cell, "bold") for cell in _row("mean", found["pooled"])))
    console.print(Text(f"Reader study {_plain(found['name'])}: {found['images']} images, "
                       f"{len(found['readers'])} reader(s)", "bold"))  # fmt: skip
    console.print(Text(_plain(_finished(found))))
    console.print(table)
    for line in _lines(found):
        console.print(Text(_plain(line)), soft_wrap=not terminal)  # elsewhere a line each, to be searched


def _finished(found: Mapping[str, Any]) -> str:
    """How many readers are through, and how far the others are."""
    unread = found["unread"]
    part = {name: about for name, about in found["readers"].items() if about["missing"]["n"]}
    every = len(found["readers"]) + len(unread)
    done = every - len(part) - len(unread)
    said = [f"Finished: {done} of {every} reader{'s' * (every != 1)}."]
    said += [
        f"{name} answered {about['answered']} of {about['answered'] + about['missing']['n']}; scored as far as read."
        for name, about in part.items()
    ]
    if unread:
        said.append(f"Nothing to score yet in {', '.join(unread)}.")
    return " ".join(said)


def _row(name: str, about: Mapping[str, Any]) -> tuple[str, ...]:
    again = about.get("again", {"n": 0})
    time = about["time"]
    return (
        name, _interval(about, "accuracy"), _p(about["p"]), _number(about["sensitivity"]),
        _number(about["specificity"]), _interval(about, "auc"), _number(about["d_prime"]), _number(about["criterion"]),
        _number(about["diagnosis_real"]), _number(about["diagnosis_synthetic"]),
        f"{round(again['source_agreement'] * again['n'])}/{again['n']}" if again["n"] else "",
        f"{_number(time['median'], 1)} ({_number(time['quarter'], 1)}-{_number(time['three_quarters'], 1)})",
    )  # fmt: skip


def _lines(found: Mapping[str, Any]) -> list[str]:
    pooled, lines = found["pooled"], []
    for name, words in (("source", "real or synthetic"), ("diagnosis", "diagnosis")):
        about = found["agreement"][name]
        if about["pairs"]:
            kappas = [pair["kappa"] for pair in about["pairs"] if pair["kappa"] == pair["kappa"]]
            reach = f"; Cohen's {_number(min(kappas))} to {_number(max(kappas))} over pairs" if kappas else ""
            lines.append(f"Agreement on {words}: Fleiss' kappa {_interval(about, 'fleiss_kappa')}{reach}.")
    lines.append(f"Diagnosed as labelled, synthetic less real: {_interval(pooled, 'diagnosis_difference', '+')}.")
    lines.append(_verdict(found))
    for name, about in found["readers"].items():
        for kind, some in about["problems"].items():
            examples = ", ".join(some["examples"][:3])
            lines.append(f"Note: {name}: {kind.replace('_', ' ')}, {some['n']} (left out): {examples}")
    return lines


def _verdict(found: Mapping[str, Any]) -> str:
    pooled = found["pooled"]
    low, high, several = pooled["accuracy_low"], pooled["accuracy_high"], len(found["readers"]) > 1
    who = "The readers" if several else "The reader"
    scope = "other readers and images" if several else "other images, not other readers"
    able = pooled["detectable_accuracy"] if several else next(iter(found["readers"].values()))["detectable_accuracy"]
    reach = "" if able != able else f" A true accuracy of {_number(able)} would be found with 80 % power."
    if low > 0.5:
        return f"{who} told synthetic from real better than chance (interval for {scope}).{reach}"
    if high < 0.5:
        return f"{who} took one for the other more often than chance would (interval for {scope}).{reach}"
    return (
        f"{who} cannot be told from chance; that is no proof of it: an accuracy of up to {_number(high)} agrees with "
        f"these answers (interval for {scope}).{reach}"
    )


def _interval(about: Mapping[str, Any], name: str, sign: str = "") -> str:
    value, low, high = (about[name + end] for end in ("", "_low", "_high"))
    if value != value:
        return "undefined"
    return f"{value:{sign}.2f} ({low:{sign}.2f}, {high:{sign}.2f})"


def _number(value: float, digits: int = 2) -> str:
    return "-" if value != value else f"{value:.{digits}f}"


def _p(value: float) -> str:
    if value != value:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _plain(text: str) -> str:
    """Text without anything that could steer a terminal."""
    return "".join(mark if mark.isprintable() else " " for mark in text)
