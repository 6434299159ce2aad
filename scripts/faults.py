"""Break a run of the pipeline in every stage, at random moments, and see whether `dvc repro` mends it.

    python scripts/faults.py --rounds 40 --seed 0 --folder tmp/faults

A small copy of the project runs once undisturbed. Each round takes a copy of that, forgets one stage, starts
`dvc repro`, and does harm while the stage runs. Then `dvc repro` alone, as a user would, and, where that is not enough,
`scripts/verify.py --fix` and `dvc repro`. Survived is what ends with every output, metric and line of dvc.lock byte for
byte as undisturbed, a clean `dvc status` and nothing left over. A line per fault goes to FOLDER/faults.jsonl; started
again with the same folder it goes on with the next round. Full disks are real (a tmpfs) where mounting is allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.project import Project, tiny  # noqa: E402

KINDS = ("kill", "disk", "memory", "input", "intermediate", "cache", "database")
PATIENCE = 240  # seconds for a disturbed run to end; longer counts as hung
DISK = 512 << 20  # bytes of the tmpfs on which a project works
RUNNING = re.compile(r"^Running stage '(.+)':$", re.MULTILINE)


class Run:
    """A `dvc repro` that is under way; its output goes to a file outside the project."""

    def __init__(self, project: Project, log: Path) -> None:
        """Start it."""
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                ("dvc", "repro"), cwd=project.folder, env=project.environment, start_new_session=True,
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """Everything that was printed so far."""
        return self.log.read_text(errors="replace")

    def reach(self, stage: str) -> bool:
        """Wait until the stage runs; False if the run ended before."""
        while f"Running stage '{stage}':" not in self.said:
            if self.process.poll() is not None:
                return f"Running stage '{stage}':" in self.said
            time.sleep(0.02)
        return True

    def end(self) -> int | None:
        """Its exit status; None, and killed, where it hangs."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        """SIGKILL to all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def family(self) -> list[int]:
        """Process ids of the stage under way: what `dvc` started."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
        found, waiting = [], list(children.get(self.process.pid, []))
        while waiting:
            found.append(pid := waiting.pop())
            waiting += children.get(pid, [])
        return found


# ---- the undisturbed run ----------------------------------------------------------------------------------------


def undisturbed(folder: Path) -> tuple[Project, dict[str, float]]:
    """The small project after one run, and how long each stage took, seconds; kept in ``folder``."""
    times = folder / "times.json"
    template = folder / "template"
    if times.is_file():
        project = Project(template)
        return project, json.loads(times.read_text())
    shutil.rmtree(template, ignore_errors=True)
    template.mkdir(parents=True)
    project = tiny(template)
    run = Run(project, folder / "undisturbed.log")
    started: dict[str, float] = {}
    while run.process.poll() is None:
        for name in RUNNING.findall(run.said):
            started.setdefault(name, time.monotonic())
        time.sleep(0.1)
    if run.process.returncode:
        sys.exit(f"the undisturbed run failed, see {run.log}")
    moments = [*started.values(), time.monotonic()]
    took = {name: round(moments[k + 1] - moments[k], 2) for k, name in enumerate(started)}
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "undisturbed")
    times.write_text(json.dumps(took))
    return project, took


def contents(folder: Path) -> dict[str, bytes]:
    """All files that a user sees: without Git's, DVC's and the stages' own folders; dvc.lock whatever its order."""
    own = {".git", ".dvc", ".state", "__pycache__"}
    found = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not own & set(file.relative_to(folder).parts)
    }
    with contextlib.suppress(KeyError, yaml.YAMLError, UnicodeDecodeError):
        found["dvc.lock"] = json.dumps(yaml.safe_load(found["dvc.lock"]), sort_keys=True).encode()
    return found


def copy(template: Path, place: Path) -> Project:
    """A fresh copy of the undisturbed project, with DVC's memory of files inside it."""
    for old in place.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    folder = place / "project"
    subprocess.run(["cp", "-a", str(template), str(folder)], check=True)
    project = Project(folder)
    project.environment["DVC_SITE_CACHE_DIR"] = str(folder / ".dvc" / "site")
    return project


