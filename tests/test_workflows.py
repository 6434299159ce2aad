"""The workflows' own steps, run as the runner's shell would, and the rules that they keep."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.changes import repository

FOLDER = Path(__file__).parents[1] / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
EXPRESSION = re.compile(r"\$\{\{\s*([^}]+?)\s*\}\}")


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def step(name: str, job: str, wanted: str) -> dict[str, Any]:
    return next(one for one in workflow(name)["jobs"][job]["steps"] if one.get("name") == wanted)


def filled(text: str, values: dict[str, str]) -> str:
    """A value of ``env`` with its expressions replaced, as the runner does before the shell starts."""
    return EXPRESSION.sub(lambda found: values[found.group(1)], text)


def run(one: dict[str, Any], folder: Path, values: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    assert not EXPRESSION.search(one["run"]), "expressions inside scripts can be used to inject commands"
    environment = {**os.environ, **{k: filled(str(v), values) for k, v in (one.get("env") or {}).items()}, **more}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", one["run"]],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_actions_are_pinned_and_permissions_least(file: Path) -> None:
    content = workflow(file.name)
    assert "permissions" in content and "concurrency" in content
    granted = [content["permissions"], *(job.get("permissions", {}) for job in content["jobs"].values())]
    writes = [key for each in granted for key, value in each.items() if value == "write"]
    assert writes == (["pull-requests"] if file.name == "comment.yml" else [])
    for job in content["jobs"].values():
        assert job["timeout-minutes"]
        for one in job["steps"]:
            if "uses" in one:
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one["uses"]), one["uses"]
            if str(one.get("uses", "")).startswith("actions/checkout"):
                assert one["with"]["persist-credentials"] is False
            assert not EXPRESSION.search(one.get("run", ""))


def test_the_job_that_may_write_runs_no_code_of_the_proposal() -> None:
    steps = workflow("comment.yml")["jobs"]["post"]["steps"]
    assert not any(str(one.get("uses", "")).startswith("actions/checkout") for one in steps)
    assert workflow("results.yml")["permissions"] == {"contents": "read"}
    assert "secrets." not in (FOLDER / "results.yml").read_text(encoding="utf-8")


def test_the_comparison_step_writes_the_comment(tmp_path: Path) -> None:
    base, _ = repository.two_revisions(tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    tool = tmp_path / ".venv" / "bin" / "derm-t2im"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m derm_t2im "$@"\n', encoding="utf-8")
    tool.chmod(0o755)
    values = {
        "github.event.pull_request.base.sha": base,
        "github.server_url": "https://git.example",
        "github.repository": "o/r",
        "github.run_id": "7",
    }
    summary = tmp_path / "summary.md"
    one = step("results.yml", "compare", "Compare with the base branch")
    done = run(one, tmp_path, values, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stderr
    comment = (tmp_path / "comparison" / "comment.md").read_text(encoding="utf-8")
    assert f"https://git.example/o/r/raw/{base}/plots/finetune" in comment
    assert "https://git.example/o/r/actions/runs/7" in comment and summary.read_text(encoding="utf-8") == comment
    assert json.loads((tmp_path / "comparison" / "changes.json").read_text(encoding="utf-8"))["verdict"]
    assert (tmp_path / "comparison" / "changes.html").stat().st_size > 10_000


GH = r"""#!/usr/bin/env python3
# Stands for GitHub: keeps the calls, answers from a file, applies --jq with the real jq.
import json, os, subprocess, sys
arguments = sys.argv[2:]
state = json.load(open("github.json"))
method, path, jq, fields = "GET", "", "", {}
i = 0
while i < len(arguments):
    one = arguments[i]
    if one in ("--method", "--jq", "-f", "-F"):
        value = arguments[i + 1]; i += 2
        if one == "--method": method = value
        elif one == "--jq": jq = value
        else:
            key, _, text = value.partition("=")
            fields[key] = open(text[1:]).read() if one == "-F" and text.startswith("@") else text
    else:
        if not one.startswith("--"): path = one
        i += 1
state["calls"].append([method, path, fields])
json.dump(state, open("github.json", "w"))
answer = state["pulls"] if path.endswith("/pulls") else state["comments"] if path.endswith("/comments") else {}
if jq:
    done = subprocess.run(["jq", "-r", jq], input=json.dumps(answer), text=True, stdout=subprocess.PIPE, check=True)
    sys.stdout.write(done.stdout)
"""


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq, which GitHub's runners have")
@pytest.mark.parametrize("case", ["new", "renew", "gone", "foreign"])
def test_the_posting_step_keeps_one_comment_per_pull_request(tmp_path: Path, case: str) -> None:
    head = "a" * 40
    marker = "<!-- derm-t2im: results -->"
    theirs = {"id": 1, "user": {"login": "somebody"}, "body": f"{marker} not ours"}
    ours = {"id": 2, "user": {"login": "github-actions[bot]"}, "body": f"{marker}\n## old"}
    state = {
        "pulls": [{"number": 5, "head": {"sha": "b" * 40}}]
        + ([] if case == "gone" else [{"number": 9, "head": {"sha": head}}]),
        "comments": [theirs] + ([ours] if case == "renew" else []),
        "calls": [],
    }
    (tmp_path / "github.json").write_text(json.dumps(state), encoding="utf-8")
    (tmp_path / "comparison").mkdir()
    body = "something else" if case == "foreign" else f"{marker}\n## new\n"
    (tmp_path / "comparison" / "comment.md").write_text(body, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH, encoding="utf-8")
    (tmp_path / "bin" / "gh").chmod(0o755)
    values = {
        "github.token": "t",
        "github.repository": "o/r",
        "github.event.workflow_run.head_repository.owner.login": "fork",
        "github.event.workflow_run.head_branch": "proposal",
        "github.event.workflow_run.head_sha": head,
    }
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = run(step("comment.yml", "post", "Post or renew the comment"), tmp_path, values, PATH=path)
    calls = json.loads((tmp_path / "github.json").read_text(encoding="utf-8"))["calls"]
    written = [call for call in calls if call[0] != "GET"]
    assert calls[0] == ["GET", "repos/o/r/pulls", {"state": "open", "head": "fork:proposal"}]
    if case == "new":
        assert written == [["POST", "repos/o/r/issues/9/comments", {"body": body}]]
    elif case == "renew":
        assert written == [["PATCH", "repos/o/r/issues/comments/2", {"body": body}]]
    else:
        assert written == [] and (done.returncode == 0) == (case == "gone")
