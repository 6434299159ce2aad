"""The FiftyOne dataset of a curated set: real and synthetic images with all that is known about them.

Built from two manifests whenever somebody looks; the manifests are what is versioned.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.curation import review
from derm_t2im.curation.context import near_copies
from derm_t2im.curation.database import fiftyone
from derm_t2im.curation.rules import KEPT, REASONS, REJECTED

if TYPE_CHECKING:
    import pandas as pd

BRAIN_KEY = "map"
OPINION = "opinion_"  # begins the fields of what other models said
SAID = rf"^\s*({review.KEEP}|{review.DISCARD})\s*(:|$)"  # a tag that is a person's word

#: Manifest columns by group of the sidebar. A column that no row fills is left out.
GROUPS: dict[str, tuple[str, ...]] = {
    "curation": (
        "decision",
        "reason",
        "explanation",
        "uniqueness",
        "label_probability",
        "nearest_real_id",
        "nearest_real_distance",
        "nearest_synthetic_id",
        "nearest_synthetic_distance",
        "reviews",
    ),
    "quality": (
        "sharpness",
        "exposure",
        "colour_cast",
        "hair_fraction",
        "ruler",
        "ink",
        "gel_bubble",
        "dark_corner",
        "lesion_area",
        "lesion_count",
        "lesion_asymmetry",
        "lesion_border",
        "ita",
        "tone",
    ),
    "provenance": (
        "kind",
        "split",
        "seed_image",
        "prompt",
        "negative_prompt",
        "sampler",
        "steps",
        "guidance",
        "seed",
        "source",
        "dx",
        "site",
        "age",
        "sex",
        "licence",
        "attribution",
        "sha256",
    ),
}

_KIND_COLOURS = {"real": "#2f7ed8", "synthetic": "#e8862a"}
_REAL_BLUES = ("#2f7ed8", "#7fb2ea", "#1b4f8a", "#4bb3c3")
_LABEL_COLOURS = ("#2a9d5c", "#c0392b", "#8e44ad", "#d4a017", "#16a2b8", "#7f5539", "#5b6b7f")
_REASON_COLOURS = ("#5b2a86", "#8a5a00", "#b03a6b", "#34568b", "#7a3b2e", "#4f6d2f")
_DECISION_COLOURS = {KEPT: "#2a9d5c", REJECTED: "#c0392b"}


@dataclass(frozen=True)
class Context:
    """What is known beside the two manifests.

    Attributes:
        neighbours: The nearest real images, (id, distance), of each synthetic one.
        decisions: What reviewers said.
        earlier: A commit, and the SHA-256 of the images of its curated set.
        opinions: What other models said of synthetic images: ``<model>_class``, ``<model>_probability``, and the
            Dice coefficient of a segmenter's lesion and ours, ``segmenter_dice``, by image id.
    """

    neighbours: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    decisions: list[review.Decision] = field(default_factory=list)
    earlier: tuple[str, set[str]] | None = None
    opinions: dict[str, dict[str, Any]] = field(default_factory=dict)


def build(synthetic: pd.DataFrame, real: pd.DataFrame, root: Path, name: str, context: Context | None = None) -> Any:
    """Make the dataset with groups, views, colours and the map.

    Args:
        synthetic: data/curated/manifest.parquet.
        real: data/curated/real.parquet.
        root: The folder that the manifests' paths are relative to.
        name: Of the dataset.
        context: What else is known.

    Returns:
        A ``fiftyone.Dataset`` with a saved view for each question that one asks about a set, and a
        saved workspace ``map`` that shows it beside the grid.
    """
    fo = fiftyone()
    dataset = fo.Dataset(name, overwrite=True, persistent=False)
    context = context or Context()
    rows = [row for table in (synthetic, real) for row in _plain(table)]
    said = _reviews(context.decisions)
    samples = [_sample(fo, row, root) for row in rows]
    for row, sample in zip(rows, samples, strict=True):
        if row["kind"] == "synthetic":
            near = context.neighbours.get(row["image_id"], [])
            sample["near_ids"], sample["near_distances"] = [one for one, _ in near], [apart for _, apart in near]
            sample["reviews"] = said.get(row["image_id"])
            for name, value in _opinions(fo, context.opinions.get(row["image_id"], {})).items():
                sample[name] = value
    _add(dataset, samples)
    ids = dict(zip(*dataset.values(["image_id", "id"]), strict=True))
    _draw_map(dataset, rows)
    _arrange(fo, dataset, sorted({row["label"] for row in rows}))
    _save_views(fo, dataset, synthetic, ids, context)
    dataset.save()
    return dataset


def decisions(
    tagged: list[tuple[str, str | None, list[str]]], reviewer: str, date: str
) -> tuple[list[review.Decision], list[str]]:
    """What a person said by tags: ``keep``, ``discard``, or either with a reason: ``discard: why``.

    Args:
        tagged: Id, SHA-256 and tags per image.
        reviewer: Who tagged.
        date: When, YYYY-MM-DD.

    Returns:
        The decisions, and the ids of images that carry both words.
    """
    found, both = [], []
    for name, digest, words in tagged:
        said: dict[str, str] = {}
        for tag in words:
            word, _, why = tag.partition(":")
            word = word.strip().lower()
            if word in (review.KEEP, review.DISCARD):
                said[word] = why.strip() or said.get(word, "")
        if len(said) > 1:
            both.append(name)
        elif said:
            ((word, why),) = said.items()
            found.append(review.Decision(name, word, why, reviewer, date, digest or ""))
    return found, both


def retag(tags: list[str], word: str) -> list[str]:
    """Tags with a person's decision in place of an earlier one."""
    said = {review.KEEP, review.DISCARD}
    return [*(tag for tag in tags if tag.partition(":")[0].strip().lower() not in said), word]