def forget(project: Project, stage: str) -> None:
    """As if the stage had never run: no line in dvc.lock, no outputs, no memory of the run."""
    file = project.folder / "dvc.lock"
    lock = yaml.safe_load(file.read_text())
    entry = lock["stages"].pop(stage)
    file.write_text(yaml.safe_dump(lock, sort_keys=False))
    for out in entry.get("outs", []):
        _remove(project.folder / out["path"])
    for note in list((project.folder / ".dvc" / "cache" / "runs").rglob("*")):
        if note.is_file() and yaml.safe_load(note.read_text()).get("cmd") == entry["cmd"]:
            shutil.rmtree(note.parent)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# ---- harm -------------------------------------------------------------------------------------------------------


def damage(file: Path, chance: random.Random, unseen: bool = False) -> str:
    """Cut a file, turn bits in it, or empty it; ``unseen`` keeps its time, mode and size."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    how = "flip" if unseen or not data else chance.choice(("flip", "cut", "empty"))
    if how == "flip" and data:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] ^= chance.randint(1, 255)
    data = {"flip": data, "cut": data[: len(data) // 2], "empty": bytearray()}[how]
    file.chmod(0o644)
    file.write_bytes(bytes(data))
    if unseen:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        file.chmod(before.st_mode)
    return how


class Fault:
    """One fault: a kind, a stage, a moment; what happened, and whether it was survived."""

    def __init__(self, project: Project, stage: str, took: float, chance: random.Random, log: Path, lock: Any) -> None:
        """Nothing happens yet."""
        self.project, self.stage, self.chance, self.log = project, stage, chance, log
        self.entry = lock["stages"][stage]
        self.moment = chance.uniform(0, took)
        self.detail = ""
        self.felt = False
        self.status: int | None = 0
        self.said = ""

    def _started(self) -> Run:
        forget(self.project, self.stage)
        run = Run(self.project, self.log)
        if not run.reach(self.stage):
            raise RuntimeError(f"{self.stage} did not run: {run.said[-2000:]}")
        time.sleep(self.moment)
        return run

    def _over(self, run: Run) -> None:
        self.status = run.end()
        self.said = run.said

    def kill(self) -> None:
        """SIGKILL to dvc and all that it started."""
        run = self._started()
        self.felt = run.process.poll() is None
        run.kill()
        self.status, self.said = -9, run.said

    def disk(self) -> None:
        """The disk takes hardly a byte more until the run has ended."""
        run = self._started()
        filler = self.project.folder.parent / "filler"
        room = os.statvfs(filler.parent)
        left = self.chance.choice((0, 4096, 65536, 1 << 20))
        with filler.open("wb") as file, contextlib.suppress(OSError):  # the stage was faster: it is full already
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - left))
        self._over(run)
        filler.unlink()
        self.felt, self.detail = self.status != 0, f"{left} bytes left"

    def memory(self) -> None:
        """The stage and what it starts get hardly a byte of memory more (RLIMIT_AS)."""
        run = self._started()
        more = self.chance.choice((1, 8, 32, 128)) << 20
        for pid in run.family():
            with contextlib.suppress(OSError, ValueError, IndexError):
                size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
                if size:
                    resource.prlimit(pid, resource.RLIMIT_AS, (size + more, size + more))
        self._over(run)
        self.felt, self.detail = self.status != 0, f"{more >> 20} MB more"

    def input(self) -> None:
        """A file that the stage reads is damaged while it runs."""
        run = self._started()
        named = [dep["path"] for dep in self.entry["deps"] if not dep["path"].startswith("src/")]
        files = [file for name in named for file in self._files(name)]
        file = self.chance.choice(files)
        self.detail = f"{file.relative_to(self.project.folder)}: {damage(file, self.chance)}"
        self.felt = True
        self._over(run)

    def intermediate(self) -> None:
        """Killed, and then a file of its unfinished work, or else a half-written output, is damaged."""
        self.kill()
        state = self.project.folder / ".state"
        own = self.stage.replace("@", "-")
        files = [
            p
            for p in sorted(state.rglob("*"))
            if p.is_file() and p.relative_to(state).parts[0] in (own, self.stage.split("@")[0])
        ]
        if not files:  # nothing was begun: half of an output instead
            file = self.project.folder / self.chance.choice(self.entry["outs"])["path"]
            if file.suffix:
                file.parent.mkdir(parents=True, exist_ok=True)
            else:
                file.mkdir(parents=True, exist_ok=True)
                file = file / "half.json"
            file.write_bytes(b'{"half": ')
            self.detail = f"{file.relative_to(self.project.folder)}: half"
            return
        file = self.chance.choice(files)
        self.detail = f".state/.../{file.name}: {damage(file, self.chance)}"

    def cache(self) -> None:
        """An object of DVC's cache is damaged and its output is gone from the workspace."""
        sys.path.insert(0, str(ROOT / "scripts"))
        import verify

        kept = [out for out in self.entry["outs"] if (self.project.folder / verify.object_of(out["md5"])).is_file()]
        out = self.chance.choice(kept)
        file = self.project.folder / verify.object_of(out["md5"])
        if out["md5"].endswith(".dir") and self.chance.random() < 0.75:
            part = self.chance.choice(json.loads(file.read_text()))
            file = self.project.folder / verify.object_of(part["md5"])
        unseen = self.chance.random() < 0.5
        how = damage(file, self.chance, unseen)
        _remove(self.project.folder / out["path"])
        self.felt, self.detail = True, f"object of {out['path']}: {how}{', unseen' if unseen else ''}"

    def database(self) -> None:
        """FiftyOne's database server is killed, or its files are damaged, while curate uses it."""
        self.stage, self.moment = "curate", self.chance.uniform(0, 2)
        forget(self.project, self.stage)
        run = Run(self.project, self.log)
        run.reach(self.stage)
        folders = self.project.folder / ".state" / "fiftyone"
        while run.process.poll() is None and not list(folders.glob("run-*/db/*.wt")):
            time.sleep(0.005)
        time.sleep(self.moment)
        files = list(folders.glob("run-*/db/*.wt"))
        self.felt = bool(files) and run.process.poll() is None
        if self.chance.random() < 0.5:
            for pid in folders.glob("run-*/pid"):
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int(pid.read_text()), signal.SIGKILL)
            self.detail = "mongod killed"
        else:
            for file in files:
                with contextlib.suppress(OSError):
                    damage(file, self.chance)
            self.detail = f"{len(files)} files of the database damaged"
        self._over(run)

    def _files(self, name: str) -> list[Path]:
        path = self.project.folder / name
        return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


