from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from derm_t2im import manifest
from derm_t2im.diffusion import base, own_images
from derm_t2im.diffusion.commands import base_train
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png

app = typer.Typer()
app.command()(base_train)

SIZES = {
    "image": 16, "vae_widths": [8, 16], "latent_channels": 4, "unet_widths": [16, 32],
    "unet_attention": [False, True], "text_width": 32, "text_hidden": 32, "text_layers": 1,
}  # fmt: skip
SHORT = ["--vae-steps", "2", "--vae-batch", "4", "--unet-steps", "2", "--unet-batch", "4"]

#: Of a split: how many images, and the grey that they all have.
SPLITS = {"train": (70, 200), "val": (6, 90), "test": (6, 60), "external": (6, 30), "unused": (4, 120)}


def table() -> pd.DataFrame:
    rows = [
        {
            "image_id": f"{split}-{i}", "path": f"images/{split}-{i}.png", "kind": "real", "split": split,
            "label": "angiokeratoma" if i % 2 else "benign", "source": "clinic", "licence": "own",
            "lesion_area": 0.15, "lesion_count": 1, "tone": "tan", "site": "back",
        }
        for split, (count, _) in SPLITS.items()
        for i in range(count)
    ]  # fmt: skip
    drawn = {"image_id": "drawn", "path": "images/none.png", "kind": "synthetic", "split": "train", "label": "benign"}
    return pd.DataFrame([*rows, drawn])


