import json

import pandas as pd
import pytest
import small_world

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.stages import embed, fidelity, validate


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The world after embed and fidelity, computed once."""
    root = tmp_path_factory.mktemp("world")
    small_world.build(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        embed.run()
        fidelity.run()
    # Random features of few images: what they say of this set is not what is tested here.
    small_world.set_parameter(root, "validate", max_kid_over_floor=1e6, max_copy_rate=1.0, min_planted_recall=0.0)
    return root


def metrics():
    return json.loads(paths.VALIDATION_METRICS.read_text())


def test_a_sound_set_passes_and_leaves_pages_equal_on_a_second_run(world, capsys):
    validate.run()
    found = metrics()
    assert found["critical_failures"] == 0
    assert found["expectations"] == found["passed"] + found["warnings"] > 20
    pages = {path: path.read_bytes() for path in paths.VALIDATION_REPORT.rglob("*.html")}
    assert paths.VALIDATION_REPORT / "index.html" in pages and len(pages) > 8
    printed = capsys.readouterr()
    assert printed.out == "" and "reports/validation/index.html" in printed.err and printed.err.count("\n") == 1
    validate.run()
    assert {path: path.read_bytes() for path in paths.VALIDATION_REPORT.rglob("*.html")} == pages


def test_a_critical_failure_stops_with_ids_parameter_and_place_but_leaves_the_evidence(world):
    def stray(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[table.index[:5], "label"] = "naevus"
        return table

    small_world.change(paths.SYNTHETIC_MANIFEST, stray)
    with pytest.raises(UserError) as stopped:
        validate.run()
    said = str(stopped.value)
    assert len(said.splitlines()) <= 10
    assert "every label is one of benign, malignant; 5 of 40 break it" in said
    assert "synthetic-000 (label naevus), synthetic-001 (label naevus), synthetic-002 (label naevus), ..." in said
    assert "What to do: run `dvc repro generate`" in said and "reports/validation/index.html" in said
    assert metrics()["critical_failures"] == 1
    page = (paths.VALIDATION_REPORT / "index.html").read_text()
    assert "✗ critical" in page and "synthetic-001" in page


def test_a_bound_on_fidelity_shows_the_value(world):
    numbers = json.loads(paths.FIDELITY_METRICS.read_text())
    numbers["all"].update(kid=3.0, kid_floor_high=0.01)
    paths.FIDELITY_METRICS.write_text(json.dumps(numbers))
    small_world.set_parameter(world, "validate", max_kid_over_floor=50.0)
    with pytest.raises(UserError, match=r"(?s)KID of all classes is at most 50 times.*it is 300.*max_kid_over_floor"):
        validate.run()


def test_a_warning_does_not_stop(world):
    small_world.set_parameter(world, "validate", min_planted_recall=1.0)
    numbers = json.loads(paths.FIDELITY_METRICS.read_text())
    numbers["copies"]["planted_recall"] = 0.5
    paths.FIDELITY_METRICS.write_text(json.dumps(numbers))
    validate.run()
    assert metrics()["warnings"] >= 1
    assert any(failure["column"] == "planted copies found" for failure in metrics()["failures"])


def test_missing_fidelity_names_the_stage(world):
    paths.FIDELITY_METRICS.unlink()
    with pytest.raises(UserError, match="dvc repro fidelity"):
        validate.run()