# ---- and after it -----------------------------------------------------------------------------------------------


def whole(project: Project, expected: dict[str, bytes]) -> list[str]:
    """What differs from the undisturbed run: nothing, after a fault that was survived."""
    now = contents(project.folder)
    wrong = [f"{name}: {'differs' if name in now and name in expected else 'left over' if name in now else 'missing'}"
             for name in sorted(now.keys() | expected.keys()) if now.get(name) != expected.get(name)]  # fmt: skip
    status = project.run("dvc", "status", "--json", check=False)
    if status.returncode or json.loads(status.stdout or "{}"):
        wrong.append(f"dvc status: {(status.stdout or status.stderr)[:200]}")
    left = [p for p in (project.folder / ".state").rglob("*.partial") if p.is_file()]
    return wrong + [f"{p.relative_to(project.folder)}: left over" for p in left]


def told(said: str) -> tuple[str, bool]:
    """The line that a user would read, and whether it is clear: said by us or DVC, and no traceback around it."""
    lines = [line for line in said.splitlines() if line.startswith("Error:")]
    lines += [line for line in said.splitlines() if line.startswith("ERROR:") and "failed to reproduce" not in line]
    lines += [line for line in said.splitlines() if line.startswith("ERROR:")]
    return (lines[0][:200] if lines else "", bool(lines) and "Traceback" not in said)


def mended(project: Project, expected: dict[str, bytes], log: Path) -> tuple[str, list[str]]:
    """What it took: repro, verify (and repro), checkout (and all that), or "" for nothing; and what was wrong last."""
    fix = (sys.executable, str(ROOT / "scripts" / "verify.py"), "--fix")
    steps: list[tuple[str, Callable[[], object]]] = [
        ("repro", lambda: None),
        ("verify", lambda: project.run(*fix, check=False)),
        (
            "checkout",
            lambda: (project.run("git", "checkout", "-q", "--", ".", check=False), project.run(*fix, check=False)),
        ),
    ]
    wrong: list[str] = []
    for name, step in steps:
        step()
        run = Run(project, log)
        status = run.end()
        left = whole(project, expected) + ([f"repro: {told(run.said)[0] or status}"] if status else [])
        if not left:
            return name, wrong
        wrong = left
    return "", wrong


