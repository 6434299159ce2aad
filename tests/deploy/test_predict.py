from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from derm_t2im.deploy import predict as predicting
from derm_t2im.deploy.commands import predict
from derm_t2im.deploy.predict import MIN_SIDE, Prediction, find_images, format_of, predict_files
from derm_t2im.deploy.runtime import Predictor
from derm_t2im.errors import UserError
from derm_t2im.imaging import quality
from derm_t2im.imaging.io import read_rgb, write_png
from tests.deploy import models
from tests.deploy.bad_images import BAD, GOOD

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
        assert done.exit_code == 3, done.output
        assert "3 of 6 images predicted" in done.stderr and "not a medical device" in done.stderr
        said = done.stderr.splitlines()[1]
        assert said.startswith("3 could not be predicted: ") and "truncated 1" in said and "empty 1" in said
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
    assert done.exit_code == 3
    header, first, second = done.stdout.splitlines()
    assert header == "path,label,p_benign,p_malignant,above_threshold,error,detail,model"
    assert first.split(",")[-3:] == ["", "", Predictor(model_file, "cpu").card.sha256[:16]]
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
            assert done.exit_code == 3 and "models/onnx/vit/model.onnx" in done.stderr
    assert isinstance(done.exception, UserError) and "more than one model" in str(done.exception)
    done = CliRunner().invoke(app, [str(folder)], env={"DERM_T2IM_MODEL": "models/onnx/cnn/model.onnx"})
    assert done.exit_code == 3 and "models/onnx/cnn/model.onnx" in done.stderr


@pytest.mark.parametrize(
    ("out", "wanted", "form"),
    [
        (None, None, "csv"),
        (Path("a.JSONL"), None, "jsonl"),
        (Path("a.csv"), "jsonl", "jsonl"),
        (Path("x"), "csv", "csv"),
        (Path("x.parquet"), None, "parquet"),
    ],
)
def test_formats(out: Path | None, wanted: str | None, form: str) -> None:
    assert format_of(out, wanted) == form


@pytest.mark.parametrize(("out", "wanted"), [(Path("a.xlsx"), None), (None, "xml")])
def test_unknown_formats_name_the_known_ones(out: Path | None, wanted: str | None) -> None:
    with pytest.raises(UserError, match="csv"):
        format_of(out, wanted)


def test_parquet_needs_a_file() -> None:
    with pytest.raises(UserError, match="give --out"):
        format_of(None, "parquet")


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_bad_image_answers_for_itself(tmp_path: Path, model_file: Path) -> None:
    root = tmp_path / "in"
    reasons = bad_images(root)
    # what has one meaning is read: the issue is the others
    expected = {name: reason for name, reason in reasons.items() if reason}
    done = run(root, "--model", model_file, "--out", tmp_path / "out.jsonl")
    assert done.exit_code == 3, done.output
    found = {Path(row["path"]).name: row for row in rows_of(tmp_path / "out.jsonl")}
    assert set(found) == set(reasons)
    assert {name: row["error"] for name, row in found.items() if row["error"]} == expected
    assert all(row["detail"] and "\n" not in row["detail"] for row in found.values() if row["error"])
    assert f"{len(reasons) - len(expected)} of {len(reasons)} images predicted" in done.stderr


