"""Licences of images, and what they mean for what is made from them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Spellings met in metadata -> identifiers that the Hugging Face hub knows.
_HUB = {
    "cc0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
    "cc-0": "cc0-1.0",
    "cc-by": "cc-by-4.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-nc": "cc-by-nc-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0": "cc-by-nc-nd-4.0",
    "cc-by-nd-4.0": "cc-by-nd-4.0",
    "apache-2.0": "apache-2.0",
    "mit": "mit",
}
_UNKNOWN = ("", "unknown", "not stated", "other", "<na>", "nan", "none")


@dataclass(frozen=True)
class Source:
    """One source of images under one licence: ``licence`` as it is written in the metadata."""

    source: str
    licence: str
    attribution: str
    images: int


@dataclass(frozen=True)
class Terms:
    """The licences behind a set or a model.

    ``hub`` is the identifier for a card's front matter: the one licence of all, else ``other``, or ``unknown``.
    ``warnings`` say what limits the use of what is derived; they are no legal advice.
    """

    sources: list[Source]
    hub: str
    warnings: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Images by licence, in order of its name; ``unknown`` for those of which none is stated."""
        found = Counter[str]()
        for one in self.sources:
            found[one.licence or "unknown"] += one.images
        return dict(sorted(found.items()))

    @property
    def together(self) -> str:
        """All of them in one word: they all apply, so several are joined with AND."""
        return " AND ".join(self.counts) or "unknown"


def hub_id(licence: str) -> str:
    """The Hugging Face identifier of a licence, ``other`` for one that it does not know, ``unknown`` for none."""
    if licence.strip().lower() in _UNKNOWN:
        return "unknown"
    return _HUB.get(re.sub(r"[\s_]+", "-", licence.strip().lower()), "other")


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids commercial use, by its name."""
    return bool(re.search(r"(?<![a-z])nc(?![a-z])|non.?commercial", licence, re.IGNORECASE))


def terms(images: pd.DataFrame, what: str = "this set") -> Terms:
    """Licences of the real images that something was made from, most images first.

    Args:
        images: Their manifest; the columns ``source``, ``licence`` and ``attribution`` where known.
        what: What was made from them, for the warnings.
    """
    known = [
        images[c].fillna("").astype(str).tolist() if c in images else [""] * len(images)
        for c in ("source", "licence", "attribution")
    ]
    counted = Counter(zip(*known, strict=True))
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    sources = [Source(source, licence, attribution, n) for (source, licence, attribution), n in ordered]
    ids = {hub_id(one.licence) for one in sources}
    warnings = []
    bound = sorted({f"{one.source} ({one.licence})" for one in sources if is_non_commercial(one.licence)})
    if bound:
        warnings.append(
            f"Non-commercial terms flow into {what}: it was made from images of {', '.join(bound)}. Treat it as "
            "non-commercial unless a lawyer tells you otherwise."
        )
    unstated = sum(one.images for one in sources if hub_id(one.licence) == "unknown")
    if unstated:
        warnings.append(f"For {unstated} of {len(images)} images behind {what} no licence is stated.")
    if shared := sorted(
        {one.licence for one in sources if re.search(r"(?<![a-z])(sa|nd)(?![a-z])", one.licence, re.I)}
    ):
        warnings.append(f"Share-alike or no-derivatives terms are among them ({', '.join(shared)}): read them first.")
    hub = "unknown" if not ids else ids.pop() if len(ids) == 1 else "other"
    return Terms(sources, hub, warnings)
