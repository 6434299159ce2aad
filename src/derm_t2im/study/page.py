"""The page that readers open: one HTML file, no network, nothing in it that knows a source."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from derm_t2im import templates
from derm_t2im.vocabulary import label_words

VIEW = 512  # width at which an image is shown, CSS pixels, as far as whole multiples reach it


class Shown(NamedTuple):
    """One thing to read: its neutral name, its phase, what it repeats (any number shared by the two), its PNG."""

    name: str
    phase: str
    pair: int | None
    png: bytes


def render(study: str, labels: Sequence[str], shown: Sequence[Shown], side: int) -> str:
    """The page as text; equal input gives equal bytes."""
    from markupsafe import Markup

    environment = templates.environment("derm_t2im.study")
    # Pairs are numbered as they come: the number of a row would tell a kind.
    pairs: dict[int, int] = {}
    items: list[dict[str, Any]] = []
    for one in shown:
        pair = None if one.pair is None else pairs.setdefault(one.pair, len(pairs))
        items.append({"name": one.name, "phase": one.phase, "pair": pair, "png": base64.b64encode(one.png).decode()})
    data = {"study": study, "labels": list(labels), "items": items}
    return environment.get_template("read.html").render(
        data=Markup(json.dumps(data, sort_keys=True).replace("<", "\\u003c")),
        labels=[(label, label_words(label), key) for label, key in zip(labels, keys(len(labels)), strict=True)],
        width=side * max(1, VIEW // side),
        reading=sum(one.phase == "reading" for one in shown),
        practice=sum(one.phase == "practice" for one in shown),
    )


def keys(n: int) -> list[str]:
    """A key for each of ``n`` diagnoses, none of them r or s; empty where there are more than keys."""
    letters = "abcdefghijklmnopqtuvwxyz"  # pragma: allowlist secret
    return [letters[i] if i < len(letters) else "" for i in range(n)]
