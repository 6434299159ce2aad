from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from derm_t2im import manifest, paths
from derm_t2im.errors import UserError
from derm_t2im.params.report import Report
from derm_t2im.report.evidence import Evidence, collect
from derm_t2im.report.page import render
from tests.report import example
from tests.report.reader import OUTSIDE, Reader


def change(root: Path, path: Path, **values: object) -> None:
    known = json.loads((root / path).read_text())
    (root / path).write_text(json.dumps({**known, **values}))


def test_it_is_well_formed_and_self_contained(page: str) -> None:
    read = Reader(page)
    for tag, attrs in read.tags:
        assert tag not in ("script", "link", "iframe", "object"), tag
        for name in OUTSIDE:
            target = attrs.get(name)
            assert target is None or target.startswith(("#", "data:image/")), (tag, name, target)
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert "@import" not in page


def test_ids_are_unique_and_referred_ids_exist(page: str) -> None:
    read = Reader(page)
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {
        str(attrs[n])[1:] for _, attrs in read.tags for n in ("href", "xlink:href") if (attrs.get(n) or "")[:1] == "#"
    }
    wanted |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert wanted <= set(ids)


def test_every_picture_says_what_it_shows_and_where_it_comes_from(page: str) -> None:
    read = Reader(page)
    images = read.of("img")
    assert len(images) > 20
    assert all(image["alt"] for image in images)
    shown = read.within("figcaption")
    assert len(shown) == len(images) == sum(attrs.get("class") == "shot" for attrs in read.of("figure"))
    assert any("sampler euler_a" in title and "20 steps" in title and "seed " in title for title in shown)
    assert any("licence CC-BY 4.0" in title and "phantom-clinic-a" in title for title in shown)
    assert any("rejected: it broke the rule blur" in title for title in shown)
    for svg in read.of("svg"):
        drawn = svg.get("aria-hidden") == "true" or svg.get("overflow") == "visible"  # beside its numbers; a mark in it
        assert drawn or (svg["role"] == "img" and svg["aria-label"])


def test_what_comes_from_data_is_escaped(page: str) -> None:
    assert "A &amp; B &lt;Clinic&gt;" in page
    assert "<Clinic>" not in page and "<tiny>" not in page
    assert "A & B <Clinic>" in Reader(page).text


def test_the_answer_follows_the_intervals_and_both_answers_have_one_size(page: str) -> None:
    text = Reader(page).text
    assert "Improvement shown in 1 of 4 comparisons." in text
    assert "No improvement shown in 4 comparisons." in text
    said = (
        "In part: AUC is higher for ViT on the in-domain test (+0.026 [+0.011, +0.041]); no improvement is shown in the"
    )
    assert f"{said} other 3 comparisons." in text
    assert "What it does not show: that classifiers trained anew would differ" in text
    assert "that synthetic images do more than the same real images shown more often; what another draw" in text
    assert "as all images come from one fine-tuning; anything about patients" in text
    assert len(re.findall(r'<p class="answer">', page)) == 2, "what is shown and what is not, in one size"


def test_numbers_stand_with_intervals_and_n(page: str) -> None:
    text = Reader(page).text
    assert "ViT, in-domain test (n = 500)" in text
    assert "90.5 % [87.5, 93.5]" in text
    assert "phantoms" in text.lower() and "no clinical evidence" in text
    assert "KID is at most 50 times its floor" in text and "it is 61.04" in text
    for reason in ("label disagreement", "near duplicate", "truncated", "wrong mode", "too small"):
        assert reason in text


def test_how_far_to_rely_on_it(page: str) -> None:
    text = Reader(page).text
    assert "With the spread of training runs: no difference shown in 4 comparisons" in text
    assert "laid out as Table IV" in text and "n = 500, p < 0.001 with seeds: p = 0.21" in text
    assert "hold the true one for 90 % of the images, calibrated on 120 validation images" in text
    assert "By skin tone (ITA)" in text and "brown n = 4" in text
    assert "the most certain 80 % of the images are answered" in text
    assert "needed for 0.0228" in text
    assert "thresholds that find 90 % of the positive validation images" in text
    assert "0.011 Holm 0.13" in text and "31 : 19" in text and "0.12 Holm 0.71" in text, "DeLong's test and McNemar's"
    labels = [" ".join((svg.get("aria-label") or "").split()) for svg in Reader(page).of("svg")]
    assert sum("after temperature scaling" in label for label in labels) == 4
    assert sum("AUC by tone with 95 % intervals" in label for label in labels) == 4


