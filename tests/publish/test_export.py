from __future__ import annotations

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from derm_t2im import manifest, paths
from tests.report import example


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    example.write(root)
    table = manifest.read(root / paths.CURATED_MANIFEST)
    digests = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in table["path"]]
    manifest.write(table.assign(sha256=digests, width=32, height=32), root / paths.CURATED_MANIFEST)
    manifest.write(table, root / paths.SYNTHETIC_MANIFEST)
    (root / "params.yaml").write_text("finetune:\n  base: owner/model@abc\n", encoding="utf-8")
    (root / paths.LORA / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "derm_t2im", *arguments], cwd=root, capture_output=True, text=True, check=False
    )


def front(text: str) -> dict:  # type: ignore[type-arg]
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])  # type: ignore[no-any-return]


def test_the_kept_images_become_a_folder_with_metadata_and_a_card(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    done = run(project, "export-dataset", str(out))
    assert done.returncode == 0, done.stderr
    table = manifest.read(project / paths.CURATED_MANIFEST)
    kept = table[table["decision"] == "kept"].set_index("image_id")
    with (out / "data" / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["image_id"] for row in rows} == set(kept.index)
    for row in rows:
        content = (out / "data" / row["file_name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == kept.loc[row["image_id"], "sha256"]
        assert row["label"] == kept.loc[row["image_id"], "label"] == row["file_name"].split("/")[0]
    card = (out / "README.md").read_text(encoding="utf-8")
    # The example's images are CC-BY 4.0 and of phantoms.
    assert front(card)["license"] == "cc-by-4.0" and "phantoms" in card and "A & B &lt;Clinic&gt;" in card
    assert f"{len(kept)} images of 32 x 32 px, kept of {len(table)}" in card


def test_non_commercial_sources_are_warned_of(project: Path, tmp_path: Path) -> None:
    real = manifest.read(project / paths.SPLITS_MANIFEST)
    real["licence"] = "CC BY-NC 4.0"
    manifest.write(real, project / paths.SPLITS_MANIFEST)
    for command in ("export-dataset", "export-lora"):
        assert run(project, command, str(tmp_path / command)).returncode == 0
        card = (tmp_path / command / "README.md").read_text(encoding="utf-8")
        assert front(card)["license"] == "cc-by-nc-4.0" and "Non-commercial terms flow into" in card


def test_all_images_carry_the_decision_about_them(project: Path, tmp_path: Path) -> None:
    assert run(project, "export-dataset", str(tmp_path / "all"), "--images", "all").returncode == 0
    with (tmp_path / "all" / "data" / "metadata.csv").open(encoding="utf-8") as file:
        decisions = [row["decision"] for row in csv.DictReader(file)]
    assert set(decisions) == {"kept", "rejected"}


def test_the_lora_gets_its_card(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "lora"
    assert run(project, "export-lora", str(out)).returncode == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert front(card)["base_model"] == "owner/model" and front(card)["instance_prompt"].startswith("sks")
    assert hashlib.sha256(b"x").hexdigest() in card and (out / "after.png").is_file()


def test_other_folders_are_left_alone_and_errors_are_one_line(project: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x", encoding="utf-8")
    cases = [
        (("export-dataset", str(mine)), "no export of derm-t2im"),
        (("export-dataset", str(mine), "--force"), "no export of derm-t2im"),
        (("export-dataset", str(tmp_path / "x"), "--images", "some"), "use kept or all"),
    ]
    for arguments, said in cases:
        done = run(project, *arguments)
        assert done.returncode == 1 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert (mine / "thesis.txt").is_file()
    assert run(project, "export-dataset", str(tmp_path / "twice")).returncode == 0
    assert "--force" in run(project, "export-dataset", str(tmp_path / "twice")).stderr
    assert run(project, "export-dataset", str(tmp_path / "twice"), "--force").returncode == 0


def test_an_image_that_is_not_the_curated_one_stops_the_export(project: Path, tmp_path: Path) -> None:
    from derm_t2im.imaging.io import write_png

    table = manifest.read(project / paths.CURATED_MANIFEST)
    kept = table[table["decision"] == "kept"].iloc[0]
    write_png(project / kept["path"], np.zeros((32, 32, 3), np.uint8))
    done = run(project, "export-dataset", str(tmp_path / "x"))
    assert done.returncode == 1 and "dvc checkout" in done.stderr and not (tmp_path / "x").exists()
    (project / kept["path"]).unlink()
    assert "is missing" in run(project, "export-dataset", str(tmp_path / "x")).stderr


def test_datasets_loads_it(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets, which users of the export have")
    assert run(project, "export-dataset", str(tmp_path / "set")).returncode == 0
    found = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(found) == 16 and found[0]["image"].size == (32, 32) and found[0]["label"] in ("benign", "malignant")
