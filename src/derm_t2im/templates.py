"""The set-up of our HTML pages: everything is escaped, and a name that is missing is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def source(pages: Environment, name: str) -> str:
    """The text of a file among the templates, as it is."""
    assert pages.loader is not None
    return pages.loader.get_source(pages, name)[0]
