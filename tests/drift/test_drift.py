"""`derm-t2im drift` on sets with known shifts, and on what is no set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from derm_t2im.drift.command import drift
from derm_t2im.drift.compare import compare, kid_p, verdict
from derm_t2im.drift.sets import Set
from derm_t2im.errors import UserError
from derm_t2im.fidelity import kid
from derm_t2im.imaging.io import write_png
from derm_t2im.sources import phantom
from tests.deploy import models

app = typer.Typer()
app.command()(drift)


def table(seed: int, n: int = 120, **shift: float) -> dict[str, Any]:
    """What `predict --embeddings --measure` would write of ``n`` images; ``shift`` moves one thing."""
    rng = np.random.default_rng(seed)
    tones = np.array(["light", "tan"], dtype=object)
    return {
        "path": np.array([f"{seed}-{i}.png" for i in range(n)], dtype=object),
        "embedding": rng.normal(shift.get("embedding", 0), 1, (n, 16)).astype(np.float32),
        "score": np.clip(rng.beta(2, 2, n) + shift.get("score", 0), 0, 1),
        "ruler": (rng.random(n) < 0.1 + shift.get("ruler", 0)).astype(float),
        "exposure": rng.normal(0.6 + shift.get("exposure", 0), 0.05, n),
        "tone": tones[(rng.random(n) < 0.5 + shift.get("tone", 0)).astype(int)],
    }


def write(path: Path, columns: dict[str, Any], model: str = "m") -> Path:
    if path.suffix == ".npz":
        names = {"path": "ids", "embedding": "embeddings"}
        plain = {names.get(k, k): v.astype(str) if v.dtype == object else v for k, v in columns.items()}
        np.savez(path, model=np.array(model), **plain)
        return path
    arrays = {k: pa.array(list(v)) if k == "embedding" else pa.array(v) for k, v in columns.items()}
    pq.write_table(pa.table(arrays).replace_schema_metadata({b"derm_t2im_model": model.encode()}), path)
    return path


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def complaint(*args: object) -> str:
    done = run(*args)
    assert isinstance(done.exception, UserError), done.output
    return str(done.exception)


@pytest.mark.parametrize(
    ("shift", "section"),
    [
        ({}, None),
        ({"embedding": 0.5}, "features"),
        ({"score": 0.3}, "scores"),
        ({"ruler": 0.4}, "artefacts"),
        ({"exposure": 0.1}, "measures"),
        ({"tone": 0.4}, "skin tone"),
    ],
)
def test_a_shift_is_found_where_it_is_and_nowhere_else(
    tmp_path: Path, shift: dict[str, float], section: str | None
) -> None:
    ref, new = write(tmp_path / "ref.parquet", table(1)), write(tmp_path / "new.npz", table(2, **shift))
    done = run(ref, new, "--threshold", "0.5", "--out", tmp_path / "a.json", "--html", tmp_path / "a.html",
               "--fail-on-drift")  # fmt: skip
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["drift"] == ([section] if section else [])
    assert done.exit_code == (3 if section else 0)
    assert run(ref, new).exit_code == 0
    said = f"Drift found in {section}." if section else "No drift found in any of 7 comparisons."
    assert said in done.stdout and said in (tmp_path / "a.html").read_text()
    assert "120 images" in done.stdout
    by_name = {row["name"]: row for row in found["tests"]}
    assert by_name["ruler"]["ref"]["low"] < by_name["ruler"]["ref"]["value"] < by_name["ruler"]["ref"]["high"]
    assert by_name["share at or above the threshold"]["ref"]["value"] == pytest.approx(
        float((table(1)["score"] >= 0.5).mean()), abs=1e-5
    )


def test_p_of_kid_is_that_of_shuffling() -> None:
    rng = np.random.default_rng(0)
    x, y = kid.unit(rng.normal(size=(12, 4))), kid.unit(rng.normal(0.4, 1, size=(9, 4)))
    value = kid.kid(x, y)
    both, draws = np.concatenate([x, y]), []
    shuffle = np.random.default_rng(7)
    for _ in range(999):
        order = shuffle.permutation(21)
        draws.append(kid.kid(both[order[:12]], both[order[12:]]))
    expected = (1 + sum(drawn >= value - 1e-12 for drawn in draws)) / 1000
    assert kid_p(x, y, value, 7) == pytest.approx(expected)


def test_sets_of_one_distribution_raise_few_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 % of 40 are 2; nine or more have a probability under 0.001."""
    monkeypatch.setattr("derm_t2im.drift.compare.DRAWS", 2)  # of intervals, which say nothing here
    alarms = 0
    for seed in range(40):
        sets = []
        for part in (2 * seed, 2 * seed + 1):
            columns = table(part, 60)
            measures = {name: columns[name] for name in ("ruler", "exposure", "tone")}
            sets.append(Set(f"{part}", 60, columns["embedding"], columns["score"], measures))
        alarms += bool(compare(*sets, threshold=0.5)["drift"])
    assert alarms <= 8


