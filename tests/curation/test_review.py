from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from derm_t2im import manifest, paths
from derm_t2im.curation import review
from derm_t2im.curation.review import Decision
from derm_t2im.errors import UserError

ROOT = Path(__file__).parents[2]
HEADER = "image_id,decision,reason,reviewer,date\n"
POOL = pd.DataFrame({"image_id": ["s1", "s2", "s3"], "sha256": ["aa", "bb", "cc"]})


def say(name="s1", decision="keep", reviewer="ann", reason="", sha256="", date="2026-01-02"):
    return Decision(name, decision, reason, reviewer, date, sha256)


def test_no_file_and_an_empty_table_hold_no_decisions(tmp_path):
    assert review.read(tmp_path / "none.csv") == []
    (tmp_path / "d.csv").write_text(HEADER)
    assert review.read(tmp_path / "d.csv") == []


def test_rows_are_read_with_quotes_spaces_and_a_byte_order_mark(tmp_path):
    (tmp_path / "d.csv").write_bytes(("\ufeff" + HEADER + 's1, discard ,"hair, ink",ann,2026-01-02\n').encode())
    assert review.read(tmp_path / "d.csv") == [say("s1", "discard", reason="hair, ink")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("s1,maybe,,ann,2026-01-02", "allowed: keep, discard"),
        ("s1,keep,,ann,2.1.2026", "YYYY-MM-DD"),
        (",keep,,ann,2026-01-02", "image_id is empty"),
        ("s1,keep,,,2026-01-02", "reviewer is empty"),
        ("s1,keep,ann,2026-01-02", "as many values as the header"),
        ("s1,keep,a,b,ann,2026-01-02", "as many values as the header"),
        ("<<<<<<< HEAD", "a mark of a Git conflict"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, said):
    (tmp_path / "d.csv").write_text(HEADER + "s2,keep,,ann,2026-01-02\n" + line + "\n")
    with pytest.raises(UserError, match=r"d\.csv:3") as error:
        review.read(tmp_path / "d.csv")
    assert said in str(error.value)


@pytest.mark.parametrize("content", [b"id,decision\n", b"", b"\xff\xfe\x00"])
def test_another_file_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "d.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"d\.csv"):
        review.read(tmp_path / "d.csv")


def test_reviewers_who_differ_are_shown_and_neither_is_obeyed():
    verdicts = review.settle([say(), say(decision="discard", reviewer="bob"), say("s2")], POOL)
    assert verdicts.conflicts == ["s1"]
    assert list(verdicts.counting) == ["s2"]


def test_git_merges_the_rows_of_two_reviewers(tmp_path):
    """Each decides on a branch; neither row is lost, and none is marked by Git as a conflict."""

    def git(*words):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *words], cwd=tmp_path, check=True)

    table = tmp_path / paths.REVIEW_DECISIONS
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    review.add(table, [])
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "start")
    for branch, decision, reviewer in (("one", "keep", "ann"), ("two", "discard", "bob")):
        git("checkout", "-q", "-b", branch, "main")
        review.add(table, [say("s1", decision, reviewer), say("s2", "keep", reviewer)])
        git("commit", "-qam", branch)
    git("merge", "-q", "-m", "both", "one")
    verdicts = review.settle(review.read(table), POOL)
    assert (verdicts.given, verdicts.conflicts, list(verdicts.counting)) == (4, ["s1"], ["s2"])


def test_what_several_processes_write_at_once_is_all_kept(tmp_path):
    pool = POOL.assign(path="a.png", kind="synthetic", label="benign")
    manifest.write(pool, tmp_path / paths.SYNTHETIC_MANIFEST)
    code = "from derm_t2im.cli import main; main()"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, "review", "add", "s1", "keep", "--reviewer", f"r{i}"], cwd=tmp_path
        )
        for i in range(6)
    ]
    assert [one.wait(timeout=120) for one in writers] == [0] * 6
    assert {d.reviewer for d in review.read(tmp_path / paths.REVIEW_DECISIONS)} == {f"r{i}" for i in range(6)}


def test_reviewers_who_agree_count_once():
    verdicts = review.settle([say(), say(reviewer="bob")], POOL)
    assert (list(verdicts.counting), verdicts.conflicts, verdicts.given) == (["s1"], [], 2)


def test_the_later_word_of_one_reviewer_counts():
    verdicts = review.settle([say(), say(decision="discard")], POOL)
    assert verdicts.counting["s1"].decision == "discard" and verdicts.given == 1


def test_decisions_about_other_images_are_reported():
    verdicts = review.settle([say("gone"), say("s1", sha256="aa"), say("s2", sha256="old")], POOL)
    assert (verdicts.unknown, verdicts.outdated, list(verdicts.counting)) == (["gone"], ["s2"], ["s1"])


def test_adding_replaces_ones_own_word_only_and_tells_what_changed(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(HEADER + "s1,keep,,ann,2026-01-02\n")
    assert review.add(path, [say(decision="discard", reason="a, b"), say(reviewer="bob"), say("s2", sha256="bb")]) == 3
    assert review.read(path) == [
        say(decision="discard", reason="a, b"),
        say(reviewer="bob"),
        say("s2", sha256="bb"),
    ]
    before = path.read_bytes()
    assert review.add(path, [say("s2", sha256="bb", date="2026-05-05")]) == 0  # nothing new: the old date stands
    assert path.read_bytes() == before
