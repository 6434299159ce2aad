"""`derm-t2im sweep` through the command line, with DVC in a repository of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from derm_t2im.sweeps import plan
from tests.sweeps.world import ROOT, World


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sweeps") / "blank").build()


@pytest.fixture
def world(built: World, tmp_path: Path) -> World:
    folder = tmp_path / "project"
    shutil.copytree(built.folder, folder)
    made = World(folder)
    work = (folder / "work.py").read_text()
    (folder / "work.py").write_text(work.replace(str(built.gate), str(made.gate)))
    made.commit()
    return made


def one_line(done) -> str:
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert done.returncode == 1 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    return errors[0]


def test_a_sweep_runs_once_then_only_what_is_old(world: World) -> None:
    dry = world.call("run", "shares", "--dry-run")
    assert "sweep-shares-3-2: would run" in dry.stdout and "mix.synthetic_fraction=0.6" in dry.stdout
    assert not world.experiments()

    done = world.call("run", "shares", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert world.experiments() == {"sweep-shares-low", "sweep-shares-3-2"}
    assert not world.copies() and not (world.folder / "reports").exists()  # no further than its target
    found = json.loads((world.folder / "metrics/sweeps/shares.json").read_text())
    point = found["points"]["3:2"]
    assert point["state"] == "finished" and point["x"] == 0.6 and point["set"] == {"mix.synthetic_fraction": 0.6}
    assert point["figures"]["classification:vit.hybrid.in_domain.auc"] == {
        "value": 0.65, "low": 0.55, "high": 0.75, "n": 50, "seeds": 2,
    }  # fmt: skip
    ran = yaml.safe_load(world.do("git", "show", f"{point['revision']}:params.yaml"))
    assert (ran["mix"]["synthetic_fraction"], ran["evaluate"]["bins"]) == (0.6, 12)
    shared = json.loads(world.do("git", "show", f"{point['revision']}:metrics/mix.json"))
    assert (shared["THREADS"], shared["WORKERS"]) == ("2", "3")  # two jobs share the cores
    records = json.loads((world.folder / "plots/sweeps/shares.json").read_text())
    assert [(r["point"], r["mix"], r["value"]) for r in records if r["mix"] == "hybrid"] == [
        ("low", "hybrid", 0.55), ("3:2", "hybrid", 0.65),
    ]  # fmt: skip
    assert "<svg" in (world.folder / "plots/sweeps/shares.svg").read_text()
    shown = world.call("show", "shares")
    assert "0.650 (0.550 to 0.750)" in shown.stdout and "n = 50" in shown.stdout

    again = world.call("run", "shares")  # its own results are no change, and neither is a commit of them
    assert again.returncode == 0 and "0 to run, 2 finished" in again.stderr
    world.commit()
    assert "0 to run, 2 finished" in world.call("run", "shares").stderr

    shared = world.call("run", "shares", "-S", "evaluate.seed=5", "--jobs", "2")
    assert shared.returncode == 0 and "evaluate.seed was 0, is 5: it runs again" in shared.stderr
    assert shared.stderr.count("1 stages ran, 1 cached") == 2  # mix comes from DVC's run cache
    assert json.loads((world.folder / "metrics/sweeps/shares.json").read_text())["given"] == {"evaluate.seed": 5}

    (world.folder / "work.py").write_text((world.folder / "work.py").read_text() + "# other\n")
    world.commit()
    old = world.call("show", "shares")
    assert old.stdout.count("outdated; work.py changed") == 2 and "0.650" not in old.stdout
    assert json.loads((world.folder / "plots/sweeps/shares.json").read_text()) == []
    assert not (world.folder / "plots/sweeps/shares.svg").exists()
    assert "would run again, as" in world.call("run", "shares", "--dry-run").stdout


def test_show_names_what_it_cannot_draw_and_keeps_what_a_clone_has(world: World, tmp_path: Path) -> None:
    assert world.call("run", "shares", "--jobs", "2").returncode == 0
    world.commit()
    text = (world.folder / "sweeps/shares.yaml").read_text()
    more = '  - {key: "mix:hybrid.synthetic_fraction", name: share}\n  - {key: "clasification:{a}.auc", name: none}\n'
    (world.folder / "sweeps/shares.yaml").write_text(text + more)
    assert "no finished point has a figure clasification:{a}.auc" in world.call("show", "shares").stderr
    shown = world.do("dvc", "plots", "show", "plots/sweeps/shares.json", "-x", "x", "-y", "value", "--show-vega")
    values = [(row["figure"], row["mix"], row["value"]) for row in json.loads(shown)["data"]["values"]]
    assert ("share", None, 0.6) in values and ("AUC", "hybrid", 0.65) in values
    world.do("git", "checkout", "-q", ".")
    world.do("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = World(tmp_path / "clone")
    assert not clone.experiments()  # Git leaves them behind
    shown = clone.call("show", "shares")
    assert "0.650 (0.550 to 0.750)" in shown.stdout and "was recorded, at commit" in shown.stderr
    other = clone.call("show", "shares", "-S", "evaluate.seed=5")  # of which nothing is recorded
    assert other.stdout.count("missing") == 2 and "0.650" not in other.stdout
    assert not clone.do("git", "status", "--porcelain")


def test_a_point_that_fails_is_named_and_the_others_are_finished(world: World) -> None:
    world.like_a_new_clone()
    world.sweep(", evaluate.seed: 13")
    done = world.call("run", "shares", "--jobs", "2")
    assert "1 of 2 points failed (3:2: Error: evaluate.seed: thirteen is not allowed.)" in one_line(done)
    assert world.experiments() == {"sweep-shares-low"} and not world.copies()
    shown = world.call("show", "shares")
    assert "3:2: failed; Error: evaluate.seed: thirteen" in shown.stdout and "low: finished" in shown.stdout
    world.sweep(", evaluate.seed: 14")
    mended = world.call("run", "shares")
    assert mended.returncode == 0 and "1 to run, 1 finished" in mended.stderr, mended.stderr
    assert "1 stages ran, 1 cached" in mended.stderr


@pytest.mark.parametrize("whose", ["refs/exps/stash", "refs/exps/temp/stash/sweep-shares-low"])
def test_what_another_process_is_about_to_run_is_left_to_it(world: World, whose: str) -> None:
    """As of a `dvc exp run` that was killed, or is between putting its experiment in the queue and taking it out."""
    world.do(
        sys.executable, "-c",
        "import sys; from dvc.repo import Repo; from dvc.repo.experiments.queue.tempdir import TempDirQueue\n"
        "with Repo() as repo: repo.experiments.new(TempDirQueue(repo, sys.argv[1]), name='other', "
        "params={'params.yaml': ['mix.synthetic_fraction=0.5']}, targets=['evaluate'])",
        whose,
    )  # fmt: skip
    assert world.do("git", "for-each-ref", whose)
    done = world.call("run", "shares", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert world.experiments() == {"sweep-shares-low", "sweep-shares-3-2"}
    assert bool(world.do("git", "for-each-ref", whose)) == (whose == "refs/exps/stash")  # remains of its own go


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_it_goes_on(world: World, number: signal.Signals) -> None:
    world.sweep(", evaluate.seed: 99")
    running = world.start("run", "shares", "-S", "evaluate.bins=13")
    waits = world.gate.with_name(f"{world.gate.name}.waits")
    wait_for(waits)
    assert "another process" in one_line(world.call("run", "shares"))
    running.send_signal(number)
    said = running.communicate(timeout=300)[1]
    assert world.experiments() == {"sweep-shares-low"}
    if number == signal.SIGINT:
        assert running.returncode == 130 and "`derm-t2im sweep run shares -S evaluate.bins=13` goes on" in said
        assert not world.copies()
        kept = json.loads((world.folder / "metrics/sweeps/shares.json").read_text())
        assert kept["given"] == {"evaluate.bins": 13} and kept["points"]["low"]["state"] == "finished"
        world.gate.touch()
        done = world.call("run", "shares")
        assert "1 to run, 1 finished" in done.stderr and "1 stages ran, 1 cached" in done.stderr
    else:  # the point outlives the command: the next one waits for it instead of starting it twice
        going = world.start("run", "shares")
        time.sleep(1.5)
        world.gate.touch()
        done = going.communicate(timeout=300)[1]
        assert "3:2 still runs from an earlier start" in done and "0 to run, 2 finished" in done
    assert world.experiments() == {"sweep-shares-low", "sweep-shares-3-2"} and not world.copies()
    assert world.do("git", "status", "--porcelain", "params.yaml") == ""


def test_killed_with_its_points_it_leaves_no_copies(world: World) -> None:
    world.sweep(", evaluate.seed: 99")
    running = world.start("run", "shares")
    wait_for(world.gate.with_name(f"{world.gate.name}.waits"))
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.kill()
    for child in children:
        os.killpg(int(child), signal.SIGKILL)
    running.communicate(timeout=30)
    assert world.copies()
    world.gate.touch()
    done = world.call("run", "shares")
    assert "1 to run, 1 finished" in done.stderr and done.returncode == 0, done.stderr
    assert not world.copies()


def test_without_a_clean_commit_it_says_what_to_do(world: World) -> None:
    params = world.folder / "params.yaml"
    kept = params.read_text()
    params.write_text(kept.replace("guidance: 4.0", "guidance: 5.0"))
    said = one_line(world.call("run", "shares"))
    assert "params.yaml changed since" in said and "git checkout params.yaml" in said
    params.write_text(kept)
    (world.folder / "scratch.txt").write_text("of no matter")
    world.do("git", "mv", "work.py", "moved.py")
    assert "moved.py" in one_line(world.call("run", "shares"))
    assert not world.experiments()


def test_what_the_user_can_get_wrong_is_one_line(world: World, tmp_path: Path) -> None:
    assert "no sweep 'share'; sweeps in sweeps: shares" in one_line(world.call("run", "share"))
    assert "params.yaml has no parameter evaluate.sed" in one_line(world.call("run", "shares", "-S", "evaluate.sed=1"))
    assert "evaluate.bins" in one_line(world.call("run", "shares", "-S", "evaluate.bins=1"))
    assert "write key=value" in one_line(world.call("run", "shares", "-S", "evaluate.bins"))
    assert "leave it out" in one_line(world.call("run", "shares", "-S", "mix.synthetic_fraction=0.1"))
    world.sweep(name="needy", text="# A\naxis: {name: a}\nneeds: {acquire.path: own images}\npoints: [{label: 1}]\n"
                "draw: [{key: 'mix:a', name: a}]\n")  # fmt: skip
    assert "needs -S acquire.path=... (own images)" in one_line(world.call("run", "needy"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("axis: {name: a}\npoints: []\ndraw: [{key: 'm:a', name: a}]", "points"),
        ("axis: {name: a}\npoints: [{label: a, sets: {}}]\ndraw: [{key: 'm:a', name: a}]", "sets: no such parameter"),
        ("axis: {name: a}\npoints: [{label: 'a:'}, {label: a}]\ndraw: [{key: 'm:a', name: a}]", "its own label"),
        ("axis: {name: a, scale: log}\npoints: [{label: a, x: 0}]\ndraw: [{key: 'm:a', name: a}]", "above 0"),
        ("axis: {name: a}\npoints: [{label: a}]\ndraw: [{key: 'm:{a}', name: a, only: {b: [c]}}]", "placeholders"),
        ("axis: {name: a, across: mix}\npoints: [{label: a}]\ndraw: [{key: 'm:a', name: a}]", "axis.across"),
        ("axis: [", "not valid YAML"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(plan.UserError, match=told) as raised:
        plan.read("own", tmp_path)
    assert "own.yaml" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", sorted(plan.known(ROOT / "sweeps")))
def test_each_sweep_of_ours_says_what_it_asks_and_its_parameters_are_allowed(name: str) -> None:
    sweep = plan.read(name, ROOT / "sweeps")
    assert sweep.asks.endswith("?") or "?" in sweep.asks
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    given = dict.fromkeys(sweep.needs, "/data/own")
    seen = [plan.parameters(sweep, point, given, base) for point in sweep.points]
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
    for params in seen:
        train, split, fraction = params["split"]["train"], params["split"], params["mix"]["synthetic_fraction"]
        if params["acquire"]["source"] == "phantom":
            assert train + split["val"] + split["test"] <= params["acquire"]["phantom"]["images"]
        if fraction < 1 and "hybrid" in params["mix"]["mixes"]:
            assert round(train * fraction / (1 - fraction)) <= params["curate"]["keep"] <= params["generate"]["images"]


def test_the_sweeps_that_were_asked_for_are_there() -> None:
    named = {"controls", "fraction", "ratio", "real-images", "seed-images", "method", "sampler", "steps", "guidance",
             "classes", "generator-seeds", "generator-seeds-ham10000", "quick"}  # fmt: skip
    assert named <= set(plan.known(ROOT / "sweeps"))
    shares = [point.set["mix.synthetic_fraction"] for point in plan.read("fraction", ROOT / "sweeps").points]
    assert shares == [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    drawn = plan.read("controls", ROOT / "sweeps")
    assert len(drawn.base["mix.mixes"]) == 6 and len(drawn.base["train.seeds"]) == 5


def test_values_reach_dvc_as_they_are(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    values = {"a": [1, 2], "b": "it's at /x y: {1}", "c": 0.25, "d": True, "e": {"f": "g h"}, "h": "", "i": "true"}
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(dict.fromkeys(values) | {"e": {"f": "", "of": "the old one"}}))
    words = [word for key, value in values.items() for word in plan.overrides(key, value)]
    apply_overrides(file, [word.partition(":")[2] for word in words])
    assert yaml.safe_load(file.read_text()) == values
    assert plan.overrides("a.b", 0.00003) == ["params.yaml:a.b=0.00003"]
