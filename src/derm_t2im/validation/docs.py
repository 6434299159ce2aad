"""Data Docs as they leave Great Expectations want a network; these do not.

Scripts, remote styles, fonts and pictures go, a small style sheet comes in, and a front page that
needs no script says what holds and what does not. What differs from run to run (ids, times) is
replaced, so that equal data gives equal pages.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from derm_t2im.imaging import inline, io
from derm_t2im.validation.rules import Outcome, Suite

SIDE = 128  # of a picture, pixels

#: Stands for the time of every run: pages must not differ between two runs on the same data.
RUN_TIME = datetime(2000, 1, 1, tzinfo=UTC)

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 0 1rem; color: #1c2430; }
a { color: #14508c; } h4, h5, h6 { margin: .6rem 0 .3rem; font-size: 1.05rem; } .h6 { font-weight: 600; }
ol.breadcrumb { list-style: none; display: flex; gap: .6rem; padding: .6rem 0; margin: 0;
border-bottom: 1px solid #ccd; }
.breadcrumb-item + .breadcrumb-item::before { content: "/ "; color: #889; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; } .col-lg-2 { flex: 0 0 200px; } .col-lg-10 { flex: 1 1 640px; }
.col-12 { flex: 0 0 100%; }
h6 { font-size: 1rem; } .failure { border: 1px solid #d5dae2; border-radius: .4rem; padding: .1rem .9rem .6rem;
margin: .8rem 0; } .failure h5 { font-weight: 600; }
.images { display: flex; flex-wrap: wrap; gap: .7rem; margin: .5rem 0; } figure { margin: 0; width: 128px; }
figure img { width: 128px; height: 128px; object-fit: contain; background: #777;
border-radius: .25rem; display: block; }
figcaption { font-size: .78rem; line-height: 1.3; overflow-wrap: anywhere; }
ul.nav { list-style: none; padding: 0; margin: 0; } .nav-link { display: block; padding: .1rem 0; }
table { border-collapse: collapse; margin: .5rem 0; } th, td { border: 1px solid #d5dae2; padding: .3rem .6rem;
vertical-align: top; text-align: left; } thead[hidden] { display: none; } p { margin: .3rem 0; }
.badge { background: #e8ecf2; border-radius: .25rem; padding: 0 .35rem; }
.alert { background: #f2f5f9; padding: .5rem .8rem; border-radius: .3rem; }
.text-danger { color: #b3261e; } .text-success { color: #1a7f37; } .text-warning { color: #9a6700; }
.card.mb-3, nav.navbar-expand-md img, button { display: none; }
i.fas, i.fa { font-style: normal; font-weight: 700; } .fa-times::before { content: "\\2717"; }
.fa-check-circle::before { content: "\\2713"; }
.fa-exclamation-triangle::before { content: "\\26A0"; }
@media (prefers-color-scheme: dark) { body { background: #14181f; color: #e4e8ee; } a { color: #8ab8f0; }
.alert, .badge { background: #232a35; } th, td { border-color: #3a4454; } }
"""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\b20[0-9]{6}T[0-9]{6}\.[0-9]{6}Z(?=</span>)")
_REMOVED = (
    re.compile(r"<script\b.*?</script>", re.S | re.I),
    re.compile(r"<style\b.*?</style>", re.S | re.I),
    re.compile(r"<link\b[^>]*>", re.I),
    re.compile(r"<img\b[^>]*>", re.I),
    re.compile(r"<footer\b.*?</footer>", re.S | re.I),
    re.compile(r"<title>\s*</title>", re.I),
)


def clean(folder: Path) -> None:
    """Make the Data Docs in ``folder`` readable offline and equal for equal data."""
    shutil.rmtree(folder / "static", ignore_errors=True)
    for page in sorted(folder.rglob("*.html")):
        page.write_text(_offline(page.read_text(encoding="utf-8")), encoding="utf-8")


