"""What Git knows of a sweep's experiments: which there are, and whether they are still those of this code.

An experiment stands for its point as long as its parameters are those that the point has now, and every file of the
repository that its stages read is now what it was. Both are read from the experiment's own ``dvc.lock``, for the stages
that lead to the sweep's targets only: a change of the report makes nothing old. Inputs outside of Git (own images) are
compared by DVC when a point runs, not here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import yaml

from derm_t2im.errors import UserError
from derm_t2im.git import experiments

#: Written by sweeps themselves, or read by them alone: no change of what a point runs.
OURS = ("metrics/sweeps/", "plots/sweeps/", "sweeps/", "docs/")
#: Depends on every parameter and file there is, and yields a pass only.
GATE = "check"
#: Git references of what is about to run, one for each experiment; a place where DVC looks for no finished ones.
QUEUES = "refs/exps/temp/stash"


def git(*words: str) -> str:
    """Output of a git command in the current folder.

    Raises:
        UserError: if it fails.
    """
    done = subprocess.run(("git", *words), capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise UserError(f"git {words[0]}: {said}")
    return done.stdout


def head() -> str:
    """The commit that experiments start from.

    Raises:
        UserError: outside of a repository, or in one without a commit.
    """
    try:
        return git("rev-parse", "--verify", "HEAD").strip()
    except UserError as error:
        raise UserError(f"a sweep needs a Git repository with a commit ({error}).") from None


def refuse_changes(pipeline: str) -> None:
    """Experiments start from a commit: what is not in it would be in some points and not in others.

    Args:
        pipeline: Text of dvc.yaml: an untracked file that it names counts as well.

    Raises:
        UserError: naming what is not committed.
    """
    changed = []
    for line in git("status", "--porcelain", "--untracked-files=all", "-z").split("\0"):
        state, name = line[:2], line[3:]
        if not name or name.startswith(OURS) or (state == "??" and name not in pipeline):
            continue
        changed.append(name)
    if changed:
        named = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        only = " or `git checkout params.yaml`" if changed == ["params.yaml"] else " or `git stash`"
        raise UserError(
            f"a sweep needs a clean commit to start from, and {named} changed since: `git commit -a`{only} first."
        )


def all_runs() -> dict[str, list[tuple[str, str]]]:
    """Name of each experiment in the repository -> (revision, reference) of its runs, newest first."""
    found: dict[str, list[tuple[str, str]]] = {}
    for one in experiments():
        found.setdefault(one.name, []).append((one.commit, one.reference))
    return found


def remove(reference: str) -> None:
    """Forget a run; what its stages made stays in DVC's cache."""
    git("update-ref", "-d", reference)


def at(revision: str, path: str) -> str:
    """A file as it was in a revision; empty if it was not there."""
    try:
        return git("show", f"{revision}:./{path}")
    except UserError:
        return ""


@dataclass
class Tree:
    """Blobs of a revision by path, and the pipeline that it holds."""

    revision: str
    blobs: dict[str, str] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(revision: str) -> Tree:
        """Read a revision."""
        blobs = {}
        for line in git("ls-tree", "-r", "-z", revision).split("\0"):
            about, _, path = line.partition("\t")
            if path:
                blobs[path] = about.split()[2]
        pipeline = yaml.safe_load(at(revision, "dvc.yaml")) or {}
        return Tree(revision, blobs, pipeline.get("stages") or {})

    def below(self, path: str) -> dict[str, str]:
        """Blobs of a file, or of all files of a folder; none for what is not in Git."""
        if path in self.blobs:
            return {path: self.blobs[path]}
        return {name: blob for name, blob in self.blobs.items() if name.startswith(f"{path}/")}


def outdated(run: Tree, now: Tree, wanted: Mapping[str, Any], targets: Sequence[str]) -> list[str]:
    """Why an experiment is not what its point would give now: a line each; empty if it is.

    Args:
        run: The experiment.
        now: The commit that points start from.
        wanted: All parameters of the point.
        targets: The stages that it ran up to.
    """
    locked = (yaml.safe_load(at(run.revision, "dvc.lock")) or {}).get("stages") or {}
    names = set(_instances(now.stages, wanted)) & set(locked)
    relevant = _upstream({name: locked[name] for name in names}, targets)
    reasons = []
    for target in targets:
        if not any(_base(name) == target for name in relevant):
            reasons.append(f"it has no stage {target}")
    made = [str(out["path"]) for name in relevant for out in locked[name].get("outs") or []]
    params: dict[str, str] = {}
    files: set[str] = set()
    for name in sorted(relevant):
        if run.stages.get(_base(name)) != now.stages.get(_base(name)):
            files.add(f"dvc.yaml (stage {_base(name)})")
        for values in (locked[name].get("params") or {}).values():
            for key, old in values.items():
                params.update(_differences(key, old, _dig(wanted, key)))
        for dependency in locked[name].get("deps") or []:
            path = str(dependency["path"])
            if any(_overlap(path, out) for out in made):
                continue  # what another stage wrote is not given: metrics in Git differ from point to point
            before, after = run.below(path), now.below(path)
            files.update(each for each in before.keys() | after.keys() if before.get(each) != after.get(each))
    return reasons + [f"{key} {said}" for key, said in sorted(params.items())] + [f"{f} changed" for f in sorted(files)]


def _base(name: str) -> str:
    return name.partition("@")[0]


def _instances(stages: Mapping[str, Any], values: Mapping[str, Any]) -> Iterable[str]:
    """Names of all stages with these parameters; a lock also holds those of matrices that were larger once."""
    for name, stage in stages.items():
        matrix = stage.get("matrix") if isinstance(stage, Mapping) else None
        if name == GATE:
            continue
        if not matrix:
            yield name
            continue
        lists = [
            _dig(values, each[2:-1].strip()) if isinstance(each, str) and each.startswith("${") else each
            for each in matrix.values()
        ]
        for items in product(*(each if isinstance(each, list) else [] for each in lists)):
            yield f"{name}@{'-'.join(map(str, items))}"


def _upstream(locked: Mapping[str, Any], targets: Sequence[str]) -> set[str]:
    """The targets and all stages that they are made from."""
    made = {name: [str(out["path"]) for out in stage.get("outs") or []] for name, stage in locked.items()}
    found = {name for name in locked if _base(name) in targets}
    waiting = list(found)
    while waiting:
        needs = [str(each["path"]) for each in locked[waiting.pop()].get("deps") or []]
        for name, outs in made.items():
            if name not in found and any(_overlap(out, need) for out in outs for need in needs):
                found.add(name)
                waiting.append(name)
    return found


def _overlap(a: str, b: str) -> bool:
    return a == b or a.startswith(f"{b}/") or b.startswith(f"{a}/")


def _dig(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _differences(key: str, old: Any, new: Any) -> dict[str, str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = {}
        for each in sorted(old.keys() | new.keys()):
            found.update(_differences(f"{key}.{each}", old.get(each), new.get(each)))
        return found
    return {} if old == new else {key: f"was {old}, is {new}"}