def one(number: int, seed: int, kinds: list[str], took: dict[str, float], folder: Path, place: Path) -> dict[str, Any]:
    """One round; its line for the table."""
    template = folder / "template"
    chance = random.Random(f"{seed} {number}")
    kind = kinds[number % len(kinds)]
    stages = sorted(took)
    random.Random(seed).shuffle(stages)
    stage = stages[(number // len(kinds) + 5 * kinds.index(kind)) % len(stages)]
    if kind == "database":
        stage = "curate"
    if kind == "input" and stage == "check":  # it reads nothing but params.yaml
        stage = "acquire"
    lock = yaml.safe_load((template / "dvc.lock").read_text())
    if kind == "cache" and not any((template / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).is_file()
                                   for out in lock["stages"][stage].get("outs", [])):  # fmt: skip
        stage = "preprocess"
    project = copy(template, place)
    fault = Fault(project, stage, took[stage], chance, folder / "fault.log", lock)
    getattr(fault, kind)()
    line, clear = told(fault.said)
    how, wrong = mended(project, contents(template), folder / "after.log")
    result = {
        "round": number, "seed": seed, "kind": kind, "stage": fault.stage, "moment": round(fault.moment, 2),
        "detail": fault.detail, "felt": fault.felt, "status": fault.status, "line": line, "clear": clear,
        "mended_by": how, "survived": bool(how), "wrong": wrong[:5],
    }  # fmt: skip
    if not how or (fault.felt and fault.status not in (0, -9) and not clear):
        for name in ("fault", "after"):
            if (folder / f"{name}.log").is_file():
                shutil.copy(folder / f"{name}.log", folder / f"{seed}-{number}-{name}.log")
    return result


def disk(folder: Path) -> tuple[Path, bool]:
    """Where projects work: a small tmpfs, or a plain folder where nothing may be mounted."""
    place = folder / "disk"
    place.mkdir(parents=True, exist_ok=True)
    if os.path.ismount(place):
        return place, True
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "faults", str(place)]
    return place, subprocess.run(mount, capture_output=True, check=False).returncode == 0


def table(results: list[dict[str, Any]]) -> str:
    """Counts by kind, as Markdown."""
    rows = ["| kind | tried | felt | survived | repro alone | verify.py | git checkout | stopped | clear line |",
            "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for kind in (*KINDS, "all"):
        own = [r for r in results if kind in (r["kind"], "all")]
        how = Counter(r["mended_by"] for r in own)
        stopped = [r for r in own if r["felt"] and r["status"] not in (0, -9)]
        if own:
            cells = [kind, len(own), sum(r["felt"] for r in own), sum(r["survived"] for r in own), how["repro"],
                     how["verify"], how["checkout"], len(stopped), sum(r["clear"] for r in stopped)]  # fmt: skip
            rows.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(rows)


def main() -> int:
    """Run rounds, write lines, print the table."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--rounds", type=int, default=14, help="faults in all, those of earlier calls included")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked.add_argument("--folder", type=Path, required=True, help="keeps the undisturbed run and the results")
    asked.add_argument("--minutes", type=float, default=1e9, help="begin no round after so long")
    given = asked.parse_args()
    begun = time.monotonic()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _, took = undisturbed(folder)
    place, mounted = disk(folder)
    kinds = [kind for kind in given.kinds if mounted or kind != "disk"]
    if len(kinds) < len(given.kinds):
        print("faults: no file system may be mounted here: full disks are left out.")
    notes = folder / "faults.jsonl"
    results = [json.loads(line) for line in notes.read_text().splitlines()] if notes.is_file() else []
    try:
        done = sum(r["seed"] == given.seed for r in results)
        for number in range(done, given.rounds):
            if time.monotonic() - begun > 60 * given.minutes:
                break
            result = one(number, given.seed, kinds, took, folder, place)
            results.append(result)
            with notes.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=False)
    print(table(results))
    return 0 if all(r["survived"] for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