def front_page(outcomes: Sequence[Outcome], suites: Sequence[Suite], folder: Path) -> None:
    """Write ``index.html``: what failed with its images and what to do, then every expectation in words."""
    failed = sorted((o for o in outcomes if not o.passed), key=lambda o: o.rule.severity)
    critical = sum(o.rule.severity == "critical" for o in failed)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="UTF-8"><title>Data validation</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h4>Data validation</h4>",
        f"<p>{len(outcomes)} expectations: {len(outcomes) - len(failed)} hold, {critical} critical "
        f"failure{'s' * (critical != 1)}, {len(failed) - critical} warning{'s' * (len(failed) - critical != 1)}. "
        "A critical failure stops the run.</p>",
    ]
    files = {suite.name: suite.files for suite in suites}
    parts += [_failure(outcome, files[outcome.suite]) for outcome in failed]
    parts.append("<h5>All expectations</h5>")
    for suite in suites:
        page = next(iter(sorted((folder / "validations" / suite.name).rglob("*.html"))), None)
        link = f' <a href="{page.relative_to(folder).as_posix()}">in detail</a>' if page else ""
        parts.append(f"<h6>{escape(suite.name)}{link}</h6>")
        parts.append("<table><thead><tr><th>result</th><th>expectation</th><th>found</th></tr></thead><tbody>")
        own = [o for o in outcomes if o.suite == suite.name]
        parts += [_row(o) for o in sorted(own, key=lambda o: (o.passed, o.rule.severity))]
        parts.append("</tbody></table>")
        if suite.not_measured:
            parts.append(f"<p>Not measured, so not judged: {escape(', '.join(suite.not_measured))}.</p>")
    parts.append("</body></html>\n")
    (folder / "index.html").write_text("\n".join(parts), encoding="utf-8")


def _failure(outcome: Outcome, files: Mapping[str, Path]) -> str:
    """What failed, by how much, what to do, and the images that it is about."""
    rule, found = outcome.rule, _found(outcome)
    colour = "danger" if rule.severity == "critical" else "warning"
    figures = "".join(_figure(name, told, files) for name, told in zip(outcome.examples, outcome.told, strict=True))
    if figures and outcome.rows > 1:
        left = outcome.broken - len(outcome.examples)
        more = f"<p>And {left} more.</p>" if left > 0 else ""
        figures = f'<div class="images">{figures}</div>{more}'
    elif figures:
        figures = f'<p>Look at these:</p><div class="images">{figures}</div>'
    return (
        f'<section class="failure"><h5><span class="text-{colour}">✗ {rule.severity}</span> {escape(outcome.suite)}: '
        f"{escape(rule.words)}</h5><p>Found: <b>{escape(found)}</b>. What to do: {escape(rule.turn)}.</p>"
        f"{figures}</section>"
    )


def _figure(name: str, told: str, files: Mapping[str, Path]) -> str:
    words = f"{escape(name)}<br>{escape(told)}" if told else escape(name)
    if name not in files:
        return f"<figure><figcaption>{words}</figcaption></figure>"
    try:
        source = inline.data_uri(io.read_rgb(files[name]), SIDE)
    except io.ImageError:  # what failed may be the file
        return f"<figure><span>no picture</span><figcaption>{words}</figcaption></figure>"
    return f'<figure><img src="{source}" alt="{escape(name)}"><figcaption>{words}</figcaption></figure>'


def _found(outcome: Outcome) -> str:
    if outcome.rows > 1:
        return f"{outcome.broken} of {outcome.rows} break it"
    where = f", {outcome.rule.where}" if outcome.rule.where else ""
    return f"{value(outcome.observed)}{where}"


def _row(outcome: Outcome) -> str:
    single = outcome.rows == 1 and isinstance(outcome.observed, float)
    if outcome.passed:
        result, found = '<span class="text-success">✓ holds</span>', value(outcome.observed) if single else ""
    else:
        colour = "danger" if outcome.rule.severity == "critical" else "warning"
        result, found = f'<span class="text-{colour}">✗ {outcome.rule.severity}</span>', _found(outcome)
    return f"<tr><td>{result}</td><td>{escape(outcome.rule.words)}</td><td>{escape(found)}</td></tr>"


def value(found: object) -> str:
    """A value as people read it."""
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def _offline(text: str) -> str:
    for pattern in _REMOVED:
        text = pattern.sub("", text)
    known: dict[str, str] = {}
    text = _UUID.sub(lambda found: known.setdefault(found.group(), f"id-{len(known)}"), text)
    text = _TIME.sub("", text.replace(f" / {RUN_TIME:%Y-%m-%dT%H:%M:%SZ}", ""))
    text = text.replace(f"{RUN_TIME:%Y-%m-%dT%H:%M:%SZ}", "not kept: equal data, equal pages")
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    return text.replace("</head>", f"<style>{STYLE}</style>\n</head>", 1) + "\n"
