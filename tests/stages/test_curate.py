from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from derm_t2im import features, manifest, paths  # noqa: E402
from derm_t2im.curation import database  # noqa: E402
from derm_t2im.errors import UserError  # noqa: E402
from derm_t2im.stages import curate  # noqa: E402
from tests.curation import project_folder  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def mongod():
    try:
        database.find_mongod()
    except UserError:
        pytest.skip("FiftyOne has no mongod here: run `make setup`")


pytestmark = pytest.mark.fiftyone


@pytest.fixture
def project(tmp_path, monkeypatch):
    planted = project_folder.build(tmp_path)
    monkeypatch.chdir(tmp_path)
    return planted


def outputs() -> dict[str, bytes]:
    files = [*sorted(paths.CURATED.iterdir()), paths.CURATION_METRICS]
    return {file.name: file.read_bytes() for file in files}


def test_the_stage_finds_planted_defects_and_is_the_same_byte_for_byte(project, capsys):
    curate.run()
    first = outputs()
    assert set(first) == {"manifest.parquet", "real.parquet", "curation.json"}
    found = manifest.read(paths.CURATED_MANIFEST).set_index("image_id")
    for reason, ids in project.items():
        assert (found.loc[ids, "reason"] == reason).all(), (reason, found.loc[ids, ["reason", "explanation"]])
    assert found["path"].map(lambda path: Path(path).is_file()).all()
    kept = found[found["decision"] == "kept"]
    assert kept["label"].value_counts().nunique() == 1

    metrics = json.loads(paths.CURATION_METRICS.read_text())
    assert metrics["kept"] == len(kept) and metrics["pool"] == len(found) == 60
    assert metrics["kept"] + sum(metrics["rejected"].values()) == 60
    assert metrics["balance"] == 1.0
    said = capsys.readouterr().err
    assert f"{metrics['shortfall']} images short of curate.keep=360" in said
    assert f"generate.images={metrics['generate_images_needed']}" in said
    assert str(paths.CURATED_MANIFEST) in said

    real = manifest.read(paths.CURATED_REAL)
    assert real[["x", "y"]].notna().all(axis=None) and found[["x", "y"]].notna().all(axis=None)

    curate.run()
    assert outputs() == first
    assert not Path(".state/curate").exists() or not list(Path(".state/curate").iterdir())


def test_decisions_are_obeyed_and_the_others_reported(project, capsys):
    ids = manifest.read(paths.SYNTHETIC_MANIFEST)["image_id"].tolist()
    blurred, good, torn = project["blur"][0], ids[1], ids[2]
    paths.REVIEW_DECISIONS.write_text(
        "image_id,decision,reason,reviewer,date\n"
        f"{blurred},keep,,ann,2026-01-02\n{good},discard,odd,ann,2026-01-02\n"
        f"{torn},keep,,ann,2026-01-02\n{torn},discard,,bob,2026-01-02\nnobody,keep,,ann,2026-01-02\n"
    )
    curate.run()
    found = manifest.read(paths.CURATED_MANIFEST).set_index("image_id")
    assert found.loc[blurred, "decision"] == "kept"
    assert found.loc[good, "reason"] == "reviewer"
    said = capsys.readouterr().err
    assert f"1 decisions not followed, reviewers differ, so neither is obeyed: {torn}" in said
    assert "no such image in this pool: nobody" in said


def test_a_failed_gate_stops_before_any_work(project):
    paths.VALIDATION_METRICS.write_text(json.dumps({"critical_failures": 2}))
    with pytest.raises(UserError, match="2 critical failures"):
        curate.run()
    assert not paths.CURATED.exists()


def test_features_of_other_images_are_refused(project):
    found = features.load(paths.FEATURES_SYNTHETIC)
    fewer = features.Features(
        found.image_id[1:], found.matrix[1:], found.classes, found.probabilities[1:], found.encoder
    )
    features.save(fewer, paths.FEATURES_SYNTHETIC)
    with pytest.raises(UserError, match="1 images have no features"):
        curate.run()
