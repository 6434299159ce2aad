"""From a pool of synthetic images to a decision about each: measure, judge, obey reviewers, balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im.curation import neighbours, review, rules
from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.curation.review import Verdicts
    from derm_t2im.curation.rules import Balance, Findings, Limits
    from derm_t2im.params.curate import Curate

#: (ids, embeddings) -> uniqueness in 0..1, one per image.
Uniqueness = Callable[[Sequence[str], np.ndarray], np.ndarray]
#: (ids, embeddings, distance) -> image to leave out: (the image like it that stays, their distance).
NearDuplicates = Callable[[Sequence[str], np.ndarray, float], dict[str, tuple[str, float]]]


@dataclass(frozen=True)
class Pool:
    """Synthetic images with their features and the probe's opinion, rows in step.

    Attributes:
        table: Their manifest, n rows.
        matrix: Features (n, d).
        probability: Of the prompted label, (n,); NaN for a label that the probe does not know.
        opinion: The label that the probe sees, (n,).
        confidence: Its probability, (n,).
        copy_of: Id of the real image that each repeats, None for none, object (n,).
        twins: Pairs of rows that show one picture, int (m, 2): what the features may not tell.
    """

    table: pd.DataFrame
    matrix: np.ndarray
    probability: np.ndarray
    opinion: np.ndarray
    confidence: np.ndarray
    copy_of: np.ndarray
    twins: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What :func:`curate` found.

    Attributes:
        synthetic: The pool's manifest with the columns of curation.
        real: The real images' manifest with ``x`` and ``y``.
        metrics: As written to metrics/curation.json.
        verdicts: How the reviewers' decisions were taken.
    """

    synthetic: pd.DataFrame
    real: pd.DataFrame
    metrics: dict[str, Any]
    verdicts: Verdicts


def curate(
    pool: Pool,
    real: pd.DataFrame,
    real_matrix: np.ndarray,
    decisions: list[review.Decision],
    settings: Curate,
    uniqueness: Uniqueness,
    near_duplicates: NearDuplicates,
) -> Outcome:
    """Decide about each image of a pool.

    The bounds come from training images and from images held out for validation. Test images
    take no part: what trains a classifier must not be chosen with what tests it.

    Args:
        pool: The synthetic images.
        real: Manifest of the real images with ``split``, ``label``, ``fine_detail``, ``hair_left`` and,
            where known, ``group_id``.
        real_matrix: Their features, rows in step.
        decisions: What reviewers said.
        settings: Section `curate`.
        uniqueness: FiftyOne's, or another.
        near_duplicates: FiftyOne's, or another.

    Raises:
        UserError: if there are too few real images to compare with, or a class keeps no image.
    """
    table = pool.table.reset_index(drop=True).copy()
    bounds, heldout = _bounds(real, real_matrix, settings, table)
    _place(table, pool, real, real_matrix, uniqueness)
    found = rules.judge(table, bounds)
    verdicts = review.settle(decisions, table)
    wanted = _obey(table, found, verdicts)
    _thin(table, pool, found, wanted, bounds, near_duplicates)
    classes = sorted(real.loc[real["split"] == "train", "label"].dropna().unique())
    passed = found.passed
    balance = rules.balance(
        table["image_id"].tolist(), table["label"].tolist(), passed, wanted, classes, settings.keep, settings.seed,
        table["tone"].fillna("").tolist() if settings.balance_tones and "tone" in table else None,
    )  # fmt: skip
    _need_all_classes(table, found, balance)
    for i in np.flatnonzero(passed & ~balance.kept):
        text = f"Nothing is wrong with it; {balance.per_class} images of each class are kept, and it was not drawn."
        found.note(i, "surplus", text)
    _say_kept(found, balance.kept, table["image_id"].tolist(), verdicts)
    table["decision"] = np.where(balance.kept, rules.KEPT, rules.REJECTED)
    table["reason"], table["explanation"] = found.reason, found.explanation
    points = neighbours.flat_map(np.concatenate([real_matrix, pool.matrix]))
    real = real.assign(x=points[: len(real), 0], y=points[: len(real), 1])
    table["x"], table["y"] = points[len(real) :].T
    metrics = _metrics(table, passed, balance, bounds, heldout, verdicts)
    return Outcome(table, real, metrics, verdicts)


