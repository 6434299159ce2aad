"""Stage `evaluate` on small projects of two and of three classes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from sklearn import metrics as sk
from statsmodels.stats.multitest import multipletests

from derm_t2im import manifest, networks, paths
from derm_t2im.errors import UserError
from derm_t2im.stages import evaluate, mix, train
from tests.classify import project

ESTIMATES = (
    "accuracy", "auc", "sensitivity", "specificity", "balanced_accuracy", "ece", "brier", "average_precision", "f1",
    "sensitivity_at_90_specificity", "accuracy_seeds", "auc_seeds",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project up to `evaluate`, made once; tests that change it work on their own."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        project.write(root)
        mix.run()
        for arch in ("cnn", "vit"):
            for name in ("real", "hybrid", "oversampled"):
                train.run(arch, name)
        evaluate.run()
    return root


@pytest.fixture
def inside(finished, monkeypatch):
    monkeypatch.chdir(finished)
    return json.loads(paths.CLASSIFICATION_METRICS.read_text())


def test_every_cell_is_filled(inside):
    for arch in ("cnn", "vit"):
        for name in ("real", "hybrid", "oversampled"):
            for test, split in (("in_domain", "test"), ("external", "external")):
                cell = inside[arch][name][test]
                assert cell["n"] == project.SIZES[split]
                assert cell["groups"] == project.SIZES[split] // 2
                assert cell["seeds"] == 2
                for key in ESTIMATES:
                    assert cell[f"{key}_low"] <= cell[f"{key}_high"]
                    assert 0 <= cell[key.removesuffix("_seeds")] <= 1
                assert cell["calibrated"]["temperature"] > 0
                assert set(cell["operating"]) >= {"threshold", "sensitivity", "specificity_low"}
                assert set(cell["abstention"]) >= {"aurc", "accuracy_at_80", "accuracy_at_90_low"}
                assert cell["conformal"]["wanted"] == 0.9 and cell["conformal"]["val_n"] == project.SIZES["val"]
                assert 0 <= cell["conformal"]["coverage_low"] <= cell["conformal"]["coverage_high"] <= 1
        for test in ("in_domain", "external"):
            assert set(inside["contrasts"][arch][test]) == {"hybrid-real", "hybrid-oversampled", "oversampled-real"}


def test_figures_follow_from_the_predictions(inside):
    table = pd.read_parquet(paths.PLOTS / "predictions.parquet")
    assert len(table) == 2 * 3 * 2 * (project.SIZES["test"] + project.SIZES["external"])
    assert table[["p_benign", "p_malignant"]].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    for (arch, name, test), rows in table.groupby(["arch", "mix", "test"]):
        truth, p = rows["label"] == "malignant", rows["p_malignant"]
        cell = inside[arch][name][test]
        assert cell["accuracy"] == pytest.approx(((p > 0.5) == truth).groupby(rows["seed"]).mean().mean(), rel=1e-5)
        aucs = [sk.roc_auc_score(part["label"] == "malignant", part["p_malignant"]) for _, part in rows.groupby("seed")]
        assert cell["auc"] == pytest.approx(np.mean(aucs), rel=1e-5)
        assert cell["sensitivity"] == pytest.approx((p[truth] > 0.5).mean(), rel=1e-5)


def test_contrasts_are_differences_and_adjusted(inside):
    found = []
    for arch in ("cnn", "vit"):
        for test in ("in_domain", "external"):
            for pair, values in inside["contrasts"][arch][test].items():
                a, b = pair.split("-")
                for key in ("accuracy", "auc"):
                    difference = inside[arch][a][test][key] - inside[arch][b][test][key]
                    assert values[key] == pytest.approx(difference, abs=2e-6)
                    assert values[f"{key}_low"] <= values[f"{key}_high"]
                found.append(values)
    for v in found:
        assert v["auc_verdict"] in ("better", "worse", "equivalent", "undecided", "better, within the margin")
        assert v["p_auc_seeds_holm"] >= v["p_auc_seeds"] and v["margin"] == 0.02 and v["gain"] == 0.0228
    assert all(v["p_holm"] >= v["p"] for v in found)
    assert all(v["p_auc_holm"] >= v["p_auc"] for v in found)
    for name in ("p", "ensemble_p_delong", "ensemble_p_mcnemar"):
        expected = multipletests([v[name] for v in found], method="holm")[1]
        assert [v[f"{name}_holm"] for v in found] == pytest.approx(list(expected), rel=1e-4)


def test_plots_hold_records_of_every_classifier(inside):
    confusion = pd.DataFrame(json.loads((paths.PLOTS / "confusion.json").read_text()))
    assert (confusion[confusion["test"] == "in_domain"].groupby(["arch", "mix"])["n"].sum() == 20).all()
    roc = pd.DataFrame(json.loads((paths.PLOTS / "roc.json").read_text()))
    for _, curve in roc.groupby(["arch", "mix", "test"]):
        assert curve[["fpr", "tpr"]].iloc[0].tolist() == [0, 0]
        assert curve[["fpr", "tpr"]].iloc[-1].tolist() == [1, 1]
    reliability = pd.DataFrame(json.loads((paths.PLOTS / "reliability.json").read_text()))
    assert (reliability[reliability["test"] == "external"].groupby(["arch", "mix"])["n"].sum() == 2 * 10).all()
    scaled = pd.DataFrame(json.loads((paths.PLOTS / "reliability_calibrated.json").read_text()))
    assert (scaled[scaled["test"] == "external"].groupby(["arch", "mix"])["n"].sum() == 2 * 10).all()
    abstention = pd.DataFrame(json.loads((paths.PLOTS / "abstention.json").read_text()))
    for (arch, name, test), curve in abstention.groupby(["arch", "mix", "test"]):
        assert curve["coverage"].is_monotonic_increasing
        assert curve["accuracy"].iloc[-1] == pytest.approx(inside[arch][name][test]["accuracy"], rel=1e-5)


def test_the_same_bytes_again(inside):
    files = [paths.CLASSIFICATION_METRICS, paths.SUBGROUP_METRICS, *sorted(paths.PLOTS.iterdir())]
    assert len(files) == 9
    before = [file.read_bytes() for file in files]
    evaluate.run()
    assert [file.read_bytes() for file in files] == before


def three(root, positive, **changes):
    project.write(
        root,
        ("bcc", "mel", "nv"),
        mix={"mixes": ["real"]},
        train={"archs": ["cnn"], "seeds": [0]},
        evaluate={"positive": positive},
        **changes,
    )


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    root = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        three(root, "malignant")
        mix.run()
        train.run("cnn", "real")
    return root


@pytest.mark.parametrize("positive", ["malignant", "mel", ""])
def test_three_classes_by_the_same_path(three_classes, monkeypatch, positive):
    monkeypatch.chdir(three_classes)
    three(three_classes, positive)
    evaluate.run()
    cell = json.loads(paths.CLASSIFICATION_METRICS.read_text())["cnn"]["real"]["in_domain"]
    rows = pd.read_parquet(paths.PLOTS / "predictions.parquet").query("test == 'in_domain'")
    p = rows[["p_bcc", "p_mel", "p_nv"]].to_numpy(float)
    truth = rows["label"].map({"bcc": 0, "mel": 1, "nv": 2}).to_numpy()
    p = p / p.sum(axis=1, keepdims=True)
    assert cell["auc"] == pytest.approx(sk.roc_auc_score(truth, p, multi_class="ovr"), rel=1e-4)
    columns = {"malignant": [0, 1], "mel": [1]}.get(positive)
    assert set(cell["classes"]) == {"bcc", "mel", "nv"}
    assert cell["macro"]["auc"] == pytest.approx(cell["auc"])
    assert cell["classes"]["nv"]["recall"] == pytest.approx((p.argmax(axis=1) == 2)[truth == 2].mean(), rel=1e-4)
    if columns:
        flagged = p[:, columns].sum(axis=1) > 0.5
        assert cell["sensitivity"] == pytest.approx(flagged[np.isin(truth, columns)].mean(), rel=1e-4)
        assert "operating" in cell
    else:
        assert cell["sensitivity"] == cell["balanced_accuracy"]
        assert "operating" not in cell


def test_an_unknown_positive_class_is_explained(three_classes, monkeypatch):
    monkeypatch.chdir(three_classes)
    three(three_classes, "cancer")
    with pytest.raises(UserError, match="allowed: bcc, mel, nv"):
        evaluate.run()


def change_splits(root, change):
    splits = manifest.read(root / paths.SPLITS_MANIFEST)
    manifest.write(change(splits), root / paths.SPLITS_MANIFEST)


def test_without_an_external_set_there_are_no_external_figures(three_classes, monkeypatch, capsys):
    monkeypatch.chdir(three_classes)
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t[t["split"] != "external"])
    evaluate.run()
    assert set(json.loads(paths.CLASSIFICATION_METRICS.read_text())["cnn"]["real"]) == {"in_domain"}


def test_a_class_without_test_images_is_said_and_left_out(three_classes, monkeypatch, capsys):
    monkeypatch.chdir(three_classes)
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t[~((t["split"] == "external") & (t["label"] != "nv"))])
    evaluate.run()
    assert "external test set has no image of bcc, mel" in capsys.readouterr().err
    cell = json.loads(paths.CLASSIFICATION_METRICS.read_text())["cnn"]["real"]["external"]
    assert cell["auc"] is None
    assert cell["sensitivity"] is None
    assert cell["specificity"] is not None


def test_what_does_not_belong_together_is_refused(three_classes, monkeypatch):
    monkeypatch.chdir(three_classes)
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t.assign(label=t["label"].replace("nv", "df")))
    with pytest.raises(UserError, match="run the stage `train` again"):
        evaluate.run()
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t.assign(label=t["label"].where(t["split"] != "test", "df")))
    with pytest.raises(UserError, match=r"images of the split test have a label that no training image has .*df"):
        evaluate.run()
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t.assign(group_id=t["group_id"].replace("test-0", "train-0")))
    with pytest.raises(UserError, match="a test image must share no group with training"):
        evaluate.run()
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t.assign(kind=t["kind"].where(t["split"] != "val", "synthetic")))
    with pytest.raises(UserError, match="the split val holds 12 images that are not real"):
        evaluate.run()
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t[t["split"] != "test"])
    with pytest.raises(UserError, match="split test is empty"):
        evaluate.run()


def test_a_network_that_is_not_a_number_is_named(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    weights = paths.classifier("vit", "hybrid") / "seed-1" / networks.WEIGHTS_FILE
    save_file({name: np.full_like(value, np.nan) for name, value in load_file(weights).items()}, weights)
    with pytest.raises(UserError, match=r"vit-hybrid/seed-1 gives no probability for 12 of 12 images of the split val"):
        evaluate.run()


def test_one_class_in_both_test_sets_is_measured_as_far_as_it_goes(three_classes, monkeypatch, capsys):
    monkeypatch.chdir(three_classes)
    three(three_classes, "malignant")
    change_splits(three_classes, lambda t: t[~(t["split"].isin(["test", "external"]) & (t["label"] != "nv"))])
    evaluate.run()
    assert "in_domain test set has no image of bcc, mel" in capsys.readouterr().err
    cell = json.loads(paths.CLASSIFICATION_METRICS.read_text())["cnn"]["real"]["in_domain"]
    assert cell["auc"] is None and cell["auc_low"] is None and cell["average_precision"] is None
    assert cell["classes"]["mel"]["n"] == 0 and cell["classes"]["nv"]["recall"] is not None
    assert cell["conformal"]["coverage"] is not None and cell["abstention"]["aurc"] is not None


def test_without_a_positive_validation_image_there_is_no_threshold(three_classes, monkeypatch, capsys):
    monkeypatch.chdir(three_classes)
    three(three_classes, "mel")
    change_splits(three_classes, lambda t: t[~((t["split"] == "val") & (t["label"] == "mel"))])
    evaluate.run()
    assert "no validation image is mel: there is no threshold" in capsys.readouterr().err
    cell = json.loads(paths.CLASSIFICATION_METRICS.read_text())["cnn"]["real"]["in_domain"]
    assert cell["operating"]["threshold"] is None and cell["operating"]["sensitivity"] is None


def test_groups_of_the_manifest_are_compared(three_classes, monkeypatch):
    monkeypatch.chdir(three_classes)
    project.write(
        three_classes,
        ("bcc", "mel", "nv"),
        mix={"mixes": ["real"]},
        train={"archs": ["cnn"], "seeds": [0]},
        evaluate={"positive": "malignant", "subgroup_min": 6},
    )
    rows = range(sum(project.SIZES.values()))
    change_splits(
        three_classes,
        lambda t: t.assign(
            sex=["female" if i % 2 else "male" for i in rows], age=[20.0 if i % 5 else 80.0 for i in rows]
        ),
    )
    evaluate.run()
    found = json.loads(paths.SUBGROUP_METRICS.read_text())["cnn"]["real"]["in_domain"]
    assert set(found) == {"age", "sex"}
    assert found["sex"]["groups"] == 2 and found["sex"]["worst"] in ("female", "male")
    assert found["age"]["too_small"] == 1
    records = json.loads((paths.PLOTS / "subgroups.json").read_text())
    assert {(r["attribute"], r["group"]) for r in records if r["test"] == "in_domain"} == {
        ("sex", "female"), ("sex", "male"), ("age", "0 to 29"), ("age", "70+"),
    }  # fmt: skip
    assert all(r["auc"] is None for r in records if r["test"] == "in_domain" and r["group"] == "70+")
    assert len({tuple(r) for r in records}) == 1  # `dvc plots` goes by the keys of the first
