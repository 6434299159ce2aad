"""The page as a reader meets it: a real browser, real keys, a file of answers that `study score` reads."""

from __future__ import annotations

import csv
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from derm_t2im.cli import app
from derm_t2im.study.answers import read_study
from tests.curation import headless
from tests.report.reader import Reader
from tests.study import world

CODES = {"Enter": ("Enter", 13, "\r"), "Tab": ("Tab", 9, "")}
browser = pytest.mark.skipif(headless.find() is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    world.build(folder, each=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        create = ["study", "create", "--images", "12", "--repeats", "3", "--practice", "2", "--out", "study/one"]
        done = CliRunner().invoke(app, create)
        assert done.exit_code == 0, (done.output, done.exception)
    return folder / "study" / "one"


class Person(headless.Browser):
    """A reader at the keyboard."""

    def press(self, key: str) -> None:
        code, number, text = CODES[key] if key in CODES else (f"Key{key.upper()}", ord(key.upper()), key)
        about = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        self._call("Input.dispatchKeyEvent", {"type": "keyDown", "text": text, **about} if text else
                   {"type": "rawKeyDown", **about})  # fmt: skip
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **about})

    def begin(self, study: Path, name: str) -> None:
        self.open((study / "read.html").as_uri())
        self.wait_for("document.activeElement?.id === 'reader'")
        for letter in name:
            self.press(letter)
        self.press("Enter")

    def image(self) -> str:
        """Name of the image on the screen, once it is there."""
        self.wait_for("screen === 'reading' && ready")
        return self.run("kept.current.image")

    def answer(self, keys: str) -> str:
        name = self.image()
        for key in keys:
            self.press(key)
        self.press("Enter")
        return name

    def seen(self, name: str) -> bool:
        return bool(self.run(f"!document.getElementById('{name}').hidden"))

    def downloads(self, folder: Path) -> None:
        self._call("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})


def saved(folder: Path) -> Path:
    for _ in range(100):
        files = list(folder.glob("*.csv"))
        if files:
            return files[0]
        time.sleep(0.1)
    raise AssertionError(f"nothing saved: {list(folder.iterdir())}")


def test_the_page_is_whole_accessible_and_asks_nothing_of_a_network(study):
    text = (study / "read.html").read_text()
    page = Reader(re.sub(r"<script>.*?</script>", "", text, flags=re.S))
    assert "default-src 'none'" in text and not re.search(r"""(src|href)=["'](?!data:)""", text)
    labelled = len(page.of("label"))
    assert labelled == len(page.of("input")) and len(page.of("legend")) == 3
    assert {"benign", "malignant"} <= {field.get("value") for field in page.of("input")}
    assert page.of("html") == [{"lang": "en"}] and page.of("img")[0]["alt"] is not None
    assert "prefers-color-scheme: dark" in text


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
               for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))  # fmt: skip


@pytest.mark.parametrize("mode", [0, 1])
def test_contrast_in_light_and_dark(study, mode):
    text = (study / "read.html").read_text()
    block = re.findall(r":root \{(.*?)\}", text, flags=re.S)[mode]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))

    def ratio(a: str, b: str) -> float:
        low, high = sorted((luminance(colours[a]), luminance(colours[b])))
        return (high + 0.05) / (low + 0.05)

    for ink in ("ink", "muted", "bad", "accent"):  # WCAG 2: 4.5 for text, 3 for borders
        for paper in ("paper", "panel"):
            assert ratio(ink, paper) >= 4.5, (ink, paper)
    assert ratio("on-accent", "accent") >= 4.5 and ratio("line", "paper") >= 3


