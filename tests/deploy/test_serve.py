"""The service from outside: a real process, real connections."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from derm_t2im.deploy import verify
from derm_t2im.deploy.card import Operating
from derm_t2im.deploy.runtime import Predictor
from tests.curation.headless import Browser, find
from tests.deploy import models
from tests.deploy.bad_images import BAD, GOOD, encoded
from tests.deploy.serving import JPEG, Server, form

KEY = "a-key-of-enough-length"


@pytest.fixture(scope="module")
def server(model_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # A temporary folder that is none: whatever would go through the disk fails.
    gone = {"TMPDIR": "/nonexistent", "TMP": "/nonexistent", "TEMP": "/nonexistent"}
    limits = ("--max-bytes", "8000000", "--max-pixels", "4000000", "--max-images", "16", "--queue", "64")
    with Server(model_file, *limits, env=gone) as running:
        yield running


def test_answers_are_those_of_the_predictor(server: Server, model_file: Path, images: np.ndarray) -> None:
    from PIL import Image

    predictor = Predictor(model_file, device="cpu")
    expected = predictor.predict(np.stack([predictor.prepare(image) for image in images[:8]]))
    sent = [(f"{i}.png", encoded("PNG", Image.fromarray(image))) for i, image in enumerate(images[:8])]
    reply = server.send(*sent)
    assert reply.status == 200
    said = reply.json
    assert said["intended_use"].startswith("Research only, not a medical device")
    assert said["model"]["threshold"] == predictor.card.threshold
    assert [one["name"] for one in said["results"]] == [name for name, _ in sent]
    for one, row in zip(said["results"], expected, strict=True):
        assert list(one["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert one["label"] == predictor.classes[int(row.argmax())]
        assert one["above_threshold"] == (one["positive_probability"] >= predictor.card.threshold)
    alone = server.post(sent[3][1], {"Content-Type": "application/octet-stream"}).json["results"]
    assert alone == [{**said["results"][3], "name": ""}]


def test_each_bad_image_has_its_own_error_and_the_others_their_answers(server: Server) -> None:
    files = [(name, data) for name, (data, _) in BAD.items()]
    mixed = [*files[:4], *GOOD.items(), *files[4:]]
    reply = server.send(*mixed)
    assert reply.status == 200
    results = {one["name"]: one for one in reply.json["results"]}
    assert list(results) == [name for name, _ in mixed]
    for name, (_, reasons) in BAD.items():
        assert results[name]["error"] in reasons and results[name]["detail"] and results[name]["label"] is None, name
        assert "object at" not in results[name]["detail"]
    for name in GOOD:
        assert results[name]["error"] is None and results[name]["label"], name


@pytest.mark.parametrize("name", BAD)
def test_a_request_without_a_usable_image_is_422(server: Server, name: str) -> None:
    data, reasons = BAD[name]
    for reply in (server.post(data), server.send((name, data))):
        assert reply.status == 422
        assert reply.json["results"][0]["error"] in reasons
    assert server.post(GOOD["jpeg"]).status == 200


def test_a_large_upload_does_not_touch_the_disk(server: Server) -> None:
    from PIL import Image

    noise = np.random.default_rng(1).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
    data = encoded("PNG", Image.fromarray(noise))
    assert len(data) > 2_000_000
    assert server.send(("large.png", data)).status == server.post(data).status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status", "error"),
    [
        (b"x", "text/plain", 415, "unsupported_media_type"),
        (b"x", "", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "bad_form"),
        (b"x", "multipart/form-data; boundary=a", 400, "bad_form"),
        (b"--a\r\nno header at all\r\n\r\nx\r\n--a--\r\n", "multipart/form-data; boundary=a", 400, "bad_form"),
        (b"--a--\r\n", "multipart/form-data; boundary=a", 400, ""),
        (b'--a\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--a--\r\n', "multipart/form-data; boundary=a",
         400, "no_image"),
        (b'--a\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n1', "multipart/form-data; boundary=a",
         400, "bad_form"),
    ],
)  # fmt: skip
def test_requests_that_are_none(server: Server, body: bytes, kind: str, status: int, error: str) -> None:
    reply = server.post(body, {"Content-Type": kind} if kind else {})
    assert reply.status == status and (not error or reply.json["error"] == error)
    assert reply.json["detail"]
    assert server.said[-1].startswith("serving on ")  # no client fills the log


def test_limits_are_kept_while_reading(server: Server) -> None:
    reply = server.post(bytes(8_000_001))
    assert (reply.status, reply.json["error"]) == (413, "too_many_bytes")
    # Without a length said beforehand, and never ending.
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                     b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
        part = b"%x\r\n" % 1_000_000 + bytes(1_000_000) + b"\r\n"
        for _ in range(9):
            line.sendall(part)
        line.settimeout(30)
        sent = threading.Thread(target=_keep_sending, args=(line, part))
        sent.start()
        assert b" 413 " in line.recv(64)
        line.shutdown(socket.SHUT_RDWR)
        sent.join()
    reply = server.send(*[(str(i), GOOD["jpeg"]) for i in range(17)])
    assert (reply.status, reply.json["error"]) == (413, "too_many_images")
    assert server.counted("derm_t2im_held_images") == 0


def _keep_sending(line: socket.socket, part: bytes) -> None:
    try:
        for _ in range(50):
            line.sendall(part)
    except OSError:
        pass


def test_clients_that_go_away_leave_nothing_behind(server: Server) -> None:
    body, kind = form(("a", GOOD["jpeg"]))
    for until in (0, 1, len(body) // 2, len(body)):
        with socket.create_connection(("127.0.0.1", server.port)) as line:
            head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind['Content-Type']}\r\n"
            line.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:until])
    end = time.monotonic() + 20
    while server.counted("derm_t2im_held_images"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert server.post(GOOD["jpeg"]).status == 200
    assert not [line for line in server.said if "Traceback" in line]


def test_addresses_that_do_not_exist_and_wrong_methods(server: Server) -> None:
    assert server.get("/docs").status == 404
    reply = server.get("/v1/predict")
    assert reply.status == 405 and "POST /v1/predict" in reply.json["detail"]


def test_it_says_which_model_answers_and_head_is_answered_as_get(server: Server, model_file: Path) -> None:
    card = Predictor(model_file, "cpu").card
    names = ("architecture", "precision", "sha256", "weights_sha256", "training_mix", "version", "threshold")
    for path in ("/health", "/healthz"):
        said = server.get(path).json
        assert said["status"] == "ready"
        assert {name: said["model"][name] for name in names} == {name: getattr(card, name) for name in names}
    assert server.post(GOOD["jpeg"]).json["model"] == server.get("/health").json["model"]
    assert card.sha256[:16] in server.get("/").body.decode()
    for path in ("/", "/health", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        reply, whole = server.ask("HEAD", path, None, {}), server.get(path)
        assert (reply.status, reply.body) == (200, b""), path
        assert reply.headers["content-type"] == whole.headers["content-type"]
    assert server.ask("HEAD", "/v1/predict", None, {}).status == 405
    assert server.ask("HEAD", "/nowhere", None, {}).status == 404


def test_openapi_describes_bodies_answers_and_refusals(server: Server) -> None:
    described = server.get("/openapi.json").json["paths"]["/v1/predict"]["post"]
    assert {"multipart/form-data", "image/jpeg", "image/png"} <= set(described["requestBody"]["content"])
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "503"} <= set(described["responses"])
    for status in ("400", "422", "429"):
        assert described["responses"][status]["content"]["application/json"]["example"]


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc alone")
def test_the_memory_of_large_images_is_given_back(model_file: Path) -> None:
    from PIL import Image

    data = encoded("PNG", Image.new("RGB", (6000, 6000)))
    with Server(model_file) as running:
        before = running.counted("process_resident_memory_bytes")
        assert running.send(*[(str(i), data) for i in range(6)]).status == 200
        assert running.counted("process_resident_memory_bytes") < before + 150e6


def test_metrics_count_images_errors_and_refusals(server: Server) -> None:
    names = ("images_total", "image_errors_total", "refusals_total", "batch_images_count", "request_seconds_count")
    before = {name: server.counted(f"derm_t2im_{name}") for name in names}
    server.send(("a", GOOD["jpeg"]), ("b", b"no image"))
    server.post(b"x", {"Content-Type": "text/plain"})
    after = {name: server.counted(f"derm_t2im_{name}") - before[name] for name in names}
    assert after == dict(zip(names, (1, 1, 1, 1, 2), strict=True))
    assert 'derm_t2im_image_errors_total{reason="unreadable"}' in server.get("/metrics").body.decode()
    assert "other/" not in server.get("/metrics").body.decode()


def test_two_hundred_clients_at_once_are_all_answered(model_file: Path) -> None:
    with Server(model_file, "--queue", "40", "--max-images", "4") as server:
        gate = threading.Barrier(200)

        def client(_: int) -> tuple[int, str]:
            gate.wait()
            reply = server.post(GOOD["jpeg"])
            assert reply.status != 429 or int(reply.headers["retry-after"]) > 0
            return reply.status, reply.headers["content-type"]

        with ThreadPoolExecutor(200) as pool:
            replies = Counter(pool.map(client, range(200)))
        assert sum(replies.values()) == 200
        assert {status for status, _ in replies} <= {200, 429}
        assert replies[200, "application/json"] >= 40
        assert server.counted("derm_t2im_images_total") == replies[200, "application/json"]
        assert server.counted("derm_t2im_held_images") == 0
        assert server.post(GOOD["jpeg"]).status == 200


def test_a_stop_finishes_what_is_under_way_and_refuses_the_rest(model_file: Path) -> None:
    with Server(model_file) as server:
        body = GOOD["jpeg"]
        head = (
            f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
            line.sendall(head.encode() + body[:10])
            while server.counted("derm_t2im_held_images") < 1:
                time.sleep(0.02)
            server.process.send_signal(signal.SIGTERM)
            while server.get("/readyz").status == 200:
                time.sleep(0.02)
            reply = server.post(body)
            assert (reply.status, reply.json["error"]) == (503, "stopping") and "retry-after" in reply.headers
            assert server.get("/healthz").status == 200
            line.sendall(body[10:])
            answer = b""
            while part := line.recv(1 << 16):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200") and b'"label"' in answer
        assert server.process.wait(30) == 0
    assert "stopping: 1 request under way will be finished first; another signal stops at once.\n" in server.said
    assert server.said[-1] == "stopped: 1 request answered, 1 image predicted.\n"


def test_a_second_signal_stops_at_once_and_says_what_it_cut_off(model_file: Path) -> None:
    with Server(model_file) as server, socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\nx")
        while server.counted("derm_t2im_held_images") < 1:
            time.sleep(0.02)
        server.process.send_signal(signal.SIGTERM)
        while server.get("/health").json["status"] != "stopping":
            time.sleep(0.02)
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
    assert server.said[-1] == "stopped: 0 requests answered (1 cut off), 0 images predicted.\n"
    assert not [line for line in server.said if "Traceback" in line]


def test_a_key_is_asked_for(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    with Server(model_file, "--api-key-file", str(tmp_path / "key")) as server:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {KEY}"},
            {"X-API-Key": "\xe9"},
        ):
            reply = server.post(GOOD["jpeg"], {**JPEG, **headers})
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer", headers
        assert server.get("/metrics").status == 401
        for headers in ({"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}):
            assert server.post(GOOD["jpeg"], {**JPEG, **headers}).status == 200
        assert server.get("/healthz").status == server.get("/").status == 200
        assert KEY not in server.get("/").body.decode()
        described = server.get("/openapi.json").json
        ways = [{"HTTPBearer": []}, {"APIKeyHeader": []}]
        assert described["paths"]["/v1/predict"]["post"]["security"] == ways
        assert described["paths"]["/metrics"]["get"]["security"] == ways
        assert described["components"]["securitySchemes"]["APIKeyHeader"]["name"] == "X-API-Key"


def run(model: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "derm_t2im", "serve", "--model", str(model), "--port", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})


@pytest.mark.parametrize(
    ("options", "env", "said"),
    [
        (("--host", "0.0.0.0"), {}, "give a key"),
        (("--api-key", "short"), {}, "at least 16"),
        (("--host", "0.0.0.0"), {"DERM_T2IM_API_KEY": ""}, "give a key"),
        ((), {"DERM_T2IM_API_KEY": "with a blank in it"}, "without blanks"),  # pragma: allowlist secret
        (("--api-key-file", "nowhere"), {}, "nowhere cannot be read"),
        (("--api-key-file", "x", "--api-key", KEY), {}, "give the key once"),
        (("--queue", "4"), {}, "--max-images"),
    ],
)
def test_settings_that_cannot_be_served(
    model_file: Path, options: tuple[str, ...], env: dict[str, str], said: str
) -> None:
    done = run(model_file, *options, **env)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and said in done.stderr and done.stderr.count("\n") == 1


def test_a_port_in_use_and_a_missing_model(server: Server, model_file: Path, tmp_path: Path) -> None:
    done = run(model_file, "--port", str(server.port))
    assert done.returncode == 1 and "another --port" in done.stderr and "Traceback" not in done.stderr
    done = run(tmp_path / "none.onnx")
    assert done.returncode == 1 and "none.onnx is missing" in done.stderr


def test_without_the_extra_the_command_to_install_it_is_named(model_file: Path) -> None:
    code = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *rest: None if name == 'fastapi' else find(name, *rest);"
        "sys.argv = ['derm-t2im', 'serve', '--model', sys.argv[1]]; from derm_t2im.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model_file)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'Error: fastapi missing: pip install "derm-t2im[serve]".\n'


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("DERM_T2IM_SLOW"), reason="over 30 s; set DERM_T2IM_SLOW=1")
def test_memory_is_flat_over_ten_thousand_requests(model_file: Path) -> None:
    """Good and bad images, single and in forms; resident memory after 2,000 requests and after 10,000 more."""
    bad = [data for data, _ in BAD.values()]
    with Server(model_file) as server:

        def some(n: int) -> None:
            def client(i: int) -> None:
                if i % 3 == 0:
                    server.send(("a", GOOD["jpeg"]), ("b", bad[i % len(bad)]))
                else:
                    server.post(GOOD["jpeg"] if i % 3 == 1 else bad[i % len(bad)])

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(client, range(n)))

        some(2_000)
        before = server.counted("process_resident_memory_bytes")
        some(10_000)
        after = server.counted("process_resident_memory_bytes")
        files = server.counted("process_open_fds")
    print(json.dumps({"before_mb": before / 1e6, "after_mb": after / 1e6, "open_files": files}))
    assert after - before < 16e6
    assert files < 100


@pytest.mark.skipif(find() is None, reason="no Chromium")
@pytest.mark.parametrize(("key", "width"), [("", 390), (KEY, 1200)])
def test_the_page_shows_what_the_service_says(exported: bytes, tmp_path: Path, key: str, width: int) -> None:
    model = tmp_path / "model.onnx"
    known = verify.operating(np.repeat([0.2, 0.9], 50), np.arange(100) % 10 > 0, 0.5)  # 45 of 90, 5 of 10
    model.write_bytes(models.sealed(exported, operating=Operating(**known).model_dump()))
    picture = tmp_path / "lesion.png"
    picture.write_bytes(encoded("PNG"))
    env = {"DERM_T2IM_API_KEY": key} if key else {}
    with Server(model, env=env) as server, Browser(width, 1100) as page:
        page.open(server.url)
        page.wait_for("!!document.querySelector('#files')")
        said = page.run("document.body.innerText")
        assert "Research only, not a medical device" in said and "benign, malignant" in said and "0.500" in said
        if key:
            page.run(f"document.querySelector('#key').value = {json.dumps(key)}; 1")
        # A drop, as a person does it: a good image and one that is none.
        data = json.dumps(list(encoded("PNG")))
        page.run(f"""(() => {{
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array({data})], "lesion <b>.png", {{type: "image/png"}}));
            files.items.add(new File([new Uint8Array([1, 2, 3])], "broken.png", {{type: "image/png"}}));
            document.querySelector("#drop").dispatchEvent(
                new DragEvent("drop", {{dataTransfer: files, bubbles: true, cancelable: true}}));
        }})()""")
        page.wait_for("document.querySelector('#status').innerText.startsWith('2 of 2 done, 1 with an error')")
        text = page.run("document.querySelector('#results').innerText")
        assert "lesion <b>.png" in text and "threshold 0.500" in text and "unreadable" in text
        assert "50\xa0% (24 to\xa076)" in text and ("No diagnosis: " in text or "No all-clear: " in text)
        assert page.run("document.querySelectorAll('meter').length") == 2
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.run("[...document.querySelectorAll('input')].every(one => one.labels.length)")
        page.screenshot(tmp_path / "page.png")
        assert all(url.startswith((server.url, "blob:", "data:")) for url in page.requests), page.requests
        assert not [one for one in page.complaints if "blob:" not in one], page.complaints
        page.drop(width / 2, 20, tmp_path)
        page.wait_for("document.querySelector('#status').innerText.startsWith('3 of 3 done, 2 with an error')")
        assert "cannot be read: a folder" in page.run("document.querySelector('#results').innerText")
        server.process.terminate()
        server.process.wait(30)
        page.drop(width / 2, 20, picture)
        page.wait_for("document.querySelector('#status').innerText.startsWith('4 of 4 done, 3 with an error')")
        assert "does not answer: is it still running?" in page.run("document.querySelector('#results').innerText")