def test_without_measures_or_embeddings_it_says_what_was_not_compared(tmp_path: Path) -> None:
    few = {name: table(1, 30)[name] for name in ("path", "score")}
    done = run(write(tmp_path / "a.parquet", few), write(tmp_path / "b.parquet", few))
    assert done.exit_code == 0
    for said in ("neither set has embeddings", "no threshold is known", "--measure", "only large shifts"):
        assert said in " ".join(done.stdout.split()), said
    assert verdict({"drift": [], "tests": []}).startswith("No drift found")


def test_sets_that_cannot_be_compared(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", table(1))
    assert "gone is missing" in complaint(good, tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    assert "give a folder of images" in complaint(good, tmp_path / "notes.txt")
    for name in ("bad.parquet", "bad.npz"):
        for content in (b"", b"not a table", good.read_bytes()[:500]):
            (tmp_path / name).write_bytes(content)
            assert f"{name} was not written by" in complaint(good, tmp_path / name)
    small = write(tmp_path / "small.parquet", table(2, 9))
    assert "9 usable images: a comparison needs at least 10" in complaint(good, small)
    other = write(tmp_path / "other.parquet", table(2), model="another")
    assert "other.parquet by another: write both anew" in complaint(good, other)
    wide = {**table(2), "embedding": np.zeros((120, 8), np.float32)}
    assert "have 16 numbers" in complaint(good, write(tmp_path / "wide.parquet", wide))
    lone = {name: values for name, values in table(2).items() if name != "embedding"}
    assert "lone.parquet has no embeddings" in complaint(good, write(tmp_path / "lone.parquet", lone))
    for name, values in (("score", np.full(120, 1.5)), ("embedding", np.full((120, 16), np.nan, np.float32))):
        wrong = write(tmp_path / "wrong.parquet", {**table(2), name: values})
        assert "was not written by" in complaint(good, wrong), name
    nothing = write(tmp_path / "nothing.parquet", {"path": table(1)["path"]})
    assert "neither embeddings nor scores" in complaint(good, nothing)


def test_another_models_threshold_is_not_taken(tmp_path: Path, model_file: Path) -> None:
    both = [write(tmp_path / f"{name}.parquet", table(seed)) for seed, name in enumerate(("ref", "new"))]
    assert "whose threshold would be taken" in complaint(*both, "--model", model_file)
    assert run(*both, "--model", model_file, "--threshold", "0.4").exit_code == 0


def test_folders_are_looked_at_with_the_model(tmp_path: Path, model_file: Path) -> None:
    for name, clinic in (("a", phantom.CLINIC_A), ("b", phantom.CLINIC_B)):
        for i in range(60):
            write_png(tmp_path / name / f"{i}.png", phantom.render(clinic, 5, i, size=48).image)
    (tmp_path / "b" / "broken.png").write_text("no image")
    done = run(tmp_path / "a", tmp_path / "b", "--model", model_file, "--out", tmp_path / "a.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["new"]["unusable"] == {"unreadable": 1} and found["new"]["images"] == 60
    assert {"features", "skin tone"} <= {row["section"] for row in found["tests"]}
    assert found["drift"] and found["threshold"] == models.card(models.network()).threshold


def test_no_result_takes_the_place_of_what_is_read(tmp_path: Path) -> None:
    ref, new = (write(tmp_path / f"{name}.parquet", table(seed)) for seed, name in enumerate(("ref", "new")))
    kept = [path.read_bytes() for path in (ref, new)]
    (tmp_path / "link.json").symlink_to(ref)
    for more in (("--html", ref), ("--out", tmp_path / "link.json"), ("--out", new)):
        assert f"{more[0]} {more[1]} is among what is read" in complaint(ref, new, *more)
    assert "are the same file" in complaint(ref, new, "--out", tmp_path / "x", "--html", tmp_path / "x")
    assert "cannot be written there" in complaint(ref, new, "--out", ref / "x.json")
    assert [path.read_bytes() for path in (ref, new)] == kept


def test_a_folder_without_images(tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no image files" in complaint(tmp_path / "empty", tmp_path / "empty", "--model", model_file)
