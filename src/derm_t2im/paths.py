"""Every path that dvc.yaml names, once; relative to the repository's root, where stages run."""

from pathlib import Path

PARAMS = Path("params.yaml")

IMPORT = Path("data/import")
IMPORT_EXTERNAL = Path("data/import-external")
REVIEW_DECISIONS = Path("data/review/decisions.csv")

CHECK = Path("data/check.json")
DATA_GATE = Path("data/gate.json")
RAW = Path("data/raw")
RAW_MANIFEST = RAW / "manifest.parquet"
RAW_QUARANTINE = RAW / "quarantine.parquet"
PROCESSED = Path("data/processed")
PROCESSED_MANIFEST = PROCESSED / "manifest.parquet"
PROCESSED_QUARANTINE = PROCESSED / "quarantine.parquet"
SPLITS = Path("data/splits")
SPLITS_MANIFEST = SPLITS / "manifest.parquet"
SYNTHETIC = Path("data/synthetic")
SYNTHETIC_MANIFEST = SYNTHETIC / "manifest.parquet"
FEATURES = Path("data/features")
FEATURES_REAL = FEATURES / "real.safetensors"
FEATURES_SYNTHETIC = FEATURES / "synthetic.safetensors"
CURATED = Path("data/curated")
CURATED_MANIFEST = CURATED / "manifest.parquet"
CURATED_REAL = CURATED / "real.parquet"  # the real images of the same map
MIXES = Path("data/mixes")

BASE = Path("models/base")
LORA = Path("models/lora")
PROBE = Path("models/probe")
CLASSIFIERS = Path("models/classifiers")
ONNX = Path("models/onnx")

METRICS = Path("metrics")
DATA_METRICS = METRICS / "data.json"
PREPROCESS_METRICS = METRICS / "preprocess.json"
SPLIT_METRICS = METRICS / "split.json"
PROBE_METRICS = METRICS / "probe.json"
FINETUNE_METRICS = METRICS / "finetune.json"
GENERATE_METRICS = METRICS / "generate.json"
FIDELITY_METRICS = METRICS / "fidelity.json"
DATA_VALIDATION_METRICS = METRICS / "validation_data.json"
VALIDATION_METRICS = METRICS / "validation.json"
CURATION_METRICS = METRICS / "curation.json"
MIX_METRICS = METRICS / "mix.json"
TRAIN_METRICS = METRICS / "train"
CLASSIFICATION_METRICS = METRICS / "classification.json"
SUBGROUP_METRICS = METRICS / "subgroups.json"
EXPLANATION_METRICS = METRICS / "explanations.json"
ONNX_METRICS = METRICS / "onnx"
SWEEP_METRICS = METRICS / "sweeps"

PLOTS = Path("plots")
FINETUNE_PLOTS = PLOTS / "finetune"
EXPLANATIONS = PLOTS / "explanations"
SWEEP_PLOTS = PLOTS / "sweeps"
DATA_VALIDATION_REPORT = Path("reports/validation_data")
VALIDATION_REPORT = Path("reports/validation")
REPORT = Path("reports/index.html")
OPINIONS = Path("reports/opinions")


def mix_manifest(mix: str) -> Path:
    """Manifest of one training mix."""
    return MIXES / f"{mix}.parquet"


def classifier(arch: str, mix: str) -> Path:
    """Folder of one architecture trained on one mix."""
    return CLASSIFIERS / f"{arch}-{mix}"


def train_metrics(arch: str, mix: str) -> Path:
    """Training metrics of one architecture on one mix."""
    return TRAIN_METRICS / f"{arch}-{mix}.json"


def explanation(arch: str) -> Path:
    """Picture of what one architecture looks at."""
    return EXPLANATIONS / f"{arch}.png"


def onnx_model(arch: str) -> Path:
    """Folder of one exported architecture."""
    return ONNX / arch


def onnx_metrics(arch: str) -> Path:
    """Verification metrics of one exported architecture."""
    return ONNX_METRICS / f"{arch}.json"
