"""The curated set of another Git revision, fetched through DVC into an ignored folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from derm_t2im import paths
from derm_t2im.errors import UserError
from derm_t2im.git import commit_of
from derm_t2im.state import STATE, move_into_place

#: What a room needs: the decisions, and the images that they are about.
_PARTS = (paths.CURATED, paths.SYNTHETIC, paths.PROCESSED)


def checkout(rev: str, root: Path = Path()) -> Path:
    """A folder with the curated set and its images as they were at ``rev``; made once per commit.

    Raises:
        UserError: if there is no such revision, or its data are neither in the cache nor in a remote.
    """
    commit = commit_of(rev, root)
    target = (root / STATE / "revisions" / commit).resolve()
    if target.is_dir():
        return target
    partial = target.with_name(f".{commit}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _fetch(commit, root, partial)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Exception):
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"The curated set of {rev} cannot be had ({said}): its data must be in DVC's cache or a remote "
                "(`dvc fetch --all-commits`)."
            ) from error
        raise
    move_into_place(partial, target)
    return target


def _fetch(commit: str, root: Path, target: Path) -> None:
    from dvc.api import DVCFileSystem

    repository = DVCFileSystem(str(root.resolve()), rev=commit)
    for part in _PARTS:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        repository.get(f"/{part.as_posix()}", str(target / part), recursive=True)
