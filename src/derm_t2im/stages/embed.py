"""Stage `embed`: features of all images that are compared later."""

from __future__ import annotations

from functools import partial

from derm_t2im import features, manifest, networks, paths, runtime
from derm_t2im.params import load
from derm_t2im.params.embed import Embed
from derm_t2im.progress import say, track
from derm_t2im.state import STATE


def run() -> None:
    """Write data/features/real.safetensors and synthetic.safetensors."""
    settings = load("embed", Embed)
    encode = features.encoder(settings.encoder, settings.weights)
    probe = encode.network if settings.encoder == "probe" else networks.load(paths.PROBE).to(runtime.device())
    real = manifest.read(paths.SPLITS_MANIFEST)
    real = real[real["split"] != "unused"]
    synthetic = manifest.read(paths.SYNTHETIC_MANIFEST)
    for table, target, what in (
        (real, paths.FEATURES_REAL, "embed real images"),
        (synthetic, paths.FEATURES_SYNTHETIC, "embed synthetic images"),
    ):
        ids, files = table["image_id"].tolist(), table["path"].tolist()
        found = features.extract(
            ids, files, encode, probe, settings.batch, partial(track, what=what), STATE / "features"
        )
        features.save(found, target)
    say(f"embed: {len(real)} real and {len(synthetic)} synthetic images, {encode.dim} features each, {paths.FEATURES}")
