"""The section on what classifiers look at: shares outside the lesion, and a picture of each architecture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from derm_t2im import paths
from derm_t2im.report import pictures, tables, words
from derm_t2im.report.evidence import Evidence
from derm_t2im.report.forest import Estimate, Forest, estimate, forest

PARTS = {"all": "all answers", "hits": "right answers", "misses": "wrong answers"}
METHODS = {
    "grad_cam": "Grad-CAM",
    "attention_gradient": "attention roll-out, weighted by the gradients of the finding",
    "attention_rollout": "attention roll-out",
}
SHEET = 1400  # largest side of a picture, pixels: its captions stay legible


class Section(NamedTuple):
    """What the template shows: nothing where the stage has not run."""

    shares: list[tables.Row]
    differences: list[tables.Row]
    grids: list[tuple[str, pictures.Picture]]
    notes: list[str]
    figure: Forest | None


def section(evidence: Evidence) -> Section | None:
    """The section of a run; None where nothing was explained."""
    found = evidence.of("explanations")
    if not found:
        return None
    archs = {arch: cells for arch, cells in found.items() if isinstance(cells, Mapping) and arch not in _OTHER}
    grids = []
    for arch, cells in archs.items():
        shown = pictures.sheet(evidence.root / paths.explanation(arch), f"What {words.arch(arch)} looks at", SHEET)
        if shown is not None:
            grids.append((f"{words.arch(arch)}: {_method(cells)}", shown))
    return Section(
        list(_shares(archs)),
        list(_differences(found.get("contrasts") or {})),
        grids,
        _notes(found, archs),
        _figure(archs),
    )


_OTHER = ("contrasts", "masks")


def _figure(archs: Mapping[str, Any]) -> Forest | None:
    """The share outside the lesion over all answers, a row per classifier and training set."""
    rows: list[Estimate] = []
    for arch, cells in archs.items():
        for mix in sorted((name for name in cells if isinstance(cells[name], Mapping)), key=words.mix_place):
            values = tables.flat(cells[mix].get("all"))
            if not values.get("n"):
                continue
            n = f"{words.mix(mix)}, n = {words.count(values['n'])}"
            uniform = words.number(values.get("uniform"), "percent")
            found = estimate(values, "outside", words.arch(arch), "percent", detail=n, tone=mix)
            rows += [replace(row, notes=(uniform,)) for row in found]
    caption = (
        "Share of the map outside the lesion, all in-domain answers, beside that of a map that says nothing. "
        "Lines are 95 % intervals over images; seeds may lie further apart (in numbers below)."
    )
    return forest(rows, caption, ("Classifier", "share outside, %", "Share [95 %]", "Uniform map"))


def _shares(archs: Mapping[str, Any]) -> Iterator[tables.Row]:
    for arch, cells in archs.items():
        for mix in sorted(cells, key=lambda name: (list(words.MIXES).index(name) if name in words.MIXES else 9, name)):
            for part, said in PARTS.items():
                values = cells[mix].get(part) if isinstance(cells[mix], Mapping) else None
                if values and values.get("n"):
                    row = [tables.Cell(said), tables.cell(values, "outside", "percent")]
                    row += [tables.Cell(words.number(values.get("outside_seed_sd"), "percent"))]
                    row += [tables.cell(values, "uniform", "percent")]
                    row += [tables.Cell(words.number(values.get("floor"), "percent")), tables.cell(values, "erasure")]
                    name = f"{words.arch(arch)}, {words.mix(mix)}"
                    yield tables.Row(name, row, words.count(values["n"]))


def _differences(contrasts: Mapping[str, Any]) -> Iterator[tables.Row]:
    for arch, pairs in contrasts.items():
        for pair, parts in pairs.items():
            a, _, b = pair.partition("-")
            for part, values in parts.items():
                if values.get("n"):
                    row = [tables.Cell(PARTS.get(part, part)), tables.cell(values, "outside", "points")]
                    name = f"{words.arch(arch)}, {words.mix(a)} − {words.mix(b)}"
                    yield tables.Row(name, row, words.count(values["n"]))


def _method(cells: Mapping[str, Any]) -> str:
    one = next((values for values in cells.values() if isinstance(values, Mapping)), {})
    side = one.get("cells")
    return f"{METHODS.get(str(one.get('method')), str(one.get('method')))}, {side} x {side} cells"


def _notes(found: Mapping[str, Any], archs: Mapping[str, Any]) -> list[str]:
    said = [str(cells["left_out"]) for cells in archs.values() if "left_out" in cells]
    masks = found.get("masks") or {}
    if masks:
        images, truth, seen, none = (
            words.count(n) for n in (found.get("images"), *(masks.get(key) for key in ("truth", "found", "none")))
        )
        said.append(
            f"Of {images} in-domain test images, {truth} have a true lesion mask, {seen} a found one, {none} none."
        )
    return said