def with_neighbours(dataset: Any, ids: list[str]) -> list[list[tuple[str, str]]]:
    """File and caption of each synthetic image among some samples, then those of its nearest real ones.

    Args:
        dataset: As built.
        ids: FiftyOne's ids of samples, in the order wanted.
    """
    view = dataset.select(ids, ordered=True).match({"kind": "synthetic"})
    names = ["image_id", "filepath", "label.label", "near_ids", "near_distances"]
    chosen = list(zip(*view.values(names), strict=True))
    wanted = {name for *_, near, _ in chosen for name in near or []}
    found = dataset.match({"image_id": {"$in": sorted(wanted)}})
    real = {row[0]: row[1:] for row in zip(*found.values(["image_id", "filepath", "label.label"]), strict=True)}
    out = []
    for name, path, label, near, distances in chosen:
        row = [(path, f"**{name}** {label}")]
        row += [
            (real[one][0], f"**{apart:.4g}** {real[one][1]} {one}")
            for one, apart in zip(near or [], distances or [], strict=True)
            if one in real
        ]
        out.append(row)
    return out


def traces(dataset: Any) -> list[dict[str, Any]]:
    """The map as Plotly's scatter traces, one for each source of images."""
    if not dataset.has_brain_run(BRAIN_KEY):
        return []
    points = dataset.load_brain_results(BRAIN_KEY).points
    groups: dict[str, list[int]] = {}
    ids, kinds, verdicts, names = dataset.values(["id", "kind", "decision", "image_id"])
    sources = dataset.values("source") if dataset.has_sample_field("source") else [None] * len(ids)
    for i, (kind, source, verdict) in enumerate(zip(kinds, sources, verdicts, strict=True)):
        groups.setdefault(f"{kind}, {verdict or source or 'unnamed'}", []).append(i)
    # Real images first, so that the synthetic ones lie upon them.
    order = sorted(groups, key=lambda group: (not group.startswith("real"), group))
    blues, out = itertools.cycle(_REAL_BLUES), []
    for group in order:
        at = groups[group]
        verdict = group.rpartition(", ")[2]
        colour = next(blues) if group.startswith("real") else _DECISION_COLOURS.get(verdict, _KIND_COLOURS["synthetic"])
        out.append(
            {
                "type": "scattergl",
                "mode": "markers",
                "name": f"{group} ({len(at)})",
                "x": points[at, 0].tolist(),
                "y": points[at, 1].tolist(),
                "ids": [ids[i] for i in at],
                "text": [names[i] for i in at],
                "hoverinfo": "text",
                "marker": {"color": colour, "size": 5},
            }
        )
    return out


def _opinions(fo: Any, said: dict[str, Any]) -> dict[str, Any]:
    """Fields for what other models said of one image: a label each, and the overlap of masks."""
    out: dict[str, Any] = {}
    for name, value in said.items():
        if name.endswith("_class"):
            model = name.removesuffix("_class")
            field = OPINION + re.sub(r"\W", "_", model)
            # Their probability is that of the class asked for, which is a confidence only where it is the one seen.
            out[field] = fo.Classification(label=str(value), prompted=said.get(f"{model}_probability"))
    if (dice := said.get("segmenter_dice")) is not None and not np.isnan(dice):
        out[f"{OPINION}mask_dice"] = float(dice)
    return out