def _bounds(real: pd.DataFrame, matrix: np.ndarray, settings: Curate, pool: pd.DataFrame) -> tuple[Limits, int]:
    """The limits for a pool, and the number of held-out images behind two of them."""
    train = (real["split"] == "train").to_numpy()
    heldout = (real["split"] == "val").to_numpy()
    if train.sum() < 2 or not heldout.any():
        raise UserError(
            f"curate compares with real images: {int(train.sum())} in train and {int(heldout.sum())} in val are too "
            "few; raise split.train and split.val."
        )
    group = real.loc[train, "group_id" if "group_id" in real.columns else "image_id"].to_numpy(dtype=object)
    close = neighbours.close_distance(matrix[train], group.astype(str), rules.pair_share(settings, len(pool)))
    if not np.isfinite(close):
        raise UserError("curate needs training images of at least two lesions: raise split.train.")
    if "fine_detail" not in pool:
        raise UserError("The synthetic images have no measured `fine_detail`: run `dvc repro generate`.")
    detail, hair = (_measured(real[train], name) for name in ("fine_detail", "hair_left"))
    # A small autoencoder softens all it draws: a blurred image stands out from its own pool.
    own = np.nanmedian(pool["fine_detail"].to_numpy(dtype=np.float64, na_value=np.nan))
    softness = min(1.0, own / np.median(detail)) if np.isfinite(own) and np.median(detail) > 0 else 1.0
    distances = neighbours.nearest(matrix[heldout], matrix[train])[1]
    return rules.limits(settings, hair, detail * softness, distances, close), int(heldout.sum())


def _measured(real: pd.DataFrame, name: str) -> np.ndarray:
    """A measured column of real images, without those for which it is not known."""
    values = real[name].to_numpy(dtype=np.float64, na_value=np.nan) if name in real else np.empty(0)
    values = values[np.isfinite(values)]
    if not len(values):
        raise UserError(f"The real training images have no measured `{name}`: run `dvc repro preprocess`.")
    return values


def _place(
    table: pd.DataFrame, pool: Pool, real: pd.DataFrame, real_matrix: np.ndarray, uniqueness: Uniqueness
) -> None:
    """Add where each image stands among the real and the synthetic ones, and what the probe sees."""
    train = (real["split"] == "train").to_numpy()
    at, distance = neighbours.nearest(pool.matrix, real_matrix[train])
    table["nearest_real_id"] = real.loc[train, "image_id"].to_numpy(dtype=object)[at]
    table["nearest_real_distance"] = distance
    ids = table["image_id"].to_numpy(dtype=object)
    at, distance = neighbours.nearest_other(pool.matrix)
    table["nearest_synthetic_id"] = [ids[i] if i >= 0 else None for i in at]
    table["nearest_synthetic_distance"] = distance
    table["uniqueness"] = uniqueness(ids.tolist(), pool.matrix)
    table["label_probability"] = np.round(pool.probability.astype(np.float64), 6)
    table["probe_label"] = pool.opinion
    table["copy_of"] = pool.copy_of
    table["probe_confidence"] = np.round(pool.confidence.astype(np.float64), 6)


def _obey(table: pd.DataFrame, found: Findings, verdicts: Verdicts) -> np.ndarray:
    """Put the reviewers' decisions over the rules'; bool (n,) of the images they want kept."""
    wanted = np.zeros(len(table), dtype=bool)
    for i, name in enumerate(table["image_id"]):
        said = verdicts.counting.get(name)
        if said is None:
            continue
        if said.decision == review.KEEP:
            wanted[i] = True
            found.note(i, None, None)
        else:
            found.note(i, "reviewer", f"Discarded {_who(said)}.")
    return wanted


