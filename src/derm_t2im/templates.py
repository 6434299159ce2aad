"""The set-up of our HTML pages: everything is escaped, and a name that is missing is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(*packages: str) -> Environment:
    """Jinja's environment with the folders ``templates`` of some packages, in that order."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates") for package in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def plain(*packages: str) -> Environment:
    """The same for Markdown: text as it is, and the filter ``cell`` for what stands in a table."""
    pages = environment(*packages)
    pages.autoescape = False
    pages.filters["cell"] = _cell
    return pages


def _cell(text: Any) -> str:
    """Text inside a Markdown table: nothing in it ends the cell or starts markup."""
    said = " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|")
    for mark in "<>`*_[]":
        said = said.replace(mark, {"<": "&lt;", ">": "&gt;"}.get(mark, "\\" + mark))
    return said.replace("@", "@\N{ZERO WIDTH SPACE}")


def source(pages: Environment, name: str) -> str:
    """The text of a file among the templates, as it is."""
    assert pages.loader is not None
    return pages.loader.get_source(pages, name)[0]
