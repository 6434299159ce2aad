"""The findings as rows that people read: the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from derm_t2im.audit.probes import EVEN, FEW
from derm_t2im.report.words import MEASURES, count, is_number, number

Tone = Literal["bad", "notice", ""]

MEASURE_NAMES = {**MEASURES, "hair_fraction": "hair, share", "side": "shorter side, px"}
PROBE_NAMES = {"colour": "colour alone", "border": "border alone"}
GIVEN_AWAY = {"differs much": "gives the class away", "differs": "tells something"}
MANY = 0.5  # share of images that look like another, from which a class is short of diversity
NAMED = 3  # findings of a section in the headline
CURES = {  # section of a warning -> what to do, the worst first
    "Shortcuts": "Compare with a real set from elsewhere: where it has less of this, a classifier can cheat on these "
    "images, so test it on others.",
    "Diversity": "Draw or gather more different images of the named class: such alike ones teach little.",
    "Repeats": "Keep one image of each repeat, or all of them in one split (--verbose names them).",
    "Artefacts": "Compare with a real set from elsewhere: where it has less of this, even the classes out.",
    "The set": "Look at the files that cannot be used before you count on the set's size (--verbose names them).",
}
MOST_VALUES = 6  # of a setting, in one line


@dataclass(frozen=True)
class Row:
    """A line of the table: what was looked at, what was found, and a sign where it matters."""

    section: str
    what: str
    found: str
    sign: str = ""
    tone: Tone = ""


def rows(found: Mapping[str, Any]) -> list[Row]:
    """All lines, in order of what stops a training first."""
    return [*_set(found), *_repeats(found), *_shortcuts(found), *_diversity(found), *_artefacts(found), *_made(found)]


def headline(found: Mapping[str, Any]) -> tuple[str, str]:
    """How many findings of which severity there are, the worst first; and what to do, in a sentence."""
    flagged = [row for row in rows(found) if row.tone]
    critical = sum(row.tone == "bad" for row in flagged)
    if not flagged:
        looked = "no picture under two labels" if found["classes"] else "no labels to contradict one another"
        splits = "none in two splits" if found["splits"] else "no splits given"
        return f"No findings: {looked}, {splits}.", "Nothing that was looked at stands against training on it."
    named = [
        f"{count(found[name]['n'])} {name if found[name]['n'] != 1 else name.removesuffix('s')}"
        for name in ("contradictions", "leaks")
        if found[name]["n"]
    ]
    sections: dict[str, list[str]] = {}
    for row in flagged:
        if row.tone == "notice":
            sections.setdefault(row.section, []).append(row.what)
    worst = sorted(
        sections, key=lambda name: (not (name == "Repeats" and found["copies"]["n"]), list(CURES).index(name))
    )
    for section in worst:
        whats = sections[section]
        more = f" and {len(whats) - NAMED} more" if len(whats) > NAMED else ""
        named.append(f"{section.lower()} ({', '.join(whats[:NAMED])}{more})")
    severities = [
        f"{n} {word}{'s' * (n != 1 and word == 'warning')}"
        for n, word in ((critical, "critical"), (len(flagged) - critical, "warning"))
        if n
    ]
    said = f"{len(flagged)} findings ({', '.join(severities)}), the worst first: {'; '.join(named)}."
    if len(flagged) == 1:
        said = f"1 finding ({severities[0].removeprefix('1 ')}): {named[0]}."
    return said, _do(found, next(iter(worst), ""))


def _do(found: Mapping[str, Any], worst: str) -> str:
    """What to do about the worst finding."""
    cures = [
        cure
        for name, cure in (
            ("contradictions", "correct the labels of the contradictions or leave those images out"),
            ("leaks", "put both images of each leak into one split"),
        )
        if found[name]["n"]
    ]
    if cures:
        return f"Do not train or test on this set as it is: {', and '.join(cures)} (--verbose names them)."
    if worst == "Repeats" and found["copies"]["n"]:
        return "Leave the synthetic copies out: they add nothing to the real images (--verbose names them)."
    return CURES[worst]


def notes(found: Mapping[str, Any]) -> list[str]:
    """What limits the findings."""
    said = []
    classes = found["classes"]
    if classes and min(classes.values()) < FEW:
        name, least = min(classes.items(), key=lambda item: (item[1], item[0]))
        said.append(
            f"Small n: {name} has {count(least)} {'image' if least == 1 else 'images'}. Intervals are wide, and what "
            "is not found may still be there."
        )
    if len(classes) == 1:
        said.append("One class only: nothing to compare, so no shortcuts and no contradictions.")
    if not classes:
        said.append("No labels: only repeats, splits and settings were looked at.")
    elif len(classes) > 1 and not found["shortcuts"]:
        said.append("The shortcut probes need two classes of at least ten different images each.")
    if found["not_looked_at"]:
        said.append(
            f"{count(found['not_looked_at'])} images were left out by --limit: their repeats, contradictions and leaks "
            "are not counted."
        )
    if found["shortcuts"]:
        said.append(
            "AUC 0.5 is chance. Intervals are 95 % and count near-duplicates and images of one lesion or patient once. "
            "A sign is given where chance is excluded for all comparisons of its kind together. Real sets have some of "
            "this too: compare with one before you blame the images."
        )
    return said


def estimate(area: Mapping[str, Any], whole: int = 0) -> str:
    """An AUC with its interval, and its n unless that is the ``whole``."""
    if not is_number(area["auc"]):
        return "AUC not measured"
    low, high = number(area["low"], digits=2), number(area["high"], digits=2)
    n = "" if area["n"] == whole else f", n = {count(area['n'])}"
    return f"AUC {number(area['auc'], digits=2)} ({low} to {high}){n}"


def short(value: Any) -> str:
    """A measure in three figures."""
    return f"{value:.3g}" if is_number(value) else "–"


def listed(counts: Mapping[str, int], most: int = 0) -> str:
    """``a: 3, b: 2``: the most frequent first, where there are too many the rest as a number."""
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = order[:most] if most else order
    said = ", ".join(f"{_cut(name)}: {count(n)}" for name, n in kept)
    return said if len(kept) == len(order) else f"{said}, {len(order) - len(kept)} other values"


def _cut(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _set(found: Mapping[str, Any]) -> list[Row]:
    section = "The set"
    out = [Row(section, "images", f"{count(found['images'])} (by {found['layout']})")]
    bad = found["unusable"]
    out.append(
        Row(
            section,
            "not usable",
            listed(bad["reasons"]) or "none",
            "look at them" if bad["n"] else "",
            _notice(bad["n"]),
        )
    )
    if found["classes"]:
        out.append(Row(section, "classes", listed(found["classes"])))
    if found["unlabelled"]:
        out.append(Row(section, "without label", count(found["unlabelled"])))
    for column, what in (("splits", "split"), ("kinds", "kind")):
        for name, counts in found[column].items():
            out.append(Row(section, f"{what} {name}", listed(counts)))
    return out


def _repeats(found: Mapping[str, Any]) -> list[Row]:
    section, same = "Repeats", found["duplicates"]
    exact = "none"
    if same["exact_groups"]:
        exact = f"{count(same['exact_images'])} images in {count(same['exact_groups'])} groups of identical pixels"
    near = f"{count(same['near_pairs'])} pair{'s' * (same['near_pairs'] > 1)}" if same["near_pairs"] else "none"
    out = [
        Row(section, "identical", exact, tone=_notice(same["exact_groups"])),
        Row(section, "near-duplicates", near, tone=_notice(same["near_pairs"])),
    ]
    for name, what, sign in (
        ("contradictions", "under two labels", "CONTRADICTION"),
        ("leaks", "in two splits", "LEAK"),
    ):
        n = found[name]["n"]
        first = f"{count(n)}, e.g. {pair(found[name]['examples'][0])}" if n else "none"
        out.append(Row(section, what, first, sign if n else "", "bad" if n else ""))
    n = found["copies"]["n"]
    if len(found["kinds"]) > 1:
        said = f"{count(n)}, e.g. {pair(found['copies']['examples'][0])}" if n else "none"
        out.append(Row(section, "synthetic copies of real", said, "copies" if n else "", _notice(n)))
    return out


def pair(find: Mapping[str, Any]) -> str:
    """Who contradicts whom."""
    said = [
        f"{image['image_id']} ({', '.join(image[name] for name in ('label', 'split', 'kind') if name in image)})"
        for image in find["images"][:2]
    ]
    return f"{' and '.join(said)}: {find['what']}"


def _shortcuts(found: Mapping[str, Any]) -> list[Row]:
    out = []
    for probe, by_class in found["shortcuts"].items():
        for label, area in by_class.items():
            sign = GIVEN_AWAY.get(area["sign"], "")
            what = f"{PROBE_NAMES[probe]}: {label}"
            out.append(Row("Shortcuts", what, estimate(area), sign, _notice(sign)))
    return out


def _diversity(found: Mapping[str, Any]) -> list[Row]:
    out = []
    for label, some in found["diversity"].items():
        said = f"{_share(some, 'share')} look like another, n = {count(some['n'])}"
        even = f"share_of_{EVEN}"
        large = is_number(some[even])
        if large:
            said += f"; of any {EVEN} of them {_share(some, even)}"
        sign = "low diversity" if some[f"{even if large else 'share'}_low"] > MANY else ""
        out.append(Row("Diversity", label, said, sign, _notice(sign)))
    return out


def _share(some: Mapping[str, Any], key: str) -> str:
    low, high = (number(some[f"{key}_{end}"], "percent") for end in ("low", "high"))
    return f"{number(some[key], 'percent')} ({low} to {high})"


def _artefacts(found: Mapping[str, Any]) -> list[Row]:
    out = []
    for name, values in found["artefacts"].items():
        if not values["classes"]:
            continue
        medians = ", ".join(f"{label} {short(some['median'])}" for label, some in values["classes"].items())
        areas = values["areas"]
        signed = {label: area for label, area in areas.items() if area["sign"]}
        shown, whole = areas if len(areas) == 1 else signed, sum(found["classes"].values())
        said = "; ".join(f"{label} {estimate(area, whole)}" for label, area in shown.items())
        sign = (
            "differs much" if any(a["sign"] == "differs much" for a in areas.values()) else "differs" if signed else ""
        )
        found_text = f"median {medians}" + (f"; {said}" if said else "")
        out.append(Row("Artefacts", MEASURE_NAMES[name], found_text, sign, _notice(sign == "differs much")))
    return out


def _made(found: Mapping[str, Any]) -> list[Row]:
    stated = found["settings"]
    if not stated["images"]:
        return [Row("Generation settings", "stated", "in no image")]
    out = [Row("Generation settings", "stated", f"in {count(stated['images'])} of {count(found['images'])} images")]
    for key, values in stated["values"].items():
        totals = {value: sum(by_class.values()) for value, by_class in values.items()}
        out.append(Row("Generation settings", key.replace("_", " "), listed(totals, MOST_VALUES)))
    return out


def _notice(value: Any) -> Tone:
    return "notice" if value else ""
