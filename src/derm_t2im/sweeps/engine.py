"""Running the points of a sweep: one ``dvc exp run --temp`` each, as many at a time as wished.

DVC's own queue hands experiments to a background worker, which goes on after Ctrl-C, forgets why a task failed and
keeps tasks of a killed worker as running. ``--temp`` runs the same experiment in the same kind of copy, in a process
that ends with its work, so that its output, its exit code and its end are ours to see. What is finished is in Git
(``refs/exps``) and DVC's cache at once; a point that was stopped starts again and takes the stages that it had finished
from the run cache.

A running point holds a lock on ``.state/sweeps/NAME/EXPERIMENT.lock``, through whatever happens to the command that
started it; its output is in ``EXPERIMENT.log`` beside it.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derm_t2im import paths, runtime, state
from derm_t2im.errors import UserError
from derm_t2im.params import read_yaml
from derm_t2im.progress import say
from derm_t2im.sweeps import experiments, plan
from derm_t2im.sweeps.plan import Point, Sweep

EXPERIMENTS = Path(".dvc/tmp/exps")  # where DVC keeps the copies that points run in
GRACE = 20.0  # seconds that a point has to end after Ctrl-C
_STEP = re.compile(r"^(?:Running stage '([^']+)'|Stage '([^']+)' is cached - skipping run)", re.MULTILINE)
_STAGE = re.compile(r"^(?:Running stage|Stage) '", re.MULTILINE)


@dataclass
class Found:
    """A point, and what there is of it."""

    point: Point
    experiment: str
    wanted: dict[str, Any]  # all parameters
    revision: str = ""  # of the experiment that stands for it; empty: none does
    old: tuple[str, ...] = ()  # why the newest run of it does not


def look(sweep: Sweep, given: Mapping[str, Any]) -> list[Found]:
    """Every point with its finished experiment, if it has one that still holds.

    Raises:
        UserError: for parameters that do not fit.
    """
    if missing := [f"-S {key}=... ({what})" for key, what in sweep.needs.items() if key not in given]:
        raise UserError(f"sweep {sweep.name} needs {', '.join(missing)}.")
    base = read_yaml(paths.PARAMS)
    _refuse_covered(sweep, given)
    points = [Found(p, sweep.experiment(p), plan.parameters(sweep, p, given, base)) for p in sweep.points]
    runs, now = experiments.all_runs(), experiments.Tree.of(experiments.head())
    for each in points:
        for revision, _ in runs.get(each.experiment, []):
            old = experiments.outdated(experiments.Tree.of(revision), now, each.wanted, sweep.targets)
            if not old:
                each.revision, each.old = revision, ()
                break
            each.old = each.old or tuple(old)
    return points


def _refuse_covered(sweep: Sweep, given: Mapping[str, Any]) -> None:
    covered = sorted(set(given) & {key for point in sweep.points for key in point.set})
    if covered:
        raise UserError(f"-S {covered[0]}: this is what the points of sweep {sweep.name} differ in; leave it out.")


@dataclass
class _Running:
    found: Found
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    stage: str = ""
    ready: bool = False  # its copy is made: the next one may start


def run(sweep: Sweep, given: Mapping[str, Any], jobs: int = 1, again: bool = False) -> dict[str, str]:
    """Run the points that have no experiment that holds; returns why each failed one did.

    Args:
        sweep: The sweep.
        given: Parameters that the user gave.
        jobs: Points at a time.
        again: Run the others as well; what did not change comes from DVC's run cache.

    Raises:
        UserError: if the sweep runs already, or the repository is not fit to start from.
        KeyboardInterrupt: after Ctrl-C or a request to end, once what was running has ended.
    """
    folder = folder_of(sweep)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder, sweep), _stoppable():
        _refuse_unfit()
        _wait_for_orphans(sweep, folder)
        points = look(sweep, given)
        waiting = [each for each in points if again or not each.revision]
        say(f"sweep {sweep.name}: {len(points)} points, {len(waiting)} to run, {len(points) - len(waiting)} finished")
        fresh = ["-S", "dvc.lock:~stages"] if waiting and _lock_out_of_reach() else []
        running: list[_Running] = []
        failed: dict[str, str] = {}
        try:
            while waiting or running:
                if waiting and len(running) < jobs and all(each.ready for each in running):
                    _refuse_unfit(patience=10.0)
                    running.append(_start(sweep, waiting.pop(0), given, fresh, jobs))
                time.sleep(0.2)
                for each in list(running):
                    _watch(sweep, each)
                    if each.process.poll() is not None:
                        running.remove(each)
                        _ended(sweep, each, failed)
        except BaseException:
            _stop(running)
            raise
    return failed


def folder_of(sweep: Sweep) -> Path:
    """Where a sweep keeps its locks and logs."""
    return state.STATE / "sweeps" / sweep.name


def _refuse_unfit(patience: float = 0.0) -> None:
    """``patience``: seconds for another sweep, or DVC, to take back what it wrote into params.yaml as it starts."""
    if not Path("dvc.yaml").is_file() or not Path(".dvc").is_dir():
        raise UserError("there is no DVC pipeline here (dvc.yaml, .dvc): run this in the root of the repository.")
    experiments.head()
    deadline = time.monotonic() + patience
    while True:
        try:
            return experiments.refuse_changes(Path("dvc.yaml").read_text(encoding="utf-8"))
        except UserError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.5)


@contextmanager
def _only_one(folder: Path, sweep: Sweep) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"sweep {sweep.name} is being run by another process: wait, or stop that one.") from None
        yield


@contextmanager
def _stoppable() -> Iterator[None]:
    """A request to end is as good as Ctrl-C: running points end as well."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_orphans(sweep: Sweep, folder: Path) -> None:
    """Points whose command was killed run on by themselves; remains of those that were killed as well go."""
    for point in sweep.points:
        name = sweep.experiment(point)
        lock = folder / f"{name}.lock"
        if lock.is_file():
            with lock.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    say(f"sweep {sweep.name}: {point.label} still runs from an earlier start; waiting for it")
                    fcntl.flock(file, fcntl.LOCK_EX)
            _clear(name)
            lock.unlink()


