from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from derm_t2im import manifest, networks, paths
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import read_stack, write_png
from derm_t2im.sources import phantom
from derm_t2im.stages import export
from tests.deploy import models

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained architecture of two seeds, the second better, and 12 validation images."""
    monkeypatch.chdir(tmp_path)
    parameters = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters))
    rows = []
    for i in range(16):
        drawn = phantom.render(phantom.CLINIC_A, 4, i, size=32, label=("benign", "malignant")[i % 2])
        path = paths.PROCESSED / "images" / f"{i:02d}.png"
        write_png(path, drawn.image)
        rows.append(
            {
                "image_id": f"{i:02d}", "path": path.as_posix(), "kind": "real", "label": drawn.label,
                "split": "val" if i < 12 else "train", "source": "phantom-clinic-a",
            }
        )  # fmt: skip
    manifest.write(pd.DataFrame(rows), paths.SPLITS_MANIFEST)
    for seed in (0, 7):
        networks.save(models.network(seed=seed), paths.classifier("vit", "hybrid") / f"seed-{seed}")
    scores = {"val_auc": 0.7, "seed-0": {"val_auc": 0.6}, "seed-7": {"val_auc": 0.8}}
    paths.TRAIN_METRICS.mkdir(parents=True)
    paths.train_metrics("vit", "hybrid").write_text(json.dumps(scores))
    return tmp_path


def test_the_best_seed_is_exported_with_a_threshold_of_its_own(project: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    export.run("vit")
    target = paths.onnx_model("vit") / "model.onnx"
    predictor = Predictor(target, device="cpu", threads=1)
    card = predictor.card
    assert (card.training_seed, card.training_mix, card.positive) == (7, "hybrid", ("malignant",))
    assert card.training_sources == ("phantom-clinic-a",)
    assert card.hair_removal == "directional"
    val = manifest.read(paths.SPLITS_MANIFEST).query("split == 'val'")
    score = predictor.predict(read_stack(val["path"].tolist()))[:, 1]
    sick = (val["label"] == "malignant").to_numpy()
    assert card.threshold is not None
    assert (score[sick] >= card.threshold).mean() >= 0.9
    higher = score[score > card.threshold].min() + 1e-6
    assert (score[sick] >= higher).mean() < 0.9  # the highest threshold that does it
    metrics = json.loads(paths.onnx_metrics("vit").read_text())
    assert metrics["n"] == 12 and metrics["seed"] == 7 and metrics["threshold_flips"] == 0
    assert metrics["max_abs_difference"] < 1e-5
    assert metrics["size_mb"] == pytest.approx(target.stat().st_size / 1e6, rel=1e-5)
    assert torch.get_num_threads() == threads
    before = target.read_bytes(), paths.onnx_metrics("vit").read_bytes()
    export.run("vit")
    assert (target.read_bytes(), paths.onnx_metrics("vit").read_bytes()) == before


def test_a_difference_beyond_the_limit_writes_nothing(project: Path) -> None:
    parameters = yaml.safe_load(Path("params.yaml").read_text())
    parameters["export"]["max_abs_difference"] = 1e-30
    Path("params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match=r"export\.max_abs_difference"):
        export.run("vit")
    assert not paths.ONNX.exists() and not paths.onnx_metrics("vit").exists()


def test_what_is_missing_is_named(project: Path) -> None:
    with pytest.raises(UserError, match="mobilenetv2-hybrid"):
        export.run("mobilenetv2")
    paths.train_metrics("vit", "hybrid").write_text("{}")
    with pytest.raises(UserError, match="names no seed"):
        export.run("vit")


def test_ties_go_to_the_lowest_seed_and_an_unmeasured_one_loses(project: Path) -> None:
    for scores, best in (({3: 0.8, 1: 0.8}, 1), ({0: None, 2: 0.4}, 2)):
        values = {f"seed-{seed}": {"val_auc": auc} for seed, auc in scores.items()}
        paths.train_metrics("vit", "hybrid").write_text(json.dumps(values))
        assert export.best_seed("vit", "hybrid") == best
