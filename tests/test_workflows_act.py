"""The workflows run whole by act, whose expressions, conditions and steps are a runner's; only GitHub is not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests.changes import repository
from tests.test_workflows import FOLDER, workflow

pytestmark = pytest.mark.skipif(shutil.which("act") is None, reason="needs act, see docs/pull-requests.md")

MARKER = "<!-- derm-t2im: results -->"
#: What stands for the actions, which act would fetch from GitHub: the shell that each comes down to.
STANDS_FOR = {
    "checkout": ("ref", 'git clone -q "$ORIGIN" . && git checkout -q "$GIVEN"'),
    "setup-python": ("python-version", "true"),
    "upload-artifact": ("path", 'cp -R "$GIVEN" "$KEPT"'),
    "download-artifact": ("path", 'cp -R "$KEPT" "$GIVEN"'),
}


def act(root: Path, event: str, name: str, content: dict[str, Any], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a workflow of this repository with `root` as what GitHub holds."""
    work = root.parent / "act"
    (work / "here").mkdir(parents=True, exist_ok=True)
    (work / "event.json").write_text(json.dumps(content), encoding="utf-8")
    actions = []
    for job in workflow(name)["jobs"].values():
        for used in (step["uses"] for step in job["steps"] if "uses" in step):
            own = re.sub(r".*/|@.*", "", used)
            given, script = STANDS_FOR[own]
            step = {"run": script, "shell": "bash", "env": {"GIVEN": f"${{{{ inputs.{given} }}}}"}}
            action = {"name": own, "inputs": {given: {}}, "runs": {"using": "composite", "steps": [step]}}
            (work / own).mkdir(exist_ok=True)
            (work / own / "action.yml").write_text(yaml.safe_dump(action), encoding="utf-8")
            actions += ["--local-repository", f"{used}={work / own}"]
    values = {"ORIGIN": str(root), "KEPT": str(root.parent / "kept"), "GITHUB_REPOSITORY": "o/r", **more}
    environment = [word for key, value in values.items() for word in ("--env", f"{key}={value}")]
    return subprocess.run(
        ["act", event, "--workflows", str(FOLDER / name), "--eventpath", str(work / "event.json"), *actions,
         "--platform", "ubuntu-latest=-self-hosted", "--action-cache-path", str(work / "cache"), "--no-cache-server",
         "--action-offline-mode", "--secret", "GITHUB_TOKEN=of-no-use", *environment],
        cwd=work / "here", env={**os.environ, "HOME": str(work)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def proposed(root: Path) -> tuple[str, str]:
    """The commits of a base and of a proposal, with a `make setup` that takes the environment of this test."""
    root.mkdir()
    base, _ = repository.two_revisions(root)
    tool = f'#!/bin/sh\\nexec "{sys.executable}" -m derm_t2im "$$@"\\n'
    (root / "Makefile").write_text(
        f"setup:\n\tmkdir -p .venv/bin\n\tprintf '{tool}' > .venv/bin/derm-t2im\n\tchmod +x .venv/bin/derm-t2im\n"
    )
    repository.git(root, "add", "-A")
    repository.git(root, "commit", "-qm", "setup")
    return base, repository.git(root, "rev-parse", "HEAD")


def test_a_pull_request_gets_its_comparison(tmp_path: Path) -> None:
    base, head = proposed(tmp_path / "origin")
    event = {"pull_request": {"number": 9, "base": {"sha": base}, "head": {"sha": head}}}
    done = act(tmp_path / "origin", "pull_request", "results.yml", event)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = tmp_path / "kept"
    assert {file.name for file in kept.iterdir()} == {"comment.md", "changes.html", "changes.json"}
    comment = (kept / "comment.md").read_text(encoding="utf-8")
    assert comment.startswith(MARKER) and f"https://github.com/o/r/raw/{base}/plots/finetune" in comment
    assert "https://github.com/o/r/actions/runs/" in comment and "${{" not in comment
    assert json.loads((kept / "changes.json").read_text(encoding="utf-8"))["after"]["commit"] == head


class GitHub(BaseHTTPRequestHandler):
    """The part of GitHub's API that the posting job speaks to; comments come two to a page."""

    server: Held

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/repos/o/r/pulls":
            return self.answer(self.server.pulls)
        page = int(parse_qs(url.query).get("page", ["1"])[0])
        found = self.server.comments[2 * page - 2 : 2 * page]
        more = 2 * page < len(self.server.comments)
        next_page = f'<http://{url.netloc}{url.path}?page={page + 1}>; rel="next"'
        return self.answer(found, {"Link": next_page} if more else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
        self.server.written.append((self.command, urlsplit(self.path).path, body))
        self.answer({})

    do_PATCH = do_POST

    def answer(self, content: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        for key, value in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Held(ThreadingHTTPServer):
    pulls: list[Any]
    comments: list[Any]
    written: list[tuple[str, str, str]]


@pytest.fixture
def github() -> Iterator[Held]:
    with Held(("127.0.0.1", 0), GitHub) as server:
        server.written = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(shutil.which("gh") is None, reason="needs gh, which GitHub's runners have")
@pytest.mark.parametrize("case", ["new", "renew", "gone", "foreign", "failed"])
def test_the_comment_is_posted_once_and_renewed(tmp_path: Path, github: Held, case: str) -> None:
    head, ours = "a" * 40, {"login": "github-actions[bot]"}
    github.pulls = [{"number": 5, "head": {"sha": "b" * 40}}, {"number": 9, "head": {"sha": head}}][
        : 1 + (case != "gone")
    ]
    github.comments = [{"id": i, "user": {"login": "somebody"}, "body": f"{MARKER} not ours"} for i in (1, 2, 3)]
    github.comments += [{"id": 4, "user": ours, "body": f"{MARKER} old"}] if case == "renew" else []
    (tmp_path / "kept").mkdir()
    # Longer than GitHub takes, and of letters of which the limit cuts one in two.
    body = "something else" if case == "foreign" else f"{MARKER}\n" + "→" * 25_000
    (tmp_path / "kept" / "comment.md").write_text(body, encoding="utf-8")
    origin = {"owner": {"login": "fork"}}
    conclusion = "failure" if case == "failed" else "success"
    event = {"workflow_run": {"id": 7, "event": "pull_request", "conclusion": conclusion, "head_branch": "proposal",
                              "head_sha": head, "head_repository": origin}}  # fmt: skip
    # gh speaks plain HTTP to this host alone; that nothing resolves it does not matter behind a proxy.
    proxy = f"http://127.0.0.1:{github.server_port}"
    done = act(tmp_path / "origin", "workflow_run", "comment.yml", event, GH_HOST="github.localhost", http_proxy=proxy)
    assert (done.returncode == 0) == (case != "foreign"), done.stdout + done.stderr
    where = {"new": ("POST", "/repos/o/r/issues/9/comments"), "renew": ("PATCH", "/repos/o/r/issues/comments/4")}
    assert [call[:2] for call in github.written] == ([where[case]] if case in where else [])
    for _, _, sent in github.written:
        assert sent.startswith(MARKER) and len(sent) < 65_536 and sent.count("→") > 19_000
