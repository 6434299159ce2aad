"""docs/dependencies.md (`make licences`): what requirements.lock installs, and the licence that each package states.

Read from the installed packages' own metadata (PEP 639's ``License-Expression``, else the field ``License``,
else the classifiers), so it says what their authors say and nothing more; no network.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
LOCK = ROOT / "requirements.lock"
ABSENT = "not installed on this system"
UNSTATED = "not stated"
SHORT = {  # spellings that are met, and SPDX's identifier
    **dict.fromkeys(("apache 2.0", "apache license 2.0", "apache software license", "apache", "apache 2",
                     "apache license, version 2.0", "apache 2.0 license", "apache software license v2"), "Apache-2.0"),
    **dict.fromkeys(("mit license", "mit"), "MIT"),
    **dict.fromkeys(("bsd license", "bsd"), "BSD"),
    **dict.fromkeys(("bsd-3-clause license", "3-clause bsd license", "new bsd license", "bsd 3-clause", "3-clause bsd",
                     "bsd 3-clause license", "new bsd", "bsd-3-clause"), "BSD-3-Clause"),
    **dict.fromkeys(("bsd 2-clause license", "2-clause bsd", "bsd-2-clause"), "BSD-2-Clause"),
    **dict.fromkeys(("python software foundation license", "psf"), "PSF-2.0"),
    **dict.fromkeys(("isc license (iscl)", "isc license", "isc"), "ISC"),
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "lgpl-2.1+": "LGPL-2.1-or-later",
    "gplv2 | eplv1": "GPL-2.0-only OR EPL-1.0",
}  # fmt: skip
# Whoever passes on a program that contains them has more to do than to name them.
RECIPROCAL = re.compile(r"GPL|MPL|EPL|EUPL|CDDL|proprietary|nvidia", re.IGNORECASE)


def plain(name: str) -> str:
    """A package's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Name and version of everything in requirements.lock."""
    text = LOCK.read_text(encoding="utf-8")
    return {plain(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)}


def direct() -> set[str]:
    """What pyproject.toml itself asks for, to run and to develop."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [
        content["project"]["dependencies"],
        *content["project"]["optional-dependencies"].values(),
        content["dependency-groups"]["dev"],
    ]
    return {plain(re.split(r"[\s<>=!~;\[]", one, maxsplit=1)[0]) for group in groups for one in group}


def licence(name: str) -> str:
    """What a package states."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ABSENT
    if expression := about.get("License-Expression"):
        return str(expression)
    field = str(about.get("License") or "").strip()
    field = "" if field.lower() in ("unknown", "dual license") else field
    named = [value.split(" :: ")[-1] for value in about.get_all("Classifier") or [] if value.startswith("License :: ")]
    named = [value for value in named if value != "OSI Approved"]
    if (field and len(field) < 60) or not named:  # some put the whole text there
        named = field.splitlines()[:1]
    return " or ".join(sorted({SHORT.get(value.lower(), value)[:60] for value in named})) or UNSTATED


def binding(said: str) -> bool:
    """Whether a licence asks for more than to be named; not where a permissive one may be chosen instead."""
    choices = [said] if "(" in said else re.split(" or ", said, flags=re.IGNORECASE)
    return all(RECIPROCAL.search(one) for one in choices)


def page() -> str:
    """The whole page."""
    found = {name: licence(name) for name in locked()}
    versions, asked = locked(), direct()
    counts = Counter(found.values())
    lines = [
        "# What is installed, and under which licence\n\n",
        f"The {len(found)} packages of `requirements.lock`, with the licence that each states in its metadata. Made\n",
        "by `make licences`; a test compares names and versions with the lock. A list, no legal advice: a wheel may\n",
        "carry libraries under terms of their own. `requirements-mongod.lock` brings mongod, under the SSPL-1.0.\n",
        "Models and images have terms too ([sharing.md](sharing.md)).\n\n",
        "## More to do than to name them\n\n",
        "Copyleft of some kind, or terms of a vendor. derm-t2im ships none of them: an installation fetches them.\n\n",
        "| Package | Version | Licence |\n|---|---|---|\n",
        *(f"| {n} | {versions[n]} | {found[n]} |\n" for n in sorted(found) if binding(found[n])),
        "\n## By licence\n\n| Licence | Packages |\n|---|---|\n",
        *(f"| {one} | {count} |\n" for one, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))),
        "\n## All\n\nIn bold what `pyproject.toml` asks for itself.\n\n",
        "| Package | Version | Licence |\n|---|---|---|\n",
        *(f"| {f'**{n}**' if n in asked else n} | {versions[n]} | {found[n]} |\n" for n in sorted(found)),
    ]
    return "".join(lines)


if __name__ == "__main__":
    text = page()
    PAGE.write_text(text, encoding="utf-8")
    unstated = [name for name in locked() if licence(name) == UNSTATED]
    print(
        f"wrote {PAGE.relative_to(ROOT)}: {len(locked())} packages; no licence stated: {', '.join(unstated) or 'none'}"
    )
