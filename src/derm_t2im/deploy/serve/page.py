"""The page at /: drop images on it. It fetches nothing but answers, and its own policy forbids anything else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from derm_t2im import templates

if TYPE_CHECKING:
    from derm_t2im.deploy.card import Card
    from derm_t2im.deploy.serve.limits import Limits


def render(card: Card, limits: Limits, key: bool) -> tuple[str, str]:
    """The page's text and its Content-Security-Policy; ``key``: whether it must ask for one."""
    from markupsafe import Markup

    pages = templates.environment("derm_t2im.deploy.serve")
    style, script = templates.source(pages, "serve.css"), templates.source(pages, "serve.js")
    html = pages.get_template("serve.html").render(
        style=Markup(style),
        script=Markup(script),
        card=card,
        limits=limits,
        key=key,
        positive=" + ".join(card.positive),
        threshold=None if card.threshold is None or not card.positive else f"{card.threshold:.3f}",
        known=card.operating,
        percent=lambda share: f"{100 * share:.0f}",
        auc=_auc,
    )
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _auc(figures: Mapping[str, float | None]) -> str:
    value, low, high = (figures.get(name) for name in ("auc", "auc_low", "auc_high"))
    if value is None:
        return "not known"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
