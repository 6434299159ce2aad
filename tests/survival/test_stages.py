"""Harm done to the first stages of a small project through a user's commands; afterwards all is as it was."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT, Project, tiny

pytestmark = pytest.mark.pipeline
STAGE = ("derm-t2im", "stage", "preprocess")
RUNNING = "Running stage 'preprocess'"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """After `dvc repro preprocess`."""
    made = tiny(tmp_path_factory.mktemp("survival"))
    made.run("dvc", "repro", "preprocess")
    return made


@pytest.fixture
def expected(project: Project) -> dict[str, bytes]:
    """What is in data/ and metrics/ before the harm, and after it."""
    return {name: data for part in ("data", "metrics") for name, data in _under(project, part).items()}


def _under(project: Project, part: str) -> dict[str, bytes]:
    return {f"{part}/{name}": data for name, data in contents(project.folder / part).items()}


def now(project: Project) -> dict[str, bytes]:
    return _under(project, "data") | _under(project, "metrics")


def forget(project: Project) -> None:
    """The outputs of preprocess are gone, and DVC knows of no earlier run of it."""
    shutil.rmtree(project.folder / "data" / "processed")
    shutil.rmtree(project.folder / ".dvc" / "cache" / "runs", ignore_errors=True)


def work(project: Project) -> Path:
    return project.folder / ".state" / "preprocess"


def begun(project: Project, rows: int) -> subprocess.Popen[bytes]:
    """The stage by itself, once so many images are done."""
    running = project.start(*STAGE)
    deadline = time.monotonic() + 120
    while sum(len(p.read_bytes().splitlines()) for p in work(project).rglob("rows.jsonl")) < rows:
        assert running.poll() is None and time.monotonic() < deadline, "it ended before it could be harmed"
        time.sleep(0.005)
    return running


def killed(running: subprocess.Popen[bytes]) -> None:
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def test_dvc_repro_killed_at_a_random_moment_is_mended_by_dvc_repro(
    project: Project, expected: dict[str, bytes], tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    forget(project)
    lock = project.folder / "dvc.lock"
    known = yaml.safe_load(lock.read_text())
    del known["stages"]["preprocess"]  # else DVC takes the outputs out of its cache
    lock.write_text(yaml.safe_dump(known, sort_keys=False))
    log = tmp_path / "log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            ("dvc", "repro", "preprocess"),
            cwd=project.folder,
            env=project.environment,
            stdout=out,
            start_new_session=True,
        )  # fmt: skip
    while RUNNING not in log.read_text():
        assert running.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 4))
    killed(running)
    project.run("dvc", "repro", "preprocess")
    assert now(project) == expected, f"seed {seed}"


@pytest.mark.parametrize("harm", ["row", "image"])
def test_damaged_unfinished_work_is_made_again(project: Project, expected: dict[str, bytes], harm: str) -> None:
    forget(project)
    killed(begun(project, 20))
    if harm == "row":
        (file,) = work(project).rglob("rows.jsonl")
        lines = file.read_text().splitlines(keepends=True)
        before, key, after = lines[3].partition('"sharpness": ')
        assert key
        lines[3] = f"{before}{key}9{after}"
        file.write_text("".join(lines))
    else:
        file = sorted(work(project).rglob("*.png"))[3]
        file.write_bytes(file.read_bytes()[:-100])
    done = project.run(*STAGE)
    assert "were done before" in done.stderr, "the rest is kept"
    assert now(project) == expected


def test_a_stage_without_memory_says_so_and_quarantines_nothing(project: Project, expected: dict[str, bytes]) -> None:
    forget(project)
    running = subprocess.Popen(
        STAGE,
        cwd=project.folder,
        env={**project.environment, "DERM_T2IM_WORKERS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(work(project).rglob("rows.jsonl")):
        assert running.poll() is None
        time.sleep(0.002)
    size = int(Path(f"/proc/{running.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(running.pid, resource.RLIMIT_AS, (size, size))
    said = running.communicate(timeout=120)[1]
    if running.returncode == 0:  # all that it still needed was allocated already
        assert now(project) == expected
        pytest.skip("the limit was not felt")
    assert "Error: out of memory" in said and "Traceback" not in said
    assert not (project.folder / "data" / "processed").exists()
    project.run(*STAGE)
    assert now(project) == expected


def test_a_full_disk_is_one_line_and_the_stage_goes_on_later(project: Project, expected: dict[str, bytes]) -> None:
    """A limit on the size of files stands for the disk: the journal of the finished images meets it."""
    forget(project)
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000));"
        "from derm_t2im.cli import main; sys.argv = ['derm-t2im', 'stage', 'preprocess']; main()"
    )
    done = project.run(sys.executable, "-c", limited, check=False)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "make room and start again" in lines[0] and "Traceback" not in done.stderr
    assert not (project.folder / "data" / "processed").exists()
    again = project.run(*STAGE)
    assert "were done before" in again.stderr
    assert now(project) == expected


def test_a_damaged_table_is_one_line_and_dvc_repro_makes_it_again(project: Project, expected: dict[str, bytes]) -> None:
    file = project.folder / "data" / "raw" / "manifest.parquet"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-50])
    done = project.run(*STAGE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: data/raw/manifest.parquet") and "Traceback" not in done.stderr
    project.run("dvc", "repro", "preprocess")
    assert now(project) == expected


def test_verify_finds_what_dvc_does_not_see(project: Project, expected: dict[str, bytes]) -> None:
    verify = (sys.executable, str(ROOT / "scripts" / "verify.py"))
    assert project.run(*verify).stdout == "verify: workspace and cache are what dvc.lock says.\n"
    image = sorted((project.folder / "data" / "raw").rglob("*.png"))[5]
    cached = next(
        file for file in (project.folder / ".dvc" / "cache" / "files").rglob("*")
        if file.is_file() and file.read_bytes() == image.read_bytes()
    )  # fmt: skip
    for file in (image, cached):
        before = file.stat()
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 4
        file.chmod(0o644)
        file.write_bytes(data)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        file.chmod(before.st_mode)
    found = project.run(*verify, check=False)
    assert found.returncode == 1
    assert f"cache: {cached.relative_to(project.folder)} is damaged" in found.stdout
    assert "workspace: data/raw is not as it was made" in found.stdout and image.name in found.stdout
    assert project.run(*verify, "--fix", check=False).returncode == 1
    project.run("dvc", "repro", "preprocess")
    assert now(project) == expected
    assert project.run(*verify, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.fiftyone
@pytest.mark.skipif(not os.environ.get("DERM_T2IM_SLOW"), reason="over 30 s; set DERM_T2IM_SLOW=1")
def test_a_fault_of_each_kind_is_survived(tmp_path: Path) -> None:
    faults = (sys.executable, str(ROOT / "scripts" / "faults.py"), "--rounds", "7", "--folder", str(tmp_path))
    seed = str(random.randrange(2**32))
    done = subprocess.run([*faults, "--seed", seed], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
    assert len((tmp_path / "faults.jsonl").read_text().splitlines()) == 7
