from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from derm_t2im import paths
from derm_t2im.changes import compare, predictions, render, rerun, snapshot
from derm_t2im.changes.compare import Change, Estimate
from derm_t2im.errors import UserError
from derm_t2im.report import words
from tests.changes import repository


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    root = tmp_path_factory.mktemp("history")
    return (root, *repository.two_revisions(root))


@pytest.fixture
def both(history: tuple[Path, str, str]) -> tuple[snapshot.Snapshot, snapshot.Snapshot]:
    root, base, proposal = history
    return snapshot.read(base, root), snapshot.read(proposal, root)


def compared(both, paired=None, stale=()):  # type: ignore[no-untyped-def]
    before, after = both
    return compare.compare(before, after, paired or {}, rerun.changed(before, after), list(stale))


def test_a_revision_is_read_from_git_and_not_from_the_files_that_lie_there(history) -> None:  # type: ignore[no-untyped-def]
    root, base, proposal = history
    assert snapshot.read(base, root).params["generate"]["guidance"] == 4.0
    assert snapshot.read(proposal, root).params["generate"]["guidance"] == 5.0
    assert snapshot.read(None, root).params["generate"]["guidance"] == 5.0  # the proposal is checked out
    assert snapshot.read(base, root).sheet.endswith("/100.png")  # the last of 50 and 100
    assert snapshot.read(base, root).samples != snapshot.read(proposal, root).samples


def test_an_unknown_revision_is_one_clear_line(history) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"Git knows no revision 'nowhere'.*git fetch"):
        snapshot.read("nowhere", history[0])
    with pytest.raises(UserError, match="Git knows no revision"):
        snapshot.read("--output=x", history[0])


