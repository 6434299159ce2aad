"""A small finished run, written to a folder as the stages would: what the report reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from derm_t2im import manifest, paths, seeds
from derm_t2im.imaging.io import write_png
from derm_t2im.sources import phantom

ARCHS = ("mobilenetv2", "vit")
MIXES = ("real", "hybrid", "oversampled")
TESTS = ("in_domain", "external")
CLASSES = ("benign", "malignant")
SIZE = 32
REASONS = ("label_disagreement", "near_duplicate", "blur", "surplus")


def estimate(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def contrast(accuracy: float, auc: float, p: float) -> dict[str, Any]:
    ps = {"p": p, "p_holm": min(1.0, 8 * p), "p_auc": p / 2, "p_auc_holm": min(1.0, 4 * p)}
    seeds = {
        **estimate("auc_seeds", auc, 0.04), **estimate("accuracy_seeds", accuracy, 0.05),
        "p_seeds": 0.34, "p_auc_seeds": 0.21, "p_seeds_holm": 1.0, "p_auc_seeds_holm": 1.0,
        "p_within_margin": 0.3, "p_auc_within_margin": 0.02 if abs(auc) < 0.01 else 0.4,
        "accuracy_verdict": "undecided", "auc_verdict": "equivalent" if abs(auc) < 0.005 else "undecided",
        "needed_n_accuracy": 4100, "needed_n_accuracy_gain": 1500, "needed_n_auc": None, "needed_n_auc_gain": 620,
        "ensemble_auc": auc, "ensemble_accuracy": accuracy, "ensemble_only_a_right": 31, "ensemble_only_b_right": 19,
        "ensemble_p_delong": 0.011, "ensemble_p_delong_holm": 0.132, "ensemble_p_mcnemar": 0.119,
        "ensemble_p_mcnemar_holm": 0.71, "margin": 0.02, "gain": 0.0228,
    }  # fmt: skip
    return {"n": 500, **estimate("accuracy", accuracy, 0.03), **estimate("auc", auc, 0.015), **ps, **seeds}


def group(attribute: str) -> dict[str, Any]:
    """The summary of an attribute of the subgroups."""
    measure = "auc" if attribute == "tone" else "balanced_accuracy"
    chance = {"gap_by_chance": 0.08, "gap_p": 0.03} if attribute == "tone" else {}
    return {
        "groups": 3, "too_small": 1, "measure": measure, "worst": "dark" if attribute == "tone" else "hand",
        "best": "light", f"worst_{measure}": 0.81, **estimate("gap", 0.12, 0.05), **chance,
        "sensitivity_worst": "dark", **estimate("sensitivity_gap", 0.2, 0.1),
    }  # fmt: skip


def write(root: Path, size: int = SIZE, source: str = "phantom-clinic-a", per_class: int = 8) -> Path:
    """Write metrics, plots, manifests and images below ``root``; the same every time."""
    for path, values in {**metrics(per_class), **plots()}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(values), encoding="utf-8")
    raw, real = _real(root, size, source, per_class)
    manifest.write(raw, root / paths.RAW_MANIFEST)
    manifest.write(real, root / paths.SPLITS_MANIFEST)
    manifest.write(_synthetic(root, size, per_class), root / paths.CURATED_MANIFEST)
    for name in ("before", "after"):
        row = [phantom.render(phantom.BROAD, 3, name, i, size=size).image for i in range(8)]
        write_png(root / paths.LORA / f"{name}.png", np.vstack([np.hstack(row)] * 2))
    return root


def metrics(per_class: int = 8) -> dict[Path, Any]:
    classification: dict[str, Any] = {"contrasts": {}}
    for i, arch in enumerate(ARCHS):
        classification[arch], classification["contrasts"][arch] = {}, {}
        for j, test in enumerate(TESTS):
            for k, mix in enumerate(MIXES):
                value = 0.86 + 0.02 * i - 0.05 * j + (0.0, 0.025, 0.005)[k]
                classification[arch].setdefault(mix, {})[test] = {
                    "n": 500,
                    "seeds": 2,
                    **estimate("accuracy", value, 0.03),
                    **estimate("auc", value + 0.06, 0.02),
                    **estimate("sensitivity", value + 0.01, 0.042),
                    **estimate("specificity", value - 0.01, 0.041),
                    **estimate("balanced_accuracy", value, 0.03),
                    **estimate("average_precision", value + 0.04, 0.03),
                    **estimate("sensitivity_at_90_specificity", value - 0.2, 0.06),
                    **estimate("f1", value, 0.03),
                    **estimate("ece", 0.06 - 0.01 * k, 0.02),
                    **estimate("brier", 0.12, 0.01),
                    "abstention": {
                        **estimate("aurc", 0.05, 0.01),
                        **estimate("accuracy_at_80", value + 0.05, 0.03),
                        **estimate("accuracy_at_90", value + 0.02, 0.03),
                    },
                    "conformal": {
                        "wanted": 0.9,
                        "val_n": 120,
                        **estimate("coverage", 0.89, 0.03),
                        **estimate("set_size", 1.2, 0.1),
                        "empty": 0.0,
                        "single": 0.8,
                        "double": 0.2,
                        "classes": {name: {**estimate("coverage", 0.88, 0.04), "n": 250} for name in CLASSES},
                    },
                    "auc_seed_sd": 0.004,
                    "calibrated": {**estimate("ece", 0.03, 0.01), **estimate("brier", 0.11, 0.01), "temperature": 1.3},
                    "operating": {
                        **estimate("sensitivity", 0.91, 0.03),
                        **estimate("specificity", 0.74, 0.03),
                        "threshold": 0.31,
                        "val_sensitivity": 0.9,
                    },
                }
            gain = 0.004 + 0.022 * (i == 1) * (j == 0)
            classification["contrasts"][arch][test] = {
                "hybrid-real": contrast(0.012 + gain, gain, 0.0004 if gain > 0.02 else 0.2),
                "hybrid-oversampled": contrast(-0.002, -0.001, 0.83),
                "oversampled-real": contrast(0.01, 0.004, 0.4),
            }
    return {
        paths.CLASSIFICATION_METRICS: classification,
        paths.SUBGROUP_METRICS: {
            arch: {mix: {test: {name: group(name) for name in ("tone", "site")} for test in TESTS} for mix in MIXES}
            for arch in ARCHS
        },
        paths.DATA_METRICS: {
            "images": 4 * per_class,
            "quarantined": {"truncated": 2, "wrong_mode": 1},
            "classes": {"benign": 16},
        },
        paths.PREPROCESS_METRICS: {
            "quarantined": {"too_small": 1},
            "truth": {"ita": {**estimate("rank_correlation", 0.97, 0.01), "n": 1360}, "lesion_area": {"n": 2}},
        },
        paths.SPLIT_METRICS: {"groups": 30, "leaked_groups": 0, "images": {"train": 16}},
        paths.FINETUNE_METRICS: {
            **estimate("kid_before", 0.21, 0.02),
            **estimate("kid_after", 0.06, 0.015),
            "kid_floor": 0.004,
            "heldout_loss_before": 0.17,
            "heldout_loss": 0.13,
            "heldout_n": 120,
        },
        paths.GENERATE_METRICS: {
            "images": 936,
            **estimate("class_agreement", 0.82, 0.03),
            **estimate("size_rank_correlation", 0.77, 0.04),
            "tone_rank_correlation": None,
            "samplers": {
                name: {**estimate("class_agreement", 0.8, 0.05), **estimate("size_rank_correlation", 0.7, 0.06)}
                for name in ("euler_a", "euler", "plms")
            },
        },
        paths.MIX_METRICS: {
            "real": {"images": 240, "files": 240, "real": 240, "synthetic": 0},
            "hybrid": {"images": 960, "files": 960, "real": 240, "synthetic": 720},
            "oversampled": {"images": 960, "files": 240, "real": 960, "synthetic": 0},
        },
        paths.FIDELITY_METRICS: fidelity(),
        paths.VALIDATION_METRICS: {
            "expectations": 31,
            "critical_failures": 0,
            "warnings": 2,
            "failures": [
                {
                    "suite": "synthetic",
                    "severity": "warning",
                    "expectation": "sharpness is at least 0.01",
                    "broken": 40,
                    "rows": 936,
                    "observed": None,
                },
                {
                    "suite": "fidelity",
                    "severity": "warning",
                    "expectation": "KID is at most 50 times its floor",
                    "broken": 1,
                    "rows": 1,
                    "observed": 61.04,
                },
            ],
        },
        paths.CURATION_METRICS: {
            "pool": 936,
            "kept": 720,
            "rejected": {"label_disagreement": 120, "near_duplicate": 60, "blur": 36, "hair": 0},
            "balance": 1.0,
        },
        paths.onnx_metrics("vit"): {"n": 120, "max_abs_difference": 3e-7, "threshold_flips": 0, "size_mb": 1.9},
        paths.onnx_metrics("mobilenetv2"): {"n": 120, "max_abs_difference": 4e-6, "threshold_flips": 0, "size_mb": 2.7},
    }


def fidelity() -> dict[str, Any]:
    one = {
        **estimate("kid", 0.05, 0.01),
        **estimate("kid_floor", 0.003, 0.004),
        **{f"{name}{real}": 0.7 for name in ("precision", "recall", "density", "coverage") for real in ("", "_real")},
        "vendi": 14.2,
        "vendi_real": 19.9,
        "n_real": 310,
        "n_synthetic": 468,
    }
    return {
        "benign": one,
        "malignant": {**one, **estimate("kid", 0.08, 0.012), "recall": None},
        "all": one,
        "copies": {
            **estimate("rate", 0.011, 0.006),
            **estimate("rate_real", 0.01, 0.005),
            **estimate("planted_recall", 0.97, 0.02),
            "n": 936,
            "n_real": 620,
            "planted_n": 250,
        },
        "shortcuts": {
            **estimate("colour_excess_auc", 0.02, 0.05),
            **estimate("border_excess_auc", 0.13, 0.05),
            "n": 310,
        },
        "external": {**estimate("kid", 0.2, 0.02), "n": 500},
    }


def plots() -> dict[Path, Any]:
    roc, reliability, confusion, abstention, subgroups = [], [], [], [], []
    for arch in ARCHS:
        for test in TESTS:
            for k, mix in enumerate(MIXES):
                where = {"arch": arch, "test": test, "mix": mix}
                for fpr in np.linspace(0, 1, 21):
                    roc.append(
                        {**where, "positive": "malignant", "fpr": float(fpr), "tpr": float(fpr ** (0.2 + 0.03 * k))}
                    )
                for n, confidence in enumerate((0.55, 0.65, 0.75, 0.85, 0.95)):
                    share = confidence - 0.05 + 0.02 * k
                    ends = {"low": share - 0.05, "high": share + 0.05}
                    reliability.append({**where, "confidence": confidence, "accuracy": share, "n": 20 + 50 * n, **ends})
                for coverage in (0.1, 0.5, 1.0):
                    share = 1 - 0.15 * coverage
                    ends = {"low": share - 0.05, "high": share + 0.05}
                    abstention.append({**where, "coverage": coverage, "accuracy": share, "n": 500 * coverage, **ends})
                for name in ("light", "tan", "dark"):
                    found = {"attribute": "tone", "group": name, "n": 90}
                    subgroups.append({**where, **found, **estimate("auc", 0.8 + 0.02 * k, 0.08)})
                subgroups.append({**where, "attribute": "tone", "group": "brown", "n": 4})
                reliability.append({**where, "confidence": None, "accuracy": None, "n": 0})
                for (actual, predicted), n in zip(
                    [(a, b) for a in CLASSES for b in CLASSES], (220 + k, 30 - k, 35 - k, 215 + k), strict=True
                ):
                    confusion.append({**where, "actual": actual, "predicted": predicted, "n": n})
    return {
        paths.PLOTS / "roc.json": roc,
        paths.PLOTS / "reliability.json": reliability,
        paths.PLOTS / "reliability_calibrated.json": reliability,
        paths.PLOTS / "confusion.json": confusion,
        paths.PLOTS / "abstention.json": abstention,
        paths.PLOTS / "subgroups.json": subgroups,
    }


def _real(root: Path, size: int, source: str, per_class: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    raw, real = [], []
    for label in CLASSES:
        for i in range(2 * per_class):
            name = f"real-{label}-{i:03d}"
            drawn = phantom.render(phantom.CLINIC_A, 7, name, size=size, label=label, hair=0.5)
            before, after = paths.RAW / "images" / f"{name}.png", paths.PROCESSED / "images" / f"{name}.png"
            write_png(root / before, drawn.image)
            write_png(root / after, drawn.clean)
            row = {
                "image_id": name, "kind": "real", "label": label, "source": source, "licence": "CC-BY 4.0",
                "attribution": "A & B <Clinic>",
            }  # fmt: skip
            raw.append({**row, "path": before.as_posix()})
            real.append(
                {
                    **row,
                    "path": after.as_posix(),
                    "hair_fraction": float(drawn.hair.mean()),
                    "split": "train" if i < per_class else ("val", "test", "external")[i % 3],
                    "seed_image": i < per_class // 2,
                }
            )
    return pd.DataFrame(raw), pd.DataFrame(real)


def _synthetic(root: Path, size: int, per_class: int) -> pd.DataFrame:
    rows = []
    for label in CLASSES:
        for i in range(2 * per_class):
            name = f"syn-{label}-{i:03d}"
            path = paths.SYNTHETIC / "images" / f"{name}.png"
            write_png(root / path, phantom.render(phantom.BROAD, 9, name, size=size, label=label).image)
            kept = i < per_class
            reason = None if kept else REASONS[i % len(REASONS)]
            rows.append(
                {
                    "image_id": name, "kind": "synthetic", "label": label, "path": path.as_posix(),
                    "prompt": f"sks {label} skin lesion, <tiny>, light skin", "seed": seeds.derive(name),
                    "sampler": "euler_a", "steps": 20, "guidance": 7.0,
                    "decision": "kept" if kept else "rejected", "reason": reason,
                    "explanation": None if kept else f"it broke the rule {reason}",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)
