"""`derm-t2im export-dataset` and `derm-t2im export-lora`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from derm_t2im.errors import UserError

Out = Annotated[Path, typer.Argument(help="A new folder.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier export in that folder.")]


def export_dataset(
    out: Out,
    which: Annotated[str, typer.Option("--images", help="kept, or all that were drawn with the decisions.")] = "kept",
    force: Force = False,
) -> None:
    """Write the curated set as an image folder with metadata and a card, which `datasets` loads."""
    from derm_t2im.progress import say
    from derm_t2im.publish import dataset

    if which not in ("kept", "all"):
        raise UserError(f"--images is {which!r}: use kept or all.")
    n = dataset.export(out, which, force)  # type: ignore[arg-type]
    say(f"{n} images and their card are in {out}; read them with {dataset.describe(out)}")


def export_lora(out: Out, force: Force = False) -> None:
    """Write the fine-tuned LoRA with its model card, for diffusers and for other programs."""
    from derm_t2im.progress import say
    from derm_t2im.publish import lora

    files = lora.export(out, force)
    say(f"{', '.join(files)} and their card are in {out}")