def test_an_experiment_is_named_as_dvc_names_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """refs/exps/BASELINE/NAME is what `dvc exp run` writes; the name alone is what people see."""
    base, proposal = repository.two_revisions(tmp_path)

    def experiment(name: str, baseline: str, commit: str) -> None:
        repository.git(tmp_path, "update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)

    experiment("crisp-mole", base, proposal)
    assert snapshot.read("crisp-mole", tmp_path).commit == proposal  # of another commit than HEAD, but the only one
    assert snapshot.read("crisp-mole", tmp_path).short == f"crisp-mole ({proposal[:7]})"
    done = repository.command(tmp_path, base, "--to", "crisp-mole")
    assert done.returncode == 0 and "generate.guidance" in done.stdout, done.stderr

    experiment("crisp-mole", proposal, base)
    assert snapshot.read("crisp-mole", tmp_path).commit == base  # that of the commit that is checked out
    repository.git(tmp_path, "commit", "-q", "--allow-empty", "-m", "elsewhere")
    with pytest.raises(UserError, match="2 experiments are called 'crisp-mole'"):
        snapshot.read("crisp-mole", tmp_path)
    repository.git(tmp_path, "branch", "crisp-mole", base)
    assert snapshot.read("crisp-mole", tmp_path).commit == base  # Git's own names come first


def test_only_what_changed_is_listed(both) -> None:  # type: ignore[no-untyped-def]
    found = compared(both)
    assert found.params == [("generate.guidance", 4.0, 5.0)]
    assert found.reran == ["generate"]
    assert found.reproduce == f"git checkout {both[1].commit[:12]} && make repro"


def test_arrows_stand_only_where_the_interval_excludes_zero(both) -> None:  # type: ignore[no-untyped-def]
    outcome = {(arch, mix, test): changes[0].outcome for arch, mix, test, changes in compared(both).classifiers}
    # 0.04 more within intervals of +-0.02 each: the difference's is +-0.028
    assert outcome["vit", "hybrid", "in_domain"] == "better"
    assert outcome["mobilenetv2", "hybrid", "in_domain"] == "worse"
    assert outcome["vit", "real", "in_domain"] == "no difference shown"
    text = render.markdown(compared(both))
    assert text.count("▲ better") == 1 and text.count("▼ worse") == 2  # one of them in the verdict


def test_the_interval_of_a_difference_is_that_of_independent_estimates() -> None:
    d = compare.difference(Estimate(0.5, 0.4, 0.6), Estimate(0.7, 0.6, 0.8))
    assert d.value == pytest.approx(0.2)
    assert (d.low, d.high) == (pytest.approx(0.2 - 0.1 * 2**0.5), pytest.approx(0.2 + 0.1 * 2**0.5))


@pytest.mark.parametrize(("better", "outcome"), [("higher", "better"), ("lower", "worse")])
def test_which_way_is_better_is_the_measures_own(better, outcome) -> None:  # type: ignore[no-untyped-def]
    assert compare.change("x", Estimate(0.1, 0.09, 0.11), Estimate(0.5, 0.49, 0.51), better).outcome == outcome


def test_a_measure_without_an_interval_gets_no_arrow() -> None:
    bare = Estimate.of({"auc": 0.7}, "auc")
    assert compare.change("AUC", bare, Estimate(0.9, 0.89, 0.91), "higher").outcome == "no difference shown"
    assert Change("AUC", None, bare, None, "higher").outcome == "new"
    assert Estimate.of({"auc": None}, "auc") is None


def test_failed_gates_and_their_ids_are_said_first(both) -> None:  # type: ignore[no-untyped-def]
    before, after = both
    metrics = json.loads(json.dumps(after.metrics))
    metrics["validation"] |= {"critical_failures": 1}
    metrics["validation"]["failures"].append(
        {"severity": "critical", "suite": "synthetic", "expectation": "no | row", "broken": 3, "rows": 9,
         "examples": ["s-1", "s-2", "s-3", "s-4"]}
    )  # fmt: skip
    failed = snapshot.Snapshot("x", after.commit, metrics, after.params, after.lock)
    found = compared((before, failed))
    assert "gates FAILED: 1 critical" in render.verdict(found)
    assert found.failures[0] == ("critical", "synthetic", "no | row", "3 of 9", "s-1, s-2, s-3")
    text = render.markdown(found)
    assert "## ❌" in text and "no \\| row" in text


def test_hybrid_minus_real_is_always_shown(both) -> None:  # type: ignore[no-untyped-def]
    found = compared(both)
    assert {(arch, test) for arch, test, *_ in found.hybrid} == {
        (a, t) for a in ("vit", "mobilenetv2") for t in ("in_domain", "external")
    }
    assert "**Hybrid − real, AUC**" in render.markdown(found)


def test_nothing_in_the_results_can_break_out_of_the_comment(both) -> None:  # type: ignore[no-untyped-def]
    before, after = both
    params = {**after.params, "report": {"title": "a | b <img src=x> @everyone `x` [y](z)\n# no"}}
    nasty = snapshot.Snapshot("x", after.commit, after.metrics, params, after.lock)
    line = next(row for row in render.markdown(compared((before, nasty))).splitlines() if "report.title" in row)
    assert "<img" not in line and "@everyone" not in line and "a \\| b" in line and "\\[y\\]" in line
    assert "<img src=x" not in render.html(compared((before, nasty)))


def test_stages_are_stale_where_code_or_parameters_left_the_lock_and_downstream(history) -> None:  # type: ignore[no-untyped-def]
    root = history[0]
    now = snapshot.read(None, root)
    assert rerun.stale(now, root) == []
    other = {**now.params, "train": {"steps": 10}}
    assert rerun.stale(snapshot.Snapshot("w", "", params=other, lock=now.lock), root) == ["train"]
    other = {**now.params, "generate": {"guidance": 1.0}}
    assert rerun.stale(snapshot.Snapshot("w", "", params=other, lock=now.lock), root) == ["generate", "curate"]


def test_a_run_that_stopped_early_is_stale_after_that_and_gone_stages_are_not(history) -> None:  # type: ignore[no-untyped-def]
    root = history[0]
    now = snapshot.read(None, root)
    lock = json.loads(json.dumps(now.lock))
    lock["stages"]["generate"]["deps"] = []
    lock["stages"]["train"]["outs"] = [{"path": "models/a", "md5": "new"}]
    for name in ("export@a", "export@gone"):
        lock["stages"][name] = {"cmd": "export", "deps": [{"path": "models/a", "md5": "old"}]}
    pipeline = {"stages": {"generate": {}, "curate": {}, "train": {}, "export": {"matrix": {"arch": "${train.archs}"}}}}
    params = {**now.params, "train": {"steps": 240, "archs": ["a"]}}
    half = snapshot.Snapshot("w", "", params=params, lock=lock, pipeline=pipeline)
    assert rerun.stale(half, root) == ["export@a"]
    lock["stages"]["check"] = {"cmd": "check", "params": {"params.yaml": {"train.steps": 1}}, "outs": [{"path": "ok"}]}
    lock["stages"]["generate"]["deps"] = [{"path": "ok"}]
    pipeline["stages"]["check"] = {}
    assert rerun.stale(half, root) == ["check", "export@a"]  # what it writes is the same after every pass


def test_a_stage_without_a_record_is_stale(history) -> None:  # type: ignore[no-untyped-def]
    now = snapshot.read(None, history[0])
    pipeline = {"stages": {"generate": {}, "curate": {}, "train": {}, "export": {"matrix": {"arch": "${train.archs}"}}}}
    params = {**now.params, "train": {"steps": 240, "archs": ["a"]}}
    fresh = snapshot.Snapshot("w", "", params=params, lock=now.lock, pipeline=pipeline)
    assert rerun.stale(fresh, history[0]) == ["export@a"]
    unlocked = snapshot.Snapshot("w", "", params=params, lock={}, pipeline=pipeline)
    assert rerun.stale(unlocked, history[0]) == ["generate", "curate", "train", "export@a"]


def test_stages_are_named_in_the_order_in_which_they_run(both) -> None:  # type: ignore[no-untyped-def]
    before, after = both
    turned = {"stages": dict(reversed(after.lock["stages"].items()))}
    found = rerun.changed(replace(before, lock={}), replace(after, lock=turned))
    assert sorted(found) == ["curate", "generate", "train"] and found.index("generate") < found.index("curate")


def test_an_architecture_that_is_dropped_is_no_longer_exported(both) -> None:  # type: ignore[no-untyped-def]
    before, after = both
    arch = next(iter(compare.exported(after)))
    dropped = replace(after, params={**after.params, "train": {"archs": ["another"]}})
    assert arch in compare.exported(before) and arch not in compare.exported(dropped)
    rows = {row[0]: row for row in compare.onnx(before, dropped, ({}, {}))}
    assert rows[words.arch(arch)][1] != words.NONE and rows[words.arch(arch)][2] == words.NONE


def test_changed_code_is_stale(history, tmp_path) -> None:  # type: ignore[no-untyped-def]
    root = Path(shutil.copytree(history[0], tmp_path / "copy"))
    (root / "src" / "generate.py").write_text("other", encoding="utf-8")
    assert rerun.stale(snapshot.read(None, root), root) == ["generate", "curate"]


def table(ids: list[str], shift: float, rng: np.random.Generator) -> pd.DataFrame:
    truth = np.arange(len(ids)) % 2
    rows = []
    for seed in (0, 1):
        p = 1 / (1 + np.exp(-(truth * shift + rng.normal(size=len(ids)))))
        rows.append(pd.DataFrame({
            "image_id": ids, "arch": "vit", "mix": "real", "seed": seed, "test": "in_domain",
            "label": np.where(truth, "malignant", "benign"), "p_benign": 1 - p, "p_malignant": p,
        }))  # fmt: skip
    return pd.concat(rows).sample(frac=1, random_state=0)


def test_differences_are_paired_where_the_images_are_the_same() -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{k}" for k in range(300)]
    before = table(ids, 1.0, rng)
    same = predictions.paired(before, before.sample(frac=1, random_state=1), {}, draws=200)
    assert vars(same["vit", "real", "in_domain", "auc"]) == {"value": 0.0, "low": 0.0, "high": 0.0}
    better = predictions.paired(before, table(ids, 3.0, rng), {}, draws=200)["vit", "real", "in_domain", "auc"]
    assert 0 < better.low < better.value < better.high
    clustered = predictions.paired(before, table(ids, 3.0, rng), {name: name[:2] for name in ids}, draws=200)
    wide = clustered["vit", "real", "in_domain", "auc"]
    assert wide.high - wide.low > better.high - better.low
    assert predictions.paired(before, table(ids[:-2], 3.0, rng), {}, draws=50) == {}  # other images: not paired


def test_the_command_writes_markdown_html_and_json(history, tmp_path) -> None:  # type: ignore[no-untyped-def]
    root, base, proposal = history
    made = repository.command(
        root, base, "--samples", "https://host.example/o/r/raw/{commit}", "--page", "https://p.example"
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(render.MARKER)
    assert (
        f"https://host.example/o/r/raw/{base}/plots/finetune"
        in repository.command(root, base, "--to", proposal, "--samples", "https://host.example/o/r/raw/{commit}").stdout
    )
    out = tmp_path / "c.html"
    assert repository.command(root, base, "--html", "--out", str(out)).returncode == 0
    page = out.read_text(encoding="utf-8")
    assert (
        page.count("data:image/png;base64") == 2
        and "<svg" in page
        and "http" not in page.replace("http://www.w3.org", "")
    )
    values = json.loads(repository.command(root, base, "--json").stdout)
    assert values["headline"]["outcome"] == "worse" and values["params"] == {
        "generate.guidance": {"before": 4.0, "after": 5.0}
    }


def test_errors_are_one_line(history) -> None:  # type: ignore[no-untyped-def]
    root, base, _ = history
    for arguments, said in (
        (("nowhere",), "Git knows no revision"),
        ((base, "--md", "--html"), "choose one"),
        ((base, "--samples", "https://x.example"), "{commit}"),
        ((base, "--out", "/"), "is a folder"),
        ((base, "--out", "params.yaml/page.md"), "params.yaml: File exists."),
    ):
        done = repository.command(root, *arguments)
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_base_without_results_is_said(tmp_path) -> None:  # type: ignore[no-untyped-def]
    repository.two_revisions(tmp_path)
    repository.git(tmp_path, "checkout", "-q", "--orphan", "empty")
    repository.git(tmp_path, "rm", "-rqf", ".")
    (tmp_path / "README.md").write_text("x", encoding="utf-8")
    repository.git(tmp_path, "add", "README.md")
    repository.git(tmp_path, "commit", "-qm", "empty")
    done = repository.command(tmp_path, "HEAD", "--to", "proposal")
    assert done.returncode == 0 and "new: " in done.stdout
    shutil.rmtree(tmp_path / paths.METRICS, ignore_errors=True)
    nothing = repository.command(tmp_path, "HEAD", "--to", "HEAD")
    assert nothing.returncode == 1 and "dvc repro" in nothing.stderr
