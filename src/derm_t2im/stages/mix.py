"""Stage `mix`: one manifest per training mix."""

from __future__ import annotations

from derm_t2im import manifest, paths, state
from derm_t2im.classify import mixes
from derm_t2im.classify.data import refuse_leaks
from derm_t2im.params import load
from derm_t2im.params.mix import Mix
from derm_t2im.progress import say


def run() -> None:
    """Write ``data/mixes/<mix>.parquet`` for each mix asked for, and ``metrics/mix.json``."""
    settings = load("mix", Mix)
    splits = manifest.read(paths.SPLITS_MANIFEST)
    refuse_leaks(splits)
    kept = drawn = None
    if mixes.needs_curated(settings.mixes, settings.synthetic_fraction):
        drawn = manifest.read(paths.CURATED_MANIFEST)
        kept = drawn[drawn["decision"] == "kept"]
    real = splits[splits["split"] == "train"]
    made = mixes.build(list(settings.mixes), real, kept, settings.synthetic_fraction, settings.seed, drawn)

    work = state.work_folder("mix", state.fingerprint(settings), afresh=True) / "mixes"
    for name, table in made.items():
        manifest.write(table, work / paths.mix_manifest(name).name)
    state.move_into_place(work, paths.MIXES)  # a new folder: a mix of an earlier run does not stay
    state.discard(work.parent)
    figures = {name: mixes.describe(table) for name, table in made.items()}
    reached = figures.get("hybrid", {}).get("synthetic_fraction", settings.synthetic_fraction)
    if reached < settings.synthetic_fraction - 0.01:
        figures["hybrid"]["synthetic_fraction_wanted"] = settings.synthetic_fraction
        say(
            f"mix: curation kept too few images for mix.synthetic_fraction={settings.synthetic_fraction:g}: the hybrid "
            f"mix is {reached:.0%} synthetic. To reach it, raise generate.images (and curate.keep)."
        )
    state.write_json(paths.MIX_METRICS, figures)
    say(f"mixes {', '.join(made)} are in {paths.MIXES}")
