from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from derm_t2im import features, paths
from derm_t2im.curation import context


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three synthetic images on a line with three real ones, of which the last is no training image."""
    synthetic = pd.DataFrame(
        {
            "image_id": ["s0", "s1", "s2"],
            "sha256": ["a", "b", "c"],
            "nearest_real_id": ["r0", "r0", "r1"],
            "nearest_real_distance": [1.0, 4.0, 1.0],
        }
    )
    return synthetic, pd.DataFrame({"image_id": ["r0", "r1", "r2"], "split": ["train", "train", "test"]})


def store(root: Path, synthetic: list[float], real: list[float]) -> None:
    for path, letter, values in ((paths.FEATURES_SYNTHETIC, "s", synthetic), (paths.FEATURES_REAL, "r", real)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        ids = tuple(f"{letter}{i}" for i in range(3))
        matrix = np.array(values, np.float32)[:, None]
        features.save(features.Features(ids, matrix, ("x",), np.ones((3, 1), np.float32), "line"), root / path)


def test_neighbours_are_training_images_nearest_first(tmp_path):
    store(tmp_path, [1, 4, 11], [0, 10, 11])
    found = context.nearest_real(*tables(), tmp_path)
    assert found == {"s0": [("r0", 1), ("r1", 9)], "s1": [("r0", 4), ("r1", 6)], "s2": [("r1", 1), ("r0", 11)]}


def test_what_it_may_be_a_copy_of_comes_first(tmp_path):
    store(tmp_path, [1, 4, 11], [0, 10, 11])
    synthetic, real = tables()
    found = context.nearest_real(synthetic.assign(copy_of=["r1", None, "r2"]), real, tmp_path)
    # r2 is no training image, so nothing can be a copy of it
    assert (
        found["s0"] == [("r1", 9), ("r0", 1)] and found["s1"] == [("r0", 4), ("r1", 6)] and found["s2"][0] == ("r1", 1)
    )


@pytest.mark.parametrize("moved", [None, [2, 4, 11]])
def test_without_the_features_of_the_curation_it_is_the_one_of_the_manifest(tmp_path, moved):
    if moved:
        store(tmp_path, moved, [0, 10, 11])
    assert context.nearest_real(*tables(), tmp_path) == {"s0": [("r0", 1)], "s1": [("r0", 4)], "s2": [("r1", 1)]}


@pytest.fixture
def repository(tmp_path):
    """Commits whose curated sets hold the images ab, ab again with other decisions, and abc."""

    def run(*command: str) -> str:
        program = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": program, "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("git", "init", "-q")
    run("git", "config", "user.email", "test@example.org")
    run("git", "config", "user.name", "Test")
    run("dvc", "init", "-q")
    out = paths.CURATED.as_posix()
    (tmp_path / "dvc.yaml").write_text(f"stages:\n  curate:\n    cmd: echo\n    outs:\n      - {out}\n")
    commits = []
    for images, decision in (("ab", "kept"), ("ab", "rejected"), ("abc", "kept")):
        (tmp_path / out).mkdir(parents=True, exist_ok=True)
        (tmp_path / paths.CURATED_MANIFEST).unlink(missing_ok=True)
        pd.DataFrame({"sha256": list(images), "decision": decision}).to_parquet(tmp_path / paths.CURATED_MANIFEST)
        run("dvc", "commit", "--quiet", "--force")
        run("git", "add", "-A")
        run("git", "commit", "-qm", decision)
        commits.append(run("git", "rev-parse", "--short", "HEAD"))
    return tmp_path, commits


def test_the_earlier_set_is_the_last_with_other_images_or_it_is_said_why_there_is_none(repository, tmp_path_factory):
    folder, (first, second, third) = repository
    three = pd.DataFrame({"sha256": ["a", "b", "c"]})
    assert context.earlier(three, folder) == (second, {"a", "b"})
    assert context.earlier(pd.DataFrame({"sha256": ["d"]}), folder) == (third, {"a", "b", "c"})
    with pytest.raises(LookupError, match="no earlier commit"):
        context.earlier(pd.DataFrame({"sha256": ["a", "b"]}), folder, first)
    with pytest.raises(LookupError, match="no Git history"):
        context.earlier(three, tmp_path_factory.mktemp("bare"))
    for file in (folder / ".dvc" / "cache").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(LookupError, match=f"the curated set of {third} is neither in DVC's cache"):
        context.earlier(three, folder)


def test_opinions_are_those_about_these_very_images(tmp_path: Path) -> None:
    synthetic = pd.DataFrame({"image_id": ["a", "b"], "sha256": ["1", "2"]})
    assert context.opinions(synthetic, tmp_path) == ({}, "")
    said = pd.DataFrame({"image_id": ["a", "b"], "label": "benign", "sha256": ["1", "old"], "m_class": "malignant"})
    said.to_parquet(tmp_path / "opinions.parquet")
    assert context.opinions(synthetic, tmp_path) == ({"a": {"m_class": "malignant"}}, "")
    said.assign(sha256="old").to_parquet(tmp_path / "opinions.parquet")
    assert "about other images" in context.opinions(synthetic, tmp_path)[1]
    (tmp_path / "opinions.parquet").write_text("no table")
    assert "none that `derm-t2im opinions` wrote" in context.opinions(synthetic, tmp_path)[1]
