"""The page's order, what a screen reader needs, and that every colour can be read."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from derm_t2im.report import page as module
from derm_t2im.templates import environment, source
from tests.report import example
from tests.report.reader import Reader

STYLE = source(environment(module.__package__), "style.css")
TEXT = [("ink", "paper"), ("ink", "panel"), ("muted", "paper"), ("muted", "panel"), ("accent", "paper"),
        ("good", "paper"), ("good", "panel"), ("bad", "paper"), ("bad", "panel"), ("ink", "notice"),
        ("paper", "ink")]  # fmt: skip
MARKS = [(name, on) for name in ("real", "hybrid", "oversampled", "synthetic") for on in ("paper", "panel")]


def schemes() -> dict[str, dict[str, str]]:
    """The colours of each scheme, by the name of their variable."""
    found = [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)]
    light, dark, paper = found
    return {"light": light, "dark": {**light, **dark}, "print": {**light, **paper}}


def rgb(colour: str) -> list[float]:
    digits = colour.removeprefix("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    return [int(digits[i : i + 2], 16) for i in (0, 2, 4)]


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2.2's contrast ratio."""

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_is_wcags() -> None:
    assert contrast([0, 0, 0], [255, 255, 255]) == pytest.approx(21)
    assert contrast(rgb("#767676"), rgb("#fff")) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_text_and_marks_can_be_read(scheme: str) -> None:
    colours = schemes()[scheme]
    for pairs, least in ((TEXT, 4.5), (MARKS, 3.0)):
        for one, other in pairs:
            assert contrast(rgb(colours[one]), rgb(colours[other])) >= least, f"{one} on {other}"
    shade = [float(part) for part in colours["shade"].split(",")]
    darkest = [0.45 * s + 0.55 * p for s, p in zip(shade, rgb(colours["paper"]), strict=True)]
    assert contrast(rgb(colours["ink"]), darkest) >= 4.5, "counts in a confusion matrix"


def test_sections_stand_in_the_order_in_which_they_are_asked_for(page: str) -> None:
    read = Reader(page)
    assert len(read.of("h1")) == 1
    order = ["answer", "how", "pictures", "trust", "limits", "details", "again"]
    assert [attrs.get("id") for attrs in read.of("h2")] == order
    assert [attrs["href"] for attrs in read.of("a")][:8] == ["#answer", *(f"#{name}" for name in order)]
    levels = [int(tag[1]) for tag, _ in read.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and all(below - above <= 1 for above, below in pairwise(levels))


def test_tables_have_a_caption_and_headers_with_a_scope(page: str) -> None:
    read = Reader(page)
    assert len(read.of("caption")) == len(read.of("table")) > 20
    heads = read.of("th")
    assert heads and all(head.get("scope") in ("row", "col", "rowgroup", "colgroup") for head in heads)
    assert read.of("html")[0]["lang"] == "en"


def test_the_answer_and_its_figure_say_what_the_metrics_say(page: str) -> None:
    metrics = next(v for k, v in example.metrics().items() if k.name == "classification.json")
    rows = Reader(page).within("tr")
    names = {"mobilenetv2": "MobileNetV2", "vit": "ViT", "in_domain": "in-domain test", "external": "external test"}
    for b in ("real", "oversampled"):
        for arch in example.ARCHS:
            for test in example.TESTS:
                found = metrics["contrasts"][arch][test][f"hybrid-{b}"]
                value, low, high = (
                    f"{found[key]:+.3f}".replace("-", "−").replace("+0.000", "0.000")
                    for key in ("auc", "auc_low", "auc_high")
                )
                before, after = (f"{metrics[arch][mix][test]['auc']:.3f}" for mix in (b, "hybrid"))
                start = f"{names[arch]} {names[test]}, n = 500"
                (row,) = [r for r in rows if r.startswith(start) and f"{before} → {after}" in r and f"{value} [" in r]
                assert f"{value} [{low}, {high}]" in row
                assert row.endswith("Reading: improvement") == (found["auc_low"] > 0)
