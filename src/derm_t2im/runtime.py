"""Settings of the machine, not of the experiment.

They change how fast a result comes, and the result by rounding at most (which training makes large), so they live in
environment variables and not in ``params.yaml`` (where they would make DVC run stages again):

- ``DERM_T2IM_DEVICE``: ``auto`` (default), ``cpu``, ``cuda``, ``cuda:1``, ...
- ``DERM_T2IM_WORKERS``: worker processes for image work (default: the cores of this machine).
- ``DERM_T2IM_THREADS``: threads of torch and OpenMP (default: the cores of this machine, shared by the processes that
  do one stage together).
- ``DERM_T2IM_GRAPHS``: ``on`` (default) or ``off``: whether training on a GPU records its step as a CUDA graph.
- ``DERM_T2IM_LAUNCH``: a launcher under which `finetune` and `generate` start themselves, such as
  ``accelerate launch --multi_gpu --num_processes 4`` (docs/scale.md).
"""

from __future__ import annotations

import os

from derm_t2im.errors import UserError


def _count(variable: str) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = os.environ.get(variable, "")
    if not text:
        return cores
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{variable} is {text!r}: give a whole number of at least 1.")
    return int(text)


def workers() -> int:
    """Number of worker processes."""
    return _count("DERM_T2IM_WORKERS")


def threads() -> int:
    """Number of threads for torch."""
    if os.environ.get("DERM_T2IM_THREADS"):
        return _count("DERM_T2IM_THREADS")
    return max(1, _count("DERM_T2IM_THREADS") // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def graphs() -> bool:
    """Whether a training step on a GPU may be recorded as a CUDA graph."""
    wanted = os.environ.get("DERM_T2IM_GRAPHS", "on")
    if wanted not in ("on", "off"):
        raise UserError(f"DERM_T2IM_GRAPHS is {wanted!r}: use on or off.")
    return wanted == "on"


def check_precision(parameter: str, precision: str) -> None:
    """Raise a UserError that names ``parameter`` where this device does not compute in that precision."""
    if precision == "fp16" and device() == "cpu":
        raise UserError(f"{parameter}: fp16 needs a GPU; use fp32 or bf16 on the CPU.")


def device() -> str:
    """Name of the torch device to use; sets the number of torch's threads on the way.

    Raises:
        UserError: if CUDA was asked for and is not there.
    """
    import torch

    torch.set_num_threads(threads())
    wanted = os.environ.get("DERM_T2IM_DEVICE", "auto")
    if wanted == "auto":
        own = f":{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else ""
        return f"cuda{own}" if torch.cuda.is_available() else "cpu"
    try:
        name = torch.device(wanted)
    except RuntimeError:
        raise UserError(f"DERM_T2IM_DEVICE is {wanted!r}: use auto, cpu, cuda or cuda:N.") from None
    if name.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"DERM_T2IM_DEVICE is {wanted!r}, but torch sees no CUDA device here.")
    return str(name)
