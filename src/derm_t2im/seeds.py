"""Seeds that belong to a thing, not to its place in a queue.

A seed derived from (run seed, name) is the same whatever the batch size, the number of workers
or the order of work, so the thing made with it is too.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any sequence of numbers and names (SHA-256, so stable across machines)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator seeded by :func:`derive`."""
    return np.random.default_rng(derive(*parts))
