"""Statistics against scikit-learn, statsmodels, SciPy and published figures."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk
from statsmodels.stats import contingency_tables, multitest, proportion

from derm_t2im.classify import statistics as s


def sample(n=400, classes=2, seed=0, sharp=2.0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)) + sharp * np.eye(classes)[truth]
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), truth


# --- the paper's own figures (arXiv 2401.05159, Table IV and its repository's confusion matrices) ---

PAPER = {
    "isic real": ((327, 33, 28, 271), 90.74),
    "isic hybrid": ((331, 28, 18, 282), 93.02),
    "ham real": ((74, 36, 6, 111), 81.50),
    "ham hybrid": ((85, 25, 9, 108), 85.02),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_confusion_matrices_give_its_accuracies(name):
    matrix, percent = PAPER[name]
    share = s.from_confusion(*matrix)["accuracy"]
    assert round(100 * share.value, 2) == percent
    assert share.n == sum(matrix)
    low, high = proportion.proportion_confint(matrix[0] + matrix[3], share.n, method="wilson")
    assert (share.low, share.high) == pytest.approx((low, high))


def test_the_papers_ham_sensitivity_fell():
    real, hybrid = (s.from_confusion(*PAPER[name][0])["sensitivity"].value for name in ("ham real", "ham hybrid"))
    assert (round(100 * real, 1), round(100 * hybrid, 1)) == (94.9, 92.3)


@pytest.mark.parametrize(("data", "p"), [("isic", 0.13), ("ham", 0.31)])
def test_the_papers_gains_are_not_significant_unpaired(data, p):
    counts = []
    for mix in ("real", "hybrid"):
        tn, fp, fn, tp = PAPER[f"{data} {mix}"][0]
        counts += [tn + tp, tn + fp + fn + tp]
    found = s.two_proportions(*counts)
    assert round(found, 2) == p
    assert found == pytest.approx(proportion.proportions_ztest([counts[0], counts[2]], [counts[1], counts[3]])[1])


def test_two_equal_perfect_shares_do_not_differ():
    assert s.two_proportions(5, 5, 9, 9) == 1.0


# --- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_metrics_agree_with_scikit_learn(classes):
    p, truth = sample(classes=classes)
    p = np.ceil(20 * p)  # ties
    p /= p.sum(axis=1, keepdims=True)
    one, chosen = s.ones(len(truth)), p.argmax(axis=1)
    assert s.accuracy(chosen, truth, one) == pytest.approx(sk.accuracy_score(truth, chosen))
    assert s.balanced_accuracy(chosen, truth, classes, one) == pytest.approx(sk.balanced_accuracy_score(truth, chosen))
    expected = sk.roc_auc_score(truth, p[:, 1]) if classes == 2 else sk.roc_auc_score(truth, p, multi_class="ovr")
    assert s.macro_auc(p, truth) == pytest.approx(expected)
    assert s.brier(p, truth, one) == pytest.approx(
        sk.brier_score_loss(truth, p[:, 1]) if classes == 2 else sk.brier_score_loss(truth, p)
    )
    assert s.recall(chosen == 1, truth == 1, one) == pytest.approx(sk.recall_score(truth == 1, chosen == 1))


def test_counts_weigh_as_sample_weights_and_as_repetition():
    p, truth = sample(60)
    counts = np.random.default_rng(1).integers(0, 4, (5, 60)).astype(float)
    aucs, eces = s.auc(p[:, 1], truth == 1, counts), s.ece(p, truth, 10, counts)
    for i, row in enumerate(counts):
        assert aucs[i] == pytest.approx(sk.roc_auc_score(truth, p[:, 1], sample_weight=row))
        again = np.repeat(np.arange(60), row.astype(int))
        assert eces[i] == pytest.approx(s.ece(p[again], truth[again], 10, s.ones(len(again))))


def test_auc_works_in_blocks(monkeypatch):
    p, truth = sample(50)
    counts = np.random.default_rng(1).integers(0, 3, (40, 50)).astype(float)
    whole = s.auc(p[:, 1], truth == 1, counts)
    monkeypatch.setattr(s, "_CHUNK", 170)
    assert np.array_equal(s.auc(p[:, 1], truth == 1, counts), whole)


def test_ece_of_a_worked_example():
    # Two bins of ten: (0.9, 0.8 right) and (0.7, 0.5 right), ten images each: 0.5 * 0.1 + 0.5 * 0.2.
    p = np.repeat([[0.1, 0.9], [0.3, 0.7]], 10, axis=0)
    truth = np.r_[np.ones(8), np.zeros(2), np.ones(5), np.zeros(5)].astype(int)
    assert s.ece(p, truth, 10, s.ones(20)) == pytest.approx(0.15)


def test_what_a_sample_does_not_define_is_nan():
    one = s.ones(4)
    assert math.isnan(s.auc(np.arange(4.0), np.ones(4, bool), one))
    assert math.isnan(s.recall(np.ones(4, bool), np.zeros(4, bool), one))


@given(
    hnp.arrays(np.float64, 30, elements=st.floats(0, 1)),
    hnp.arrays(np.bool_, 30).filter(lambda y: y.any() and not y.all()),
)
def test_auc_is_symmetric_and_depends_on_ranks_only(scores, positive):
    one = s.ones(30)
    area = s.auc(scores, positive, one)
    assert 0 <= area <= 1
    assert s.auc(-scores, positive, one) == pytest.approx(1 - area)
    ranks = np.unique(scores, return_inverse=True)[1].astype(float)
    assert s.auc(ranks, positive, one) == pytest.approx(area)
    assert area == pytest.approx(sk.roc_auc_score(positive, scores))


# --- bootstrap -----------------------------------------------------------------------------------


def test_groups_are_drawn_whole_and_in_their_number():
    groups = np.repeat(["a", "b", "c", "d"], [1, 3, 2, 4])
    counts = s.bootstrap_counts(groups, np.arange(10) % 2, 200, np.random.default_rng(0)).counts
    for name in "abcd":
        assert (counts[:, groups == name] == counts[:, groups == name][:, :1]).all()
    first = [int(np.flatnonzero(groups == name)[0]) for name in "abcd"]
    assert (counts[:, first].sum(axis=1) == 4).all()


def test_a_draw_without_a_class_is_drawn_again_and_counted():
    truth = np.r_[np.zeros(20), 1].astype(int)  # one positive: missing from a third of all draws
    drawn = s.bootstrap_counts(np.arange(21), truth, 300, np.random.default_rng(0))
    assert drawn.redrawn > 50
    assert (drawn.counts[:, truth == 1].sum(axis=1) > 0).all()


def test_the_interval_has_the_width_that_theory_gives():
    truth = (np.arange(1000) < 800).astype(int)
    drawn = s.bootstrap_counts(np.arange(1000), truth, 4000, np.random.default_rng(0)).counts
    low, high = s.interval(s.mean_over(truth == 1, drawn))
    error = math.sqrt(0.8 * 0.2 / 1000)
    assert (low, high) == pytest.approx((0.8 - 1.96 * error, 0.8 + 1.96 * error), abs=0.002)


def test_clustered_images_widen_the_interval():
    right = np.repeat(np.random.default_rng(0).random(100) < 0.7, 10)
    truth = np.arange(1000) % 2

    def width(groups):
        drawn = s.bootstrap_counts(groups, truth, 1000, np.random.default_rng(0)).counts
        low, high = s.interval(s.mean_over(right, drawn))
        return high - low

    assert width(np.arange(1000) // 10) / width(np.arange(1000)) == pytest.approx(math.sqrt(10), rel=0.15)


def test_an_interval_of_nothing_is_nan():
    assert all(map(math.isnan, s.interval(np.array([np.nan, np.nan]))))


# --- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("b", "c"), [(5, 15), (10, 10), (0, 4), (59, 6), (1, 0)])
def test_mcnemar_agrees_with_statsmodels(b, c):
    expected = contingency_tables.mcnemar([[50, b], [c, 50]], exact=True).pvalue
    assert s.mcnemar(b, c) == pytest.approx(expected)


def test_mcnemar_without_disagreement():
    assert s.mcnemar(0, 0) == 1.0


def test_delong_of_a_worked_example():
    # Two scores over 3 positives and 3 negatives, variance by the definition (structural components).
    positive = np.array([1, 1, 1, 0, 0, 0], bool)
    a, b = np.array([9.0, 7, 4, 6, 3, 2]), np.array([9.0, 3, 5, 6, 4, 1])
    components = []
    for x in (a, b):
        wins = (x[positive][:, None] > x[~positive]) + 0.5 * (x[positive][:, None] == x[~positive])
        components.append((wins.mean(axis=1), wins.mean(axis=0)))
    up, down = components[0][0] - components[1][0], components[0][1] - components[1][1]
    error = math.sqrt(up.var(ddof=1) / 3 + down.var(ddof=1) / 3)
    found = s.delong(a, b, positive)
    assert (found.auc_a, found.auc_b) == pytest.approx((8 / 9, 6 / 9))
    assert found.error == pytest.approx(error)
    assert found.p == pytest.approx(math.erfc(abs(2 / 9) / error / math.sqrt(2)))


def test_delong_matches_the_bootstrap():
    p, truth = sample(600, seed=1)
    q, positive = p[:, 1] + np.random.default_rng(2).normal(scale=0.2, size=600), truth == 1
    found = s.delong(p[:, 1], q, positive)
    counts = s.bootstrap_counts(np.arange(600), truth, 2000, np.random.default_rng(0)).counts
    spread = (s.auc(p[:, 1], positive, counts) - s.auc(q, positive, counts)).std()
    assert found.error == pytest.approx(spread, rel=0.06)
    assert found.auc_a - found.auc_b == pytest.approx(
        s.auc(p[:, 1], positive, s.ones(600)) - s.auc(q, positive, s.ones(600))
    )


def test_delong_of_one_score_with_itself_and_of_one_class():
    p, truth = sample(40)
    assert s.delong(p[:, 1], p[:, 1], truth == 1).p == 1.0
    assert math.isnan(s.delong(p[:, 1], p[:, 0], np.ones(40, bool)).p)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_agrees_with_statsmodels(p_values):
    assert s.holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1])


def test_holm_leaves_out_what_is_unknown():
    adjusted = s.holm([0.01, math.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


@given(
    hnp.arrays(np.float64, 25, elements=st.floats(0, 1)),
    hnp.arrays(np.bool_, 25).filter(lambda y: y.any()),
    st.floats(0.05, 0.99),
)
def test_the_threshold_reaches_the_sensitivity_and_none_higher_does(scores, positive, wanted):
    threshold = s.threshold_for(scores, positive, wanted)
    assert (scores[positive] >= threshold).mean() >= wanted - 1e-9
    higher = np.nextafter(threshold, 2)
    assert (scores[positive] >= higher).mean() < wanted


def test_the_threshold_at_a_round_share():
    assert s.threshold_for(np.arange(10) / 10, np.ones(10, bool), 0.9) == 0.1
    assert math.isnan(s.threshold_for(np.ones(3), np.zeros(3, bool), 0.9))
