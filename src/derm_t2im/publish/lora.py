"""The fine-tuned LoRA as a folder for others: both file forms, the sample sheets, and a model card."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from derm_t2im import licences, manifest, paths, templates
from derm_t2im.errors import UserError
from derm_t2im.params import load
from derm_t2im.params.finetune import Finetune
from derm_t2im.publish import evidence
from derm_t2im.publish.dataset import refuse_other
from derm_t2im.state import hash_file, move_into_place, write_atomic


def export(out: Path, force: bool = False) -> list[str]:
    """Copy ``models/lora`` to ``out`` and write its card; the names of the weight files.

    Raises:
        UserError: if nothing was fine-tuned, or ``out`` is something else.
    """
    if not paths.LORA.is_dir():
        raise UserError(f"{paths.LORA} is missing: run `dvc repro finetune` (or `dvc pull`) first.")
    files = sorted(path for path in paths.LORA.rglob("*") if path.is_file())
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        raise UserError(f"{paths.LORA} holds no safetensors file: run `dvc repro finetune`.")
    refuse_other(out, force)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for path in files:
            target = partial / path.relative_to(paths.LORA)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        write_atomic(partial / "README.md", card(weights))
        move_into_place(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return [path.relative_to(paths.LORA).as_posix() for path in weights]


def card(weights: list[Path]) -> str:
    """The model card of the LoRA: front matter for the hub, use, training, what was measured, limits."""
    settings = load("finetune", Finetune)
    splits = manifest.read(paths.SPLITS_MANIFEST)
    seen = splits[splits["seed_image"].fillna(False).astype(bool)]
    found = licences.terms(seen, "this model")
    prompt = _prompt()
    on_hub = "/" in settings.base and not Path(settings.base).exists()
    front = {
        "license": found.hub,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "dreambooth", "text-to-image", "dermoscopy", "medical", "derm-t2im"],
        **({"base_model": settings.base.partition("@")[0]} if on_hub else {}),
        **({"instance_prompt": prompt} if prompt else {}),
    }
    shown = ("method", "rank", "alpha", "targets", "dora", "steps", "batch", "lr", "snr_gamma", "prior_weight", "seed")
    return (
        templates.plain("derm_t2im.publish")
        .get_template("lora.md")
        .render(
            front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
            base=settings.base,
            prompt=prompt or "...",
            files=[(path.relative_to(paths.LORA).as_posix(), hash_file(path)) for path in weights],
            settings=[(name, getattr(settings, name)) for name in shown],
            seeds=[(label, int(n)) for label, n in sorted(seen["label"].value_counts().items())],
            terms=found,
            tuning=evidence.tuning(),
            adherence=evidence.adherence(),
            fidelity=evidence.fidelity(),
            phantom=bool(seen["source"].fillna("").str.startswith("phantom").any()) if "source" in seen else False,
            sheets=[name for name in ("before.png", "after.png") if (paths.LORA / name).is_file()],
        )
    )


def _prompt() -> str:
    """A prompt that the model was asked with; empty where nothing was drawn yet."""
    if not paths.SYNTHETIC_MANIFEST.is_file():
        return ""
    prompts = manifest.read(paths.SYNTHETIC_MANIFEST)["prompt"].dropna()
    return str(prompts.iloc[0]) if len(prompts) else ""
