"""All figures of a reader study, from the key and the readers' answers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.classify import statistics
from derm_t2im.study import agreement, power, readings
from derm_t2im.study.answers import Answer, Item, Reader
from derm_t2im.study.design import KINDS, READING
from derm_t2im.study.readings import Answers, Estimate, Pooled

LISTED = 20  # examples of each problem that score.json lists; the number is that of all


def score(plan: Mapping[str, Any], key: Mapping[str, Item], readers: Sequence[Reader], draws: int) -> dict[str, Any]:
    """Everything that `study score` says, ready for JSON.

    The first showing of an image counts; a second one says how far a reader agrees with himself.
    """
    items = {item.shows: item for item in key.values() if item.phase == READING}
    images = sorted(items)
    at = {shows: i for i, shows in enumerate(images)}
    synthetic = np.array([items[i].kind == KINDS[1] for i in images])
    classes = list(plan["classes"])
    label = np.array([classes.index(items[i].label) for i in images])
    counts = readings.draw(synthetic * len(classes) + label, draws, seeds.generator("study", plan["study"]))
    first = [_first(reader) for reader in readers]
    tables = [_arrays(some, at, items) for some in first]
    points = np.ones(len(images))
    values = {name: np.array([float(m(t, synthetic, points)) for t in tables]) for name, m in readings.METRICS.items()}
    drawn = {name: np.stack([m(t, synthetic, counts) for t in tables], axis=1) for name, m in readings.METRICS.items()}
    own = {name: [_own(name, t, synthetic, drawn[name][:, r]) for r, t in enumerate(tables)] for name in values}
    tests = [readings.exact(*_correct(table, synthetic)) for table in tables]
    own["accuracy"] = [estimate for estimate, _ in tests]
    adjusted = statistics.holm([p for _, p in tests])
    by_reader = {}
    for r, reader in enumerate(readers):
        about: dict[str, Any] = {"n": int(np.isfinite(tables[r].called).sum())}
        for name in readings.METRICS:
            about |= _flat(name, own[name][r])
        about |= {"p": tests[r][1], "p_holm": adjusted[r], "detectable_accuracy": power.detectable(about["n"])}
        about |= {"experience": reader.experience, "time": _times(first[r]), "again": _again(reader)}
        about |= {"halves": _halves(first[r]), "file": {"name": reader.path.name, "sha256": reader.sha256}}
        about |= {
            "answered": len(reader.answers),
            "missing": {"n": len(reader.missing), "examples": reader.missing[:LISTED]},
            "problems": {
                name: {"n": len(some), "examples": some[:LISTED]} for name, some in sorted(reader.problems.items())
            },
        }
        by_reader[reader.name] = about
    return {
        "study": plan["study"], "name": plan.get("name", ""), "images": len(images), "classes": classes,
        "git_commit": plan.get("git_commit"), "readers": by_reader, "pooled": _pooled(values, drawn, own, first),
        "agreement": _agreement(readers, first, at, synthetic, classes, counts), "draws": draws,
    }  # fmt: skip


def _first(reader: Reader) -> list[Answer]:
    """The answer to the first showing of each image, in the order of reading."""
    seen: dict[int, Answer] = {}
    for answer in reader.answers:
        seen.setdefault(answer.item.shows, answer)
    return list(seen.values())


def _arrays(answers: Sequence[Answer], at: Mapping[int, int], items: Mapping[int, Item]) -> Answers:
    called, rating, diagnosed = (np.full(len(at), np.nan) for _ in range(3))
    for answer in answers:
        i = at[answer.item.shows]
        if answer.source is not None:
            called[i] = answer.source == KINDS[1]
            if answer.confidence is not None:
                rating[i] = answer.confidence if called[i] else -answer.confidence
        if answer.diagnosis is not None:
            diagnosed[i] = answer.diagnosis == items[answer.item.shows].label
    return Answers(called, rating, diagnosed)


def _correct(table: Answers, synthetic: np.ndarray) -> tuple[int, int]:
    return int((table.called == synthetic).sum()), int(np.isfinite(table.called).sum())


def _own(name: str, table: Answers, synthetic: np.ndarray, drawn: np.ndarray) -> Estimate:
    """A reader's value with an interval for other images: Wilson for shares, Newcombe, else the bootstrap."""

    def of(answered: np.ndarray, hit: np.ndarray, here: np.ndarray) -> Estimate:
        used = np.isfinite(answered) & here
        return readings.share(int(hit[used].sum()), int(used.sum()))

    shares: dict[str, Callable[[], Estimate]] = {
        "sensitivity": lambda: of(table.called, table.called == 1, synthetic),
        "specificity": lambda: of(table.called, table.called == 0, ~synthetic),
        "diagnosis_real": lambda: of(table.diagnosed, table.diagnosed == 1, ~synthetic),
        "diagnosis_synthetic": lambda: of(table.diagnosed, table.diagnosed == 1, synthetic),
        "diagnosis_difference": lambda: readings.newcombe(shares["diagnosis_synthetic"](), shares["diagnosis_real"]()),
    }
    if name in shares:
        return shares[name]()
    value = float(readings.METRICS[name](table, synthetic, np.ones(len(synthetic))))
    return Estimate(value, *statistics.interval(drawn))


