"""`derm-t2im confusion` on the paper's matrices and on wrong ones."""

import json

import pytest
from statsmodels.stats import proportion
from typer.testing import CliRunner

from derm_t2im.classify import confusion
from derm_t2im.cli import app
from derm_t2im.errors import UserError

# arXiv 2401.05159 and its repository: TN, FP, FN, TP and the accuracy that Table IV states.
PAPER = {
    "isic": ([(327, 33, 28, 271), (331, 28, 18, 282)], [90.74, 93.02], 0.13),
    "ham": ([(74, 36, 6, 111), (85, 25, 9, 108)], [81.50, 85.02], 0.31),
}


def call(*matrices, extra=()):
    options = []
    for cells in matrices:
        for name, n in zip(("tn", "fp", "fn", "tp"), cells, strict=True):
            options += [f"--{name}", str(n)]
    return CliRunner().invoke(app, ["confusion", *options, *extra])


@pytest.mark.parametrize("data", PAPER)
def test_the_papers_matrices_give_its_accuracies_and_no_difference(data):
    matrices, accuracies, p = PAPER[data]
    result = call(*matrices, extra=["--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    for values, cells, percent in zip(found["matrices"], matrices, accuracies, strict=True):
        assert round(100 * values["accuracy"], 2) == percent
        low, high = proportion.proportion_confint(cells[0] + cells[3], sum(cells), method="wilson")
        assert (values["accuracy_low"], values["accuracy_high"]) == pytest.approx((low, high))
    difference = found["difference"]["accuracy"]
    assert round(difference["p"], 2) == p or abs(difference["p"] - p) < 0.006
    (a, b), n = [cells[0] + cells[3] for cells in matrices], [sum(cells) for cells in matrices]
    low, high = proportion.confint_proportions_2indep(b, n[1], a, n[0], method="newcomb")
    assert (difference["low"], difference["high"]) == pytest.approx((low, high), abs=1e-6)
    assert difference["low"] < 0 < difference["high"]
    assert difference["needed_n"] > 2 * n[0]


def test_it_says_so_in_words():
    text = call(*PAPER["isic"][0]).stdout
    assert "90.74 %  [88.29, 92.73]  n = 659" in text
    assert "93.02 %" in text
    assert "+2.28 points [-0.69, +5.27], p = 0.130; 2259 images on each side" in text


def test_one_matrix_alone_is_not_compared_and_an_empty_class_is_left_out():
    result = call((0, 0, 3, 7))
    assert result.exit_code == 0
    assert "sensitivity  70.00 %" in result.stdout
    assert "specificity" not in result.stdout and "points" not in result.stdout


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (([1], [1], [1], []), "each of --tn, --fp, --fn, --tp once"),
        (([1, 2], [1], [1], [1]), "--tn 2x, --fp 1x"),
        (([1, 2, 3],) * 4, "each twice to compare two"),
        (([-1], [1], [1], [1]), "tn -1, .* is no confusion matrix"),
        (([0], [0], [0], [0]), "not all 0"),
    ],
)
def test_wrong_matrices_are_refused(cells, said):
    with pytest.raises(UserError, match=said):
        confusion.read(*cells)
