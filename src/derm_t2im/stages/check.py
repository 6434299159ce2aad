"""Stage `check`: parameters are sound and what they point at is there, before anything else runs.

DVC removes the outputs of a stage before it looks for the stage's dependencies. Without this stage, a mistyped
folder would cost the data and be answered by an errno.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from derm_t2im import paths, runtime, state
from derm_t2im.diffusion import base
from derm_t2im.errors import UserError
from derm_t2im.params.schema import load_all
from derm_t2im.progress import say
from derm_t2im.sources import labels


def run() -> None:
    """Write data/check.json: the names of what was looked at, the same after every check that passes."""
    params = load_all()
    places = {
        "acquire.path": params.acquire.path,
        "acquire.external.path": params.acquire.external.path,
    }
    missing = [f"{name}: there is no folder {place}." for name, place in places.items() if not Path(place).is_dir()]
    tuned, drawn = params.finetune, params.generate
    for look in (
        lambda: base.check(tuned.base),
        lambda: runtime.check_precision("finetune.precision", tuned.precision),
        lambda: runtime.check_precision("generate.precision", drawn.precision),
        lambda: runtime.check_precision("train.precision", params.train.precision),
    ):
        try:
            look()
        except UserError as error:
            missing.append(str(error))
    if drawn.lora and not Path(drawn.lora).is_file():
        missing.append(f"generate.lora: there is no file {drawn.lora!r}.")
    if drawn.images_from and not Path(drawn.images_from).is_dir():
        missing.append(f"generate.images_from: there is no folder {drawn.images_from!r}.")
    for arch in params.train.archs:
        weights = params.train.models[arch].weights
        if weights not in ("", "pretrained") and not Path(weights).is_file():
            missing.append(f"train.models.{arch}.weights: there is no file {weights!r}; or use '' or pretrained.")
    if params.acquire.labels != "as_is" and isinstance(tuned.token, dict):
        untold = sorted(set(labels.classes(params.acquire.labels)) - set(tuned.token))
        if untold:
            missing.append(f"finetune.token: no token for {', '.join(untold)}.")
    if tuned.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        missing.append("finetune.optimizer: adamw8bit needs bitsandbytes; `pip install bitsandbytes`.")
    if missing:
        raise UserError(f"params.yaml: {' '.join(missing)} Nothing was run or removed.")
    state.write_json(
        paths.CHECK, {"checked": ["parameters", *places, "finetune.base", "generate.lora", "generate.images_from"]}
    )
    say("check: the parameters are sound, and what they name on the disk is there")
