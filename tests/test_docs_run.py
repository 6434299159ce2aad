"""What the pages tell a reader to type works when it is typed.

Commands that end within seconds run in a small project that has run; the two stories run whole, as they stand, with
DERM_T2IM_SLOW=1. `tests/test_docs.py` looks at the words of all the others.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from derm_t2im import paths
from tests.project import Project
from tests.test_docs import PAGES, ROOT, shell

pytestmark = pytest.mark.pipeline

CHEAP = re.compile(
    r"(find .* \| )?derm-t2im (audit|confusion|doctor|drift|export-dataset|export-lora|predict|profile|report diff"
    r"|review add|review status|opinions models|stage check|study create|sweep list|sweep run quick --dry-run)\b"
    r"|dvc (metrics|params|exp show|status)\b"
)
#: Pages that tell one thing from end to end.
STORIES = ("experiments.md", "tutorial.md")
#: Of the stories: what stays open until a reader closes it, and what lies on other machines.
LEFT_OUT = re.compile(r"derm-t2im (browse|serve)|dvc remote add .*(s3|gs|ssh)://")
#: Folders of images that the pages speak of.
FOLDERS = ("PATH", "demo", "clinic", "clinic/a", "REF", "NEW", "train-images", "new-images")


def lines(page: Path) -> list[str]:
    found = []
    for text in shell(page):
        found += [re.split(r"\s#\s", line)[0].strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in dict.fromkeys(found) if CHEAP.match(line)]


@pytest.fixture(scope="module")
def project(finished_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = shutil.copytree(finished_project.folder, tmp_path_factory.mktemp("reader") / "project")
    for name in ("profiles", "sweeps"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    images = sorted((folder / "data" / "raw" / "images" / "pool").glob("*.png"))
    for at, name in enumerate(FOLDERS):
        (folder / name).mkdir(parents=True)
        for image in images[12 * at : 12 * at + 12]:
            shutil.copy(image, folder / name / image.name)
            shutil.copy(image, folder / name / f"{image.stem}.jpg")
    shutil.copy(images[0], folder / "one.png")
    made = Project(folder)
    made.run("git", "add", "-A")
    made.run("git", "commit", "-qm", "what the pages speak of")
    made.run("git", "update-ref", "refs/remotes/origin/main", "HEAD")
    made.run("git", "tag", "v1.0")
    return made


CASES = [(page.name, line) for page in PAGES if page.name not in STORIES for line in lines(page)]


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{page}: {line[:70]}" for page, line in CASES])
def test_it_runs(project: Project, page: str, line: str) -> None:
    typed = line.replace("PATH...", "PATH")
    if "--model" not in line and not line.startswith("derm-t2im drift ref.parquet"):
        # The project has two models, of which docs/predict.md tells readers to name one.
        typed = re.sub(r"derm-t2im (predict|drift)", r"\g<0> --model models/onnx/vit/model.onnx", typed)
    if typed.startswith("derm-t2im study create"):
        typed += " --images 8 --practice 2 --repeats 2"  # the project is small
    before = (project.folder / paths.PARAMS).read_text(encoding="utf-8")
    for made in ("FOLDER", "study"):
        shutil.rmtree(project.folder / made, ignore_errors=True)
    try:
        done = project.run("bash", "-ec", typed, check=False)
    finally:
        (project.folder / paths.PARAMS).write_text(before, encoding="utf-8")
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("DERM_T2IM_SLOW"), reason="minutes; set DERM_T2IM_SLOW=1")
@pytest.mark.parametrize("name", STORIES)
def test_a_story_runs_as_it_stands(name: str, blank_project: Project, tmp_path: Path) -> None:
    """All its shell blocks in order in a clone with the real parameters."""
    folder = shutil.copytree(blank_project.folder, tmp_path / "derm-t2im")
    for each in ("profiles", "sweeps"):
        shutil.copytree(ROOT / each, folder / each)
    shutil.copy(ROOT / "params.yaml", folder)
    project = Project(folder)
    # For the second clone of a story, which has no settings of its own.
    names = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    project.environment |= dict.fromkeys(names, "reader@example.org")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "as in the repository")
    project.run("git", "init", "-q", "--bare", "-b", "main", "../origin.git")
    project.run("git", "remote", "add", "origin", "../origin.git")
    project.run("git", "push", "-q", "origin", "main")
    told = "\n".join(text for text in shell(ROOT / "docs" / name)).replace("\\\n", " ")
    kept = [line for line in told.splitlines() if not LEFT_OUT.match(line)]
    assert len(kept) > 10
    # A reader looks at the queue until it is empty.
    wait = "while dvc queue status | grep -qE 'Running|Queued'; do sleep 5; done"
    project.run("bash", "-exc", "\n".join(kept).replace("dvc queue start", f"dvc queue start\n{wait}"), timeout=3600)
