"""What a sweep found: its figures, from Git, as one file and as records to plot.

``metrics/sweeps/NAME.json``::

    {"name", "asks", "revision",            # the commit that points were compared with
     "axis": {"name", "scale", "across"},
     "base": {parameter: value}, "given": {parameter: value},   # common to all points; of the user
     "points": {label: {
        "place", "x", "set": {parameter: value}, "experiment", "revision",   # place: order; revision: of the experiment
        "state",                            # finished | outdated | missing | failed
        "why": [line],                      # of outdated and failed
        "figures": {key: {"value", "low", "high", "n", "seeds", "seed_sd"}}}}}

``key`` is ``file:path`` of the number in the metrics; ``low`` and ``high`` are its 95 % interval, ``n`` the
images behind it. What is not known is left out. Points that are not finished have no figures: old and new ones are
never mixed. ``plots/sweeps/NAME.json``: a record per figure with ``point``, ``x``, ``figure`` (its name), the
placeholders of its key (``arch``, ``mix``, ``test``) and the values. All records have the same keys, null where there
is nothing to say, as `dvc plots` draws no others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from derm_t2im import paths, plot_records, state
from derm_t2im.sweeps import experiments
from derm_t2im.sweeps.engine import Found
from derm_t2im.sweeps.plan import Drawn, Sweep

METRICS = paths.SWEEP_METRICS
PLOTS = paths.SWEEP_PLOTS


def recorded(name: str) -> dict[str, Any]:
    """What ``metrics/sweeps/NAME.json`` holds; empty without one."""
    try:
        found = json.loads((METRICS / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def given_before(name: str) -> dict[str, Any]:
    """The parameters that the user gave when the sweep was run last."""
    given = recorded(name).get("given")
    return dict(given) if isinstance(given, dict) else {}


def collect(
    sweep: Sweep, points: Sequence[Found], given: Mapping[str, Any], failed: Mapping[str, str]
) -> dict[str, Any]:
    """All that is known of a sweep, as the module says."""
    return {
        "name": sweep.name,
        "asks": sweep.asks,
        "revision": experiments.head(),
        "axis": sweep.axis.model_dump(),
        "base": sweep.base,
        "given": dict(given),
        "points": {each.point.label: _point(sweep, i, each, failed) for i, each in enumerate(points)},
    }


def _point(sweep: Sweep, place: int, each: Found, failed: Mapping[str, str]) -> dict[str, Any]:
    about: dict[str, Any] = {"place": place, "set": each.point.set, "experiment": each.experiment, "figures": {}}
    if each.point.x is not None:
        about["x"] = each.point.x
    why: list[str] = []
    if each.point.label in failed:
        about["state"], why = "failed", [failed[each.point.label]]
    elif each.revision:
        about["state"], about["revision"] = "finished", each.revision
        for drawn in sweep.draw:
            about["figures"].update(figures(each.revision, drawn))
    else:
        about["state"], why = ("outdated", list(each.old)) if each.old else ("missing", [])
    return {**about, "why": why} if why else about


def figures(revision: str, drawn: Drawn) -> dict[str, dict[str, Any]]:
    """Those of a family that an experiment has, by key."""
    try:
        metrics = json.loads(experiments.at(revision, drawn.file.as_posix()) or "{}")
    except ValueError:
        metrics = {}
    numbers = dict(_flat(metrics, ""))
    found = {}
    for where, value in numbers.items():
        if drawn.match(where) is None:
            continue
        above = where.rpartition(".")[0] + "." if "." in where else ""
        about = {
            "value": value,
            "low": numbers.get(f"{where}_low"),
            "high": numbers.get(f"{where}_high"),
            "n": next((numbers[n] for n in (f"{where}_n", f"{above}n", f"{above}n_synthetic") if n in numbers), None),
            "seeds": numbers.get(f"{above}seeds"),
            "seed_sd": numbers.get(f"{where}_seed_sd"),
        }
        found[f"{drawn.key.partition(':')[0]}:{where}"] = {k: v for k, v in about.items() if v is not None}
    return found


def _flat(values: Any, above: str) -> Iterator[tuple[str, float]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{above}.{key}" if above else str(key))
    elif isinstance(values, int | float) and not isinstance(values, bool):
        yield above, values


def records(sweep: Sweep, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A record per figure of each finished point, in the order of the points."""
    listed = []
    for label, point in sorted(found["points"].items(), key=lambda item: item[1]["place"]):
        for drawn in sweep.draw:
            for key, about in point["figures"].items():
                file, _, where = key.partition(":")
                words = drawn.match(where) if drawn.key.startswith(f"{file}:") else None
                if words is not None:
                    place = {"x": point["x"]} if "x" in point else {}
                    listed.append({"point": label, **place, "figure": drawn.name, **words, **about})
    return listed


def known(found: Mapping[str, Any]) -> bool:
    """Whether a point was run in this repository. In a clone none was: its results are those that were committed."""
    return {point["state"] for point in found["points"].values()} != {"missing"}


def absent(sweep: Sweep, found: Mapping[str, Any]) -> list[str]:
    """The keys to draw of which no finished point has a figure: a wrong word, or a file that there is not."""
    finished = [point for point in found["points"].values() if point["state"] == "finished"]
    drawn = {record["figure"] for record in records(sweep, found)}
    return [each.key for each in sweep.draw if finished and each.name not in drawn]


def write(sweep: Sweep, found: Mapping[str, Any]) -> list[Path]:
    """Write the metrics, the records and the figure; returns where they are."""
    from derm_t2im.sweeps import draw

    listed = records(sweep, found)
    written = [METRICS / f"{sweep.name}.json", PLOTS / f"{sweep.name}.json"]
    state.write_json(written[0], dict(found))
    plot_records.write(written[1], listed)
    picture = PLOTS / f"{sweep.name}.svg"
    if listed:
        state.write_atomic(picture, draw.svg(sweep, listed))
        return [*written, picture]
    picture.unlink(missing_ok=True)
    return written
