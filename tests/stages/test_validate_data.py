"""The gate before anything learns: real inputs, sound and not."""

import json

import pandas as pd
import pytest
import small_world

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.stages import validate_data


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    small_world.build(root)
    return root


def test_sound_images_pass_and_the_pass_says_nothing_that_could_change(world, capsys):
    validate_data.run()
    found = json.loads(paths.DATA_VALIDATION_METRICS.read_text())
    assert found["critical_failures"] == 0 and set(found["suites"]) == {
        "raw-images",
        "real-images",
        "splits",
        "class-sizes",
    }
    assert "reports/validation_data/index.html" in capsys.readouterr().err
    before = paths.DATA_GATE.read_bytes()
    small_world.set_parameter(world, "validate", min_class_share=0.6)  # a warning
    validate_data.run()
    assert json.loads(paths.DATA_VALIDATION_METRICS.read_text())["warnings"] > found["warnings"]
    assert paths.DATA_GATE.read_bytes() == before


def test_a_leak_between_splits_stops_before_the_gate_opens(world):
    def leak(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table["image_id"].isin(["train-001", "test-007"]), "group_id"] = "same lesion"
        return table

    small_world.change(paths.SPLITS_MANIFEST, leak)
    with pytest.raises(UserError, match="no lesion, patient or near-duplicate is in two splits; 2 of 96 break it"):
        validate_data.run()
    assert not paths.DATA_GATE.exists()
    assert "test-007" in (paths.DATA_VALIDATION_REPORT / "index.html").read_text()


def test_small_raw_images_warn_with_the_parameter_and_a_missing_file_stops(world):
    small_world.set_parameter(world, "validate", min_side=33)
    validate_data.run()
    small = {f["column"]: f for f in json.loads(paths.DATA_VALIDATION_METRICS.read_text())["failures"]}["width"]
    assert (small["severity"], small["broken"], "validate.min_side" in small["turn"]) == ("warning", 96, True)
    (paths.PROCESSED / "images" / "test-003.png").unlink()
    with pytest.raises(UserError) as stopped:
        validate_data.run()
    said = str(stopped.value)
    assert len(said.splitlines()) <= 10
    assert "every image file is there; 1 of 96 break it: test-003" in said and "What to do: run `dvc checkout`" in said
