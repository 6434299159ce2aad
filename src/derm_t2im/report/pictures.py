"""Images for the page: small, inside the page, each with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from derm_t2im import seeds
from derm_t2im.imaging.inline import data_uri
from derm_t2im.report import words

if TYPE_CHECKING:
    import pandas as pd

SHEET = 1024  # the same of a contact sheet
MAX_PER_REASON = 8


@dataclass(frozen=True)
class Picture:
    """An image as the page shows it: ``src`` a data URI, ``provenance`` what is said on hover."""

    src: str
    alt: str
    provenance: str
    name: str
    label: str


@dataclass(frozen=True)
class Group:
    """Pictures below one heading; ``total`` is how many there are of this kind."""

    name: str
    total: int
    pictures: list[Picture]


def picture(root: Path, row: Mapping[str, Any]) -> Picture | None:
    """The picture of one row of a manifest; None where its file cannot be read."""
    from derm_t2im.imaging.io import ImageError, read_rgb

    try:
        rgb = read_rgb(root / str(row["path"]))
    except ImageError:
        return None
    label, synthetic = str(row["label"]), row["kind"] == "synthetic"
    kind = "synthetic" if synthetic else "real"
    if _has(row, "source") and str(row["source"]).startswith("phantom"):
        kind = "phantom"
    return Picture(data_uri(rgb), f"{kind} image, {label}", provenance(row), str(row["image_id"]), label)


def provenance(row: Mapping[str, Any]) -> str:
    """Where an image comes from, in one line."""
    parts = [str(row["image_id"])]
    if row["kind"] == "synthetic":
        said = {
            "prompt": "“{}”",
            "seed": "seed {}",
            "sampler": "sampler {}",
            "steps": "{} steps",
            "guidance": "guidance {:g}",
        }
    else:
        said = {
            "label": "{}",
            "source": "source {}",
            "licence": "licence {}",
            "attribution": "by {}",
            "split": "split {}",
        }
    parts += [text.format(row[key]) for key, text in said.items() if _has(row, key)]
    if _has(row, "reason"):
        parts.append(
            f"rejected: {row['explanation'] if _has(row, 'explanation') else words.reason(str(row['reason']))}"
        )
    return " · ".join(parts)


def by_class(root: Path, table: pd.DataFrame, most: int) -> list[Group]:
    """At most ``most`` pictures, equally many per class, drawn by a fixed seed and not by eye."""
    labels = sorted(table["label"].dropna().unique())
    share = max(1, most // max(1, len(labels)))
    return [_group(root, str(label), table[table["label"] == label], share) for label in labels]


def beside(
    root: Path, real: pd.DataFrame | None, kept: pd.DataFrame | None, most: int
) -> list[tuple[str, Group, Group]]:
    """Per class the real training images and the synthetic ones that were kept, for a look from one to the other."""
    left = by_class(root, real, most) if real is not None else []
    right = {group.name: group for group in by_class(root, kept, most)} if kept is not None else {}
    names = dict.fromkeys([*(group.name for group in left), *right])
    found = {group.name: group for group in left}
    return [(name, found.get(name, Group(name, 0, [])), right.get(name, Group(name, 0, []))) for name in names]


def by_reason(root: Path, rejected: pd.DataFrame, most: int) -> list[Group]:
    """Rejected images by reason, the most frequent reason first."""
    given = rejected["reason"].fillna("no reason") if "reason" in rejected else "no reason"
    named = rejected.assign(reason=given)
    counts = named["reason"].value_counts()
    order = sorted(counts.index, key=lambda name: (-counts[name], name))
    share = min(MAX_PER_REASON, max(2, most // max(1, len(order))))
    return [_group(root, words.reason(str(name)), named[named["reason"] == name], share) for name in order]


def _group(root: Path, name: str, table: pd.DataFrame, most: int) -> Group:
    ids = sorted(table["image_id"], key=lambda image_id: seeds.derive("report", str(image_id)))[:most]
    rows = table[table["image_id"].isin(ids)].sort_values("image_id").to_dict("records")
    found = (picture(root, {str(key): value for key, value in row.items()}) for row in rows)
    return Group(name, len(table), [shown for shown in found if shown is not None])


def sheet(path: Path, alt: str, most: int = SHEET) -> Picture | None:
    """A contact sheet that a stage drew; None where there is none."""
    from derm_t2im.imaging.io import ImageError, read_rgb

    try:
        return Picture(data_uri(read_rgb(path), most), alt, f"{'/'.join(path.parts[-3:])} · {alt}", path.name, "")
    except ImageError:
        return None


@dataclass(frozen=True)
class Pair:
    """Two images to compare, side by side."""

    left: Picture
    right: Picture


def hair_pairs(root: Path, raw: pd.DataFrame, processed: pd.DataFrame, most: int = 6) -> list[Pair]:
    """The images with most hair, as they came and as they go on; none where no hair was found."""
    from derm_t2im.imaging.io import ImageError, read_rgb, square

    if "hair_fraction" not in processed:
        return []
    hairy = processed[processed["hair_fraction"] > 0.01].sort_values(
        ["hair_fraction", "image_id"], ascending=[False, True]
    )
    sources = raw.set_index("image_id")["path"]
    pairs: list[Pair] = []
    for row in hairy[hairy["image_id"].isin(sources.index)].head(most).to_dict("records"):
        try:
            after = read_rgb(root / str(row["path"]))
            before = square(read_rgb(root / str(sources[row["image_id"]])), after.shape[0])
        except ImageError:
            continue
        where = provenance({str(key): value for key, value in row.items()})
        said, label = f"{where} · hair on {row['hair_fraction']:.1%} of the image", str(row["label"])
        name = str(row["image_id"])
        pairs.append(
            Pair(
                Picture(data_uri(before), f"{label}, before hair removal", said, name, label),
                Picture(data_uri(after), f"{label}, after hair removal", said, name, label),
            )
        )
    return pairs


def copy_pairs(root: Path, real: pd.DataFrame, rejected: pd.DataFrame, most: int = 12) -> list[Pair]:
    """Training images, and beside each the synthetic image that was rejected for repeating it."""
    if "copy_of" not in rejected or "reason" not in rejected:
        return []
    known = {str(row["image_id"]): row for row in real.to_dict("records")}
    found = rejected[(rejected["reason"] == "copy") & rejected["copy_of"].isin(list(known))]
    ids = sorted(found["image_id"], key=lambda image_id: seeds.derive("report", str(image_id)))[:most]
    pairs = []
    for row in found[found["image_id"].isin(ids)].sort_values("image_id").to_dict("records"):
        both = (picture(root, {str(k): v for k, v in one.items()}) for one in (known[str(row["copy_of"])], row))
        left, right = both
        if left and right:
            pairs.append(Pair(left, right))
    return pairs


def _has(row: Mapping[str, Any], key: str) -> bool:
    value = row.get(key)
    return value is not None and value == value and str(value) not in ("", "<NA>")
