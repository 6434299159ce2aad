"""The ISIC Archive's API, played by a local server: paging, troubles, resuming, and whom it may lead us to."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from derm_t2im import sources, state
from derm_t2im.errors import UserError
from derm_t2im.params.acquire import Acquire
from tests.sources.archive_server import Archive, Handler, jpeg, name, serving


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Archive()) as one:
        yield one


def settings(archive: Archive, **changes: Any) -> Acquire:
    isic = {"query": "image_type:dermoscopic", "base_url": f"{archive.url}/api/v2", "requests_per_second": 100,
            "backoff": 0.01, "tries": 3, "timeout": 5, **changes.pop("isic", {})}  # fmt: skip
    return Acquire.model_validate({"source": "isic", "external": {"source": "none"}, "isic": isic, **changes})


def collect(archive: Archive, **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    return sources.collect(settings(archive, **changes), "pool", Path("out"))


def reasons(bad: pd.DataFrame) -> dict[str, str]:
    return dict(zip(bad["image_id"], bad["reason"], strict=True))


def fetched_whole(rows: pd.DataFrame) -> bool:
    return all(Path(row.path).read_bytes() == jpeg(int(row.image_id[-7:])) for row in rows.itertuples())


def test_pages_metadata_and_licences_arrive(archive: Archive) -> None:
    rows, bad = collect(archive, name="archive", isic={"collections": [70, 71]})
    assert bad.empty and rows["image_id"].tolist() == [name(k) for k in range(12)] and fetched_whole(rows)
    row = rows.iloc[3]
    assert (row["label"], row["age"], row["sex"], row["site"]) == ("malignant", 43.0, "female", "anterior torso")
    assert (row["licence"], row["attribution"]) == ("CC-BY", "Clinic 1")
    assert (row["lesion_id"], row["patient_id"], row["source"]) == ("IL_0000001", "IP_0000000", "archive")
    assert row["dx"] == "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma Invasive"
    first = archive.log[0][1]
    assert "query=image_type%3Adermoscopic" in first and "collections=70%2C71" in first and "limit=100" in first
    assert archive.asked()["/api/v2/images/search/"] == 3 and set(archive.fetched().values()) == {1}


def test_seven_classes_come_from_the_hierarchy(archive: Archive) -> None:
    archive.overrides[name(1)] = {"metadata": {"clinical": {"diagnosis_1": "Benign", "diagnosis_2": "Cysts"}}}
    archive.overrides[name(2)] = {"metadata": {"clinical": {"diagnosis": "seborrheic keratosis"}}}
    archive.overrides[name(4)] = {"metadata": {"clinical": {}}}
    archive.overrides[name(5)] = {"metadata": None}
    rows, bad = collect(archive, labels="ham10000")
    labels = dict(zip(rows["image_id"], rows["label"], strict=True))
    assert (labels[name(0)], labels[name(2)], labels[name(7)]) == ("mel", "bkl", "nv")
    assert reasons(bad) == dict.fromkeys([name(1), name(4), name(5)], "unmapped_label")
    assert not {name(1), name(4), name(5)} & set(archive.fetched()), "what has no class is not fetched"


def test_a_limit_fetches_no_more_than_it_takes(archive: Archive) -> None:
    rows, bad = collect(archive, limit=6)
    assert bad.empty and rows["label"].value_counts().to_dict() == {"benign": 4, "malignant": 2}
    assert sum(archive.fetched().values()) == 6


def test_passing_troubles_are_tried_again(archive: Archive) -> None:
    archive.pages = [Handler.status(503), Handler.corrupt]
    archive.trouble = {
        name(0): [Handler.cut],
        name(1): [Handler.corrupt, Handler.short],
        name(2): [Handler.status(500), Handler.status(502)],
        name(3): [Handler.status(429, Retry_After="0")],
        name(4): [Handler.wrong_digest],
    }
    rows, bad = collect(archive)
    assert bad.empty and len(rows) == 12 and fetched_whole(rows)
    fetched = archive.fetched()
    assert [fetched[name(k)] for k in range(6)] == [2, 3, 3, 2, 2, 1]
    assert not list(Path(".state").rglob("*.partial"))


def test_what_stays_bad_is_quarantined_with_its_reason(archive: Archive) -> None:
    archive.trouble = {
        name(0): [Handler.always(Handler.status(404))],
        name(1): [Handler.always(Handler.corrupt)],
        name(2): [Handler.always(Handler.status(500))],
        name(3): [Handler.always(Handler.cut)],
        name(4): [Handler.always(Handler.short)],
    }
    archive.overrides[name(5)] = {"files": {"full": {"url": "http://127.0.0.2:1/x.jpg", "size": 3}}}
    archive.overrides[name(6)] = {"files": {}}
    rows, bad = collect(archive)
    assert len(rows) == 5 and len(rows) + len(bad) == 12
    assert [reasons(bad)[name(k)] for k in range(7)] == [
        "not_found", "corrupt_download", "unavailable", "unavailable", "corrupt_download", "foreign_host", "not_found",
    ]  # fmt: skip
    detail = bad.set_index("image_id")["detail"]
    assert "HTTP 500, 3 times" in detail[name(2)] and "cut" in detail[name(3)] and "127.0.0.2" in detail[name(5)]
    assert "the archive says" in detail[name(4)] and "Signature" not in "".join(detail)
    assert archive.fetched()[name(1)] == 3


def test_retry_after_holds_all_threads_back(archive: Archive) -> None:
    archive.trouble = {name(0): [Handler.status(429, Retry_After="2")]}
    rows, _ = collect(archive, isic={"threads": 4})
    assert len(rows) == 12
    times = {path: at for at, path in archive.log if path.startswith("/files/")}
    again = [at for at, path in archive.log if name(0) in path]
    assert again[1] - again[0] >= 2.0
    started = [at for at in times.values() if again[0] + 1.0 < at < again[0] + 1.95]
    assert not started, "others went on asking"


def test_retry_after_may_be_a_date_and_may_be_too_long(archive: Archive) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    archive.pages = [Handler.status(503, Retry_After=later)]
    with pytest.raises(UserError, match=r"asks to wait for (71|72)\d\d s: start again later"):
        collect(archive)
    rows, _ = collect(archive)
    assert len(rows) == 12


def test_the_rate_is_kept(archive: Archive) -> None:
    collect(archive, isic={"requests_per_second": 20, "threads": 8})
    at = [when for when, _ in archive.log]
    assert len(at) == 15 and at[-1] - at[0] >= 0.9 * 14 / 20


def test_an_archive_that_is_down_stops_the_run(archive: Archive) -> None:
    archive.images = 40
    archive.trouble = {name(k): [Handler.always(Handler.status(503))] for k in range(5, 40)}
    with pytest.raises(UserError, match=r"12 images in a row cannot be had .*kept; start again") as caught:
        collect(archive)
    assert "\n" not in str(caught.value)
    archive.trouble.clear()
    rows, bad = collect(archive)
    assert len(rows) == 40 and bad.empty
    assert [archive.fetched()[name(k)] for k in range(5)] == [1] * 5, "what had come was kept"


def test_no_server_is_said_in_one_line(archive: Archive) -> None:
    with pytest.raises(UserError, match=r"no connection, 3 times.*start again") as caught:
        collect(archive, isic={"base_url": "http://127.0.0.1:9/api/v2"})
    assert "\n" not in str(caught.value) and "object at" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"isic": {"query": "("}}, "HTTP 400.*parse search query"),
        ({"isic": {"base_url": "URL/elsewhere"}}, "HTTP 404"),
    ],
)
def test_what_the_archive_does_not_understand_is_said(archive: Archive, changes: Any, message: str) -> None:
    if "base_url" in changes["isic"]:
        changes = {"isic": {"base_url": archive.url + "/elsewhere"}}
    with pytest.raises(UserError, match=message):
        collect(archive, **changes)


def test_an_empty_answer_is_said(archive: Archive) -> None:
    archive.images = 0
    with pytest.raises(UserError, match="has no image for the query 'image_type:dermoscopic'"):
        collect(archive)


def test_the_whole_archive_is_not_asked_for_by_mistake(archive: Archive) -> None:
    with pytest.raises(ValueError, match="the whole archive"):
        settings(archive, isic={"query": " "})


def test_links_and_redirects_lead_to_no_other_host(archive: Archive, tmp_path: Path) -> None:
    with serving(Archive()) as other:
        archive.next_host = other.url  # only its cursor is taken
        elsewhere = f"{other.url}/files/{name(0)}.jpg?Signature=0"
        archive.trouble = {name(0): [Handler.always(Handler.status(302, Location=elsewhere))]}
        archive.trouble[name(1)] = [Handler.status(302, Location=f"/files/{name(1)}.jpg?Signature=0")]
        archive.trouble[name(2)] = [Handler.always(Handler.status(301, Location=f"/files/{name(2)}.jpg"))]
        rows, bad = collect(archive)
        assert reasons(bad) == {name(0): "foreign_host", name(2): "refused"} and len(rows) == 10
        archive.pages = [Handler.status(302, Location=f"{other.url}/api/v2/images/search/")]
        with pytest.raises(UserError, match=r"neither 127\.0\.0\.1:\d+ nor in acquire\.isic\.image_hosts"):
            collect(archive, isic={"query": "another"})
        assert not other.log, "the other host was asked"
        # A host that the settings name may give images, and only images.
        host = other.url.removeprefix("http://")
        rows, bad = collect(archive, isic={"query": "a third", "image_hosts": [host]})
        assert reasons(bad) == {name(2): "refused"} and fetched_whole(rows) and other.fetched() == {name(0): 1}
        archive.pages = [Handler.status(302, Location=f"{other.url}/api/v2/images/search/")]
        with pytest.raises(UserError, match="neither"):
            collect(archive, isic={"query": "a fourth", "image_hosts": [host]})
        assert len(other.log) == 1


def test_pages_in_a_circle_end(archive: Archive) -> None:
    def circle(handler: Handler, body: bytes) -> None:
        handler.json({"results": [], "next": f"{archive.url}/x?cursor=same"})

    archive.pages = [circle] * 9
    with pytest.raises(UserError, match="in a circle"):
        collect(archive)


def test_expired_addresses_are_renewed(archive: Archive) -> None:
    archive.trouble = {name(k): [Handler.always(Handler.status(503))] for k in range(12)}
    with pytest.raises(UserError):
        collect(archive)
    archive.trouble.clear()
    archive.version = 1
    rows, bad = collect(archive)
    assert bad.empty and len(rows) == 12
    assert archive.asked()["/api/v2/images/search/"] == 3, "the listing was kept"
    assert archive.asked()[f"/api/v2/images/{name(3)}/"] == 1


def test_a_finished_run_lists_anew_and_fetches_only_what_is_new(archive: Archive) -> None:
    collect(archive)
    sources.finished(settings(archive))
    archive.images = 14
    again, _ = collect(archive)
    assert len(again) == 14 and set(archive.fetched().values()) == {1}
    assert archive.asked()["/api/v2/images/search/"] == 6


def test_another_query_fetches_only_what_no_query_has_brought(archive: Archive) -> None:
    collect(archive)
    archive.images = 15
    values = {"isic": {"external_collections": [7]}, "external": {"source": "isic"}}
    both = settings(archive, **values)
    pool, _ = sources.collect(both, "pool", Path("both"))
    external, bad = sources.collect(both, "external", Path("both"))
    assert (len(pool), len(external), len(bad)) == (12, 15, 0), "the pool's answer is that of the unfinished run"
    assert set(archive.fetched().values()) == {1}


def test_a_stored_file_of_the_wrong_size_is_fetched_again(archive: Archive) -> None:
    collect(archive)
    kept = next(Path(".state").rglob(f"{name(3)}*.jpg"))
    kept.unlink()
    kept.write_bytes(b"half")
    rows, bad = collect(archive)
    assert bad.empty and fetched_whole(rows) and archive.fetched()[name(3)] == 2


def _run(values: dict[str, Any]) -> None:
    sources.collect(Acquire.model_validate(values), "pool", Path("out"))


@pytest.mark.parametrize("during", ["listing", "images"])
def test_a_killed_download_goes_on_to_the_same_bytes(archive: Archive, during: str) -> None:
    archive.images, archive.delay = 40, 0.0
    whole, _ = collect(archive)
    expected = state.hash_tree(Path("out")), whole.to_dict("records")
    requests = len(archive.log)
    for folder in (".state", "out"):
        Path(folder).rename(f"first{folder}")

    archive.log.clear()
    archive.delay = 0.05
    child = multiprocessing.get_context("spawn").Process(
        target=_run, args=(settings(archive, isic={"threads": 2}).model_dump(),)
    )
    child.start()
    deadline = time.monotonic() + 60
    want = 3 if during == "listing" else 8 + 12
    while len(archive.log) < want and time.monotonic() < deadline:
        time.sleep(0.005)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL, "it was to be killed half-way"
    before = len(archive.log)
    stored = {path.stem[:12]: path.read_bytes() for path in Path(".state").rglob("ISIC_*.jpg")}
    assert all(data == jpeg(int(stem[-7:])) for stem, data in stored.items()), "nothing is half-written"
    notes = next(Path(".state").rglob("listing-*.jsonl"))
    with notes.open("a") as file:
        file.write('{"next": "')  # a line cut short

    archive.delay = 0.0
    rows, bad = collect(archive)
    assert bad.empty and (state.hash_tree(Path("out")), rows.to_dict("records")) == expected
    after = len(archive.log) - before
    assert after < requests and before + after <= requests + 4, "only what was under way is asked for twice"
    assert all(archive.fetched()[stem] == 1 for stem in stored)
    assert len(list(state.sealed_rows(notes))) == len(notes.read_text().splitlines())


def test_a_cursor_that_is_no_longer_valid_starts_the_listing_anew(archive: Archive) -> None:
    archive.pages = []
    collect(archive)
    notes = next(Path(".state").rglob("listing-*.jsonl"))
    notes.write_text("".join(notes.read_text().splitlines(keepends=True)[:1]))
    archive.pages = [Handler.status(400)]
    rows, bad = collect(archive)
    assert bad.empty and len(rows) == 12