def _reviews(decisions: list[review.Decision]) -> dict[str, list[str]]:
    """What reviewers said, as text, by image id."""
    last = {(d.image_id, d.reviewer): d for d in decisions}
    out: dict[str, list[str]] = {}
    for d in last.values():
        out.setdefault(d.image_id, []).append(f"{d.reviewer}: {d.decision}" + (f" ({d.reason})" if d.reason else ""))
    return out


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as dictionaries of Python values without the missing ones."""
    columns = {}
    for name in table.columns:
        values = table[name].astype(object)
        columns[name] = values.where(values.notna(), None).tolist()
    keys = list(columns)
    return [
        {key: value for key, value in zip(keys, row, strict=True) if value is not None}
        for row in zip(*columns.values(), strict=True)
    ]


def _sample(fo: Any, row: dict[str, Any], root: Path) -> Any:
    fields = {name: row[name] for group in GROUPS.values() for name in group if name in row}
    for word, value in _asked(row).items():
        fields[f"asked_{word}"] = value
    # No tags: those are the words of people.
    sample = fo.Sample(filepath=str((root / row["path"]).resolve()), image_id=row["image_id"], **fields)
    sample["label"] = fo.Classification(label=row["label"])
    if "probe_label" in row:
        sample["probe"] = fo.Classification(label=row["probe_label"], confidence=row.get("probe_confidence"))
    return sample


def _add(dataset: Any, samples: list[Any]) -> None:
    """Add samples after the fields have been learnt from a few: from each anew, it takes twice as long."""
    seen: set[str] = set()
    first = []
    for sample in samples:
        filled = {name for name, value in sample.iter_fields() if value not in (None, [])} - seen
        if filled:
            seen |= filled
            first.append(sample.copy())
    dataset.add_samples(first, progress=False, dynamic=True)
    dataset.clear()
    dataset.add_samples(samples, progress=False, expand_schema=False, validate=False)


def _asked(row: dict[str, Any]) -> dict[str, str]:
    """Attributes that the prompt asked for."""
    try:
        values = json.loads(row.get("attributes", "{}"))
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in values.items() if v} if isinstance(values, dict) else {}


def _draw_map(dataset: Any, rows: list[dict[str, Any]]) -> None:
    import fiftyone.brain as fob

    points = np.array([[row.get("x", np.nan), row.get("y", np.nan)] for row in rows], dtype=np.float64)
    if len(points) and np.isfinite(points).all():
        fob.compute_visualization(dataset, points=points, brain_key=BRAIN_KEY, method="manual", progress=False)


def _arrange(fo: Any, dataset: Any, labels: list[str]) -> None:
    """Group the sidebar, choose colours, save the workspace."""
    schema = dataset.get_field_schema()
    asked = sorted(name for name in schema if name.startswith("asked_"))
    groups = [
        fo.SidebarGroupDocument(name="tags"),
        fo.SidebarGroupDocument(name="labels", paths=["label", *(["probe"] if "probe" in schema else [])]),
    ]
    said = sorted(name for name in schema if name.startswith(OPINION))
    if said:
        groups.append(fo.SidebarGroupDocument(name="opinions", paths=said))
    used = {"label", "probe", "tags", *said}
    for group, names in GROUPS.items():
        shown = [name for name in names if name in schema]
        if group == "provenance":
            shown += asked
        groups.append(fo.SidebarGroupDocument(name=group, paths=shown, expanded=group != "quality"))
        used.update(shown)
    rest = [name for name in schema if name not in used]
    groups.append(fo.SidebarGroupDocument(name="metadata", paths=rest, expanded=False))  # FiftyOne's name for its own
    dataset.app_config.sidebar_groups = groups
    dataset.app_config.color_scheme = fo.ColorScheme(
        color_by="value",
        fields=[
            _colours("kind", _KIND_COLOURS),
            _colours("decision", _DECISION_COLOURS),
            _colours("reason", dict(zip(REASONS, itertools.cycle(_REASON_COLOURS), strict=False))),
            _colours("split", dict.fromkeys(("train", "val", "test", "external"), _KIND_COLOURS["real"])),
            _colours("label.label", dict(zip(labels, _LABEL_COLOURS, strict=False)), path="label"),
            *(
                _colours(f"{name}.label", dict(zip(labels, _LABEL_COLOURS, strict=False)), path=name)
                for name in ("probe", *said)
            ),
        ],
    )
    # A synthetic image shows why it was rejected, a real one its split.
    dataset.app_config.active_fields = fo.ActiveFields(paths=["label", "reason", "split"], exclude=False)
    if dataset.has_brain_run(BRAIN_KEY):
        dataset.save_workspace("map", workspace(fo), description="The grid beside a map of the features")


def workspace(fo: Any) -> Any:
    """The grid beside the map, and below it the nearest real images of what is selected."""
    # Without active_child the App shows the tab of a panel but not the panel.
    grid, plot, near = (
        fo.Space(children=[panel], active_child=panel.component_id)
        for panel in (
            fo.Panel(type="Samples", pinned=True),
            fo.Panel(type="feature_map"),
            fo.Panel(type="nearest_real"),
        )
    )
    side = fo.Space(children=[plot, near], orientation="vertical")
    return fo.Space(children=[grid, side], orientation="horizontal", sizes=[0.55, 0.45])


def _colours(name: str, colours: dict[str, str], path: str | None = None) -> dict[str, Any]:
    return {
        "path": path or name,
        "colorByAttribute": name.rpartition(".")[2] if "." in name else None,
        "valueColors": [{"value": value, "color": colour} for value, colour in colours.items()],
    }


def _save_views(fo: Any, dataset: Any, synthetic: pd.DataFrame, ids: dict[str, str], context: Context) -> None:
    of: Callable[[str], Any] = fo.ViewField
    ours = dataset.match(of("kind") == "synthetic")

    def save(name: str, view: Any, about: str, colour: str | None = None) -> None:
        dataset.save_view(name, view, description=about, color=colour)

    save("kept", ours.match(of("decision") == KEPT), "What classifiers are trained on", "#2a9d5c")
    save("rejected", ours.match(of("decision") == REJECTED), "All that was rejected", "#c0392b")
    for reason, meaning in REASONS.items():
        if (synthetic["reason"] == reason).any():
            view = ours.match(of("reason") == reason)
            save(f"rejected: {reason.replace('_', ' ')}", view, f"Rejected: {meaning}", "#c0392b")
    about = "Suspected copies, then the nearest ones, each before its real training image"
    save("near copies", dataset.select([ids[name] for name in near_copies(synthetic)], ordered=True), about)
    view = ours.match(of("probe.label") != of("label.label")).sort_by("label_probability")
    save("label disagreement", view, "The probe sees another label than the prompt asked for, worst first")
    others = [name for name, one in dataset.get_field_schema().items()
              if name.startswith(OPINION) and getattr(one, "document_type", None) is fo.Classification]  # fmt: skip
    if others:
        differs = [(of(f"{name}.label") != of("label.label")) & of(name).exists() for name in sorted(others)]
        about = "Another model sees another label than the prompt asked for (derm-t2im opinions)"
        save("other models disagree", ours.match(functools.reduce(operator.or_, differs)), about)
    view = ours.sort_by("uniqueness", reverse=True)
    save("least typical", view, "The synthetic images least like any other, first to last")
    for label in sorted(synthetic["label"].dropna().unique()):
        view = ours.match((of("label.label") == label) & (of("decision") == KEPT))
        save(f"kept: {label}", view, f"Kept images of the class {label}")
    view = dataset.match((of("kind") == "real") & (of("seed_image") == True))  # noqa: E712 - a query, not a test
    save("real seed images", view, "The real images that the generator has seen", "#2f7ed8")
    said = {"tags": {"$regex": SAID, "$options": "i"}}
    save("decided here", ours.match(said), "What was tagged keep or discard since the App was opened", "#d4a017")
    verdicts = review.settle(context.decisions, synthetic)
    if verdicts.conflicts:
        view = dataset.select([ids[name] for name in verdicts.conflicts], ordered=True)
        save("reviewers differ", view, "One says keep, another discard: neither is obeyed; see `reviews`", "#d4a017")
    if context.earlier:
        commit, known = context.earlier
        new = [
            ids[name] for name, sha in zip(synthetic["image_id"], synthetic["sha256"], strict=True) if sha not in known
        ]
        about = f"{len(new)} synthetic images that the set of commit {commit} does not have"
        save("new since the previous commit", dataset.select(new), about)
