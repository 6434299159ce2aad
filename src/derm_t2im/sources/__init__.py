"""Where images come from; each source is a module with ``collect(settings, role, folder)``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

    from derm_t2im.params.acquire import Acquire


def collect(settings: Acquire, role: Literal["pool", "external"], target: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring one role's images below ``target`` by the source that the settings name.

    Args:
        settings: Section `acquire`.
        role: ``pool`` (training and tests from within) or ``external`` (a test from elsewhere).
        target: Images go to ``target/images/<role>/``.

    Returns:
        The manifest's rows, with paths below ``target``, and the quarantine; both empty for the
        external source ``none``.

    Raises:
        UserError: for a source that cannot be read at all.
    """
    from derm_t2im import manifest
    from derm_t2im.sources import folder

    source = settings.source if role == "pool" or folder.has_external(settings) else settings.external.source
    if source == "none":
        return manifest.empty([*manifest.REQUIRED, "role"]), manifest.empty(
            ["image_id", "path", "kind", "label", "reason"]
        )
    # Only the source in use is imported; by name, so that the import can be followed.
    if source == "phantom":
        from derm_t2im.sources import phantom as chosen
    elif source == "folder":
        chosen = folder  # type: ignore[misc]
    elif source == "isic":
        from derm_t2im.sources import isic as chosen  # type: ignore[no-redef]
    else:
        from derm_t2im.sources import ham10000 as chosen  # type: ignore[no-redef]
    return chosen.collect(settings, role, target)


def finished(settings: Acquire) -> None:
    """Forget what a source kept for going on after a kill: its images are in place."""
    if "isic" in (settings.source, settings.external.source):
        from derm_t2im.sources import isic

        isic.finished(settings)
