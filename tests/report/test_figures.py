from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from derm_t2im.report import figures, words
from derm_t2im.report.figures import Curve, Interval

ROWS = [Interval("ViT, n = 500\nin-domain", 0.01, -0.01, 0.03), Interval("ViT <ext>", 0.03, 0.01, 0.05)]
CURVES = [
    Curve("real", "real only", [0, 0.2, 1], [0, 0.7, 1], [5, 10, 1], [0, 0.6, 0.9], [0.1, 0.8, 1]),
    Curve("other", "?", [0, 1], [0, 1]),
]


def test_charts_are_whole_svg_with_text_and_without_metadata() -> None:
    for chart in (
        figures.roc(CURVES, "A & B <C>", 'says "so"'),
        figures.reliability(CURVES, "Reliability", "two curves"),
        figures.abstention(CURVES, "Abstention", "two curves", "500"),
        figures.grouped(["a\nn = 5", "b\nn = 7"], [("real", "real only", [ROWS[0], None])], "AUC", "Groups", "two"),
    ):
        root = ElementTree.fromstring(chart)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"]
        texts = [" ".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")]
        assert len([text for text in texts if text]) > 5
        assert "metadata" not in chart and "<style" not in chart


def test_colours_are_the_pages_own() -> None:
    chart = figures.roc(CURVES, "Title", "x")
    assert not re.findall(r"#[0-9a-fA-F]{6}\b", chart)
    assert "var(--real)" in chart and "var(--ink)" in chart


def test_charts_of_one_page_share_no_ids() -> None:
    one, other = figures.roc(CURVES, "ViT", "x"), figures.reliability(CURVES, "ViT", "x")
    found = [set(re.findall(r'\bid="([^"]+)"', chart)) for chart in (one, other)]
    assert found[0] and found[1] and not found[0] & found[1]


def test_a_chart_is_the_same_twice_and_leaves_matplotlib_as_it_was() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    assert figures.roc(CURVES, "ViT", "x") == figures.roc(CURVES, "ViT", "x")
    assert dict(mpl.rcParams) == before


def test_all_mixes_of_the_study_are_told_apart_and_named_within_the_chart() -> None:
    six = [Curve(mix, words.mix(mix), [0, 0.4, 1], [0, 0.7, 1], [5, 10, 1]) for mix in words.MIXES]
    estimates = [(curve.series, curve.label, [ROWS[0], ROWS[1]]) for curve in six]
    assert len({figures.SERIES[mix] for mix in words.MIXES}) == len(six) == 6
    for chart in (
        figures.roc(six, "ViT", "six"),
        figures.reliability(six, "ViT", "six"),
        figures.abstention(six, "ViT", "six"),
        figures.grouped(["a", "b"], estimates, "AUC", "ViT", "six"),
    ):
        root = ElementTree.fromstring(chart)
        width = float(root.attrib["viewBox"].split()[2])
        names = {"".join(node.itertext()).strip(): node for node in root.iter() if node.tag.endswith("text")}
        for curve in six:
            x = float(names[curve.label].attrib["x"])
            assert x > 15 and x + 4.2 * len(curve.label) < width, (curve.label, x, width)  # 4.2 pt: a narrow letter


def test_the_groups_of_a_chart_do_not_run_into_each_other() -> None:
    one = Interval("a", 0.5, 0.4, 0.6)
    chart = figures.grouped(["a", "b"], [(mix, mix, [one, one]) for mix in words.MIXES], "AUC", "ViT", "six")
    # The intervals, drawn from left to right at one height, series by series.
    found = re.findall(r'd="M [\d.]+ ([\d.]+) \nL [\d.]+ \1 \n" [^>]*stroke: var\(--(\w+)\)', chart)
    first, second = ([float(y) for y, name in found if name in words.MIXES][k::2] for k in (0, 1))
    assert len(first) == len(second) == 6 and max(first) < min(second)
