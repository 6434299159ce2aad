"""`dvc repro` for real, on a tiny profile in a repository of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml

from tests.project import Project

pytestmark = [pytest.mark.pipeline, pytest.mark.fiftyone]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def project(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after its first `dvc repro`, to be changed by these tests."""
    return Project(shutil.copytree(finished_project.folder, tmp_path_factory.mktemp("pipeline") / "project"))


def rerun(project: Project) -> list[str]:
    """The stages that `dvc repro` would run now."""
    said = project.run("dvc", "status", "--json").stdout
    return sorted(json.loads(said))


def test_all_outputs_are_there_and_a_second_run_does_nothing(project: Project) -> None:
    lock = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]
    outputs = [out["path"] for stage in lock.values() for out in stage.get("outs", [])]
    assert len(lock) == 16 + 6 + 2
    assert all((project.folder / path).exists() for path in outputs)
    assert rerun(project) == []
    before = contents(project.folder / "metrics")
    assert "didn't change, skipping" in project.run("dvc", "repro").stdout
    assert contents(project.folder / "metrics") == before
    assert not [p for p in (project.folder / ".state").rglob("*.pt")]
    page = (project.folder / "reports" / "index.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") or 'src="http' not in page


def test_metrics_have_the_promised_keys(project: Project) -> None:
    def of(name: str) -> dict:
        return json.loads((project.folder / "metrics" / name).read_text())

    assert of("data.json")["images"] == 160
    assert of("split.json")["leaked_groups"] == 0
    assert {"heldout_loss", "kid_before", "kid_after", "kid_floor"} <= of("finetune.json").keys()
    generate = of("generate.json")
    for key in ("class_agreement", "size_rank_correlation", "count_rank_correlation", "tone_rank_correlation"):
        assert {key, f"{key}_low", f"{key}_high", f"{key}_n"} <= generate.keys()
    fidelity = of("fidelity.json")
    for label in ("benign", "malignant"):
        assert {"kid", "kid_floor", "precision", "recall", "density", "coverage", "vendi"} <= fidelity[label].keys()
    assert {"rate", "planted_recall"} <= fidelity["copies"].keys()
    assert {"colour_excess_auc", "border_excess_auc"} <= fidelity["shortcuts"].keys()
    assert {"expectations", "critical_failures", "warnings"} <= of("validation.json").keys()
    curation = of("curation.json")
    assert {"pool", "kept", "rejected", "balance"} <= curation.keys()
    assert curation["kept"] + sum(curation["rejected"].values()) == curation["pool"] == 72
    results = of("classification.json")
    for arch in ("mobilenetv2", "vit"):
        for mix in ("real", "hybrid", "oversampled"):
            for test in ("in_domain", "external"):
                assert {"n", "accuracy", "auc", "sensitivity", "specificity", "ece"} <= results[arch][mix][test].keys()
        for pair in ("hybrid-real", "hybrid-oversampled"):
            assert {"accuracy", "auc", "p"} <= results["contrasts"][arch]["in_domain"][pair].keys()
        assert {"max_abs_difference", "threshold_flips", "size_mb"} <= of(f"onnx/{arch}.json").keys()


def test_a_run_from_nothing_gives_the_same_metrics(project: Project) -> None:
    before = contents(project.folder / "metrics")
    project.run("dvc", "repro", "--force")
    assert contents(project.folder / "metrics") == before


@pytest.mark.parametrize(
    ("parameter", "value", "touched", "untouched"),
    [
        ("report.title", "Another", {"report"}, {"evaluate", "acquire"}),
        ("generate.guidance", 5.0, {"generate"}, {"finetune", "probe", "split"}),
        ("mix.synthetic_fraction", 0.1, {"mix"}, {"curate", "generate"}),
        ("train.models.vit.lr", 0.0005, {"train@vit-real", "train@vit-hybrid"}, {"train@mobilenetv2-real", "mix"}),
    ],
)
def test_a_parameter_reruns_what_it_touches(
    project: Project, parameter: str, value: object, touched: set[str], untouched: set[str]
) -> None:
    kept = (project.folder / "params.yaml").read_text()
    try:
        project.set(**{parameter: value})
        waiting = set(rerun(project))
        assert touched <= waiting
        assert not untouched & waiting
    finally:
        (project.folder / "params.yaml").write_text(kept)


def test_a_misspelt_parameter_stops_the_run_at_once(project: Project) -> None:
    kept = (project.folder / "params.yaml").read_text()
    try:
        project.set(**{"generate.samplers": ["eulr"]})
        start = time.monotonic()
        done = project.run("dvc", "repro", check=False)
        assert done.returncode != 0
        assert time.monotonic() - start < 60
        assert "generate.samplers.0" in done.stderr and "'euler_a'" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        (project.folder / "params.yaml").write_text(kept)
        project.run("dvc", "checkout", "--force")


def test_a_missing_folder_is_named_and_costs_nothing(project: Project) -> None:
    kept = (project.folder / "params.yaml").read_text()
    raw = contents(project.folder / "data" / "raw")
    try:
        project.set(**{"acquire.path": "nowhere/at-all"})
        done = project.run("dvc", "repro", check=False)
        assert done.returncode != 0
        assert "acquire.path: there is no folder nowhere/at-all" in done.stderr
        assert "Traceback" not in done.stderr
        assert contents(project.folder / "data" / "raw") == raw
    finally:
        (project.folder / "params.yaml").write_text(kept)
        project.run("dvc", "checkout", "--force")


def test_training_killed_and_resumed_gives_the_same_weights(project: Project) -> None:
    name = "mobilenetv2-hybrid"
    model, state = project.folder / "models" / "classifiers" / name, project.folder / ".state" / f"train-{name}"
    expected = contents(model)
    running = project.start("dvc", "repro", "--force", "--single-item", f"train@{name}")
    deadline = time.monotonic() + 300
    while not list(state.rglob("checkpoint.pt")):
        assert running.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not model.exists() or contents(model) == expected
    (project.folder / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
    project.run("dvc", "repro", "--force", "--single-item", f"train@{name}")
    assert contents(model) == expected
