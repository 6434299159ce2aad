"""Stage `explain` on a small project: figures, pictures, bad input."""

import json

import numpy as np
import pytest
import yaml

from derm_t2im import manifest, paths
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import read_rgb, write_png
from derm_t2im.stages import explain, mix, train
from tests.classify import project


def set_explain(root, **values):
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["explain"] = {"images": 16, "attention": "gradient", "seed": 0} | values
    path.write_text(yaml.safe_dump(params))


def with_masks(root):
    """A square truth mask for each image, as phantoms have it."""
    table = manifest.read(root / paths.SPLITS_MANIFEST)
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    write_png(root / "data/raw/truth/mask.png", mask)
    manifest.write(table.assign(mask_path="data/raw/truth/mask.png"), root / paths.SPLITS_MANIFEST)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        project.write(root, mix={"mixes": ["real", "hybrid"]})
        set_explain(root)
        with_masks(root)
        mix.run()
        for arch in ("cnn", "vit"):
            for name in ("real", "hybrid"):
                train.run(arch, name)
        explain.run()
    return root


def figures():
    return json.loads(paths.EXPLANATION_METRICS.read_text())


def test_every_cell_is_filled(finished, monkeypatch):
    monkeypatch.chdir(finished)
    found = figures()
    assert found["images"] == 16
    assert found["masks"] == {"truth": 16, "found": 0, "none": 0}
    for arch, method in (("cnn", "grad_cam"), ("vit", "attention_gradient")):
        for name in ("real", "hybrid"):
            cell = found[arch][name]
            assert cell["method"] == method and cell["seeds"] == 2
            assert cell["all"]["n"] + cell["all"]["no_map"] == 16
            assert cell["hits"]["n"] + cell["misses"]["n"] == cell["all"]["n"]
            assert cell["all"]["uniform"] == pytest.approx(0.75)
            assert cell["all"]["outside_low"] <= cell["all"]["outside"] <= cell["all"]["outside_high"]
            assert cell["all"]["beyond_uniform"] == pytest.approx(cell["all"]["outside"] - 0.75, abs=1e-5)
        contrast = found["contrasts"][arch]["hybrid-real"]["all"]
        if contrast["n"] == 16:
            difference = found[arch]["hybrid"]["all"]["outside"] - found[arch]["real"]["all"]["outside"]
            assert contrast["outside"] == pytest.approx(difference, abs=1e-5)
        assert min(read_rgb(paths.explanation(arch)).shape[:2]) > 200


def test_the_same_bytes_again(finished, monkeypatch):
    monkeypatch.chdir(finished)
    files = [paths.EXPLANATION_METRICS, *sorted(paths.EXPLANATIONS.iterdir())]
    assert len(files) == 3
    before = [file.read_bytes() for file in files]
    explain.run()
    assert [file.read_bytes() for file in files] == before


def test_an_architecture_without_maps_is_left_out_and_said(world, monkeypatch, capsys):
    def none(*_, **__):
        raise explain.maps.NoMap("cnn: no map of what it looks at")

    see = explain._see
    monkeypatch.setattr(explain, "_see", lambda n, *rest: none() if "resnet" in n.config["timm"] else see(n, *rest))
    explain.run()
    assert "no map of what it looks at" in capsys.readouterr().err
    assert set(figures()["cnn"]) == {"left_out"} and "real" in figures()["vit"]
    assert [path.name for path in paths.EXPLANATIONS.iterdir()] == ["vit.png"]


def test_without_a_positive_class_each_image_speaks_for_its_own(world):
    params = yaml.safe_load((world / "params.yaml").read_text())
    params["evaluate"]["positive"] = ""
    (world / "params.yaml").write_text(yaml.safe_dump(params))
    explain.run()
    assert figures()["cnn"]["real"]["all"]["outside"] is not None


def test_a_mask_that_cannot_be_read_and_no_test_images_are_named(world):
    (world / "data/raw/truth/mask.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"truth/mask.png.* cannot be read: run `dvc repro`"):
        explain.run()
    table = manifest.read(paths.SPLITS_MANIFEST)
    manifest.write(table[table["split"] != "test"], paths.SPLITS_MANIFEST)
    with pytest.raises(UserError, match=r"enlarge split\.test"):
        explain.run()