def _clear(experiment: str) -> None:
    """Remove the copies that killed runs of an experiment left; its lock must be held."""
    for file in (*EXPERIMENTS.glob("run/*/*.run"), *EXPERIMENTS.glob("standalone/run/*/*.run")):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        root = Path(str(about.get("root_dir", "")))
        if about.get("name") == experiment and EXPERIMENTS.resolve() in root.resolve().parents:
            shutil.rmtree(root, ignore_errors=True)
            shutil.rmtree(file.parent, ignore_errors=True)


def _lock_out_of_reach() -> bool:
    """Whether dvc.lock names outputs that are not in DVC's cache, as in a new clone.

    DVC 3.67 then fails when it takes a stage from the run cache that reads a file of such an output (data/raw/x.parquet
    of data/raw): it looks that up in the lock of the commit. Points start without a lock there; the run cache knows
    what has run.
    """
    try:
        locked = read_yaml(Path("dvc.lock")).get("stages") or {}
    except UserError:
        return False
    done = subprocess.run(("dvc", "cache", "dir"), capture_output=True, text=True, check=False)
    cache = Path(done.stdout.strip() or ".dvc/cache") / "files" / "md5"
    tracked = experiments.Tree.of("HEAD")
    outs = [out for stage in locked.values() for out in stage.get("outs") or []]
    kept = [str(out.get("md5", "")) for out in outs if not tracked.below(str(out["path"]))]
    return any(md5 and not (cache / md5[:2] / md5[2:]).is_file() for md5 in kept)


def _start(sweep: Sweep, found: Found, given: Mapping[str, Any], fresh: list[str], jobs: int) -> _Running:
    folder = folder_of(sweep)
    for why in found.old[:3]:
        say(f"sweep {sweep.name}: {found.point.label} ran before, but {why}: it runs again")
    head = experiments.head()
    for _, reference in experiments.all_runs().get(found.experiment, []):
        if reference.split("/")[2:4] == [head[:2], head[2:]]:
            experiments.remove(reference)  # the name must be free; DVC's cache keeps what it made
    remains = f"{experiments.QUEUES}/{found.experiment}"
    if experiments.git("for-each-ref", remains):
        experiments.remove(remains)  # of one that was killed as it started
    words = [sys.executable, "-m", "derm_t2im.sweeps.exp_run", found.experiment, *fresh]
    for key, value in sweep.changes(found.point, given).items():
        for word in plan.overrides(key, value):
            words += ["-S", word]
    for path in _inputs_outside_git(found.wanted):
        words += ["--copy-paths", path]
    log = folder / f"{found.experiment}.log"
    with (folder / f"{found.experiment}.lock").open("w") as lock, log.open("wb") as output:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(
            [*words, *sweep.targets], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=_environment(jobs), start_new_session=True, pass_fds=(lock.fileno(),),
        )  # fmt: skip
    say(f"sweep {sweep.name}: {found.point.label} starts ({found.experiment}; output in {log})")
    return _Running(found, process, log, time.monotonic())


