"""Simulated readers, for tests and for the worked example: signal detection with images that differ in difficulty.

``python -m tests.study.simulated study/NAME OUT`` writes the answers of five of them. No person has read anything.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from derm_t2im import seeds
from derm_t2im.study.answers import Item, read_study

COLUMNS = ("study", "reader", "experience", "position", "image", "phase", "source", "confidence", "diagnosis",
           "seconds", "interruptions", "shown_px")  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """``d_prime`` between synthetic and real; ``criterion``: above 0 leans to real; share of right diagnoses."""

    name: str
    d_prime: float = 0.0
    criterion: float = 0.0
    right: float = 0.8
    right_synthetic: float = 0.8
    difficulty: float = 0.7  # spread of what all readers see alike in an image
    slips: float = 0.5  # spread of what changes from one look to the next


def rows(study: str, classes: list[str], key: dict[str, Item], reader: Simulated) -> list[dict[str, str]]:
    rng = seeds.generator("simulated", study, reader.name)
    names = sorted(key, key=lambda name: (key[name].phase != "practice", rng.random()))
    own = {item.shows: rng.normal() for item in key.values()}
    out = []
    for position, name in enumerate(names, 1):
        item = key[name]
        common = seeds.generator("image", study, item.shows).normal() * reader.difficulty
        evidence = reader.d_prime * ((item.kind == "synthetic") - 0.5) + common + own[item.shows]
        evidence += rng.normal() * reader.slips - reader.criterion
        right = rng.random() < (reader.right_synthetic if item.kind == "synthetic" else reader.right)
        others = [label for label in classes if label != item.label]
        out.append({
            "study": study, "reader": reader.name, "experience": "", "position": str(position), "image": name,
            "phase": item.phase, "source": "synthetic" if evidence > 0 else "real",
            "confidence": str(1 + min(4, int(abs(evidence) * 2))),
            "diagnosis": item.label if right else str(rng.choice(others)),
            "seconds": f"{np.exp(rng.normal(2.1, 0.4)):.2f}", "interruptions": "0", "shown_px": "512",
        })  # fmt: skip
    return out


def write(path: Path, answers: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(answers)
    return path


READERS = (
    Simulated("sim-1", 0.5, 0.3, 0.85, 0.80),
    Simulated("sim-2", 0.9, 0.0, 0.80, 0.70),
    Simulated("sim-3", 0.2, -0.4, 0.75, 0.70),
    Simulated("sim-4", 0.6, 0.6, 0.85, 0.75),
    Simulated("sim-5", 0.4, 0.1, 0.70, 0.70),
)

if __name__ == "__main__":
    plan, key = read_study(Path(sys.argv[1]))
    for one in READERS:
        print(write(Path(sys.argv[2]) / f"answers-{one.name}.csv", rows(plan["study"], plan["classes"], key, one)))
