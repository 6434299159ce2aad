"""Stage `check`: parameters are sound and what they point at is there, before anything else runs.

DVC removes the outputs of a stage before it looks for the stage's dependencies. Without this stage, a mistyped
folder would cost the data and be answered by an errno.
"""

from __future__ import annotations

from pathlib import Path

from derm_t2im import paths, state
from derm_t2im.diffusion import base
from derm_t2im.errors import UserError
from derm_t2im.params.schema import load_all
from derm_t2im.progress import say


def run() -> None:
    """Write data/check.json: the names of what was looked at, the same after every check that passes."""
    params = load_all()
    places = {
        "acquire.path": params.acquire.path,
        "acquire.external.path": params.acquire.external.path,
    }
    missing = [f"{name}: there is no folder {place}." for name, place in places.items() if not Path(place).is_dir()]
    try:
        base.check(params.finetune.base)
    except UserError as error:
        missing.append(str(error))
    if missing:
        raise UserError(f"params.yaml: {' '.join(missing)} Nothing was run or removed.")
    state.write_json(paths.CHECK, {"checked": ["parameters", *places, "finetune.base"]})
    say("check: the parameters are sound, and what they name on the disk is there")
