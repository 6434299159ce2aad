"""The findings as one HTML page: nothing is fetched, nothing runs in the browser, equal input gives equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from derm_t2im import templates
from derm_t2im.audit import words
from derm_t2im.imaging import inline
from derm_t2im.report.words import count, number

SHOWN = 12  # finds of a kind that the page shows with their pictures
LISTED = 200  # unusable images that it lists
SIDE = 128  # of those pictures, pixels
SECTIONS = {
    "contradictions": (
        "Under two labels",
        "Labels of the same picture, or of one lesion, that contradict one another.",
    ),
    "leaks": ("In two splits", "What is learnt from one is met again in the other."),
    "copies": ("Synthetic copies of real images", "A synthetic image that shows a real one adds nothing to it."),
    "near": ("Near-duplicates", "Turned, mirrored or changed a little, but one picture."),
    "exact": ("Identical images", "The same pixels; the files may differ."),
}


def render(found: Mapping[str, Any]) -> str:
    """The whole page as text; pictures are read again from the files that the findings name."""
    from markupsafe import Markup

    pages = templates.environment("derm_t2im.audit", "derm_t2im.report")
    style = Markup(templates.source(pages, "style.css"))
    rows = words.rows(found)
    return pages.get_template("audit.html").render(
        style=style,
        path=found["path"],
        failed=found["failed"],
        clean=not any(row.tone for row in rows),
        headline=words.headline(found),
        notes=words.notes(found),
        facts=_facts(found),
        sections=[(name, list(some)) for name, some in groupby(rows, key=lambda row: row.section)],
        galleries=list(_galleries(found)),
        classes=list(found["classes"]),
        artefacts=list(_artefacts(found)),
        settings=list(_settings(found)),
        unusable=found["unusable"]["examples"][:LISTED],
        unusable_total=found["unusable"]["n"],
    )


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("images", count(found["images"])),
        ("classes", count(len(found["classes"]))),
        ("not usable", count(found["unusable"]["n"])),
        ("contradictions", count(found["contradictions"]["n"])),
        ("leaks", count(found["leaks"]["n"])),
    ]


def _galleries(found: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    same = found["duplicates"]
    for key, (title, note) in SECTIONS.items():
        finds = same[key] if key in ("near", "exact") else found[key]["examples"]
        total = {"near": same["near_pairs"], "exact": same["exact_groups"]}.get(key) or found.get(key, {}).get("n", 0)
        if finds:
            shown = [
                {"what": find["what"], "images": [_picture(i) for i in find["images"][:2]]} for find in finds[:SHOWN]
            ]
            yield {"title": title, "note": note, "shown": shown, "total": count(total)}


def _picture(image: Mapping[str, str]) -> dict[str, str]:
    from derm_t2im.imaging.io import ImageError, read_rgb

    said = [image["image_id"], *(image[name] for name in ("label", "split", "kind") if name in image)]
    try:
        source = inline.data_uri(read_rgb(Path(image["file"])), SIDE)
    except ImageError:  # gone since
        source = ""
    return {"src": source, "said": ", ".join(said)}


def _artefacts(found: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """A row per measure: medians with quartiles per class, AUCs."""
    for name, values in found["artefacts"].items():
        if not values["classes"]:
            continue
        spreads = [
            (words.short(some["median"]), f"{words.short(some['quarter'])} to {words.short(some['three_quarters'])}")
            for some in values["classes"].values()
        ]
        areas = [
            (label, number(area["auc"]), f"{number(area['low'])} to {number(area['high'])}, n = {count(area['n'])}",
             area["sign"])
            for label, area in values["areas"].items()
        ]  # fmt: skip
        yield {"name": words.MEASURE_NAMES[name], "spreads": spreads, "areas": areas}


def _settings(found: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """(setting, value, how often per class), each setting's most frequent value first."""
    for key, values in found["settings"]["values"].items():
        order = sorted(values.items(), key=lambda item: (-sum(item[1].values()), item[0]))
        for value, by_class in order[:50]:
            yield key.replace("_", " "), value, words.listed(by_class)
