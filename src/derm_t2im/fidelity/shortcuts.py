"""Shortcuts: how well a classifier does that sees the colours only, or the border only.

A lesion's class should not be readable from six colour statistics or from the skin around it. Some of
that is so in real images too, hence the excess: what such a probe reaches within the synthetic set,
above what it reaches within real images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from derm_t2im.fidelity import pixels
from derm_t2im.fidelity.estimate import NONE, Estimate, percentile

PROBES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "colour": pixels.colours,
    "border": pixels.borders,
    "coarse": pixels.coarse,
}
FOLDS = 5
MIN_PER_CLASS = 2 * FOLDS


def auc(codes: np.ndarray, scores: np.ndarray) -> float:
    """Macro average over classes of the area under the ROC curve, one class against the rest.

    Args:
        codes: Class numbers (n,).
        scores: (n, k), a column per class. For two classes this is the ordinary AUC.

    Returns:
        NaN where no class has both members and others.
    """
    from scipy.stats import rankdata

    n, areas = len(codes), []
    # Of two classes one tells all.
    for code in range(scores.shape[1]) if scores.shape[1] > 2 else [1]:
        member = codes == code
        inside = int(member.sum())
        if 0 < inside < n:
            above = rankdata(scores[:, code])[member].sum() - inside * (inside + 1) / 2
            areas.append(above / (inside * (n - inside)))
    return float(np.mean(areas)) if areas else float("nan")


def _model(width: int, rows: int):
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()]
    if width > 20:
        steps.append(PCA(min(20, rows - 1), svd_solver="full"))
    return make_pipeline(*steps, LogisticRegression(C=1.0, max_iter=2000))


def out_of_fold(values: np.ndarray, codes: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Scores (n, k) of each row by a model that has seen neither it nor, where given, any other of its group.

    Args:
        values: What the model sees, (n, d).
        codes: Class numbers (n,), 0..k-1, each at least :data:`FOLDS` times.
        seed: Of the folds.
        groups: Numbers (n,); each class must be in at least :data:`FOLDS` of them.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    folds = list(kind(FOLDS, shuffle=True, random_state=seed % 2**32).split(values, codes, groups))
    model = _model(values.shape[1], min(len(train) for train, _ in folds))
    return cross_val_predict(model, values, codes, cv=folds, method="predict_proba")


def _matched(real: np.ndarray, synthetic: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of both sets such that each class has as many in one as in the other."""
    rng = np.random.default_rng(seed)
    classes = sorted(set(real) & set(synthetic))
    take_real, take_synthetic, used = [], [], []
    for name in classes:
        a, b = np.flatnonzero(real == name), np.flatnonzero(synthetic == name)
        n = min(len(a), len(b))
        if n >= MIN_PER_CLASS:
            take_real.append(np.sort(rng.permutation(a)[:n]))
            take_synthetic.append(np.sort(rng.permutation(b)[:n]))
            used.append(name)
    if len(used) < 2:
        nothing = np.empty(0, dtype=np.intp)
        return nothing, nothing, []
    return np.concatenate(take_real), np.concatenate(take_synthetic), used


def shortcuts(
    real: np.ndarray,
    real_labels: np.ndarray,
    synthetic: np.ndarray,
    synthetic_labels: np.ndarray,
    bootstrap: int = 200,
    seed: int = 0,
) -> dict[str, Estimate]:
    """AUCs of the probes within and across the sets, and the excess.

    Args:
        real: Thumbnails of held-out real images, uint8 (m, s, s, 3).
        real_labels: (m,) names.
        synthetic: Thumbnails, uint8 (n, s, s, 3).
        synthetic_labels: (n,) names.
        bootstrap: Draws behind each interval.
        seed: For folds, draws and the matching of class sizes.

    Returns:
        For each probe: ``<probe>_auc_real`` and ``<probe>_auc_synthetic`` (cross-validated within a
        set), ``<probe>_auc_synthetic_to_real``, ``<probe>_auc_real_to_synthetic``, and
        ``<probe>_excess_auc``. Classes with fewer than ten images in a set are left out; NaN where
        fewer than two classes remain.
    """
    take_real, take_synthetic, classes = _matched(real_labels, synthetic_labels, seed)
    names = ("auc_real", "auc_synthetic", "auc_synthetic_to_real", "auc_real_to_synthetic", "excess_auc")
    if not classes:
        return {f"{probe}_{name}": NONE for probe in PROBES for name in names}
    code = {name: i for i, name in enumerate(classes)}
    y_real = np.array([code[name] for name in real_labels[take_real]])
    y_synthetic = np.array([code[name] for name in synthetic_labels[take_synthetic]])
    out: dict[str, Estimate] = {}
    for probe, describe in PROBES.items():
        x_real, x_synthetic = describe(real[take_real]), describe(synthetic[take_synthetic])
        fitted_real = _model(x_real.shape[1], len(x_real)).fit(x_real, y_real)
        fitted_synthetic = _model(x_synthetic.shape[1], len(x_synthetic)).fit(x_synthetic, y_synthetic)
        scored = {
            "auc_real": (y_real, out_of_fold(x_real, y_real, seed)),
            "auc_synthetic": (y_synthetic, out_of_fold(x_synthetic, y_synthetic, seed)),
            "auc_synthetic_to_real": (y_real, fitted_synthetic.predict_proba(x_real)),
            "auc_real_to_synthetic": (y_synthetic, fitted_real.predict_proba(x_synthetic)),
        }
        for name, (y, scores) in scored.items():
            out[f"{probe}_{name}"] = percentile(_resampled(y, scores), auc(y, scores), len(y), bootstrap, seed)
        ours, theirs = _resampled(*scored["auc_synthetic"]), _resampled(*scored["auc_real"])
        excess = _excess(out[f"{probe}_auc_synthetic"].value, out[f"{probe}_auc_real"].value)
        out[f"{probe}_excess_auc"] = percentile(_difference(ours, theirs), excess, len(y_real), bootstrap, seed)
    return out


Draw = Callable[[np.random.Generator], float]


def _difference(one: Draw, other: Draw) -> Draw:
    return lambda rng: _excess(one(rng), other(rng))


def _excess(synthetic: float, real: float) -> float:
    """Difference of AUCs, where worse than chance, which small sets bring about, counts as chance."""
    return max(synthetic, 0.5) - max(real, 0.5)


def _resampled(y: np.ndarray, scores: np.ndarray) -> Draw:
    def draw(rng: np.random.Generator) -> float:
        rows = rng.integers(0, len(y), len(y))
        return auc(y[rows], scores[rows])

    return draw
