from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derm_t2im.report.forest import Estimate, estimate, forest
from derm_t2im.report.origin import origin

HEADINGS = ("what", "axis", "value")


def places(text: str) -> float:
    return float(text.removesuffix("%"))


def test_places_follow_the_axis_and_zero_is_on_it() -> None:
    rows = [Estimate("a", 0.1, 0.05, 0.2, "0.1"), Estimate("b", -0.02, -0.1, 0.05, "-0.02", wide=(-1.0, 0.1))]
    found = forest(rows, "caption", HEADINGS, ("worse", "better"))
    assert found is not None and found.wide
    first, second = found.lines
    assert 0 < places(second.start) < places(found.zero) < places(first.start) < places(first.at) < places(first.end)
    assert second.cut == (True, False) and second.wide is not None and places(second.wide[0]) == 0
    assert dict((said, place) for place, said in found.ticks)["0.0"] == found.zero
    assert forest([], "caption", HEADINGS) is None


@given(st.floats(-1e4, 1e4), st.floats(0, 1e3))
def test_ticks_are_round_few_and_inside(value: float, half: float) -> None:
    found = forest([Estimate("a", value, value - half, value + half, "")], "caption", HEADINGS)
    assert found is not None
    assert 1 <= len(found.ticks) <= 7
    at = [places(place) for place, _ in found.ticks]
    assert at == sorted(at) and all(0 <= place <= 100 for place in at)
    assert len({said for _, said in found.ticks}) == len(found.ticks)


def test_a_row_needs_a_number_and_shows_percent_as_such() -> None:
    (row,) = estimate({"x": 0.25, "x_low": 0.2, "x_high": 0.3}, "x", "name", "percent")
    assert (row.value, row.low, row.high) == (25.0, pytest.approx(20), pytest.approx(30))
    assert " ".join(row.said.split()) == "25.0 % [20.0, 30.0]"
    assert estimate({"x": None}, "x", "name") == []


def test_the_origin_is_the_commit_that_last_touched_code_or_parameters(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert origin({}, tmp_path).commit == ""
    git("init", "-q")
    (tmp_path / "params.yaml").write_text("a: 1")
    git("add", ".")
    git("commit", "-qm", "one")
    first = git("rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("x")
    git("add", ".")
    git("commit", "-qm", "results only")
    assert (origin({}, tmp_path).commit, origin({}, tmp_path).changed) == (first, [])
    (tmp_path / "params.yaml").write_text("a: 2")
    made = origin({"a": {"b": 1, "c": [True, None], "d": {}}, "e": 0.5}, tmp_path)
    assert made.changed == ["params.yaml"]
    assert made.parameters == [("a.b", "1"), ("a.c", "[true, null]"), ("a.d", "{}"), ("e", "0.5")]
    assert dict(made.versions)["Python"].count(".") == 2 and "torch" in dict(made.versions)
