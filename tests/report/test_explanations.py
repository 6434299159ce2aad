"""The section on what classifiers look at: there, in words, and gone where the stage has not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.imaging.io import write_png
from derm_t2im.params.report import Report
from derm_t2im.report.evidence import collect
from derm_t2im.report.page import render
from tests.report.example import estimate
from tests.report.reader import Reader


def shares(outside: float, n: float) -> dict[str, Any]:
    figures = {
        **estimate("outside", outside, 0.03),
        "outside_seed_sd": 0.117,
        **estimate("uniform", 0.86, 0.01),
        **estimate("erasure", -0.2, 0.1),
    }
    return {**figures, "floor": 0.31, "n": n, "no_map": 0}


def explanations() -> dict[str, Any]:
    cells = {
        mix: {"method": "grad_cam", "cells": 8, "all": shares(outside, 120.0), "hits": shares(outside, 97.5),
              "misses": {"outside": None, "n": 0.0}}
        for mix, outside in (("hybrid", 0.663), ("real", 0.648))
    }  # fmt: skip
    return {
        "images": 120,
        "masks": {"truth": 118, "found": 1, "none": 1},
        "mobilenetv2": cells,
        "coat": {"left_out": "coat_tiny: no map of what it looks at"},
        "contrasts": {"mobilenetv2": {"hybrid-real": {"all": {**estimate("outside", 0.015, 0.016), "n": 120.0}}}},
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, values in ((paths.EXPLANATION_METRICS, json.dumps(explanations())),):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(values)
    write_png(tmp_path / paths.explanation("mobilenetv2"), np.full((40, 60, 3), 99, np.uint8))
    return tmp_path


def test_shares_differences_and_pictures_are_shown(root: Path) -> None:
    read = Reader(render(collect(root), Report(samples=8)))
    for said in (
        "MobileNetV2, real only all answers 64.8 % [61.8, 67.8] 11.7 % 86.0 % [85.0, 87.0] 31.0 % −0.200 [−0.300, "
        "−0.100] 120",
        "MobileNetV2, hybrid − real only all answers +1.5 [−0.1, +3.1] 120",
        "118 have a true lesion mask, 1 a found one, 1 none",
        "coat_tiny: no map of what it looks at",
        "MobileNetV2: Grad-CAM, 8 x 8 cells",
    ):
        assert said in read.text, said
    numbers = read.text.split("Shares outside the lesion, in numbers")[1].split("Difference of")[0]
    assert "wrong answers" not in numbers.split("n: images")[1]
    assert any(image["alt"] == "What MobileNetV2 looks at" for image in read.of("img"))
    assert any(attrs.get("href") == "#explanations" for attrs in read.of("a"))


def test_without_explanations_there_is_no_such_section(root: Path) -> None:
    (root / paths.EXPLANATION_METRICS).unlink()
    assert "explanations" not in render(collect(root), Report(samples=8))


def test_a_broken_file_is_named(root: Path) -> None:
    (root / paths.EXPLANATION_METRICS).write_text("[1, 2")
    with pytest.raises(UserError, match=r"explanations\.json cannot be read"):
        collect(root)