@browser
def test_a_reader_answers_by_keyboard_and_the_answers_are_scored(study, tmp_path, monkeypatch):
    plan, key = read_study(study)
    given = {}
    with Person(1200, 900) as page:
        page.downloads(tmp_path)
        page.begin(study, "ann")
        for _ in range(2):
            given[page.answer("s3b")] = ("synthetic", "3", "malignant")
        page.wait_for("screen === 'rest'")
        page.press("Enter")
        assert page.image().startswith("image-")
        assert page.run("document.getElementById('image').alt").startswith("Image 1 of 15")
        assert page.run("document.getElementById('image').getBoundingClientRect().width") == world.SIZE * 10
        page.press("Enter")  # nothing said yet: told what is missing, and still the same image
        assert "real or synthetic" in page.run("document.getElementById('told').textContent")
        time.sleep(0.5)
        first = page.answer("r5a")
        given[first] = ("real", "5", "benign")
        for _ in range(14):
            name = page.answer("s1b" if len(given) % 2 else "r2a")
            given[name] = ("synthetic", "1", "malignant") if (len(given)) % 2 else ("real", "2", "benign")
        page.wait_for("screen === 'end'")
        assert "answers-ann.csv" in page.run("document.body.innerText")
        page.press("Enter")  # on the button that has the focus
        file = saved(tmp_path)
        assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert page.complaints == []
    assert file.name == "answers-ann.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert {row["image"]: (row["source"], row["confidence"], row["diagnosis"]) for row in rows} == given
    assert set(given) == set(key) and {row["study"] for row in rows} == {plan["study"]}
    assert [row["position"] for row in rows] == [str(i) for i in range(1, 18)]
    seconds = {row["image"]: float(row["seconds"]) for row in rows}
    assert 0.5 <= seconds[first] < 20 and all(value > 0 for value in seconds.values())
    assert {row["shown_px"] for row in rows} == {str(world.SIZE * 10)}
    monkeypatch.chdir(study.parents[1])
    done = CliRunner().invoke(app, ["study", "score", "study/one", str(file), "--draws", "100"])
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads((study / "score.json").read_text())["readers"]["ann"]
    assert found["n"] == 12 and found["again"]["n"] == 3 and not found["problems"] and not found["missing"]["n"]
    shown = [row for row in rows if row["phase"] == "reading"]
    first_look = {key[row["image"]].shows: row for row in reversed(shown)}
    right = sum(row["source"] == key[row["image"]].kind for row in first_look.values())
    assert found["accuracy"] == pytest.approx(right / 12, abs=1e-5)


@browser
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_a_telephone_and_a_desk(study, width):
    with Person(width, 740) as page:
        page.begin(study, "eve")
        page.image()
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        box = page.run("(b => [b.left, b.width, b.height])(document.getElementById('image').getBoundingClientRect())")
        assert box[1] == box[2] and box[0] >= 0 and box[0] + box[1] <= width
        assert (box[1] == world.SIZE * 10) == (width == 1200)
        labels = "[...document.querySelectorAll('fieldset label')].map(one => one.getBoundingClientRect().height)"
        if width == 360:
            assert min(page.run(labels)) >= 44, "a thumb's width"


@browser
def test_pause_reload_and_another_reader(study):
    with Person(1200, 900) as page:
        page.begin(study, "bea")
        page.answer("s3b")
        second = page.image()
        page.run("document.getElementById('pause').click()")
        assert page.seen("paused") and not page.seen("reading")
        before = page.run("kept.current.seconds")
        time.sleep(0.4)
        assert page.run("kept.current.seconds") == before  # the clock stands
        page.run("document.getElementById('resume').click()")
        assert page.image() == second
        page.begin(study, "bea")  # closed and opened again
        assert page.image() == second
        assert page.run("kept.answers.length") == 1 and page.run("kept.current.interruptions") >= 1
        orders = {}
        for name in ("bea", "cat", "dan"):
            orders[name] = page.run(f"orderFor('{name}')")
            assert orders[name] == page.run(f"orderFor('{name.upper()}')")
        assert len({tuple(order) for order in orders.values()}) == 3
        page.begin(study, "cat")
        assert page.run("kept.answers.length") == 0


@browser
def test_second_looks_come_late_whoever_reads(study):
    _, key = read_study(study)
    with Person(800, 600) as page:
        page.open((study / "read.html").as_uri())
        page.wait_for("typeof orderFor === 'function'")
        orders = page.run("Array.from({length: 200}, (_, i) => orderFor('reader ' + i))")
    places = Counter()
    for order in orders:
        assert sorted(order) == sorted(key)
        assert [key[name].phase for name in order[:2]] == ["practice"] * 2
        reading = [key[name].shows for name in order[2:]]
        for shows in {one for one in reading if reading.count(one) == 2}:
            at = [i for i, one in enumerate(reading) if one == shows]
            assert at[1] - at[0] >= len(reading) // 4
        once = next(name for name in key if key[name].phase == "reading" and reading.count(key[name].shows) == 1)
        places[order.index(once)] += 1
    assert len(places) == 15 and max(places.values()) < 35  # anywhere, about 13 times each
