"""The ISIC Archive by its public API, version 2 (https://api.isic-archive.com/api/docs/swagger/).

What a run has fetched stays in ``.state/isic/``: after a kill the listing goes on from its last page and no
image is fetched twice; a later run, of the same query or another, lists anew and fetches what is new.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from derm_t2im import progress, state
from derm_t2im.errors import UserError
from derm_t2im.imaging import io
from derm_t2im.sources.download import Client, Failed
from derm_t2im.sources.intake import Place, Role, admit

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.acquire import Acquire

PAGE = 100  # the most that the API gives at once
#: So many images in a row that could not be had are the archive's trouble, not theirs.
GIVE_UP = 12


def collect(settings: Acquire, role: Role, folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List what the query finds, choose by ``limit``, fetch the images.

    Returns:
        The manifest's rows and the quarantine, see :func:`derm_t2im.sources.intake.admit`.

    Raises:
        UserError: if the archive cannot be reached, does not understand the query, or finds nothing.
    """
    import pandas as pd

    chosen, own = settings if role == "pool" else settings.external, settings.isic
    store = _store(settings)
    (store / "images").mkdir(exist_ok=True)
    client = Client(own, settings.seed)
    try:
        found = _listing(client, settings, role, store / _notes(settings, role))
        if not found:
            raise UserError(f"acquire.isic: {own.base_url} has no image for {_asked(settings, role)}.")
        records = pd.DataFrame([found[name] for name in sorted(found)], dtype="string")
        nameless = records["image_id"] == ""
        records["reason"] = records["detail"] = ""
        records.loc[nameless, ["image_id", "reason", "detail"]] = ["nameless", "missing_id", "the archive names no id"]
        fetch = partial(_fetch, client, own.base_url, store, found, own.threads, chosen.name)
        place = Place(store.resolve(), chosen.name, chosen.limit)
        return admit(records, place, role, folder, settings.labels, settings.seed, fetch=fetch)
    except Failed as error:
        raise UserError(f"acquire.isic: {error.detail}. What has come is kept; start again to go on.") from None
    finally:
        client.close()


def finished(settings: Acquire) -> None:
    """Forget the listings, so that the next run asks anew; images stay."""
    for path in _store(settings).glob("listing-*.jsonl"):
        path.unlink()


def _query(settings: Acquire, role: Role) -> tuple[str, list[int]]:
    own = settings.isic
    return (own.query, own.collections) if role == "pool" else (own.external_query, own.external_collections)


def _asked(settings: Acquire, role: Role) -> str:
    query, collections = _query(settings, role)
    parts = [f"the query {query!r}"] * bool(query) + [f"the collections {collections}"] * bool(collections)
    return " in ".join(parts)


def _store(settings: Acquire) -> Path:
    return state.work_folder("isic", state.fingerprint(settings.isic.base_url))


def _notes(settings: Acquire, role: Role) -> str:
    """The file that notes the pages of the answer, whose name says what was asked."""
    return f"listing-{state.fingerprint(*_query(settings, role))}.jsonl"


def _listing(client: Client, settings: Acquire, role: Role, journal: Path) -> dict[str, dict[str, str]]:
    """All that the query finds, by id; a page is noted as soon as it has come."""
    query, collections = _query(settings, role)
    url = f"{settings.isic.base_url}/images/search/"
    asked = {"query": query, "collections": ",".join(map(str, collections)), "limit": str(PAGE)}
    asked = {name: value for name, value in asked.items() if value}
    pages = list(state.sealed_rows(journal))
    state.write_atomic(journal, "".join(map(state.sealed_line, pages)))
    resumed, seen = bool(pages), {page["next"] for page in pages}
    cursor = pages[-1]["next"] if pages else ""
    with journal.open("a", encoding="utf-8") as notes:
        while cursor is not None:
            try:
                answer = client.json(url, {**asked, "cursor": cursor} if cursor else asked)
            except Failed as error:
                if resumed and error.status in (400, 404, 422):  # the cursor of an earlier run is no longer valid
                    journal.unlink()
                    return _listing(client, settings, role, journal)
                raise
            page = {"next": _cursor(answer), "results": [_record(image) for image in answer["results"]]}
            if page["next"] in seen:
                raise Failed("refused", f"{url} leads from page to page in a circle")
            notes.write(state.sealed_line(page))
            notes.flush()
            pages.append(page)
            cursor = page["next"]
            seen.add(cursor)
            if len(pages) % 20 == 0:
                progress.say(f"isic: {len(pages)} pages of the answer")
    return {record["image_id"]: record for page in pages for record in page["results"]}


