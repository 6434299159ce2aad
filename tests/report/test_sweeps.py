"""The section on sweeps, from files as `derm-t2im sweep` writes them."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from derm_t2im import paths
from derm_t2im.params.report import Report
from derm_t2im.report import draws
from derm_t2im.report.evidence import Evidence, collect
from derm_t2im.report.page import render
from derm_t2im.sweeps import plan, results
from tests.report.reader import Reader

AUCS = [n / 1000 for n in range(500, 1001)]
SWEEP = """# Does <more> help?
axis: {name: share, scale: linear}
points:
  - {label: none, x: 0, set: {mix.synthetic_fraction: 0.0}}
  - {label: half, x: 0.5, set: {mix.synthetic_fraction: 0.5}}
draw:
  - {key: "classification:{arch}.{mix}.{test}.auc", name: AUC}
  - {key: "classification:contrasts.{arch}.{test}.{pair}.auc", name: difference in AUC}
"""


def point(place: int, value: float, state: str = "finished") -> dict[str, Any]:
    about = {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 500, "seeds": 3, "seed_sd": 0.004}
    figures = {"classification:vit.hybrid.external.auc": about}
    figures["classification:contrasts.vit.external.hybrid-real.auc"] = {**about, "value": value - 0.8}
    return {"place": place, "x": place / 2, "set": {}, "experiment": "e", "state": state,
            "figures": figures if state == "finished" else {}}  # fmt: skip


def write(points: dict[str, Any]) -> None:
    Path("sweeps").mkdir()
    Path("sweeps/share.yaml").write_text(SWEEP)
    sweep = plan.read("share")
    given = {"train.seeds": [0, 1, 2]}
    about = {"name": "share", "asks": sweep.asks, "revision": "0123456789abcdef", "axis": sweep.axis.model_dump()}
    results.write(sweep, {**about, "base": {}, "given": given, "points": points})


def test_a_sweep_is_shown_with_its_figure_and_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write({"none": point(0, 0.81), "half": point(1, 0.84)})
    page = render(collect(tmp_path), Report(samples=4))
    text = Reader(page).text
    assert "Does <more> help?" in text and "Does <more>" not in page
    assert "2 of 2 points finished, at commit 0123456789ab; with train.seeds = [0, 1, 2]." in text
    assert "ViT, hybrid, external test half 0.840 [0.820, 0.860] 0.004 3 500" in text
    assert "ViT, external test, hybrid − real only half 0.040 [" in text
    (drawn,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert base64.b64decode(drawn) == (tmp_path / paths.SWEEP_PLOTS / "share.svg").read_bytes()


def test_what_is_not_finished_is_counted_and_nothing_finished_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write({"none": point(0, 0.81), "half": point(1, 0.84, "failed")})
    assert "1 of 2 points finished" in Reader(render(collect(tmp_path), Report(samples=4))).text
    results.write(plan.read("share"), {"asks": "x", "points": {"none": point(0, 0.81, "outdated")}})
    assert "Sweeps" not in Reader(render(collect(tmp_path), Report(samples=4))).text


def with_draws(root: Path, kid: float) -> Evidence:
    """A sweep over three draws with a KID of 0.1, 0.2 and 0.3, beside a run whose images have ``kid``."""
    about = {"arch": "vit", "test": "external"}
    records = []
    for at, value in enumerate((0.1, 0.2, 0.3)):
        difference = {"figure": "difference in AUC", **about, "pair": "hybrid-real", "value": value}
        auc = {"figure": "AUC", **about, "mix": "hybrid", "value": 0.7, "seeds": 5}
        records += [{**each, "point": str(at)} for each in (difference, auc, {"figure": "KID", "value": value})]
    return Evidence(root, metrics={"fidelity": {"all": {"kid": kid}}}, swept={"generator-seeds": records})


def test_other_draws_of_the_generator_stand_beside_the_answer(tmp_path: Path) -> None:
    evidence = with_draws(tmp_path, 0.2)
    page = Reader(render(evidence, Report(samples=4))).text.replace("\xa0", " ")
    # Student's t of two degrees of freedom: 4.303 * 0.1 / sqrt(3) = 0.248
    assert "ViT external test +0.200 [\N{MINUS SIGN}0.048, +0.448] +0.100 +0.300 3" in page
    assert "5 seeds at each draw" in page
    assert "over 3 of them a difference is shown in 0 of 1 comparisons" in draws.not_shown(evidence)


@given(
    st.lists(st.sampled_from(AUCS), min_size=2, max_size=8, unique=True),
    st.lists(st.sampled_from(AUCS), min_size=2, max_size=8, unique=True),
)
def test_the_interval_over_draws_and_trainings_is_welchs(hybrid: list[float], real: list[float]) -> None:
    mean, error = float(np.mean(real)), float(np.std(real, ddof=1)) / len(real) ** 0.5
    drawn = draws.Draws([each - mean for each in hybrid], error, len(real))
    wanted = stats.ttest_ind(hybrid, real, equal_var=False).confidence_interval()
    assert drawn.interval == pytest.approx((wanted.low, wanted.high), rel=1e-6, abs=1e-9)


def test_draws_of_another_study_are_not_taken_for_those_of_this_run(tmp_path: Path) -> None:
    evidence = with_draws(tmp_path, 0.21)
    assert "With other draws of the generator" not in Reader(render(evidence, Report(samples=4))).text
    assert "come from one fine-tuning" in draws.not_shown(evidence)


def test_one_draw_of_the_generator_is_said_to_be_one() -> None:
    assert "come from one fine-tuning" in draws.not_shown(Evidence(Path()))
