"""Two revisions of results, compared: pure functions from two snapshots to what a reader wants to know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from derm_t2im.changes.snapshot import Snapshot
from derm_t2im.report import tables, words

Better = Literal["higher", "lower"]
Z = 1.959964

#: Measures of the comparison, and which way is better.
MEASURES: tuple[tuple[str, str, Better], ...] = (
    ("auc", "AUC", "higher"),
    ("accuracy", "Accuracy", "higher"),
    ("ece", "ECE", "lower"),
)
FIDELITY: tuple[tuple[tuple[str, str], str, Better], ...] = (
    (("all", "kid"), "KID, all images drawn", "lower"),
    (("all", "precision"), "Precision", "higher"),
    (("all", "recall"), "Recall", "higher"),
    (("all", "coverage"), "Coverage", "higher"),
    (("all", "label_disagreement"), "Images in which the probe sees another class", "lower"),
    (("copies", "rate"), "Copies of seed images", "lower"),
)


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Mapping[str, Any], key: str) -> Estimate | None:
        """The estimate ``key`` of some metrics, None where it was not measured."""
        if not words.is_number(values.get(key)):
            return None
        ends = [values.get(f"{key}_{end}") for end in ("low", "high")]
        return Estimate(values[key], *(float(end) if words.is_number(end) else math.nan for end in ends))


@dataclass(frozen=True)
class Change:
    """One measure before and after.

    ``difference`` is after minus before, None where one is missing; ``paired`` says whether its interval comes
    from the same images (or from the two intervals alone, which is wider). ``outcome`` is better or worse only where
    the interval excludes 0.
    """

    name: str
    before: Estimate | None
    after: Estimate | None
    difference: Estimate | None
    better: Better
    paired: bool = False

    @property
    def outcome(self) -> Literal["better", "worse", "no difference shown", "new", "gone", "not measured"]:
        """What the interval of the difference carries."""
        if self.before is None or self.after is None or self.difference is None:
            return "new" if self.after else "gone" if self.before else "not measured"
        low, high = self.difference.low, self.difference.high
        if not (math.isfinite(low) and math.isfinite(high)) or low <= 0 <= high:
            return "no difference shown"
        return "better" if (low > 0) == (self.better == "higher") else "worse"


Paired = Mapping[tuple[str, str, str, str], Estimate]  # (arch, mix, test, measure) -> after minus before


Times = Mapping[str, Mapping[int, float]]  # architecture -> batch -> milliseconds


@dataclass(frozen=True)
class Comparison:
    """All that a comment shows. See the functions below for each part."""

    before: Snapshot
    after: Snapshot
    headline: Change | None
    gates: tuple[str, bool]
    classifiers: list[tuple[str, str, str, list[Change]]]  # architecture, mix, test set
    hybrid: list[tuple[str, str, Estimate | None, Estimate | None]]
    synthetic: list[tuple[str, Estimate | None, Estimate | None, str]]
    fidelity: list[Change]
    params: list[tuple[str, Any, Any]]
    failures: list[tuple[str, str, str, str, str]]
    onnx: list[tuple[str, str, str]]
    reran: list[str]
    stale: list[str]
    reproduce: str


def compare(
    before: Snapshot,
    after: Snapshot,
    paired: Paired,
    reran: list[str],
    stale: list[str],
    times: tuple[Times, Times] = ({}, {}),
) -> Comparison:
    """Put two snapshots beside each other.

    Args:
        before: The base, such as the branch that a pull request goes to.
        after: What is proposed.
        paired: Differences on the same images, where predictions of both are at hand.
        reran: Stages that ran anew between the two.
        stale: Stages of ``after`` that its lock file is not up to date with.
        times: Milliseconds by architecture and batch, where they were measured.
    """
    found = classifiers(before, after, paired)
    params = changed_params(before.params, after.params)
    return Comparison(
        before,
        after,
        headline(found),
        gates(after),
        found,
        hybrid(before, after),
        synthetic(before, after),
        fidelity(before, after),
        params,
        failures(after),
        onnx(before, after, times),
        reran,
        stale,
        reproduce(before, after, params),
    )


def difference(before: Estimate, after: Estimate) -> Estimate:
    """After minus before of two independent estimates, normal, their standard errors from their intervals."""
    errors = [(one.high - one.low) / (2 * Z) for one in (before, after)]
    half = Z * math.hypot(*errors)
    value = after.value - before.value
    return Estimate(value, value - half, value + half)


def change(name: str, before: Estimate | None, after: Estimate | None, better: Better) -> Change:
    """A change whose difference comes from the two intervals."""
    both = difference(before, after) if before and after else None
    return Change(name, before, after, both, better)


def classifiers(before: Snapshot, after: Snapshot, paired: Paired) -> list[tuple[str, str, str, list[Change]]]:
    """Every classifier on every test set, with its measures."""
    old, new = ({item[:3]: item[3] for item in tables.scored(s.of("classification"))} for s in (before, after))
    keys = list(new) + [key for key in old if key not in new]
    rows = []
    for key in keys:
        changes = []
        for measure, name, better in MEASURES:
            a, b = (Estimate.of(values.get(key, {}), measure) for values in (old, new))
            same = paired.get((*key, measure))
            if a and b and same:
                changes.append(Change(name, a, b, same, better, paired=True))
            else:
                changes.append(change(name, a, b, better))
        rows.append((*key, changes))
    return rows


def headline(found: list[tuple[str, str, str, list[Change]]]) -> Change | None:
    """AUC of the hybrid classifier in-domain, of the first architecture by name that was measured in both."""
    order = sorted(found, key=lambda row: (row[1] != "hybrid", row[2] != "in_domain", row[0]))
    for arch, mix, test, changes in order:
        first = changes[0]
        if first.difference is not None:
            name = f"{first.name} of {words.arch(arch)}, {words.mix(mix)}, {words.test_set(test)}"
            return Change(name, first.before, first.after, first.difference, first.better, first.paired)
    return None


def gates(after: Snapshot) -> tuple[str, bool]:
    """The validation gates in words, and whether they let the data pass."""
    found = [after.of(name) for name in ("validation_data", "validation") if after.of(name)]
    if not found:
        return "gates not run", False
    critical, warnings, all_ = (
        sum(int(each.get(key) or 0) for each in found) for key in ("critical_failures", "warnings", "expectations")
    )
    if critical:
        return f"gates FAILED: {critical} critical of {all_} expectations", False
    noted = f", {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    return f"gates passed ({all_} expectations{noted})", True


def hybrid(before: Snapshot, after: Snapshot) -> list[tuple[str, str, Estimate | None, Estimate | None]]:
    """Hybrid minus real in AUC, before and after: architecture, test set, both differences."""

    def of(snapshot: Snapshot) -> dict[tuple[str, str], Estimate | None]:
        found = words.contrasts(snapshot.of("classification"))
        return {(c.arch, c.test): Estimate.of(c.values, "auc") for c in found if (c.a, c.b) == ("hybrid", "real")}

    old, new = of(before), of(after)
    keys = list(new) + [key for key in old if key not in new]
    return [(*key, old.get(key), new.get(key)) for key in keys]


def synthetic(before: Snapshot, after: Snapshot) -> list[tuple[str, Estimate | None, Estimate | None, str]]:
    """Share of the drawn images that was kept, per class and in all; then the numbers behind the later one."""
    from derm_t2im.intervals import wilson

    def share(values: Mapping[str, Any]) -> Estimate | None:
        kept, pool = values.get("kept"), values.get("pool")
        if not (words.is_number(kept) and words.is_number(pool) and pool):
            return None
        return Estimate(kept / pool, *wilson(int(kept), int(pool)))

    old, new = ({**(s.of("curation").get("classes") or {}), "all": s.of("curation")} for s in (before, after))
    rows = []
    for name in [*new, *(key for key in old if key not in new)]:
        values = new.get(name, {})
        numbers = f"{words.count(values.get('kept'))} of {words.count(values.get('pool'))}"
        a, b = share(old.get(name, {})), share(values)
        if a or b:
            rows.append((name, a, b, numbers))
    return rows


def fidelity(before: Snapshot, after: Snapshot) -> list[Change]:
    """Likeness to real images and copies."""
    found = []
    for (group, key), name, better in FIDELITY:
        a, b = (Estimate.of(s.of("fidelity").get(group) or {}, key) for s in (before, after))
        if a or b:
            found.append(change(name, a, b, better))
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; an empty mapping is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def changed_params(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Parameters that differ, and both values; None where there was none."""
    old, new = dict(flat(before)), dict(flat(after))
    keys = [*new, *(key for key in old if key not in new)]
    return [(key, old.get(key), new.get(key)) for key in keys if (key in old) != (key in new) or old[key] != new[key]]