def _thin(
    table: pd.DataFrame,
    pool: Pool,
    found: Findings,
    wanted: np.ndarray,
    bounds: Limits,
    near_duplicates: NearDuplicates,
) -> None:
    """Reject all but one of images that look the same, among those that no rule rejected.

    A reviewer's image stays; else the one in which the probe sees its label more clearly. The pictures
    decide first, then the features.
    """
    ids = table["image_id"].tolist()
    probability = np.nan_to_num(table["label_probability"].to_numpy(dtype=np.float64, na_value=np.nan))
    order = sorted(np.flatnonzero(found.passed).tolist(), key=lambda i: (not wanted[i], -probability[i], ids[i]))
    twin: dict[int, list[int]] = {}
    for a, b in pool.twins.tolist():
        twin.setdefault(a, []).append(b)
        twin.setdefault(b, []).append(a)
    stays: dict[int, None] = {}
    for i in order:
        same = next((j for j in twin.get(i, []) if j in stays), None)
        if same is not None and not wanted[i]:
            found.note(i, "near_duplicate", f"It shows the same picture as {ids[same]}, which stays.")
        else:
            stays[i] = None
    order = list(stays)
    twins = near_duplicates([ids[i] for i in order], pool.matrix[order], bounds.near_duplicate)
    for i in order:
        if ids[i] in twins and not wanted[i]:
            like, apart = twins[ids[i]]
            text = f"It is {apart:.4g} from {like}, which stays; within {bounds.near_duplicate:.4g} two look the same."
            found.note(i, "near_duplicate", text)


def _need_all_classes(table: pd.DataFrame, found: Findings, balance: Balance) -> None:
    if balance.per_class:
        return
    lines = []
    for name, count in balance.available.items():
        if count:
            continue
        of_class = found.reason[(table["label"] == name).to_numpy(dtype=bool)]
        why = ", ".join(f"{(of_class == r).sum()} {r}" for r in rules.REASONS if (of_class == r).any())
        lines.append(f"{name}: {len(of_class)} drawn" + (f", rejected for {why}" if why else ""))
    if not lines:
        raise UserError(f"curate.keep is less than one image for each of {len(balance.available)} classes: raise it.")
    raise UserError(
        f"curate keeps no image of a class, so the classes cannot be equal ({'; '.join(lines)}). "
        "Improve the generator, raise generate.images, or loosen the rule in the section `curate`."
    )


def _say_kept(found: Findings, kept: np.ndarray, ids: list[str], verdicts: Verdicts) -> None:
    for i in np.flatnonzero(kept):
        said = verdicts.counting.get(ids[i])
        found.note(i, None, f"Kept {_who(said)}." if said else "It passes every rule.")
    for name in verdicts.conflicts:
        found.explanation[ids.index(name)] += " Reviewers differ on it."


def _who(said: review.Decision) -> str:
    return f"by {said.reviewer} on {said.date}" + (f": {said.reason}" if said.reason else "")


def _metrics(
    table: pd.DataFrame, passed: np.ndarray, balance: Balance, bounds: Limits, heldout: int, verdicts: Verdicts
) -> dict[str, Any]:
    n = len(table)
    label = table["label"].to_numpy(dtype=object)
    per_class = {
        name: {
            "pool": int((label == name).sum()),
            "passed": balance.available[name],
            "kept": int((balance.kept & (label == name)).sum()),
        }
        for name in balance.available
    }
    shares = [c["kept"] for c in per_class.values()]
    agree = (table["probe_label"] == table["label"]).to_numpy(dtype=bool)
    out: dict[str, Any] = {
        "pool": n,
        "n": n,
        "kept": int(balance.kept.sum()),
        "rejected": {reason: int((table["reason"] == reason).sum()) for reason in rules.REASONS},
        "classes": per_class,
        "tones": table.loc[balance.kept, "tone"].value_counts().to_dict() if "tone" in table else {},
        "balance": min(shares) / max(shares),
        "target": balance.target * len(per_class),
        "shortfall": balance.target * len(per_class) - int(balance.kept.sum()),
        "generate_images_needed": balance.needed,
        "heldout": heldout,
        "limits": dict(vars(bounds)),
        "reviews": {
            "given": verdicts.given,
            "obeyed": len(verdicts.counting),
            "conflicts": len(verdicts.conflicts),
            "outdated": len(verdicts.outdated),
            "unknown": len(verdicts.unknown),
        },
    }
    for name, count in (
        ("kept_share", int(balance.kept.sum())),
        ("passed_share", int(passed.sum())),
        ("probe_agreement", int(agree.sum())),
    ):
        out[name], out[f"{name}_low"], out[f"{name}_high"] = rules.proportion(count, n)
    return out
