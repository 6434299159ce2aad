"""`derm-t2im confusion`: what published confusion matrices allow to say, without the images behind them."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, NamedTuple

import typer

from derm_t2im.errors import UserError
from derm_t2im.intervals import wilson

Numbers = Annotated[list[int], typer.Option(help="Once for each matrix.", show_default=False)]


class Matrix(NamedTuple):
    """Counts of a test set; positive is malignant."""

    tn: int
    fp: int
    fn: int
    tp: int

    def shares(self) -> dict[str, tuple[int, int]]:
        """Measures as (successes, of how many)."""
        return {
            "accuracy": (self.tn + self.tp, sum(self)),
            "sensitivity": (self.tp, self.tp + self.fn),
            "specificity": (self.tn, self.tn + self.fp),
            "precision": (self.tp, self.tp + self.fp),
        }


def read(tn: list[int], fp: list[int], fn: list[int], tp: list[int]) -> list[Matrix]:
    """One or two matrices from lists of their cells.

    Raises:
        UserError: unless each list has one entry, or each two, none is negative and no matrix is empty.
    """
    given = {"--tn": tn, "--fp": fp, "--fn": fn, "--tp": tp}
    if {len(v) for v in given.values()} not in ({1}, {2}):
        said = ", ".join(f"{name} {len(v)}x" for name, v in given.items())
        raise UserError(f"give each of --tn, --fp, --fn, --tp once, or each twice to compare two matrices; got {said}.")
    found = [Matrix(*cells) for cells in zip(tn, fp, fn, tp, strict=True)]
    for matrix in found:
        if min(matrix) < 0 or not sum(matrix):
            raise UserError(
                f"tn {matrix.tn}, fp {matrix.fp}, fn {matrix.fn}, tp {matrix.tp} is no confusion matrix: "
                "give numbers of images, none below 0 and not all 0."
            )
    return found


def figures(matrix: Matrix) -> dict[str, Any]:
    """Shares with Wilson intervals and their n, the F1 of the positive class, and n."""
    found: dict[str, Any] = {"n": sum(matrix)}
    for name, (k, n) in matrix.shares().items():
        low, high = wilson(k, n)
        found |= {name: k / n if n else None, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}
    below = 2 * matrix.tp + matrix.fp + matrix.fn
    return found | {"f1": 2 * matrix.tp / below if below else None}


def compare(first: Matrix, second: Matrix) -> dict[str, Any]:
    """How much better ``second`` is than ``first``, as if no image were in both test sets.

    Differences with Newcombe's interval (1998, method 10), the two-sided p of the pooled z test, and how many images
    each test set would need to show the difference with 80 % power. On the same images a paired test (McNemar) says
    more, but needs to know which images each got right.
    """
    from derm_t2im.classify import inference, statistics

    found: dict[str, Any] = {}
    for name, (a, m) in first.shares().items():
        b, n = second.shares()[name]
        if not (m and n):
            continue
        low, high = newcombe(b, n, a, m)
        needed = inference.images_unpaired(b / n, a / m)
        found[name] = {
            "difference": b / n - a / m,
            "low": low,
            "high": high,
            "p": statistics.two_proportions(a, m, b, n),
            "needed_n": None if math.isnan(needed) else math.ceil(needed),
        }
    return found


def newcombe(a: int, n_a: int, b: int, n_b: int) -> tuple[float, float]:
    """95 % interval of the difference of two unpaired shares, a / n_a - b / n_b (Newcombe 1998, method 10)."""
    (low_a, high_a), (low_b, high_b) = wilson(a, n_a), wilson(b, n_b)
    share_a, share_b = a / n_a, b / n_b
    difference = share_a - share_b
    return (
        difference - math.hypot(share_a - low_a, high_b - share_b),
        difference + math.hypot(high_a - share_a, share_b - low_b),
    )


def command(
    tn: Numbers,
    fp: Numbers,
    fn: Numbers,
    tp: Numbers,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Accuracy, sensitivity, specificity of a confusion matrix with intervals; of two, whether they differ.

    For two matrices give each option twice: --tn 327 --fp 33 --fn 28 --tp 271 --tn 331 --fp 28 --fn 18 --tp 282.
    """
    matrices = read(tn, fp, fn, tp)
    found: dict[str, Any] = {"matrices": [figures(matrix) for matrix in matrices]}
    if len(matrices) == 2:
        found["difference"] = compare(*matrices)
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for values in found["matrices"]:
        for name in ("accuracy", "sensitivity", "specificity", "precision"):
            if values[name] is not None:
                low, high = 100 * values[f"{name}_low"], 100 * values[f"{name}_high"]
                said = f"{100 * values[name]:6.2f} %  [{low:.2f}, {high:.2f}]  n = {values[f'{name}_n']}"
                lines.append(f"{name:<12}{said}")
        if values["f1"] is not None:
            lines.append(f"{'F1':<12}{values['f1']:6.4f}")
        lines.append("")
    for name, values in found.get("difference", {}).items():
        p = "< 0.001" if values["p"] < 0.001 else f"= {values['p']:.3f}"
        needed = f"; {values['needed_n']} images on each side would show it (80 % power)" if values["needed_n"] else ""
        low, high = 100 * values["low"], 100 * values["high"]
        lines.append(f"{name:<12}{100 * values['difference']:+6.2f} points [{low:+.2f}, {high:+.2f}], p {p}{needed}")
    if "difference" in found:
        lines.append("Second minus first, as unpaired shares: 95 % intervals by Newcombe, p by the pooled z test.")
    return lines[:-1] if lines and not lines[-1] else lines
