"""The App as a person meets it: a process, a port, a browser, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from derm_t2im import manifest, paths  # noqa: E402
from derm_t2im.curation import browse, database, review, sessions  # noqa: E402
from derm_t2im.errors import UserError  # noqa: E402
from tests.curation import headless, project_folder  # noqa: E402


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("FIFTYONE_")}
    code = "from derm_t2im.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored where the tests run under nohup
    )


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    process = command(folder, *arguments)
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    try:
        database.find_mongod()
    except UserError:
        pytest.skip("FiftyOne has no mongod here: run `make setup`")
    folder = tmp_path_factory.mktemp("project")
    project_folder.build(folder)
    assert run(folder, "stage", "curate")[0] == 0
    return folder


@dataclass
class Open:
    process: subprocess.Popen[str]
    url: str
    folder: Path


def opened(project: Path, *arguments: str) -> Open:
    """An App that is up."""
    process = command(project, "browse", "--no-open", *arguments)
    lines = []
    for line in process.stderr:
        lines.append(line)
        found = re.search(r"150 images at (http://\S+)", line)
        if found:
            return Open(process, found[1], project)
    process.wait()
    raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def app(project):
    one = opened(project, "--reviewer", "ann")
    yield one
    if one.process.poll() is None:
        one.process.kill()
    one.process.communicate(timeout=60)


def notes(folder: Path) -> list[Path]:
    """What open Apps left."""
    return list((folder / ".state" / "fiftyone").glob(f"*/{sessions.SESSION}"))


def tag(app: Open, image_id: str, word: str) -> None:
    """As the App does it: into the database."""
    (file,) = notes(app.folder)
    tag_in(json.loads(file.read_text()), image_id, word)


def tag_in(about: dict[str, str], image_id: str, word: str) -> None:
    import pymongo

    with pymongo.MongoClient(about["uri"]) as client:
        tables = client[about["database"]]
        samples = tables["datasets"].find_one({"name": about["dataset"]})["sample_collection_name"]
        assert tables[samples].update_one({"image_id": image_id}, {"$push": {"tags": word}}).modified_count == 1


@pytest.mark.fiftyone
def test_the_app_answers_on_this_machine_only(app):
    assert app.url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(app.url, timeout=30) as answer:
        assert answer.status == 200 and b"FiftyOne" in answer.read()


@pytest.mark.fiftyone
@pytest.mark.skipif(headless.find() is None, reason="no Chromium here: apt-get install chromium")
def test_a_person_sees_the_grid_the_groups_and_a_saved_view(app):
    found = manifest.read(app.folder / paths.CURATED_MANIFEST)
    copies = int((found["reason"] == "copy").sum())
    with headless.Browser(1600, 1000) as page:
        page.open(app.url)
        page.wait_for("document.body?.innerText?.includes('150 samples')", 120)
        groups = page.run("[...document.querySelectorAll('input')].map(one => one.value.toLowerCase())")
        assert {"labels", "curation", "quality", "provenance"} <= set(groups)
        assert "nearest_real_distance" in page.run("document.body.innerText")
        page.wait_for("document.body?.innerText?.includes('synthetic, kept (')", 60)  # the map's legend
        page.open(f"{app.url}datasets/curated?view=rejected-copy")
        page.wait_for(f"document.body?.innerText?.includes('{copies} samples')", 120)
        page.wait_for("[...document.querySelectorAll('canvas, img')].length > 0", 60)
        abroad = {url.split("/")[2] for url in page.requests if url.startswith("http") and "127.0.0.1" not in url}
    assert abroad <= {"fonts.googleapis.com", "fonts.gstatic.com"}  # the App's own page asks for its font


@pytest.mark.fiftyone
@pytest.mark.skipif(headless.find() is None, reason="no Chromium here: apt-get install chromium")
def test_a_person_sees_the_nearest_real_lesions_and_discards_with_a_reason(app):
    pictures = """[...document.querySelectorAll('img[src*="media?filepath"]')].filter(one => one.naturalWidth > 0)"""
    with headless.Browser(1600, 1000) as page:
        page.open(f"{app.url}datasets/curated?view=rejected-blur")
        page.wait_for("document.body?.innerText?.includes('Select synthetic images, or open one')", 120)
        page.tick(0)
        page.wait_for(f"{pictures}.length >= 6", 60)  # the image and its five neighbours
        text = page.run("document.querySelector('[data-cy=panel-content-nearest_real]').innerText")
        (name,) = re.findall(r"synthetic-\d+", text)
        row = manifest.read(app.folder / paths.CURATED_MANIFEST).set_index("image_id").loc[name]
        assert row["reason"] == "blur"
        assert row["nearest_real_id"] in text and f"{row['nearest_real_distance']:.4g}" in text
        page.press("Discard")
        page.press("Blurred")
        page.press("Discard")
        # The operator takes the tick away when it is done.
        page.wait_for("document.body.innerText.includes('Select synthetic images, or open one')", 120)
        page.open(f"{app.url}datasets/curated?view=decided-here")
        page.wait_for("document.body?.innerText?.includes('1 sample')", 120)
    code, said = run(app.folder, "review", "pull", "--reviewer", "ann")
    assert code == 0 and "1 decisions of ann new or changed" in said
    (one,) = review.read(app.folder / paths.REVIEW_DECISIONS)
    assert (one.image_id, one.decision, one.reason, one.reviewer) == (name, "discard", "blur", "ann")
    assert one.sha256 == row["sha256"]


@pytest.mark.fiftyone
def test_tags_are_pulled_while_the_app_is_open_and_taken_when_it_closes(app):
    found = manifest.read(app.folder / paths.CURATED_MANIFEST)
    first, second = found["image_id"][:2]
    tag(app, first, "discard: looks like a stamp")
    code, said = run(app.folder, "review", "pull", "--reviewer", "ann")
    assert code == 0 and "1 decisions of ann new or changed" in said
    one = next(d for d in review.read(app.folder / paths.REVIEW_DECISIONS) if d.image_id == first)
    assert (one.decision, one.reason, one.sha256) == ("discard", "looks like a stamp", found["sha256"][0])

    assert run(app.folder, "review", "add", first, "keep", "--reviewer", "bob")[0] == 0
    code, said = run(app.folder, "review", "pull", "--reviewer", "bob")
    assert code == 1 and "is ann's, not bob's" in said
    for again in (("review", "pull"), ("review", "status")):
        code, said = run(app.folder, *again)
        assert code == 0
        assert f"Reviewers differ on {first}, so neither is obeyed: ann discard (looks like a stamp); bob keep" in said

    tag(app, second, "keep")
    app.process.send_signal(signal.SIGINT)
    said = app.process.communicate(timeout=90)[1]
    assert app.process.returncode == 0, said
    assert "1 decisions of ann written" in said
    words = [(d.image_id, d.reviewer) for d in review.read(app.folder / paths.REVIEW_DECISIONS)]
    assert {(first, "ann"), (first, "bob"), (second, "ann")} <= set(words)
    assert list((app.folder / ".state" / "fiftyone").iterdir()) == []
    with pytest.raises(OSError):
        urllib.request.urlopen(app.url, timeout=5)


@pytest.mark.fiftyone
def test_of_two_apps_at_once_one_loses_its_database_and_no_decision(project):
    """Both start at the same moment, and would take the same port."""
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda name: opened(project, "--reviewer", name), ("cleo", "dan")))
    try:
        assert both[0].url != both[1].url
        abouts = {file: json.loads(file.read_text()) for file in notes(project)}
        assert len({about["uri"] for about in abouts.values()}) == 2
        victim, other = abouts
        name = manifest.read(project / paths.CURATED_MANIFEST)["image_id"].iat[-1]
        tag_in(abouts[victim], name, "discard: seen before the crash")
        time.sleep(browse.LOOK_SECONDS + 2)
        os.kill(int((victim.parent / "pid").read_text()), signal.SIGKILL)
        end = time.monotonic() + 90
        while all(one.process.poll() is None for one in both) and time.monotonic() < end:
            time.sleep(0.2)
        (dead,) = (one for one in both if one.process.poll() is not None)
        (alive,) = (one for one in both if one.process.poll() is None)
        said = dead.process.communicate(timeout=60)[1]
        assert dead.process.returncode == 1
        assert "Error: the App's database ended" in said and "Traceback" not in said
        assert name in [d.image_id for d in review.read(project / paths.REVIEW_DECISIONS)]
        assert not victim.parent.exists() and other.exists()
        with urllib.request.urlopen(alive.url, timeout=30) as answer:
            assert answer.status == 200
        alive.process.send_signal(signal.SIGKILL)
        alive.process.communicate(timeout=60)
        assert run(project, "review", "pull", "--reviewer", "ann")[0] == 1  # no App is open
    finally:
        for one in both:
            one.process.kill()
            one.process.communicate(timeout=60)


@pytest.mark.fiftyone
def test_a_killed_app_and_one_that_cannot_write_the_table_lose_no_decision(project):
    table = project / paths.REVIEW_DECISIONS
    table.unlink(missing_ok=True)
    first, second, third = manifest.read(project / paths.CURATED_MANIFEST)["image_id"][:3]
    killed = opened(project, "--reviewer", "eve")
    tag(killed, first, "discard: two lesions")
    tag(killed, second, "keep")
    time.sleep(browse.LOOK_SECONDS + 2)
    killed.process.kill()
    killed.process.communicate(timeout=60)
    end = time.monotonic() + 60
    while notes(project) and time.monotonic() < end:
        time.sleep(0.2)
    code, said = run(project, "review", "pull")
    assert code == 0 and "From an App that was killed: 2 decisions of eve new or changed" in said
    found = [(d.image_id, d.decision, d.reason, d.reviewer) for d in review.read(table)]
    assert found == [(first, "discard", "two lesions", "eve"), (second, "keep", "", "eve")]
    assert run(project, "review", "pull")[0] == 1  # once

    barred = opened(project, "--reviewer", "eve")
    tag(barred, third, "keep")
    time.sleep(browse.LOOK_SECONDS + 2)
    good = table.read_text()
    table.write_text("<<<<<<< HEAD\n" + good)  # a merge under way
    barred.process.send_signal(signal.SIGHUP)  # the terminal is closed
    try:
        said = barred.process.communicate(timeout=60)[1]
    finally:
        barred.process.kill()
        table.write_text(good)
    assert barred.process.returncode == 1 and "Traceback" not in said, said
    code, said = run(project, "review", "pull")
    assert code == 0 and "1 decisions of eve new or changed" in said
    assert {d.image_id for d in review.read(table)} == {first, second, third}


@pytest.mark.fiftyone
def test_a_crashed_server_of_the_app_is_said_and_what_was_tagged_is_written(project):
    app = opened(project, "--reviewer", "fay")
    name = manifest.read(project / paths.CURATED_MANIFEST)["image_id"].iat[5]
    tag(app, name, "keep")
    below = psutil.Process(app.process.pid).children(recursive=True)
    (server,) = (one.pid for one in below if one.cmdline()[1:2] == ["main.py"])
    os.kill(server, signal.SIGKILL)
    said = app.process.communicate(timeout=90)[1]
    assert app.process.returncode == 1
    assert "Error: the App's server ended" in said and "Traceback" not in said
    assert (name, "fay") in [(d.image_id, d.reviewer) for d in review.read(project / paths.REVIEW_DECISIONS)]


@pytest.mark.fiftyone
def test_without_an_open_app_there_is_nothing_to_pull(tmp_path):
    assert run(tmp_path, "review", "pull", "--reviewer", "ann") == (
        1,
        "Error: No App is open in this project: run `derm-t2im browse`, decide, then pull.\n",
    )


def test_a_taken_port_is_named_or_passed_over():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {taken} is taken"), browse.free_port("127.0.0.1", taken):
            pass
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", browse.DEFAULT_PORT))
            other.listen()
        except OSError:
            pass  # somebody else has it, which serves as well
        with browse.free_port("127.0.0.1", None) as one, browse.free_port("127.0.0.1", None) as two:
            # Nobody serves on either yet, and still they differ.
            assert browse.DEFAULT_PORT < one < two < browse.DEFAULT_PORT + 20


@pytest.mark.parametrize("address", ["no.such.host.invalid", "203.0.113.7"])
def test_a_wrong_address_is_named(address):
    with pytest.raises(UserError, match=re.escape(address)), browse.free_port(address, None):
        pass


def test_nothing_curated_and_missing_images_are_said(tmp_path):
    with pytest.raises(UserError, match=r"manifest\.parquet is missing: run `dvc repro`"), browse.serve(tmp_path):
        pass
