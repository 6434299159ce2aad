"""What Git is asked for in more than one place."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from derm_t2im.errors import UserError


class Experiment(NamedTuple):
    """A finished run of `dvc exp run`, which Git keeps as refs/exps/BASELINE/NAME."""

    name: str
    baseline: str  # the commit that it started from
    commit: str
    reference: str


def experiments(root: Path = Path()) -> list[Experiment]:
    """All experiments of a repository, newest first; none where there is no repository."""
    listed = _git(root, "for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)", "refs/exps")
    found = []
    for line in listed.splitlines():
        commit, _, reference = line.partition(" ")
        parts = reference.split("/")
        if len(parts) == 5 and len(parts[2]) == 2:  # refs/exps/ab/cdef.../name
            found.append(Experiment(parts[4], parts[2] + parts[3], commit, reference))
    return found


def commit_of(rev: str, root: Path = Path()) -> str:
    """The commit that ``rev`` names, as its full hash; the name of an experiment is a revision as well.

    Raises:
        UserError: if there is none, or experiments of several commits bear the name and none is of HEAD.
    """
    if commit := _commit(rev, root):
        return commit
    named = [one for one in experiments(root) if one.name == rev]
    head = _commit("HEAD", root)
    chosen = next((one for one in named if one.baseline == head), named[0] if len(named) == 1 else None)
    if chosen:
        return chosen.commit
    if named:
        commits = ", ".join(one.commit[:7] for one in named)
        raise UserError(f"{len(named)} experiments are called {rev!r}, none of this commit: give one of {commits}.")
    raise UserError(
        f"Git knows no revision {rev!r} here, and no experiment is called so: fetch it first (`git fetch origin`; in "
        "a shallow clone `git fetch --unshallow`; an experiment by `dvc exp pull origin NAME`)."
    )


def _commit(rev: str, root: Path) -> str:
    commit = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}").strip()
    return commit if re.fullmatch(r"[0-9a-f]{40,64}", commit) else ""


def _git(root: Path, *words: str) -> str:
    """Output of a git command; empty if it fails."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return "" if done.returncode else done.stdout
