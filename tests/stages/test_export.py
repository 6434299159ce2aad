from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from derm_t2im import manifest, networks, paths
from derm_t2im.deploy.card import read_card
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import read_stack, write_png
from derm_t2im.sources import phantom
from derm_t2im.stages import export
from derm_t2im.state import hash_file
from tests.deploy import models

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture()
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained architecture of two seeds, the second better, and 12 validation, 4 training and 6 test images."""
    monkeypatch.chdir(tmp_path)
    parameters = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    parameters["export"]["max_abs_difference_fp16"] = 0.1  # random networks exaggerate
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters))
    rows = []
    for i in range(22):
        drawn = phantom.render(phantom.CLINIC_A, 4, i, size=32, label=("benign", "malignant")[i % 2])
        path = paths.PROCESSED / "images" / f"{i:02d}.png"
        write_png(path, drawn.image)
        rows.append(
            {
                "image_id": f"{i:02d}", "path": path.as_posix(), "sha256": hash_file(path), "kind": "real",
                "label": drawn.label, "split": "val" if i < 12 else "train" if i < 16 else "test",
                "source": "phantom-clinic-a", "licence": "CC BY-NC 4.0" if i == 12 else "CC0-1.0",
            }
        )  # fmt: skip
    manifest.write(pd.DataFrame(rows), paths.SPLITS_MANIFEST)
    for seed in (0, 7):
        networks.save(models.network(seed=seed), paths.classifier("vit", "hybrid") / f"seed-{seed}")
    mixed = pd.DataFrame(rows)[12:16]
    made = mixed.assign(image_id=[f"s{i}" for i in range(4)], kind="synthetic", split=None, licence=None)
    manifest.write(pd.concat([mixed, made]), paths.mix_manifest("hybrid"))
    tested = pd.DataFrame(rows)[16:][["image_id", "label"]].assign(arch="vit", mix="hybrid", test="in_domain")
    p = [0.2, 0.9, 0.6, 0.7, 0.1, 0.4]
    parts = [tested.assign(seed=seed, p_malignant=p, p_benign=[1 - x for x in p]) for seed in (0, 7)]
    paths.PLOTS.mkdir()
    pd.concat(parts).to_parquet(paths.PLOTS / "predictions.parquet")
    study = {"vit": {"hybrid": {"in_domain": {"auc": 0.66, "auc_low": 0.6, "auc_high": 0.7, "seeds": 2}}}}
    paths.METRICS.mkdir()
    paths.CLASSIFICATION_METRICS.write_text(json.dumps(study))
    scores = {"val_auc": 0.7, "seed-0": {"val_auc": 0.6}, "seed-7": {"val_auc": 0.8}}
    paths.TRAIN_METRICS.mkdir()
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
    assert metrics["n"] == 18 and metrics["seed"] == 7 and metrics["threshold_flips"] == 0
    assert metrics["checked"] == {"val": 12, "test": 6}
    assert set(metrics["variants"]) == {"fp32", "fp16", "int8"}
    assert metrics["variants"]["fp32"]["max_abs_difference"] == metrics["max_abs_difference"]
    assert all({"auc", "auc_loss", "embedding_cosine", "size_mb"} <= set(v) for v in metrics["variants"].values())
    assert card.operating is not None and card.operating.sensitivity == pytest.approx(
        (score[sick] >= card.threshold).mean(), abs=1e-5
    )
    assert metrics["max_abs_difference"] < 1e-5
    assert metrics["size_mb"] == pytest.approx(target.stat().st_size / 1e6, rel=1e-5)
    assert torch.get_num_threads() == threads
    files = sorted(target.parent.iterdir())
    assert [file.name for file in files] == [
        "README.md",
        "model.fp16.onnx",
        "model.int8.onnx",
        "model.json",
        "model.onnx",
    ]
    before = [file.read_bytes() for file in files], paths.onnx_metrics("vit").read_bytes()
    export.run("vit")
    assert ([file.read_bytes() for file in files], paths.onnx_metrics("vit").read_bytes()) == before


def test_the_files_explain_themselves(project: Path) -> None:
    export.run("vit")
    folder = paths.onnx_model("vit")
    card = read_card((folder / "model.onnx").read_bytes())
    assert json.loads((folder / "model.json").read_text()) == card.model_dump(mode="json")
    assert card.licences == {"CC BY-NC 4.0": 1, "CC0-1.0": 3} and "Non-commercial terms" in card.licence_warning
    assert card.training_images == {"real": 4, "synthetic": 4}
    assert card.data_sha256[paths.SPLITS_MANIFEST.as_posix()] == hash_file(paths.SPLITS_MANIFEST)
    tested = card.tests["in_domain"]
    assert tested.images == 6 and tested.study["auc"] == 0.66
    assert tested.figures["auc"] == pytest.approx(8 / 9)  # of the six probabilities above
    assert tested.operating is not None and tested.operating.positives == 3
    for precision in ("fp16", "int8"):
        other = read_card((folder / f"model.{precision}.onnx").read_bytes())
        own = {"precision", "operating", "sha256"}  # each file states what it decides itself
        assert other.precision == precision
        assert other.model_dump(exclude=own) == card.model_dump(exclude=own)
        stated = json.loads(paths.onnx_metrics("vit").read_text())["variants"][precision]["operating"]
        assert other.operating is not None
        assert stated == pytest.approx(other.operating.model_dump() | {"threshold": other.threshold}, rel=1e-5)
    page = (folder / "README.md").read_text()
    assert "CC BY-NC 4.0 (1 images)" in page
    assert "Images of phantom-clinic-a are\nphantoms" in page and "`base_sha256`" in page


def test_only_the_variants_asked_for_are_there(project: Path) -> None:
    parameters = yaml.safe_load(Path("params.yaml").read_text())
    parameters["export"] |= {"variants": ["fp32"], "embedding": False, "check_images": 5}
    Path("params.yaml").write_text(yaml.safe_dump(parameters))
    folder = paths.onnx_model("vit")
    folder.mkdir(parents=True)
    (folder / "model.int8.onnx").write_bytes(b"of an earlier run")
    export.run("vit")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.json", "model.onnx"]
    metrics = json.loads(paths.onnx_metrics("vit").read_text())
    assert metrics["n"] == 5 and "embedding_cosine" not in metrics
    assert read_card((folder / "model.onnx").read_bytes()).embedding == 0


def test_missing_or_foreign_results_of_evaluate_are_named(project: Path) -> None:
    predictions = paths.PLOTS / "predictions.parquet"
    pd.read_parquet(predictions).query("seed == 0").to_parquet(predictions)
    with pytest.raises(UserError, match=r"predictions\.parquet has nothing of vit on hybrid, seed 7"):
        export.run("vit")
    predictions.unlink()
    with pytest.raises(UserError, match=r"predictions\.parquet is missing: run `dvc repro` \(stage evaluate\)"):
        export.run("vit")


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
