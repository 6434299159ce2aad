"""Stage `fidelity`: how good, varied and original the synthetic set is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from derm_t2im import features, manifest, paths, seeds
from derm_t2im.errors import UserError
from derm_t2im.fidelity import assess, detail, kid, pixels
from derm_t2im.fidelity.copies import Search
from derm_t2im.imaging.io import read_batches, read_stack
from derm_t2im.params import load
from derm_t2im.params.fidelity import Fidelity
from derm_t2im.progress import say
from derm_t2im.state import write_json

if TYPE_CHECKING:
    import pandas as pd

NOISE = 200  # images of noise, the ceiling of every metric
PAIRS = 6  # copies that are named, each with its original


def run() -> None:
    """Write metrics/fidelity.json."""
    settings = load("fidelity", Fidelity)
    splits, synthetic = manifest.read(paths.SPLITS_MANIFEST), manifest.read(paths.SYNTHETIC_MANIFEST)
    real_features, synthetic_features = features.load(paths.FEATURES_REAL), features.load(paths.FEATURES_SYNTHETIC)
    held_out = splits[splits["split"].isin(["val", "test"])]
    if min(len(held_out), len(synthetic)) < 2:
        raise UserError(
            f"fidelity needs two images or more on both sides: {len(held_out)} held-out, {len(synthetic)} synthetic."
        )
    real, made = _images(held_out, real_features), _images(synthetic, synthetic_features)
    own = real_features.own_scale
    encode = features.encoder(real_features.encoder, real_features.weights)
    noise = pixels.shuffled(read_stack(held_out["path"].tolist()[:NOISE]), seeds.generator(settings.seed, "noise"))
    out = assess.assess(
        real, made, real_features.classes, settings.neighbours, settings.bootstrap, settings.seed, own, encode(noise),
        "clip" in real_features.encoder.lower(),
    )  # fmt: skip

    seen = _seen_by_generator(splits)
    search = Search(
        assess.views(read_batches(seen["path"].tolist()), encode),
        assess.spaces(real.features, real.thumbs),
        detail.suspected(settings.copy_quantile),
    )
    honest = detail.Files(held_out["path"].tolist())
    confirm = detail.learn(
        detail.Files(seen["path"].tolist()), honest, search.null, settings.copy_quantile, settings.seed
    )
    found = confirm(detail.Files(synthetic["path"].tolist()), search.find(assess.spaces(made.features, made.thumbs)))
    rng = seeds.generator(settings.seed, "planted copies")
    chosen = seen.iloc[np.sort(rng.permutation(len(seen))[: settings.planted_copies])]
    out["copies"] = {
        **found.rate.keys("rate"),
        **confirm(honest, search.null).rate.keys("rate_real"),
        "n": found.rate.n,
        "n_real": search.null.rate.n,
        "detail_bound": confirm.bound,
        "detail_real_high": confirm.null,
        "detail_planted_low": confirm.planted,
        "n_references": len(seen),
        "pairs": [
            [str(synthetic["image_id"].iloc[i]), str(seen["image_id"].iloc[found.reference[i]])]
            for i in np.flatnonzero(found.flagged)[np.argsort(found.rank[found.flagged], kind="stable")][:PAIRS]
        ],
        **assess.planted(read_stack(chosen["path"].tolist()), search, encode, settings.seed, confirm),
    }
    external = splits.loc[splits["split"] == "external", "image_id"]
    if len(external) > 2:
        scaled = kid.unit if own else np.asarray
        elsewhere = scaled(real_features.rows(external))
        out["external"] = {
            **kid.kid_interval(scaled(made.features), elsewhere).keys("kid"),
            **kid.kid_interval(scaled(real.features), elsewhere).keys("kid_real"),
            "n": len(elsewhere),
        }
    write_json(paths.FIDELITY_METRICS, out)
    say(
        f"fidelity: KID {out['all']['kid']:.3g} (real against real up to {out['all']['kid_floor_high']:.3g}), "
        f"{found.rate.value:.1%} copies, {paths.FIDELITY_METRICS}"
    )


def _seen_by_generator(splits: pd.DataFrame) -> pd.DataFrame:
    """The images that can have been copied: the seed images, or all of train where none are marked."""
    train = splits[splits["split"] == "train"]
    marked = train[train["seed_image"].fillna(False).astype(bool)] if "seed_image" in train else train.iloc[:0]
    seen = train if marked.empty else marked
    if seen.empty:
        raise UserError(f"{paths.SPLITS_MANIFEST} has no training images: nothing can have been copied from.")
    return seen


def _images(table: pd.DataFrame, known: features.Features) -> assess.Images:
    ids = table["image_id"].tolist()
    return assess.Images(
        features=known.rows(ids),
        labels=table["label"].to_numpy(dtype=object),
        thumbs=np.concatenate([pixels.thumbnails(batch) for batch in read_batches(table["path"].tolist())]),
        predicted=known.predicted(ids),
        probabilities=known.probabilities[known.index(ids)],
        tones=_column(table, "tone"),
        samplers=_column(table, "sampler"),
    )


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column as objects, None where it is missing."""
    if name not in table:
        return np.full(len(table), None, dtype=object)
    values = table[name].astype(object)
    return values.where(values.notna(), None).to_numpy(dtype=object)
