"""Profiles: sets of parameters for a purpose, written into params.yaml in one go.

A profile is a partial params.yaml in ``profiles/``. It is written into the one file that DVC reads, so what ran is
always what params.yaml and Git say; the comments there stay.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated, Any

import typer

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.progress import say
from derm_t2im.state import write_atomic

FOLDER = Path("profiles")
MISSING = "(none)"


def known(folder: Path = FOLDER) -> dict[str, str]:
    """Name of each profile and what the first line of its file says."""
    found = {}
    for file in sorted(folder.glob("*.yaml")):
        first = file.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        found[file.stem] = first.lstrip("# ") if first.startswith("#") else ""
    return found


def apply(name: str, params: Path = paths.PARAMS, folder: Path = FOLDER) -> tuple[str, list[tuple[str, Any, Any]]]:
    """The text of params.yaml with a profile's values, and each changed parameter with its old and new value.

    Nested sections are merged, lists and single values replaced, an empty mapping empties.

    Raises:
        UserError: for an unknown profile, or values that the schema refuses.
    """
    from pydantic import ValidationError
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from yaml import safe_load

    from derm_t2im.params import complaint, read_yaml
    from derm_t2im.params.schema import Params

    names = known(folder)
    if name not in names:
        raise UserError(f"there is no profile {name!r}; profiles in {folder}: {', '.join(names) or 'none'}.")
    for file in (folder / f"{name}.yaml", params):
        read_yaml(file)  # its errors are lines
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines stay as they are
    try:
        # Both with ruamel: it writes numbers as they were (0.00003, not 3e-05, which PyYAML reads as text).
        wanted = yaml.load((folder / f"{name}.yaml").read_text(encoding="utf-8"))
        document = yaml.load(params.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise UserError(f"{params} is not valid YAML: {' '.join(str(error).split())}") from None
    changes: list[tuple[str, Any, Any]] = []
    _merge(document, wanted, "", changes)
    text = io.StringIO()
    yaml.dump(document, text)
    try:
        Params.model_validate(safe_load(text.getvalue()))
    except ValidationError as error:
        reason = complaint(error, "", Params).removeprefix("params.yaml: ")
        raise UserError(f"{folder / name}.yaml does not fit {params}: {reason} Nothing was written.") from None
    return text.getvalue(), changes


def _merge(into: dict[str, Any], wanted: dict[str, Any], at: str, changes: list[tuple[str, Any, Any]]) -> None:
    """Write ``wanted`` into ``into``, in place, and note what differs."""
    for key, new in wanted.items():
        where, old = f"{at}{key}", into.get(key, MISSING)
        if isinstance(new, dict) and new and isinstance(old, dict):
            _merge(old, new, f"{where}.", changes)
        elif old != new:
            changes.append((where, _plain(old), _plain(new)))
            if isinstance(new, list) and isinstance(old, list):
                old[:] = list(new)  # keeps its form and comment
            else:
                into[key] = new


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def command(
    name: Annotated[str | None, typer.Argument(help="The profile; without one, those that exist are listed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change and write nothing.")] = False,
) -> None:
    """Write a profile's values into params.yaml, such as the paper's; comments stay."""
    if name is None:
        for each, line in known().items():
            print(f"{each:<12} {line}")
        return
    text, changes = apply(name)
    for where, old, new in changes:
        print(f"{where}: {old} -> {new}")
    if not changes:
        say(f"profile {name}: params.yaml says so already")
    elif dry_run:
        say(f"profile {name}: {len(changes)} values would change; nothing was written")
    else:
        write_atomic(paths.PARAMS, text)
        say(
            f"profile {name}: {len(changes)} values changed; back with `git checkout params.yaml`; run with `dvc repro`"
        )