@pytest.fixture()
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with images of one grey per split."""
    monkeypatch.chdir(tmp_path)
    for split, (count, grey) in SPLITS.items():
        for i in range(count):
            write_png(Path(f"images/{split}-{i}.png"), np.full((24, 20, 3), grey, np.uint8))
    manifest.write(table(), Path("all.parquet"))
    Path("sizes.yaml").write_text(yaml.safe_dump(SIZES))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_only_what_may_be_learned_is_read(folder: Path) -> None:
    found = own_images.collect([Path("all.parquet")] * 2, ["train"], False, 16, 0)
    assert found.images.shape == (70, 16, 16, 3) and set(found.images.flat) == {200}
    assert found.heldout.shape == (6, 16, 16, 3) and set(found.heldout.flat) == {90}
    assert found.sources == {("clinic", "own"): 70}
    more = own_images.collect([Path("all.parquet")], ["train", "unused"], False, 16, 0)
    assert set(more.images.flat) == {200, 120}
    everything = own_images.collect([Path("all.parquet")], [], True, 16, 0)
    assert len(everything.images) == 92 and len(everything.heldout) == 0


def test_what_is_a_test_image_anywhere_is_not_learned(folder: Path) -> None:
    other = table().assign(split="train")
    manifest.write(other[other["image_id"] != "drawn"], Path("other.parquet"))
    found = own_images.collect([Path("other.parquet"), Path("all.parquet")], ["train"], False, 16, 0)
    assert len(found.images) == 74 and set(found.images.flat) == {200, 120}


def test_an_image_without_a_label_is_said_without_one(folder: Path) -> None:
    rows = table()
    rows["label"] = rows["label"].mask(rows["label"] == "benign")
    manifest.write(rows, Path("unlabelled.parquet"))
    found = own_images.collect([Path("unlabelled.parquet")], ["train"], False, 16, 0)
    said = {caption for row in found.captions for caption in row}
    assert "a dermoscopic image of one medium lesion on tan skin" in said
    assert not [caption for caption in said if "nan" in caption.split() or "NA" in caption]


def test_captions_say_what_was_measured_and_leave_words_out(folder: Path) -> None:
    found = own_images.collect([Path("all.parquet")], ["train"], False, 16, 0)
    said = [caption for row in found.captions for caption in row]
    assert "a dermoscopic image of one medium angiokeratoma lesion on tan skin, back" in said
    for word in ("one", "medium", "angiokeratoma", "tan", "back"):
        assert 0 < np.mean([word in caption.replace(",", "").split() for caption in said]) < 0.95
    again = own_images.collect([Path("all.parquet")], ["train"], False, 16, 0)
    assert again.captions == found.captions
    other = own_images.collect([Path("all.parquet")], ["train"], False, 16, 1)
    assert other.captions != found.captions


def test_a_base_of_own_images_and_one_that_goes_on_from_it(folder: Path) -> None:
    done = run("--manifest", "all.parquet", "--config", "sizes.yaml", "--out", "made", *SHORT)
    assert done.exit_code == 0, done.exception
    assert "70 images to learn from, 6 of the validation split held out" in done.stderr
    pipe = base.load("made")
    assert base.image_size(pipe) == 16
    assert pipe.tokenizer.tokenize("angiokeratoma") == ["angiokeratoma</w>"]
    about = json.loads(Path("made/training.json").read_text())
    assert about["learned_from"] == [{"source": "clinic", "licence": "own", "images": 70}]
    assert about["split"] == ["train"] and about["heldout_images"] == 6 and about["heldout_psnr"] > 0
    assert not list(Path(".state/base").glob("*")) and not list(folder.glob(".made*"))

    first = Path("made/unet/diffusion_pytorch_model.safetensors").read_bytes()
    done = run("--manifest", "all.parquet", "--init", "made", "--autoencoder", "made", "--out", "more", *SHORT)
    assert done.exit_code == 0, done.exception
    more = base.load("more")
    assert more.tokenizer.get_vocab() == pipe.tokenizer.get_vocab()
    for name, value in more.vae.state_dict().items():
        assert (value == pipe.vae.state_dict()[name]).all(), "a given autoencoder is taken as it is"
    assert Path("more/unet/diffusion_pytorch_model.safetensors").read_bytes() != first
    moved = (more.unet.conv_in.weight - pipe.unet.conv_in.weight).abs().max()
    assert 0 < moved < 0.01, "it went on from those weights"

    for file in Path("more").glob("*/*config.json"):
        assert str(folder) not in file.read_text() and "_name_or_path" not in file.read_text()

    # a folder that holds a base may be replaced if one says so, one with anything else not
    done = run("--manifest", "all.parquet", "--config", "sizes.yaml", "--out", "more", *SHORT)
    assert "--out more holds a base: choose another folder, or say --force" in str(done.exception)
    done = run("--manifest", "all.parquet", "--config", "sizes.yaml", "--out", "more", "--force", *SHORT)
    assert done.exit_code == 0, done.exception
    Path("more/notes.txt").write_text("mine")
    done = run("--manifest", "all.parquet", "--config", "sizes.yaml", "--out", "more", *SHORT)
    assert "--out more holds other files (notes.txt)" in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ([], "mini"),
        (["--preset", "small"], "small"),
        (["--config", "sizes.yaml"], "own"),
        (["--manifest", "all.parquet"], "own"),
        (["--init", "models/base/mini"], "own"),
    ],
)
def test_another_base_never_takes_the_embedded_ones_place_unasked(
    folder: Path, arguments: list[str], place: str
) -> None:
    for name in ("mini", "small", "own", "sd15"):
        (folder / "models/base" / name).mkdir(parents=True)
        (folder / "models/base" / name / "other.txt").touch()
    assert f"--out models/base/{place} holds other files" in str(run(*arguments, *SHORT).exception)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--manifest", "none.parquet"], "none.parquet is missing"),
        (["--manifest", "sizes.yaml"], "is not a manifest"),
        (["--manifest", "columns.parquet"], r"needs the columns \['kind', 'label'\]"),
        (["--manifest", "splitless.parquet"], "has no column `split`.*--all"),
        (["--manifest", "few.parquet"], "60 real images of split train, at least 64"),
        (["--manifest", "gone.parquet"], "images/gone.png: there is no such file"),
        (["--manifest", "all.parquet", "--preset", "mini"], "20 x 24 pixels, the base draws 64: set preprocess.size"),
        (["--manifest", "all.parquet", "--split", "test"], "--split 'test': allowed are train, unused"),
        (["--manifest", "all.parquet", "--split", "train", "--all"], "leave out --split"),
        (["--manifest", "all.parquet", "--images", "100"], "number of phantoms"),
        (["--all"], "name one"),
        (["--manifest", "all.parquet", "--init", "nothing"], "--init: there is no folder or file 'nothing'"),
        (["--manifest", "all.parquet", "--autoencoder", "nothing"], "--autoencoder: there is no folder or file"),
        (["--init", "made", "--preset", "mini"], "leave out --preset and --config"),
        (["--preset", "huge"], "allowed: mini, small, sd15"),
        (["--out", "images"], "holds other files"),
        (["--out", "all.parquet"], "is a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_clear_line(folder: Path, arguments: list[str], said: str) -> None:
    rows = table()
    rows[["image_id", "path"]].to_parquet("columns.parquet")
    manifest.write(rows.drop(columns="split"), Path("splitless.parquet"))
    manifest.write(rows[rows["image_id"].str.contains("train")].iloc[:60], Path("few.parquet"))
    manifest.write(rows.replace({"path": {"images/train-9.png": "images/gone.png"}}), Path("gone.parquet"))
    sized = [] if {"--preset", "--init"} & set(arguments) else ["--config", "sizes.yaml"]
    done = run(*arguments, *sized, *SHORT)
    assert isinstance(done.exception, UserError), (done.exception, done.output)
    with pytest.raises(UserError, match=said):
        raise done.exception
    assert "\n" not in str(done.exception)
