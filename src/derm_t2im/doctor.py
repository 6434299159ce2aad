"""What this machine has for the pipeline, what it lacks, and what to do about it.

Quick and offline: nothing is fetched, nothing is written outside the terminal.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from configparser import ConfigParser, Error
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from derm_t2im import paths
from derm_t2im.errors import UserError

State = Literal["ok", "note", "missing"]

#: Packages that some stage imports; a name that cannot be found stops the default run.
PACKAGES = (
    "cv2", "diffusers", "dvc", "fiftyone", "great_expectations", "jinja2", "matplotlib", "onnx", "onnxruntime",
    "onnxscript", "pandas", "peft", "PIL", "pyarrow", "pydantic", "safetensors", "sklearn", "scipy", "timm", "torch",
    "torchvision", "transformers", "typer",
)  # fmt: skip
PYTHON = ((3, 11), (3, 14))  # from, up to but without
DISK_NEEDED = 2  # GB that a default run may write, DVC's cache included
MEMORY_NEEDED = 6  # GB that the default run is meant for


@dataclass(frozen=True)
class Check:
    """One component: ``ok``; ``note`` (the default run does without it); ``missing`` (it does not)."""

    name: str
    state: State
    found: str
    do: str = ""


def examine(root: Path = Path()) -> list[Check]:
    """Look at every component; never raises for what it finds.

    Args:
        root: Root of the repository.
    """
    probes: list[Callable[[Path], Check]] = [
        _python, _packages, _params, _source, _base, _torch, _mongod, _onnxruntime, _git, _dvc, _remote, _disk, _memory,
    ]  # fmt: skip
    return [probe(root) for probe in probes]


def table(checks: Sequence[Check]) -> str:
    """The checks as text, a line each, with what to do below a component that is not ok."""
    wide = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8} {check.name:<{wide}}  {check.found}")
        if check.do:
            lines.append(f"{'':<8} {'':<{wide}}  -> {check.do}")
    return "\n".join(lines)


def command() -> None:
    """What is there, what is missing, and what to do. Exits with 1 if the default run would fail."""
    import typer

    checks = examine()
    typer.echo(table(checks))
    lacking = [check.name for check in checks if check.state == "missing"]
    if lacking:
        typer.echo(f"The default run needs: {', '.join(lacking)}.", err=True)
        raise typer.Exit(1)


def _python(_: Path) -> Check:
    version = platform.python_version()
    low, high = PYTHON
    if low <= sys.version_info[:2] < high:
        return Check("Python", "ok", version)
    allowed = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
    return Check("Python", "missing", version, f"use Python {allowed}: `make clean repro PYTHON=python3.12`")


def _packages(_: Path) -> Check:
    lacking = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if lacking:
        return Check("packages", "missing", f"not installed: {', '.join(lacking)}", "run `make setup`")
    return Check("packages", "ok", f"all {len(PACKAGES)} that the stages import")


def _params(root: Path) -> Check:
    from derm_t2im.params.schema import load_all

    try:
        load_all(root / paths.PARAMS)
    except UserError as error:
        return Check(
            "params.yaml",
            "missing",
            str(error),
            "correct it: the file's comments and src/derm_t2im/params/ say what is allowed",
        )
    return Check("params.yaml", "ok", "every key and value is allowed")


def _source(root: Path) -> Check:
    from derm_t2im.params.schema import load_all

    try:
        acquire = load_all(root / paths.PARAMS).acquire
    except UserError:
        return Check("images", "missing", "unknown: params.yaml is not valid", "correct params.yaml first")
    wanted = [(acquire.source, acquire.path), (acquire.external.source, acquire.external.path)]
    absent = [path for source, path in wanted if source in ("folder", "ham10000") and not (root / path).is_dir()]
    if absent:
        return Check("images", "missing", f"no folder {', '.join(absent)}", "put images there or change acquire.path")
    return Check("images", "ok", f"source {acquire.source}, external {acquire.external.source}")


def _base(root: Path) -> Check:
    from derm_t2im.diffusion.base import is_hub_id
    from derm_t2im.params.schema import load_all

    try:
        base = load_all(root / paths.PARAMS).finetune.base
    except UserError:
        base = str(paths.BASE / "mini")
    if (root / base / "model_index.json").is_file():
        return Check("base model", "ok", base)
    if is_hub_id(base):
        return Check("base model", "ok", f"{base}, at the hub: finetune fetches it")
    if base.endswith(".safetensors") and (root / base).is_file():
        return Check("base model", "ok", base)
    if (root / base).is_dir():
        return Check(
            "base model", "missing", f"{base} has no model_index.json", "it is no diffusers folder: restore it"
        )
    return Check(
        "base model", "missing", f"no folder {base}",
        "restore it with `git checkout -- models/base`, or give finetune.base the folder of a diffusers checkpoint",
    )  # fmt: skip


def _torch(_: Path) -> Check:
    from derm_t2im import runtime

    try:
        import torch

        device = runtime.device()
    except ImportError as error:
        return Check("torch", "missing", _one_line(error), "run `make setup`")
    except UserError as error:
        return Check("torch", "missing", str(error), "unset DERM_T2IM_DEVICE to take what is there")
    if device.startswith("cuda"):
        return Check("torch", "ok", f"{torch.__version__} on {torch.cuda.get_device_name(device)}")
    return Check("torch", "ok", f"{torch.__version__} on the CPU, {runtime.threads()} threads")


def _mongod(_: Path) -> Check:
    from derm_t2im.curation.database import find_mongod

    name, do = "mongod (FiftyOne)", "run `make setup`, or set FIFTYONE_DATABASE_URI to a MongoDB server"
    uri = os.environ.get("FIFTYONE_DATABASE_URI", "")
    if uri:  # never shown whole: it may hold a password
        return Check(name, "ok", f"server {urlsplit(uri).hostname or 'by FIFTYONE_DATABASE_URI'} (not contacted)")
    try:
        said = _output([str(find_mongod()), "--version"]).splitlines()[0]
    except UserError:
        return Check(name, "missing", "FiftyOne has no mongod", do)
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return Check(name, "missing", f"mongod does not start: {_one_line(error)}", do)
    return Check(name, "ok", said)


def _onnxruntime(_: Path) -> Check:
    try:
        import onnxruntime

        from derm_t2im.deploy.runtime import loaded_providers

        available, loaded = onnxruntime.get_available_providers(), loaded_providers()
    except Exception as error:  # a broken shared library shows as ImportError, OSError or RuntimeError
        return Check("onnxruntime", "missing", _one_line(error), "run `make setup`")
    short = [name.removesuffix("ExecutionProvider") for name in loaded]
    found = f"{onnxruntime.__version__}, runs on {', '.join(short)}"
    if "CUDAExecutionProvider" in available and "CUDAExecutionProvider" not in loaded:
        return Check("onnxruntime", "ok", found + " (built for CUDA, which does not load here)")
    return Check("onnxruntime", "ok", found)


def _git(root: Path) -> Check:
    if shutil.which("git") is None:
        return Check("Git", "missing", "no `git` on the PATH", "install Git")
    try:
        version = _output(["git", "--version"]).strip()
        _output(["git", "-C", str(root), "rev-parse", "--git-dir"])
    except (OSError, subprocess.SubprocessError):
        return Check("Git", "missing", "this folder is no Git repository", "work in a clone (`git clone ...`)")
    return Check("Git", "ok", version)


def _dvc(root: Path) -> Check:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("dvc")
    except PackageNotFoundError:
        return Check("DVC", "missing", "not installed", "run `make setup`")
    if not (root / ".dvc").is_dir():
        return Check(
            "DVC", "missing", f"{number}, but no .dvc folder here", "run in the root of the clone, or `dvc init`"
        )
    return Check("DVC", "ok", f"{number}, initialised")


def _remote(root: Path) -> Check:
    config = ConfigParser(interpolation=None)
    try:
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    except (Error, UnicodeDecodeError) as error:
        return Check("DVC remote", "note", f"cannot read .dvc/config: {_one_line(error)}", "correct it")
    default = config.get("core", "remote", fallback="").strip('"')
    # Section names as DVC writes them: ['remote "storage"'], quotes included.
    named = [section.strip("'").removeprefix("remote ").strip('"') for section in config if "remote " in section]
    if default in named:
        return Check("DVC remote", "ok", default)
    if named:
        do = f"choose the default: `dvc remote default {named[0]}`"
        return Check("DVC remote", "note", f"{', '.join(named)}, none is the default", do)
    return Check(
        "DVC remote", "note", "none: nothing can be pushed or pulled", "`dvc remote add -d storage URL_OR_FOLDER`"
    )


def _disk(root: Path) -> Check:
    free = shutil.disk_usage(root).free / 1e9
    if free < DISK_NEEDED:
        return Check("disk", "missing", f"{free:.1f} GB free", f"free at least {DISK_NEEDED} GB")
    return Check("disk", "ok", f"{free:.0f} GB free")


def _memory(_: Path) -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, ValueError, OSError):
        return Check("memory", "ok", "unknown on this system")
    if total < 0.9 * MEMORY_NEEDED:
        return Check("memory", "note", f"{total:.1f} GB", f"the default run is meant for {MEMORY_NEEDED} GB")
    return Check("memory", "ok", f"{total:.0f} GB")


def _output(arguments: list[str]) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=5, check=True).stdout


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