def _environment(jobs: int) -> dict[str, str]:
    """Of a point: the code of its own copy, and its share of the processor."""
    source = os.pathsep.join(["src", *filter(None, [os.environ.get("PYTHONPATH")])])  # from where it is started
    values = {**os.environ, "PYTHONPATH": source}
    if jobs > 1:
        values.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        values["DERM_T2IM_THREADS"] = str(max(1, runtime.threads() // jobs))
        values["DERM_T2IM_WORKERS"] = str(max(1, runtime.workers() // jobs))
    return values


def _inputs_outside_git(params: Mapping[str, Any]) -> list[str]:
    """What a point reads and its copy of the repository would lack: inputs in the repository, but not in Git."""
    acquire, generate = params["acquire"], params["generate"]
    named = [params["finetune"]["base"], generate["images_from"], generate["lora"]]
    named += [params[name]["weights"] for name in ("probe", "embed")]
    named += [model.get("weights", "") for model in params["train"]["models"].values()]
    named += [part["path"] for part in (acquire, acquire["external"]) if part["source"] in ("folder", "ham10000")]
    found: list[str] = []
    for path in dict.fromkeys(filter(None, named)):
        if not Path(path).is_absolute() and Path(path).exists():
            found += filter(None, experiments.git("ls-files", "-o", "--directory", "-z", "--", path).split("\0"))
    return [path.rstrip("/") for path in found]


def _watch(sweep: Sweep, each: _Running) -> None:
    said = _read(each.log)
    # "Reproducing experiment" is too early: on a busy machine a point took the parameters of the one started then.
    each.ready = each.ready or bool(_STAGE.search(said)) or each.process.poll() is not None
    steps = [ran for ran, _ in _STEP.findall(said) if ran]
    if steps and steps[-1] != each.stage:
        each.stage = steps[-1]
        passed = time.monotonic() - each.started
        say(f"sweep {sweep.name}: {each.found.point.label}: {each.stage} ({passed:.0f} s)")


def _ended(sweep: Sweep, each: _Running, failed: dict[str, str]) -> None:
    label, passed = each.found.point.label, time.monotonic() - each.started
    said = _read(each.log)
    there = each.found.experiment in experiments.all_runs()
    if each.process.returncode == 0 and there:
        steps = _STEP.findall(said)
        ran = sum(1 for step, _ in steps if step)
        say(f"sweep {sweep.name}: {label} is finished in {passed:.0f} s: {ran} stages ran, {len(steps) - ran} cached")
        return
    _clear(each.found.experiment)
    failed[label] = last_error(said) or f"it ended with code {each.process.returncode}"
    say(f"sweep {sweep.name}: {label} failed after {passed:.0f} s: {failed[label]} (all of it: {each.log})")


def last_error(log: str) -> str:
    """The line of a log that says best why a point failed: ours, else an exception, else DVC's."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for wanted in (r"Error: ", r"[\w.]*(Error|Exception|Interrupt)\b", r"ERROR: "):
        if found := [line for line in lines if re.match(wanted, line)]:
            return found[-1]
    return lines[-1] if lines else ""


def failures(sweep: Sweep, points: Sequence[Found]) -> dict[str, str]:
    """Why each point without an experiment failed when it ran last, as far as its log says."""
    found = {}
    for each in points:
        log = folder_of(sweep) / f"{each.experiment}.log"
        if not each.revision and log.is_file() and re.search(r"(?m)^ERROR: ", said := _read(log)):
            found[each.point.label] = last_error(said)
    return found


def _stop(running: list[_Running]) -> None:
    """End all that runs, as Ctrl-C would; what does not end is killed."""
    for each in running:
        _signal(each, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    for each in running:
        with suppress(subprocess.TimeoutExpired):
            each.process.wait(max(0.1, deadline - time.monotonic()))
        _signal(each, signal.SIGKILL)
        each.process.wait()
        _clear(each.found.experiment)


def _signal(each: _Running, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(each.process.pid, number)


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
