"""The page in a real browser: it fits phones and desks, tells where images come from, and prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.curation import headless

pytestmark = pytest.mark.skipif(headless.find() is None, reason="no Chromium here: apt-get install chromium")

WIDE = """[...document.querySelectorAll('.forest th, .forest td:not(.plot), .facts dd, .facts dt, h1, h2, h4, p')]
  .filter(one => one.checkVisibility() && !one.closest('.forest thead') && one.scrollWidth > one.clientWidth + 1)
  .map(one => one.className + ': ' + one.textContent.slice(0, 60))"""
SHOWN = "one => getComputedStyle(one.querySelector('.from')).clipPath === 'none'"


@pytest.fixture(scope="module")
def address(page: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def opened(browser: headless.Browser, address: str) -> None:
    browser.open(address)
    browser.wait_for("document.readyState === 'complete' && document.querySelector('#again') !== null")


@pytest.fixture(scope="module")
def desk(address: str) -> Iterator[headless.Browser]:
    with headless.Browser(1280, 900) as browser:
        opened(browser, address)
        yield browser


@pytest.mark.parametrize("width", [360, 390, 800, 1280])
def test_nothing_is_wider_than_the_window(address: str, width: int) -> None:
    with headless.Browser(width, 844) as browser:
        opened(browser, address)
        for state in ("false", "true"):
            browser.run(f"document.querySelectorAll('details').forEach(one => one.open = {state})")
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), state
            assert browser.run(WIDE) == []
        # long tables are wider than a phone, and scroll in their own boxes
        boxes = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)"
        assert browser.run(f"{boxes}.length") > 0 or width > 800
        assert browser.run(f"{boxes}.every(one => one.tabIndex === 0 && one.getAttribute('aria-label'))")
        assert {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
        assert browser.complaints == []


def test_lines_are_short_enough_to_read(desk: headless.Browser) -> None:
    """Characters of each longer text by the number of its lines."""
    longest = desk.run("""Math.max(...[...document.querySelectorAll('main p:not(.banner), main dd, caption')]
      .filter(one => one.textContent.length > 200 && one.checkVisibility())
      .map(one => {
        const range = document.createRange();
        range.selectNodeContents(one);
        const lines = new Set([...range.getClientRects()].map(box => Math.round(box.bottom / 8)));
        return one.textContent.length / lines.size;
      }))""")
    assert 40 < longest <= 75


def test_where_an_image_comes_from_is_said_on_focus_pointing_and_touch(address: str) -> None:
    with headless.Browser(390, 844) as browser:
        opened(browser, address)
        assert browser.run(f"[...document.querySelectorAll('.shot')].some({SHOWN})") is False
        browser.run("document.querySelector('.shot').focus()")
        assert browser.run(f"({SHOWN})(document.querySelector('.shot'))")
        box = "document.querySelector('.shot .from').getBoundingClientRect()"
        assert browser.run(f"[{box}.x, {box}.bottom]") == [0, 844]
        browser.run("document.activeElement.blur()")
        second = "document.querySelectorAll('.shot')[1]"
        image = f"{second}.querySelector('img').getBoundingClientRect()"
        middle = f"(box => [box.x + box.width / 2, box.y + box.height / 2])({image})"
        browser.run(f"{second}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        browser.hover(*browser.run(middle))
        browser.wait_for(f"({SHOWN})({second})", 10)
        browser.hover(1, 1)
        browser.wait_for(f"!({SHOWN})({second})", 10)
        browser.tap(*browser.run(middle))
        browser.wait_for(f"({SHOWN})({second})", 10)
        assert browser.run(
            "document.querySelectorAll('.shot img').length === document.querySelectorAll('main img').length"
        )


def test_a_link_opens_the_details_that_it_leads_to(address: str) -> None:
    with headless.Browser(1280, 900) as browser:
        opened(browser, address)
        assert browser.run("document.querySelector('#all-results').closest('details').open") is False
        browser.run("document.querySelector('a[href=\"#all-results\"]').click()")
        browser.wait_for("document.querySelector('#all-results').closest('details').open", 10)


def test_it_prints_on_a4_with_all_details_open_and_nothing_cut(address: str) -> None:
    with headless.Browser(703, 1000) as browser:  # A4 less its margins, at 96 dpi
        browser.emulate("print")
        opened(browser, address)
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        hidden = (
            "[...document.querySelectorAll('details > :not(summary)')].filter(one => !one.checkVisibility()).length"
        )
        assert browser.run(hidden) == 0
        cut = "[...document.querySelectorAll('table, img, svg[role=img], pre')].filter(one => one.checkVisibility() &&"
        assert browser.run(f"{cut} one.getBoundingClientRect().right > innerWidth).map(one => one.textContent)") == []
        assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
        printed = browser.pdf()
    assert printed.startswith(b"%PDF-") and printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") > 5
    width, height = map(float, re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)[0])
    assert (round(width), round(height)) == (595, 842)


def test_dark_and_light_differ_and_the_forest_follows(desk: headless.Browser, tmp_path: Path) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        desk.emulate(scheme=scheme)
        colours[scheme] = [
            desk.run(f"getComputedStyle(document.querySelector('{where}')).{what}")
            for where, what in (("body", "backgroundColor"), ("body", "color"), (".forest .interval", "stroke"))
        ]
    assert all(one != other for one, other in zip(*colours.values(), strict=True))