def failures(after: Snapshot) -> list[tuple[str, str, str, str, str]]:
    """Expectations that were not met: severity, suite, what was expected, how many rows broke it, example ids."""
    rows = []
    for name in ("validation_data", "validation"):
        for one in after.of(name).get("failures") or []:
            broken, n = one.get("broken"), one.get("rows")
            counted = words.is_number(broken) and words.is_number(n)
            count = f"{broken} of {n}" if counted else str(one.get("observed", ""))
            ids = ", ".join(str(i) for i in (one.get("examples") or [])[:3])
            rows.append((str(one.get("severity")), str(one.get("suite")), str(one.get("expectation")), count, ids))
    return sorted(rows, key=lambda row: row[0] != "critical")


def onnx(before: Snapshot, after: Snapshot, times: tuple[Times, Times]) -> list[tuple[str, str, str]]:
    """Largest difference to torch in probability, flips, size and time of each exported file, before and after."""

    def said(values: Mapping[str, Any], took: Mapping[int, float]) -> str:
        if not words.is_number(values.get("max_abs_difference")):
            return words.NONE
        flips = int(values.get("threshold_flips") or 0)
        parts = [
            f"{values['max_abs_difference']:.1e} on n = {words.count(values.get('n'))}",
            f"{flips} flips",
            f"{words.number(values.get('size_mb'), digits=1)} MB",
            *(f"{ms:.1f} ms for {batch}" for batch, ms in took.items()),
        ]
        return ", ".join(parts)

    found = [exported(s) for s in (before, after)]
    rows = []
    for arch in sorted(set().union(*found)):
        old, new = (said(one.get(arch, {}), took.get(arch, {})) for one, took in zip(found, times, strict=True))
        rows.append((words.arch(arch), old, new))
    return rows


def exported(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    """Metrics of the exported classifiers by architecture.

    DVC leaves the file of an architecture that `train.archs` names no more: it is no result of these parameters.
    """
    archs = (snapshot.params.get("train") or {}).get("archs")
    by = {key.removeprefix("onnx/"): values for key, values in snapshot.metrics.items() if key.startswith("onnx/")}
    return {arch: values for arch, values in by.items() if not isinstance(archs, list) or arch in archs}


def reproduce(before: Snapshot, after: Snapshot, params: list[tuple[str, Any, Any]]) -> str:
    """The commands that give the later results."""
    if after.commit:
        return f"git checkout {after.commit[:12]} && make repro"
    sets = " ".join(f"-S {key}={_shell(new)}" for key, _, new in params if new is not None)
    base = before.commit[:12] or "HEAD"
    return f"git checkout {base} && dvc exp run {sets}".rstrip()


def _shell(value: Any) -> str:
    import shlex

    text = {True: "true", False: "false", None: "null"}.get(value) if isinstance(value, bool | None) else None
    text = text or (str(value).replace("'", '"') if isinstance(value, list | dict) else str(value))
    return shlex.quote(text)