def bad_images(root: Path) -> dict[str, str]:
    """Odd files below ``root``, and the reason why each cannot be read; empty where it can."""
    root.mkdir()
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (48, 40, 3), np.uint8)
    image = Image.fromarray(rgb)
    image.save(root / "good.JPG")
    image.convert("P").save(root / "palette.png")
    image.convert("L").save(root / "grey.png")
    image.convert("RGBA").save(root / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "turned.jpg", exif=exif)
    image.convert("CMYK").save(root / "cmyk.jpg")
    Image.fromarray(rng.integers(0, 65535, (48, 40), np.uint16)).save(root / "deep.png")
    image.save(root / "moving.gif", save_all=True, append_images=[image.rotate(90)])
    Image.new("RGB", (1, 1)).save(root / "dot.png")
    Image.new("1", (20_000, 20_000)).save(root / "huge.png")
    image.save(root / "whole.png")
    content = (root / "whole.png").read_bytes()
    at = content.index(b"IDAT")
    (root / "crc.png").write_bytes(content[:29] + b"\0\0\0\0" + content[33:])  # of the header
    (root / "damaged.png").write_bytes(content[: at + 40] + bytes([content[at + 40] ^ 255]) + content[at + 41 :])
    (root / "cut.jpg").write_bytes((root / "good.JPG").read_bytes()[:-200])
    (root / "empty.webp").write_bytes(b"")
    (root / "text.tiff").write_text("no image")
    (root / "lost.png").symlink_to(root / "nowhere")
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.bmp")
    (root / os.fsdecode(b"caf\xe9\n, x.png")).write_bytes(content)  # no UTF-8, a line end, a comma
    good = ("good.JPG", "palette.png", "grey.png", "alpha.png", "turned.jpg", "whole.png", "caf\\xe9\n, x.png")
    return dict.fromkeys(good, "") | {
        "cmyk.jpg": "wrong_mode", "deep.png": "wrong_mode", "moving.gif": "animated", "dot.png": "too_small",
        "huge.png": "too_large", "crc.png": "unreadable", "damaged.png": "truncated", "cut.jpg": "truncated",
        "empty.webp": "empty",
        "text.tiff": "unreadable", "lost.png": "missing_file", "loop.png": "unreadable", "pipe.bmp": "empty",
    }  # fmt: skip


def test_images_too_small_to_hold_a_lesion(tmp_path: Path, model_file: Path) -> None:
    for side in (MIN_SIDE - 1, MIN_SIDE):
        write_png(tmp_path / f"{side}.png", np.zeros((side, 60, 3), np.uint8))
    small, enough = predict_files(Predictor(model_file, device="cpu"), sorted(tmp_path.iterdir()))
    assert small.reason == "too_small" and enough.probabilities is not None


