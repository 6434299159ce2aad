"""The curated set as an image folder that `datasets` loads, with its card."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml

from derm_t2im import licences, manifest, paths, templates
from derm_t2im.errors import UserError
from derm_t2im.progress import track
from derm_t2im.publish import evidence
from derm_t2im.report import words
from derm_t2im.state import move_into_place, write_atomic

if TYPE_CHECKING:
    import pandas as pd

Which = Literal["kept", "all"]

#: Columns that describe an image to others; features and neighbours are of this run only.
COLUMNS = (
    "image_id", "label", "prompt", "negative_prompt", "attributes", "seed", "sampler", "steps", "guidance",
    "base_sha256", "lora_sha256", "tone", "ita", "lesion_area", "lesion_count", "hair_fraction", "label_probability",
    "probe_label", "decision", "reason", "explanation", "sha256",
)  # fmt: skip


def export(out: Path, which: Which = "kept", force: bool = False) -> int:
    """Write ``out/data/<label>/*.png``, ``out/data/metadata.csv`` and the card ``out/README.md``; the number of images.

    Args:
        out: A new folder; an existing one is replaced only with ``force`` and only if it is such an export.
        which: ``kept``, or ``all`` images drawn with the decisions about them.

    Raises:
        UserError: if there is no curated set, ``out`` is something else, or an image is missing or changed.
    """
    table = manifest.read(paths.CURATED_MANIFEST)
    chosen = table[table["decision"] == "kept"] if which == "kept" else table
    if chosen.empty:
        raise UserError("the curated set has no image that was kept.")
    splits = manifest.read(paths.SPLITS_MANIFEST)
    refuse_other(out, force)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        chosen = chosen.assign(
            file_name=[
                f"{label}/{Path(path).name}" for label, path in zip(chosen["label"], chosen["path"], strict=True)
            ]
        )
        rows = list(zip(chosen["path"], chosen["file_name"], chosen["sha256"], strict=True))
        for path, name, digest in track(rows, "export-dataset"):
            _copy(Path(path), partial / "data" / name, digest)
        _write_metadata(chosen, partial / "data" / "metadata.csv")
        write_atomic(partial / "README.md", card(chosen, table, splits, which))
        move_into_place(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return len(chosen)


def refuse_other(out: Path, force: bool) -> None:
    """Refuse to write over what is no export of ours, or over one without ``force``.

    Raises:
        UserError: saying which it is.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not _is_ours(out)):
        raise UserError(f"{out} exists and is no export of derm-t2im: name another folder.")
    if any(out.iterdir()) and not force:
        raise UserError(f"{out} exists: give --force to replace it, or name another folder.")


def _is_ours(out: Path) -> bool:
    file = out / "README.md"
    return file.is_file() and "derm-t2im" in file.read_text(encoding="utf-8", errors="replace")[:2000]


def _copy(source: Path, target: Path, digest: str) -> None:
    import hashlib

    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{source} is missing: run `dvc repro` (or `dvc pull`) first.") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{source} is not the image that was curated: run `dvc checkout`.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _write_metadata(chosen: pd.DataFrame, path: Path) -> None:
    columns = ["file_name", *(name for name in COLUMNS if name in chosen)]
    text = io.StringIO()
    chosen[columns].to_csv(text, index=False, lineterminator="\n")
    write_atomic(path, text.getvalue())


def card(chosen: pd.DataFrame, pool: pd.DataFrame, splits: pd.DataFrame, which: Which) -> str:
    """The dataset card: front matter for the hub, then what it is, how it was made and what was measured.

    Licences are those of the real images that the generator saw; the classifier that judged saw more of them.
    """
    seen = splits[splits["seed_image"].fillna(False).astype(bool)]
    found = licences.terms(seen, "this set")
    labels = sorted(chosen["label"].unique())
    front = {
        "license": found.hub,
        "pretty_name": "Synthetic dermoscopic lesions (derm-t2im)",
        "task_categories": ["image-classification"],
        "tags": ["medical", "dermatology", "dermoscopy", "synthetic", "derm-t2im"],
        "size_categories": [_size(len(chosen))],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/**"}]}],
    }
    first = chosen.iloc[0]
    return (
        templates.plain("derm_t2im.publish")
        .get_template("dataset.md")
        .render(
            front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
            which=which,
            n=len(chosen),
            pool=len(pool),
            side=f"{first['width']} x {first['height']}",
            classes=[(name, int((chosen["label"] == name).sum())) for name in labels],
            tones=sorted(chosen["tone"].fillna("unknown").value_counts().items()) if "tone" in chosen else [],
            reasons=sorted(pool["reason"].dropna().value_counts().items(), key=lambda item: (-item[1], item[0])),
            reason=words.reason,
            columns=[name for name in COLUMNS if name in chosen],
            prompt=first.get("prompt", ""),
            seeds=len(seen),
            terms=found,
            phantom=bool(splits["source"].fillna("").str.startswith("phantom").any()) if "source" in splits else False,
            adherence=evidence.adherence(),
            fidelity=evidence.fidelity(),
            usefulness=evidence.usefulness(),
            lora=str(first.get("lora_sha256", "")),
            base=str(first.get("base_sha256", "")),
        )
    )


def _size(n: int) -> str:
    return next(
        (name for most, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")) if n < most),
        "100K<n<1M",
    )


def describe(out: Path) -> str:
    """How to read an export, for the terminal."""
    return f"datasets.load_dataset({json.dumps(out.as_posix())})"