def test_a_clinical_source_gets_no_phantom_banner(tmp_path: Path) -> None:
    root = example.write(tmp_path, source="ham10000", per_class=2)
    (root / paths.PREPROCESS_METRICS).unlink()  # only phantoms have a known truth
    for plot in (root / paths.PLOTS).iterdir():
        plot.unlink()
    page = render(collect(root), Report(samples=4))
    text = Reader(page).text
    assert "Research only, not a medical device." in text
    assert "Phantoms" not in text and "no clinical evidence" not in text
    assert all(not (image["alt"] or "").startswith("phantom") for image in Reader(page).of("img"))


def test_equal_input_gives_equal_bytes_in_another_process(finished: Path, page: str) -> None:
    code = (
        "import sys; from pathlib import Path; from derm_t2im.params.report import Report;"
        "from derm_t2im.report.evidence import collect; from derm_t2im.report.page import render;"
        "sys.stdout.buffer.write(render(collect(Path(sys.argv[1])), Report(samples=8)).encode())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    again = subprocess.run([sys.executable, "-c", code, str(finished)], capture_output=True, check=True, env=env).stdout
    assert again.decode() == page
    assert str(finished) not in page


def test_a_missing_part_is_left_out_not_fatal(finished: Path, tmp_path: Path) -> None:
    everything = sorted(p.relative_to(finished) for p in (finished / paths.METRICS).rglob("*.json"))
    everything += [paths.RAW_MANIFEST, paths.SPLITS_MANIFEST, paths.CURATED_MANIFEST]
    for i, gone in enumerate(everything):
        root = tmp_path / str(i)
        for path in everything:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(finished / path, root / path)
        change(root, paths.CLASSIFICATION_METRICS, contrasts={})  # charts take their time
        change(root, paths.FINETUNE_METRICS, kid_before=None, kid_after=None, kid_floor=None)
        change(root, paths.FIDELITY_METRICS, benign={}, malignant={})
        (root / gone).unlink()
        Reader(render(collect(root), Report(samples=4)))


def test_nothing_at_all_still_gives_a_page(tmp_path: Path) -> None:
    read = Reader(render(Evidence(tmp_path), Report(title="Is <this> true?")))
    assert "Is <this> true?" in read.text
    assert "There is no comparison of training sets yet" in read.text


def test_a_run_without_external_set_and_with_null_metrics(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished / paths.METRICS, root / paths.METRICS)
    values = json.loads((root / paths.CLASSIFICATION_METRICS).read_text())
    for arch in example.ARCHS:
        del values["contrasts"][arch]["external"]
        for mix in example.MIXES:
            del values[arch][mix]["external"]
            values[arch][mix]["in_domain"] |= {"sensitivity": None, "sensitivity_low": None, "sensitivity_high": None}
    (root / paths.SUBGROUP_METRICS).unlink()
    values["contrasts"]["vit"]["in_domain"]["hybrid-real"] |= {"auc": None, "auc_low": None, "auc_high": None}
    (root / paths.CLASSIFICATION_METRICS).write_text(json.dumps(values))
    text = Reader(render(collect(root), Report(samples=4))).text
    assert "external test" not in text
    # without an AUC the accuracy decides: +3.8 points [+0.8, +6.8]
    assert "Improvement shown in 1 of 2 comparisons." in text


def test_a_failed_gate_is_said(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    (root / paths.METRICS).mkdir(parents=True)
    shutil.copy(finished / paths.VALIDATION_METRICS, root / paths.METRICS)
    change(root, paths.VALIDATION_METRICS, critical_failures=3)
    assert "Failed: 31 expectations, 3 critical failures" in Reader(render(collect(root), Report(samples=4))).text


def test_an_unreadable_picture_leaves_the_others(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished / "data", root / "data")
    table = manifest.read(root / paths.CURATED_MANIFEST)
    kept = table[(table["decision"] == "kept") & (table["label"] == "benign")]
    (root / kept["path"].iloc[0]).write_bytes(b"")
    text = Reader(render(collect(root), Report(samples=200))).text
    assert f"benign, synthetic, kept ({len(kept) - 1} of {len(kept)})" in text


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_broken_metrics_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / paths.FIDELITY_METRICS).parent.mkdir()
    (tmp_path / paths.FIDELITY_METRICS).write_text(content)
    with pytest.raises(UserError, match=r"fidelity\.json"):
        collect(tmp_path)
