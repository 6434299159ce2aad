"""What gives a class away, diversity, and how synthetic images were made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from derm_t2im.audit import probes
from derm_t2im.diffusion import png
from derm_t2im.fidelity.shortcuts import auc
from tests.audit.sets import audit, pixels, run, save, two_classes
from tests.report.reader import OUTSIDE, Reader

DATA = Path(os.environ.get("DERM_T2IM_DATA", Path(__file__).parents[2] / "../shared/data"))


def shifted(rgb: np.ndarray, tint: int = 0, frame: int = 0) -> np.ndarray:
    """Redder by ``tint``; the outermost pixels lighter by ``frame``, the middle darker by as much in all."""
    out = rgb.astype(float)
    out[..., 0] += tint
    edge = np.ones(rgb.shape[:2], bool)
    edge[9:-9, 9:-9] = False
    out[edge] += frame
    out[~edge] -= frame * edge.sum() / (~edge).sum()
    return out.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("how", "seen"), [({"tint": 60}, "colour"), ({"frame": 60}, "border")])
def test_a_planted_shortcut_is_seen(tmp_path: Path, how: dict[str, int], seen: str) -> None:
    for k in range(60):
        name, rgb = ("a", pixels(k)) if k % 2 else ("b", shifted(pixels(k), **how))
        save(tmp_path / "in" / name / f"{k}.png", rgb)
    found = audit(tmp_path / "in", tmp_path)
    area = found["shortcuts"][seen]["b"]
    assert area["auc"] > 0.95 and area["sign"] == "differs much" and area["n"] == 60
    assert area["low"] < area["auc"] <= area["high"]
    assert "gives the class away" in run(tmp_path / "in").stdout


def test_each_of_three_classes_against_the_rest(tmp_path: Path) -> None:
    for k in range(60):
        save(tmp_path / "in" / "abc"[k % 3] / f"{k}.png", shifted(pixels(k), tint=70 * (k % 3 == 2)))
    found = audit(tmp_path / "in", tmp_path)["shortcuts"]["colour"]
    assert set(found) == {"a", "b", "c"} and found["c"]["auc"] > 0.95 and found["c"]["sign"]


def test_copies_do_not_pass_for_evidence(tmp_path: Path) -> None:
    """Twelve pictures a class, each there five times: whoever splits without looking finds a perfect shortcut."""
    for k in range(24):
        for copy in range(5):
            save(tmp_path / "in" / "ab"[k % 2] / f"{k}-{copy}.png", pixels(k))
    area = audit(tmp_path / "in", tmp_path)["shortcuts"]["border"]["b"]
    assert not area["sign"] and area["low"] < 0.5 < area["high"] and area["n"] == 120
    assert area["high"] - area["low"] > 0.3  # as wide as for 24 images, not for 120


def test_an_artefact_of_one_class(tmp_path: Path) -> None:
    rows, columns = np.indices((96, 96)) - 47.5
    vignette = np.where(np.hypot(rows, columns) > 52, 0.1, 1.0)[..., None]
    for k in range(60):
        rgb = pixels(k)
        save(tmp_path / "in" / "ab"[k % 2] / f"{k}.png", (rgb * vignette).astype(np.uint8) if k % 2 else rgb)
    found = audit(tmp_path / "in", tmp_path)["artefacts"]
    assert found["dark_corner"]["areas"]["b"]["sign"] == "differs much"
    spread = found["dark_corner"]["classes"]
    assert spread["b"]["median"] > 0.5 > spread["a"]["three_quarters"]
    assert not found["side"]["areas"]["b"]["sign"]


def test_sizes_that_tell_the_class(tmp_path: Path) -> None:
    for k in range(40):
        save(tmp_path / "in" / "ab"[k % 2] / f"{k}.png", pixels(k, (96, 96) if k % 2 else (128, 100)))
    found = audit(tmp_path / "in", tmp_path)["artefacts"]
    assert found["side"]["areas"]["b"]["auc"] == 0 and found["side"]["areas"]["b"]["sign"] == "differs much"


def test_one_class_and_tiny_classes_are_said(tmp_path: Path) -> None:
    for k in range(4):
        save(tmp_path / "one" / "x" / f"{k}.png", pixels(k))
        save(tmp_path / "two" / "xy"[k % 2] / f"{k}.png", pixels(k))
    assert audit(tmp_path / "one", tmp_path)["shortcuts"] == {}
    assert "One class only" in run(tmp_path / "one").stdout
    assert audit(tmp_path / "two", tmp_path)["shortcuts"] == {}
    said = run(tmp_path / "two").stdout
    assert "two classes of at least ten" in said and "Small n: x has 2 images" in said


def test_diversity(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(12):
        # One picture with a new detail each time, and pictures of their own.
        noisy = pixels(50).astype(float) + rng.normal(0, 12, (96, 96, 3))
        save(tmp_path / "in" / "same" / f"{k}.png", noisy.clip(0, 255).astype(np.uint8))
        save(tmp_path / "in" / "many" / f"{k}.png", pixels(k))
    found = audit(tmp_path / "in", tmp_path)["diversity"]
    assert found["same"]["share"] == 1 and found["same"]["share_low"] > 0.7 and found["same"]["n"] == 12
    assert found["many"]["share"] == 0 and found["many"]["share_high"] < 0.3
    assert "low diversity" in run(tmp_path / "in").stdout


def test_diversity_does_not_fall_because_there_are_more_images() -> None:
    """Of 300 images in pairs all have another; of any 100 of them only a third has: 1 - C(298, 99) / C(299, 99)."""
    rng = np.random.default_rng(0)
    thumbs = np.repeat(rng.integers(0, 256, (150, 8, 8, 3), dtype=np.uint8), 2, axis=0)
    found = probes.alike(thumbs, np.full(300, "x", dtype=object))["x"]
    assert found.share.value == 1 and found.share.n == 300
    assert found.share_of_even.value == pytest.approx(99 / 299)


TEXT = "a mole\nSteps: {steps}, Sampler: {sampler}, CFG scale: 7, Seed: 1, Size: 96x96, Model: m{restored}"


def test_generation_settings(tmp_path: Path) -> None:
    for k in range(8):
        path = tmp_path / "in" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        restored = ", Face restoration: CodeFormer" if k < 6 else ""
        text = TEXT.format(steps=20, sampler=("Euler a", "Heun")[k % 2], restored=restored)
        png.write(path, pixels(k), text)
    save(tmp_path / "in" / "a" / "bare.png", pixels(20))
    found = audit(tmp_path / "in", tmp_path)["settings"]
    assert found["images"] == 8
    assert found["values"]["Sampler"] == {"Euler a": {"a": 4}, "Heun": {"b": 4}}
    assert found["values"]["Steps"] == {"20": {"a": 4, "b": 4}}
    assert found["values"]["CFG scale"] == {"7": {"a": 4, "b": 4}} and found["values"]["Model"] == {
        "m": {"a": 4, "b": 4}
    }
    assert found["values"]["Face restoration"] == {"CodeFormer": {"a": 3, "b": 3}, "(not stated)": {"a": 1, "b": 1}}
    said = " ".join(run(tmp_path / "in").stdout.split())
    assert "in 8 of 9 images" in said and "Euler a: 4, Heun: 4" in said


def test_the_page_is_whole_and_strangers_cannot_write_in_it(tmp_path: Path) -> None:
    root = tmp_path / "in"
    two_classes(root)
    evil = "<script>alert(1)<script>"
    save(root / evil / "x.png", pixels(0))
    path = root / "benign" / "made.png"
    png.write(path, pixels(77), TEXT.format(steps=20, sampler="<img src=x>\x1b[31m", restored=""))
    (root / "benign" / "cut.png").write_bytes(path.read_bytes()[:500])
    target = tmp_path / "page.html"
    done = run(root, "--html", str(target))
    assert done.exit_code == 1 and "\x1b" not in done.stdout and "[bold" not in done.stdout
    page = target.read_text()
    reader = Reader(page)
    outside = [value for _, attrs in reader.tags for name, value in attrs.items() if name in OUTSIDE]
    assert all(value.startswith("data:image/jpeg;base64,") for value in outside if value)
    assert len(reader.of("img")) == 4 and not reader.of("script") and not reader.of("link") and "url(" not in page
    assert "prefers-color-scheme: dark" in page and "color-scheme: light dark" in page
    for said in (
        "the worst first: 1 contradiction; ",
        "Do not train or test on this set as it is: correct the labels",
        "Under two labels",
        "Artefacts per class",
        "truncated",
        evil,
        "Sampler",
    ):
        assert said in reader.text
    run(root, "--html", str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_bytes() == target.read_bytes()


def test_progress_goes_to_stderr(tmp_path: Path) -> None:
    two_classes(tmp_path / "in", each=2)
    done = run(tmp_path / "in", "--json", str(tmp_path / "x.json"))
    assert "x.json" in done.stderr and "x.json" not in done.stdout


@pytest.mark.parametrize(("members", "others"), [(12, 12), (8, 40), (100, 60)])
@pytest.mark.parametrize("true", [0.5, 0.8, 0.97])
def test_intervals_hold_what_they_promise(true: float, members: int, others: int) -> None:
    rng = np.random.default_rng(0)
    shift = np.sqrt(2) * norm.ppf(true)
    codes = np.repeat([1, 0], [members, others])
    held = 0
    for _ in range(400):
        scores = rng.normal(size=members + others) + shift * codes
        low, high = probes.interval(auc(codes, np.column_stack([-scores, scores])), members, others)
        held += low <= true <= high
    # 95 % within three standard errors, or a little more careful near 1 (Newcombe 2006).
    assert 0.917 <= held / 400 <= 0.995


def test_intervals_at_the_ends() -> None:
    low, high = probes.interval(1.0, 12, 12)
    assert 0.7 < low < 0.9 and high == 1
    assert probes.interval(0.0, 12, 12) == pytest.approx((0, 1 - low))
    assert probes.interval(0.5, 0, 5) == (0.0, 1.0)


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "derm-t2im-release").is_dir(), reason="the paper's images are not in DERM_T2IM_DATA")
def test_the_papers_released_images(tmp_path: Path) -> None:
    found = audit(DATA / "derm-t2im-release", tmp_path)
    assert found["classes"] == {"benign": 12, "malignant": 12}
    # Over all 200: colours alone 0.991, the border alone 0.954.
    assert found["shortcuts"]["colour"]["malignant"]["auc"] > 0.95
    assert found["shortcuts"]["border"]["malignant"]["auc"] > 0.9
    assert found["shortcuts"]["colour"]["malignant"]["sign"] and found["shortcuts"]["border"]["malignant"]["sign"]
    values = found["settings"]["values"]
    assert found["settings"]["images"] == 24
    assert {value: sum(by.values()) for value, by in values["Steps"].items()} == {"20": 24}
    assert {value: sum(by.values()) for value, by in values["CFG scale"].items()} == {"7": 24}
    samplers = {value: sum(by.values()) for value, by in values["Sampler"].items()}
    assert set(samplers) <= {"Euler a", "DPM++ 2M SDE Karras", "Euler", "Heun", "DPM++ 2S a"}
    assert max(samplers, key=samplers.__getitem__) == "Euler a" and sum(samplers.values()) == 24
    restored = sum(n for value, by in values["Face restoration"].items() if value[0] != "(" for n in by.values())
    assert 18 <= restored < 24  # 188 of 200
    said = run(DATA / "derm-t2im-release").stdout
    assert "Small n: benign has 12 images" in said


@pytest.mark.real
@pytest.mark.skipif(
    not (DATA / "derm-t2im-release").is_dir() or not (DATA / "ham10000-224").is_dir(),
    reason="the paper's images or ham10000-224 are not in DERM_T2IM_DATA",
)
def test_real_images_are_more_diverse_and_tell_less(tmp_path: Path) -> None:
    made = audit(DATA / "derm-t2im-release", tmp_path)
    real = audit(DATA / "ham10000-224", tmp_path, "--labels", "binary", "--limit", "160")
    for probe in ("colour", "border"):
        assert made["shortcuts"][probe]["malignant"]["low"] > real["shortcuts"][probe]["malignant"]["auc"]
    # Ten times the images, each with ten times the others to resemble, and yet less alike.
    assert made["diversity"]["benign"]["n"] * 9 < real["diversity"]["benign"]["n"]
    assert made["diversity"]["benign"]["share"] > real["diversity"]["benign"]["share_high"]