def _pooled(
    values: Mapping[str, np.ndarray],
    drawn: Mapping[str, np.ndarray],
    own: Mapping[str, list[Estimate]],
    first: Sequence[Sequence[Answer]],
) -> dict[str, Any]:
    pooled: dict[str, Pooled] = {
        name: readings.pool(values[name], drawn[name], own[name], name in readings.SHARES) for name in values
    }
    found: dict[str, Any] = {"readers": len(first), "answers": sum(map(len, first))}
    for name, some in pooled.items():
        found |= _flat(name, some.estimate) | {f"{name}_readers_sd": some.readers_sd}
    found["p"] = readings.p_value(pooled["accuracy"], 0.5)
    found["auc_p"] = readings.p_value(pooled["auc"], 0.5)
    found["diagnosis_difference_p"] = readings.p_value(pooled["diagnosis_difference"], 0.0)
    found["detectable_accuracy"] = 0.5 + readings.detectable(pooled["accuracy"])
    found["df"] = pooled["accuracy"].df
    found["time"] = _times([answer for some in first for answer in some])
    return found


def _agreement(
    readers: Sequence[Reader],
    first: Sequence[Sequence[Answer]],
    at: Mapping[int, int],
    synthetic: np.ndarray,
    classes: Sequence[str],
    counts: np.ndarray,
) -> dict[str, Any]:
    """Cohen's kappa of each pair and Fleiss' of all, on images that those readers all answered."""
    every = np.ones(len(at), bool)
    found: dict[str, Any] = {}
    for name, words, where in (
        ("source", KINDS, every),
        ("diagnosis", classes, every),
        ("diagnosis_on_real", classes, ~synthetic),
        ("diagnosis_on_synthetic", classes, synthetic),
    ):
        codes = np.full((len(readers), len(at)), -1)
        for r, some in enumerate(first):
            for answer in some:
                said = answer.source if name == "source" else answer.diagnosis
                if said is not None:
                    codes[r, at[answer.item.shows]] = list(words).index(said)
        about: dict[str, Any] = {"pairs": []}
        for a, b in itertools.combinations(range(len(readers)), 2):
            used = (codes[a] >= 0) & (codes[b] >= 0) & where
            both = codes[a, used], codes[b, used]
            pair = {"readers": [readers[a].name, readers[b].name], "n": int(used.sum())}
            pair |= _flat("agreement", readings.share(int((both[0] == both[1]).sum()), int(used.sum())))
            kappa = [agreement.cohen(*both, some[..., used]) for some in (np.ones(len(at)), counts)]
            about["pairs"].append(pair | _flat("kappa", _boot(*kappa)))
        used = (codes >= 0).all(axis=0) & where
        if len(readers) > 1 and used.any():
            ratings = agreement.rated(codes[:, used], len(words))
            kappa = [agreement.fleiss(ratings, some[..., used]) for some in (np.ones(len(at)), counts)]
            about |= {"n": int(used.sum())} | _flat("fleiss_kappa", _boot(*kappa))
        found[name] = about
    return found


def _boot(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    return Estimate(float(value), *statistics.interval(drawn))


def _again(reader: Reader) -> dict[str, Any]:
    """How far a reader answered the second showing of an image like the first."""
    shown: dict[int, list[Answer]] = {}
    for answer in reader.answers:
        shown.setdefault(answer.item.shows, []).append(answer)
    twice = [some[:2] for some in shown.values() if len(some) > 1]
    found: dict[str, Any] = {"n": len(twice)}
    for name in ("source", "diagnosis"):
        said = [[str(getattr(one, name)) for one in two] for two in twice if all(getattr(o, name) for o in two)]
        words = sorted({word for two in said for word in two})
        same = readings.share(sum(a == b for a, b in said), len(said))
        codes = np.array([[words.index(word) for word in two] for two in said], int).reshape(-1, 2)
        kappa = float(agreement.cohen(codes[:, 0], codes[:, 1], np.ones(len(codes)))) if len(codes) else math.nan
        found |= _flat(f"{name}_agreement", same) | {f"{name}_kappa": kappa}
    return found


def _times(answers: Sequence[Answer]) -> dict[str, Any]:
    """Median and quartiles of the seconds per image; of all, of real and of synthetic ones."""
    found: dict[str, Any] = {}
    for name, kinds in (("", KINDS), ("real_", KINDS[:1]), ("synthetic_", KINDS[1:])):
        seconds = [a.seconds for a in answers if a.seconds is not None and a.item.kind in kinds]
        quarter, half, most = np.quantile(seconds, (0.25, 0.5, 0.75)) if seconds else (math.nan,) * 3
        found |= {f"{name}median": half, f"{name}quarter": quarter, f"{name}three_quarters": most}
    return found | {"interrupted": sum(a.interruptions > 0 for a in answers)}


def _halves(answers: Sequence[Answer]) -> dict[str, Any]:
    """Accuracy in the first and second half of the reading: learning, or tiring."""
    right = [a.source == a.item.kind for a in answers if a.source is not None]
    middle = (len(right) + 1) // 2
    return {
        name: sum(some) / len(some) if some else math.nan
        for name, some in (("first", right[:middle]), ("second", right[middle:]))
    }


def _flat(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