def _cursor(answer: Any) -> str | None:
    """The next page's cursor. Of the link only this is taken: the host asked stays the one that we know."""
    if not isinstance(answer, dict) or not isinstance(answer.get("results"), list) or "next" not in answer:
        raise Failed("refused", "the API's answer is no page of results: is acquire.isic.base_url right?")
    if answer["next"] is None:
        return None
    found = parse_qs(urlsplit(str(answer["next"])).query).get("cursor", [])
    if not found:
        raise Failed("refused", "the API's link to the next page has no cursor")
    return found[0]


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _record(image: Any) -> dict[str, str]:
    """An image as the API describes it, in our words; "" where it says nothing."""

    def text(*keys: str) -> str:
        value = _at(image, *keys)
        return "" if value is None or isinstance(value, dict | list) else str(value).strip()

    clinical = ("metadata", "clinical")
    levels = [text(*clinical, f"diagnosis_{level}") for level in range(1, 6)]
    image_id, url = text("isic_id"), text("files", "full", "url")
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return {
        "image_id": image_id,
        "file": "images/" + io.file_name(image_id, suffix if suffix in io.EXTENSIONS else ".jpg"),
        "dx": ":".join(level for level in levels if level) or text(*clinical, "diagnosis"),
        "lesion_id": text(*clinical, "lesion_id"),
        "patient_id": text(*clinical, "patient_id"),
        "age": text(*clinical, "age_approx"),
        "sex": text(*clinical, "sex"),
        "site": text(*clinical, "anatom_site_general") or text(*clinical, "anatom_site_1"),
        "licence": text("copyright_license"),
        "attribution": text("attribution"),
        "url": url,
        "size": text("files", "full", "size"),
    }


def _fetch(
    client: Client,
    base_url: str,
    store: Path,
    found: dict[str, dict[str, str]],
    threads: int,
    name: str,
    wanted: pd.DataFrame,
) -> list[tuple[str, str]]:
    """Bring the wanted images below ``store``; reason and detail for each that cannot be had."""
    results, in_a_row = [], 0
    work = partial(_one, client, base_url, store)
    workers = ThreadPoolExecutor(threads, thread_name_prefix="isic")
    try:
        jobs = workers.map(work, [found[str(image_id)] for image_id in wanted["image_id"]])
        for reason, detail in progress.track(jobs, f"fetch {name}", total=len(wanted)):
            results.append((reason, detail))
            in_a_row = in_a_row + 1 if reason == "unavailable" else 0
            if in_a_row >= GIVE_UP:
                raise UserError(
                    f"acquire.isic: {in_a_row} images in a row cannot be had ({detail}). "
                    "What has come is kept; start again to go on."
                )
    finally:
        client.close()
        workers.shutdown(cancel_futures=True)
    return results


def _one(client: Client, base_url: str, store: Path, record: dict[str, str]) -> tuple[str, str]:
    target = store / record["file"]
    size = _size(record)
    if state.whole(store, target):
        return "", ""
    if not record["url"]:
        return "not_found", "the archive gives no address of the image"

    def check(coming: Path) -> None:
        _check(coming)
        state.seal(store, target, coming)

    try:
        try:
            client.file(record["url"], target, size, check)
        except Failed as error:
            if error.status not in (401, 403, 404, 410):
                raise
            # Addresses are signed for a time only: ask for a fresh one.
            fresh = _record(client.json(f"{base_url}/images/{record['image_id']}/", {}))
            if fresh["url"] == record["url"] or not fresh["url"]:
                raise
            client.file(fresh["url"], target, _size(fresh), check)
    except Failed as error:
        return error.reason, error.detail
    return "", ""


def _size(record: dict[str, str]) -> int | None:
    return int(record["size"]) if record["size"].isdigit() and int(record["size"]) else None


def _check(path: Path) -> None:
    """Corrupt is what does not decode; what is whole but of no use here is for the way in to refuse."""
    try:
        io.read_rgb(path)
    except io.ImageError as error:
        if error.reason in ("empty", "truncated", "unreadable"):
            raise
