from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from derm_t2im.deploy.commands import predict
from derm_t2im.deploy.predict import find_images, format_of, predict_files
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png

app = typer.Typer()
app.command()(predict)


@pytest.fixture()
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    """Three good images and three that are not."""
    root = tmp_path / "in, put"
    for i in range(3):
        write_png(root / "sub" / f"{i}.png", images[i])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.png").write_text("no image")
    whole = (root / "sub" / "0.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").write_text("not looked at")
    return root


def test_a_bad_file_stops_no_other(folder: Path, model_file: Path, images: np.ndarray) -> None:
    predictor = Predictor(model_file, device="cpu")
    expected = predictor.predict(np.stack([predictor.prepare(image) for image in images[:3]]))
    for batch in (1, 2, 64):
        found = list(predict_files(predictor, find_images([folder]), batch))
        assert [p.path.name for p in found] == ["cut.png", "empty.jpg", "0.png", "1.png", "2.png", "text.png"]
        reasons = {p.path.name: p.reason for p in found if p.probabilities is None}
        assert reasons == {"cut.png": "truncated", "empty.jpg": "empty", "text.png": "unreadable"}
        good = np.stack([p.probabilities for p in found if p.probabilities is not None])
        np.testing.assert_allclose(good, expected, atol=1e-6)


def test_csv_and_json_lines_say_the_same(folder: Path, model_file: Path, tmp_path: Path) -> None:
    for name in ("out.csv", "out.jsonl"):
        done = CliRunner().invoke(app, [str(folder), "--model", str(model_file), "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        assert "3 of 6 images predicted" in done.stderr and "not a medical device" in done.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [record["path"] for record in records]
    for row, record in zip(rows, records, strict=True):
        for key, value in record.items():
            said = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert row[key] == said
        if record["error"] is None:
            assert record["p_benign"] + record["p_malignant"] == pytest.approx(1, abs=2e-6)
            assert record["label"] == ("malignant" if record["p_malignant"] > 0.5 else "benign")
            assert record["above_threshold"] == (record["p_malignant"] >= 0.5)
        else:
            assert record["label"] is None and record["detail"]


def test_stdout_is_data_only(folder: Path, model_file: Path) -> None:
    done = CliRunner().invoke(
        app, [str(folder / "sub" / "0.png"), str(folder / "gone.png"), "--model", str(model_file)]
    )
    assert done.exit_code == 0
    header, first, second = done.stdout.splitlines()
    assert header == "path,label,p_benign,p_malignant,above_threshold,error,detail"
    assert first.split(",")[-2:] == ["", ""]
    assert "missing_file" in second


def test_nothing_predicted_is_a_failure(folder: Path, model_file: Path) -> None:
    done = CliRunner().invoke(app, [str(folder / "empty.jpg"), "--model", str(model_file)])
    assert done.exit_code == 1
    assert "0 of 1 images" in done.stderr


def test_a_folder_without_images_is_said(tmp_path: Path, model_file: Path) -> None:
    done = CliRunner().invoke(app, [str(tmp_path), "--model", str(model_file)])
    assert isinstance(done.exception, UserError) and "no image files" in str(done.exception)


def test_the_only_model_is_the_default(
    folder: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [str(folder)])
    assert isinstance(done.exception, UserError) and "no model" in str(done.exception)
    for arch in ("vit", "cnn"):
        target = Path("models/onnx") / arch / "model.onnx"
        target.parent.mkdir(parents=True)
        shutil.copy(model_file, target)
        done = CliRunner().invoke(app, [str(folder)])
        if arch == "vit":
            assert done.exit_code == 0 and "models/onnx/vit/model.onnx" in done.stderr
    assert isinstance(done.exception, UserError) and "more than one model" in str(done.exception)


@pytest.mark.parametrize(
    ("out", "wanted", "form"),
    [
        (None, None, "csv"),
        (Path("a.JSONL"), None, "jsonl"),
        (Path("a.csv"), "jsonl", "jsonl"),
        (Path("x"), "csv", "csv"),
    ],
)
def test_formats(out: Path | None, wanted: str | None, form: str) -> None:
    assert format_of(out, wanted) == form


@pytest.mark.parametrize(("out", "wanted"), [(Path("a.xlsx"), None), (None, "xml")])
def test_unknown_formats_name_the_known_ones(out: Path | None, wanted: str | None) -> None:
    with pytest.raises(UserError, match="csv"):
        format_of(out, wanted)
