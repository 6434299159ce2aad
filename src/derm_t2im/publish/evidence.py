"""What cards say of a run, in words: from manifests and metrics, with intervals and n."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.report import words

Rows = list[tuple[str, str]]


def metrics(path: Path) -> Mapping[str, Any]:
    """The metrics of one stage; empty where it has not run.

    Raises:
        UserError: if the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): run `dvc repro`.") from None
    return found if isinstance(found, dict) else {}


def said(values: Mapping[str, Any], key: str, form: words.Form = "plain") -> str:
    """A value and its interval."""
    return f"{words.number(values.get(key), form)} {words.bounds(values, key, form)}".strip()


def adherence() -> Rows:
    """Whether images follow their prompts."""
    found = metrics(paths.GENERATE_METRICS)
    known: tuple[tuple[str, str, words.Form], ...] = (
        ("class_agreement", "an independent classifier sees the prompted class", "percent"),
        ("size_rank_correlation", "size word and measured size, rank correlation", "plain"),
        ("count_rank_correlation", "number word and measured number, rank correlation", "plain"),
        ("tone_rank_correlation", "skin-tone word and measured tone, rank correlation", "plain"),
    )
    return [(name, said(found, key, form)) for key, name, form in known if words.is_number(found.get(key))]


def fidelity() -> Rows:
    """Likeness to held-out real images, variety, copies; of all images drawn, before curation."""
    found = metrics(paths.FIDELITY_METRICS)
    all_, copies = found.get("all") or {}, found.get("copies") or {}
    rows = [
        (f"{name} ({words.number(all_.get(other))} {what})", said(all_, key))
        for key, name, other, what in (
            ("kid", "KID", "kid_floor", "real against real"),
            ("precision", "precision", "precision_real", "real against real"),
            ("recall", "recall", "recall_real", "real against real"),
            ("vendi", "Vendi score", "vendi_real", "of the real images"),
        )
        if words.is_number(all_.get(key))
    ]
    if words.is_number(copies.get("rate")):
        chance = words.number(copies.get("rate_real"), "percent")
        rows.append(
            (f"copies of seed images ({chance} of held-out real images are called so)", said(copies, "rate", "percent"))
        )
    return rows


def usefulness() -> Rows:
    """Hybrid minus real in AUC on unseen images: what the set is worth for training."""
    rows = []
    for c in words.contrasts(metrics(paths.CLASSIFICATION_METRICS)):
        if (c.a, c.b) == ("hybrid", "real") and words.is_number(c.values.get("auc")):
            name = f"{words.arch(c.arch)}, {words.test_set(c.test)}, n = {words.count(c.n)}"
            rows.append((name, f"{said(c.values, 'auc', 'difference')}: {c.outcome('auc')}"))
    return rows


def tuning() -> Rows:
    """What fine-tuning changed."""
    found = metrics(paths.FINETUNE_METRICS)
    known = (
        ("kid_before", "KID of the base model to real images"),
        ("kid_after", "KID after fine-tuning"),
        ("kid_floor", "KID of real against real images"),
        ("heldout_loss_before", "held-out denoising loss before"),
        ("heldout_loss", "held-out denoising loss after"),
    )
    return [(name, said(found, key)) for key, name in known if words.is_number(found.get(key))]
