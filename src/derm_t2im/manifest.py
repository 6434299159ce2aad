"""The one table that all stages speak through.

A manifest is a Parquet file with a row per image, sorted by ``image_id``. Columns have one type
and one place in :data:`COLUMNS`; a manifest holds any subset that includes :data:`REQUIRED`.
Equal content gives equal bytes, so DVC sees a change only where there is one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError, exhausted
from derm_t2im.state import write_atomic

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("image_id", "path", "kind", "label")

# name -> Arrow type. The order here is the order in every file.
COLUMNS: dict[str, str] = {
    "image_id": "string",
    "path": "string",  # relative to the repository's root
    "sha256": "string",  # of the file at `path`
    "kind": "string",  # real | synthetic
    "label": "string",
    "dx": "string",  # diagnosis as the source gives it
    "source": "string",  # name of the data set
    "role": "string",  # pool | external
    "split": "string",  # train | val | test | external | unused
    "seed_image": "bool",  # the generator may learn from it (always inside train)
    "group_id": "string",
    "lesion_id": "string",
    "patient_id": "string",
    "age": "double",  # years
    "sex": "string",
    "site": "string",
    "licence": "string",
    "attribution": "string",
    "width": "int32",  # of the original, pixels
    "height": "int32",
    "phash": "string",  # 64-bit perceptual hash, 16 hex digits
    # measured on the image (imaging/)
    "sharpness": "double",
    "fine_detail": "double",
    "exposure": "double",
    "colour_cast": "double",
    "dark_corner": "double",
    "ruler": "double",
    "ink": "double",
    "gel_bubble": "double",
    "hair_fraction": "double",
    "hair_left": "double",  # real images: what the processed image still has of it
    "lesion_area": "double",  # share of the image
    "lesion_count": "int32",
    "lesion_asymmetry": "double",
    "lesion_border": "double",
    "ita": "double",  # individual typology angle of the skin, degrees
    "tone": "string",  # its six-step name
    # known truth, phantoms only
    "truth_area": "double",
    "truth_count": "int32",
    "truth_ita": "double",
    "truth_tone": "string",
    "truth_size": "string",
    "truth_hair": "double",
    "truth_bayes": "double",  # probability of `malignant` given the rendered features
    "truth_artefacts": "string",  # comma-separated: hair, ruler, ink, gel_bubble, dark_corner
    "mask_path": "string",
    "hair_path": "string",
    "clean_path": "string",
    # how a synthetic image was made
    "prompt": "string",
    "negative_prompt": "string",
    "attributes": "string",  # JSON: size, count, tone, site asked for
    "seed": "int64",
    "sampler": "string",
    "steps": "int32",
    "guidance": "double",
    "guidance_rescale": "double",
    "noise_mean": "string",  # of each channel of the first noise, JSON; empty: as it was drawn
    "base_sha256": "string",
    "lora_sha256": "string",
    # what curation found
    "nearest_real_id": "string",
    "nearest_real_distance": "double",
    "copy_of": "string",  # a real image that it repeats
    "nearest_synthetic_id": "string",
    "nearest_synthetic_distance": "double",
    "uniqueness": "double",
    "label_probability": "double",  # the probe's probability of the prompted label
    "probe_label": "string",  # what the probe sees
    "probe_confidence": "double",  # its probability of that
    "x": "double",  # first two principal components of the embedding
    "y": "double",
    "decision": "string",  # kept | rejected
    "reason": "string",  # machine-readable, one per rejected image
    "explanation": "string",  # the same as a sentence
    # training
    "weight": "int32",  # how often a mix shows the image per pass
    # quarantine
    "detail": "string",
}

_PANDAS = {"string": "string", "double": "float64", "int32": "Int32", "int64": "Int64", "bool": "boolean"}


def empty(columns: list[str]) -> pd.DataFrame:
    """An empty table with the given columns in their types."""
    import pandas as pd

    return pd.DataFrame({name: pd.Series(dtype=_PANDAS[COLUMNS[name]]) for name in columns})


def conform(table: pd.DataFrame) -> pd.DataFrame:
    """The table with canonical types, column order, and rows sorted by ``image_id``.

    Raises:
        ValueError: for an unknown column, a missing required one, a null or repeated ``image_id``.
    """
    unknown = sorted(set(table.columns) - set(COLUMNS))
    if unknown:
        raise ValueError(f"columns {unknown} are not in derm_t2im.manifest.COLUMNS")
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise ValueError(f"a manifest needs the columns {missing}")
    table = table[[name for name in COLUMNS if name in table.columns]]
    table = table.astype({name: _PANDAS[COLUMNS[name]] for name in table.columns})
    if table["image_id"].isna().any():
        raise ValueError("image_id is missing in a row")
    twice = table.loc[table["image_id"].duplicated(), "image_id"]
    if len(twice):
        raise ValueError(f"image_id is not unique: {list(twice[:3])}")
    return table.sort_values("image_id", kind="stable").reset_index(drop=True)


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest atomically; byte-identical for equal content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = conform(table)
    schema = pa.schema([(name, pa.type_for_alias(COLUMNS[name])) for name in table.columns])
    arrow = pa.Table.from_pandas(table, schema=schema, preserve_index=False).replace_schema_metadata(None)
    buffer = io.BytesIO()
    pq.write_table(arrow, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())


def read(path: Path) -> pd.DataFrame:
    """Read a manifest.

    Raises:
        UserError: if the file is missing or is no manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro` (or `dvc pull`) first.")
    try:
        table = pq.read_table(path, page_checksum_verification=True).to_pandas(types_mapper=None)
        return conform(table)
    except (pa.ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        said = " ".join(str(error).split())[:200]
        raise exhausted(error) or UserError(f"{path} is not a manifest, or damaged: {said}; run `dvc repro`.") from None