def test_patterns_lists_and_repeats(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert find_images([folder / "*" / "[01].png"]) == [folder / "sub" / "0.png", folder / "sub" / "1.png"]
    assert find_images(["in, put/sub/*.png"]) == [Path("in, put/sub") / f"{i}.png" for i in range(3)]
    assert find_images(["nothing*"]) == [Path("nothing*")]
    (folder / "a[1].png").write_bytes(b"x")
    assert find_images([folder / "a[1].png"]) == [folder / "a[1].png"]  # a file of that name is no pattern
    assert find_images([folder / "sub" / "0.png", folder / "sub"])[0] == folder / "sub" / "0.png"
    assert len(find_images([folder / "sub", folder / "sub"])) == 3


@pytest.mark.parametrize("end", [b"\n", b"\0", b"\r\n"])
def test_a_list_on_stdin(folder: Path, model_file: Path, end: bytes) -> None:
    names = [str(folder / "sub" / f"{i}.png").encode() for i in (2, 0)]
    done = run("-", "--model", model_file, stdin=end.join(names) + end)
    assert done.exit_code == 0, done.output
    assert [row["path"] for row in csv.DictReader(done.stdout.splitlines())] == [name.decode() for name in names]


def test_parquet_says_the_same_as_json_lines(folder: Path, model_file: Path, tmp_path: Path) -> None:
    for name in ("out.jsonl", "out.parquet"):
        assert run(folder, "--model", model_file, "--out", tmp_path / name).exit_code == 3
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == rows_of(tmp_path / "out.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["out.jsonl", "out.parquet"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_killed_run_goes_on(
    folder: Path, model_file: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    assert run(folder, "--model", model_file, "--out", whole).exit_code == 3
    monkeypatch.setattr(predicting, "predict_files", partial(stopped, after=4))
    assert run(folder, "--model", model_file, "--out", out).exit_code == 130
    assert not out.exists()
    journal = tmp_path / f".out{suffix}.rows"
    assert len(rows_of(journal)) == 4
    with journal.open("a") as file:
        file.write('{"path": "cut off by a k')
    seen: list[Path] = []
    monkeypatch.setattr(predicting, "predict_files", partial(watched, seen=seen))
    done = run(folder, "--model", model_file, "--out", out, "--resume")
    assert done.exit_code == 3 and "(2 of them before)" in done.stderr, done.output
    # two of the first four had failed, and are tried again
    assert [path.name for path in seen] == ["cut.png", "empty.jpg", "2.png", "text.png"]
    assert sorted(table(out), key=str) == sorted(table(whole), key=str)
    assert not journal.exists()
    seen.clear()
    write_png(folder / "sub" / "9.png", np.full((40, 40, 3), 90, np.uint8))
    run(folder, "--model", model_file, "--out", out, "--resume")  # a finished table grows
    assert [path.name for path in seen] == ["cut.png", "empty.jpg", "9.png", "text.png"]
    assert len(table(out)) == 7


def test_what_was_computed_before_an_error_is_kept_and_told(
    folder: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*some: Any, **named: Any) -> Iterator[Prediction]:
        yield from islice(predict_files(*some, **named), 4)
        raise UserError("out of memory.")

    out = tmp_path / "out.csv"
    monkeypatch.setattr(predicting, "predict_files", failing)
    done = run(folder, "--model", model_file, "--out", out)
    assert str(done.exception) == f"out of memory. The rows so far are kept beside {out}; go on with --resume."
    assert str(run(folder, "--model", model_file).exception) == "out of memory."
    monkeypatch.setattr(predicting, "predict_files", predict_files)
    assert "(2 of them before)" in run(folder, "--model", model_file, "--out", out, "--resume").stderr


def stopped(predictor: Predictor, files: list[Path], *rest: Any, after: int, **named: Any) -> Iterator[Prediction]:
    yield from islice(predict_files(predictor, files, *rest, **named), after)
    raise KeyboardInterrupt


def watched(predictor: Predictor, files: list[Path], *rest: Any, seen: list[Path], **named: Any) -> Any:
    seen += files
    return predict_files(predictor, files, *rest, **named)


def table(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    return pq.read_table(path).to_pylist() if path.suffix == ".parquet" else rows_of(path)


def test_nothing_is_gone_on_from_that_does_not_fit(folder: Path, exported: bytes, tmp_path: Path) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "out.csv"
    model.write_bytes(exported)
    assert "give --out" in str(run(folder, "--model", model, "--resume").exception)
    out.write_text("path,other\na,b\n")
    assert "no whole table of" in str(run(folder, "--model", model, "--out", out, "--resume").exception)
    assert out.read_text() == "path,other\na,b\n"
    assert run(folder, "--model", model, "--out", out).exit_code == 3
    out.write_text(out.read_text().replace(Predictor(model, "cpu").card.sha256[:16], "1" * 16))
    assert "of another model" in str(run(folder, "--model", model, "--out", out, "--resume").exception)


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_embeddings_scores_and_measures(
    folder: Path, exported: bytes, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, target = tmp_path / "model.onnx", tmp_path / "out.jsonl", tmp_path / f"e{suffix}"
    model.write_bytes(models.with_embedding(exported))
    asked = (folder, "--model", model, "--out", out, "--embeddings", target, "--measure")
    monkeypatch.setattr(predicting, "predict_files", partial(stopped, after=4))
    assert run(*asked).exit_code == 130
    monkeypatch.undo()
    assert run(*asked, "--resume").exit_code == 3
    good = [row for row in rows_of(out) if row["error"] is None]
    found = embedded(target)
    assert sorted(found["path"]) == sorted(row["path"] for row in good) and len(good) == 3
    predictor = Predictor(model, device="cpu")
    for path, vector, score in zip(found["path"], found["embedding"], found["score"], strict=True):
        rgb = read_rgb(Path(path))
        expected = predictor.run(predictor.prepare(rgb)[None])
        assert expected.embeddings is not None
        np.testing.assert_allclose(vector, expected.embeddings[0], atol=1e-4)
        assert score == pytest.approx(expected.probabilities[0, 1], abs=1e-5)
    assert set(quality.COLUMNS) <= found.keys()
    expected_measures = quality.measure(read_rgb(Path(found["path"][0])))
    assert found["sharpness"][0] == pytest.approx(expected_measures["sharpness"], abs=1e-5)
    assert next(iter(found["tone"])) == expected_measures["tone"]
    # once more, from the finished files: nothing is computed twice, nothing is lost
    seen: list[Path] = []
    monkeypatch.setattr(predicting, "predict_files", partial(watched, seen=seen))
    assert run(*asked, "--resume").exit_code == 3
    assert len(seen) == 3 and sorted(embedded(target)["path"]) == sorted(found["path"])
    assert "was written with --measure" in str(run(*asked[:-1], "--resume").exception)
    assert not list(tmp_path.glob(".*"))


def embedded(path: Path) -> dict[str, Any]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    return {**arrays, "path": arrays["ids"].tolist(), "embedding": arrays["embeddings"]}


def test_embeddings_that_cannot_be(folder: Path, exported: bytes, model_file: Path, tmp_path: Path) -> None:
    said = str(run(folder, "--model", model_file, "--embeddings", tmp_path / "e.csv").exception)
    assert ".parquet or .npz" in said
    said = str(run(folder, "--model", model_file, "--measure").exception)
    assert "give --embeddings" in said
    if not Predictor(model_file, device="cpu").embeds:
        said = str(run(folder, "--model", model_file, "--embeddings", tmp_path / "e.npz").exception)
        assert "no output `embedding`" in said


def test_files_are_read_no_further_ahead_than_two_batches(
    folder: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = 0

    def endless() -> Iterator[Path]:
        nonlocal given
        while True:
            given += 1
            yield folder / "sub" / "0.png"

    found = predict_files(Predictor(model_file, device="cpu"), endless(), batch=4, workers=2)
    for done in range(1, 30):
        next(found)
        assert given <= done + 4 + 2 * 4 + 2
    found.close()


def test_what_is_read_and_what_is_no_file_is_never_replaced(folder: Path, model_file: Path, tmp_path: Path) -> None:
    image = next(path for path in sorted(folder.iterdir()) if path.suffix == ".png")
    kept = image.read_bytes()
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for target, said in ((image, "among what is read"), (model_file, "among what is read"), (pipe, "no regular file")):
        done = run(folder, "--model", model_file, "--out", target, "--format", "csv")
        assert done.exit_code == 1 and said in str(done.exception)
    assert image.read_bytes() == kept and pipe.is_fifo() and Predictor(model_file, "cpu").classes
    link, real = tmp_path / "link.csv", tmp_path / "real.csv"
    link.symlink_to(real)
    run(folder, "--model", model_file, "--out", link)
    assert link.is_symlink() and real.read_text(encoding="utf-8").startswith("path,")


def test_rows_of_another_precision_or_with_other_columns_are_not_gone_on_from(
    folder: Path, model_file: Path, exported: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    run(folder, "--model", model_file, "--out", out)
    other = tmp_path / "int8.onnx"
    other.write_bytes(models.sealed(exported, precision="int8"))
    assert "of another model" in str(run(folder, "--model", other, "--out", out, "--resume").exception)
    written = out.read_text(encoding="utf-8")
    for text in ("patient,notes\n", written.replace("p_", "q_", 1), "garbage\n"):
        out.write_text(text, encoding="utf-8")
        done = run(folder, "--model", model_file, "--out", out, "--resume")
        assert "no whole table" in str(done.exception) and out.read_text(encoding="utf-8") == text


def test_odd_arguments_are_one_clear_line(folder: Path, model_file: Path, tmp_path: Path) -> None:
    assert "is empty" in str(run("", "--model", model_file).exception)
    blocked = next(path for path in folder.iterdir() if path.is_file()) / "out.csv"
    assert "cannot be written there" in str(run(folder, "--model", model_file, "--out", blocked).exception)
    long = tmp_path / f"{'x' * 300}" / "out.csv"
    assert "out.csv cannot be written there (File name too long)" in str(
        run(folder, "--model", model_file, "--out", long).exception
    )
    assert "the list on stdin names no file" in str(run("-", "--model", model_file, stdin=b"\n").exception)
    done = run("-", "--model", model_file, "--out", tmp_path / "o.jsonl", stdin=b"x" * 5000 + b"\n")
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    (row,) = rows_of(tmp_path / "o.jsonl")
    assert row["error"] in ("unreadable", "missing_file")


def test_files_of_other_kinds_are_counted_and_errors_where_they_are_named(folder: Path, model_file: Path) -> None:
    for name in ("a.HEIC", "b.heic", "sub/c.dcm", "sub/DICOM", ".DS_Store"):
        (folder / name).write_bytes(b"of another kind")
    done = run(folder, "--model", model_file)
    said, kinds = done.stderr.splitlines()[-1].removesuffix(".").split(": ")
    assert said == "5 files of other kinds left out" and kinds.startswith(".heic 2, ")
    assert sorted(kinds.split(", ")) == [".dcm 1", ".heic 2", ".txt 1", "without a suffix 1"]
    named = run(folder / "a.HEIC", folder / "sub" / "0.png", "--model", model_file)
    assert named.exit_code == 3 and "left out" not in named.stderr
    assert [row["error"] for row in csv.DictReader(named.stdout.splitlines())] == ["unreadable", ""]
    shutil.rmtree(folder / "sub")
    for path in folder.glob("*.[jp][pn]g"):
        path.unlink()
    said = str(run(folder, "--model", model_file).exception)
    assert "left out: .heic 2, .txt 1): .jpg, " in said


def test_a_file_has_one_row_under_whatever_names(
    folder: Path, model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(folder)
    (tmp_path / "equal.png").symlink_to(folder / "sub" / "0.png")  # as DVC links equal images: files of their own
    names = ["in, put/sub/1.png", str(folder / "sub"), "./in, put/*/../sub/*.png", "linked/sub/0.png", "linked"]
    found = find_images([*names, "equal.png"])
    assert [str(path) for path in found] == [
        names[0], str(folder / "sub" / "0.png"), str(folder / "sub" / "2.png"), "linked/cut.png", "linked/empty.jpg",
        "linked/text.png", "equal.png",
    ]  # fmt: skip
    listed = run(
        "-", "--model", model_file, stdin=f"{folder}/sub/0.png\nlinked/sub/0.png\n./in, put/sub/0.png".encode()
    )
    (row,) = csv.DictReader(listed.stdout.splitlines())
    assert row["path"] == str(folder / "sub" / "0.png")
    # a later run may call them otherwise
    out = tmp_path / "out.jsonl"
    assert run("in, put", "--model", model_file, "--out", out).exit_code == 3
    assert "(3 of them before)" in run(folder, "--model", model_file, "--out", out, "--resume").stderr
    assert len(rows_of(out)) == 6


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_resumed_run_replaces_errors_that_it_tries_again_and_keeps_the_others(
    folder: Path, model_file: Path, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    run(folder, folder / "gone.png", "--model", model_file, "--out", out)
    whole = (folder / "sub" / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole)
    (folder / "empty.jpg").write_bytes(whole[:60])
    done = run(
        folder / "cut.png", folder / "empty.jpg", folder / "sub", "--model", model_file, "--out", out, "--resume"
    )
    assert "4 of 5 images predicted (3 of them before)" in done.stderr
    found = {Path(row["path"]).name: row["error"] or "" for row in table(out)}
    assert found == {
        "0.png": "", "1.png": "", "2.png": "", "cut.png": "", "empty.jpg": "truncated", "text.png": "unreadable",
        "gone.png": "missing_file",
    }  # fmt: skip
    assert len(table(out)) == 7


@pytest.fixture()
def many(folder: Path) -> Path:
    """Two thousand names of six files."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    root = folder.parent / "many"
    root.mkdir()
    for i in range(2000):
        os.link(files[i % len(files)], root / f"{i:04d}{files[i % len(files)].suffix}")
    return root


def started(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "derm_t2im", "predict", *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
    )


def has_written(process: subprocess.Popen[str], journal: Path, rows: int) -> None:
    end = time.monotonic() + 60
    while not journal.is_file() or journal.read_bytes().count(b"\n") < rows:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)


def test_killed_twice_nothing_is_lost_and_nothing_is_there_twice(many: Path, model_file: Path, tmp_path: Path) -> None:
    out, journal = tmp_path / "out.csv", tmp_path / ".out.csv.rows"
    asked = (many, "--model", model_file, "--out", out)
    for rows, more in ((1, ()), (600, ("--resume",))):
        process = started(*asked, *more)
        has_written(process, journal, rows)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not out.exists()
    (tmp_path / ".out.csv.rows.new").write_text("left by a kill")
    done = run(*asked, "--resume")
    assert done.exit_code == 3 and "999 of 2,000 images predicted (" in done.stderr, done.stderr
    assert run(many, "--model", model_file, "--out", tmp_path / "whole.csv").exit_code == 3
    assert sorted(table(out), key=str) == sorted(table(tmp_path / "whole.csv"), key=str)
    assert not list(tmp_path.glob(".*"))


def test_two_runs_do_not_write_one_file(many: Path, folder: Path, model_file: Path, tmp_path: Path) -> None:
    out, vectors = tmp_path / "out.csv", tmp_path / "vectors.parquet"
    first = started(many, "--model", model_file, "--out", out, "--embeddings", vectors)
    has_written(first, tmp_path / ".out.csv.rows", 1)
    first.send_signal(signal.SIGSTOP)
    for more in (("--out", out), ("--out", out, "--resume"), ("--embeddings", vectors)):
        second = run(folder, "--model", model_file, *more)
        assert str(second.exception).startswith(f"{more[1]} is being written by another run"), more
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=120)
    assert first.returncode == 3 and len(table(out)) == 2000 and pq.read_metadata(vectors).num_rows == 999
    assert not list(tmp_path.glob(".*"))
    assert run(folder, "--model", model_file, "--out", out).exit_code == 3 and len(table(out)) == 6


def test_interrupted_by_hand_it_says_what_is_kept(many: Path, model_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    process = started(many, "--model", model_file, "--out", out)
    has_written(process, tmp_path / ".out.csv.rows", 1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    kept = len(rows_of(tmp_path / ".out.csv.rows"))
    assert process.returncode == 130
    assert said == f"interrupted: {kept:,} of 2,000 rows are kept beside {out}; go on with --resume.\n"
    assert 256 <= kept < 2000
    assert run(many, "--model", model_file, "--out", out, "--resume").exit_code == 3 and len(table(out)) == 2000


def test_the_limit_of_pixels_is_told_and_can_be_raised(folder: Path, model_file: Path) -> None:
    write_png(folder / "large.png", np.zeros((100, 60, 3), np.uint8))
    for limit, error in ((5999, "too_large"), (6000, "")):
        done = run(folder / "large.png", "--model", model_file, "--max-pixels", limit)
        (row,) = csv.DictReader(done.stdout.splitlines())
        assert row["error"] == error
        assert not error or row["detail"] == "60 x 100 pixels, over max_pixels, 5,999: shrink it, or raise that"


def test_what_the_service_refuses_predict_refuses_for_the_same_reasons(tmp_path: Path, model_file: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for name, content in {**{name: data for name, (data, _) in BAD.items()}, **GOOD}.items():
        (root / f"{name}.png").write_bytes(content)
    done = run(root, "--model", model_file, "--out", tmp_path / "out.jsonl")
    assert f"{len(GOOD)} of {len(GOOD) + len(BAD)} images predicted" in done.stderr
    found = {Path(row["path"]).stem: row for row in rows_of(tmp_path / "out.jsonl")}
    assert set(found) == {*BAD, *GOOD}
    for name, row in found.items():
        assert row["error"] in (BAD[name][1] if name in BAD else {None}), name
        assert bool(row["detail"]) == (name in BAD) and (row["label"] is None) == (name in BAD)
