"""Several processes that do one stage together, started by `accelerate launch` or `torchrun` (docs/scale.md).

Without them everything here does nothing: a group of one.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from derm_t2im.errors import UserError

if TYPE_CHECKING:
    import torch

#: How long one process waits for another: the first one measures and draws samples meanwhile.
PATIENCE = timedelta(hours=12)

#: Stages that several processes can do together.
STAGES = ("finetune", "generate")


class Group:
    """The processes that run this stage: ``rank`` of ``size``; the ``first`` one writes files and speaks."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Use :func:`group`."""
        self.rank, self.size = rank, size
        self.first = rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one message."""
        if self.size > 1 and tensors:
            import torch
            import torch.distributed as dist

            flat = torch.cat([t.reshape(-1) for t in tensors])
            dist.all_reduce(flat)
            for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                t.copy_(part.view_as(t))

    def total(self, value: torch.Tensor) -> float:
        """Sum of a number over the processes, the same in all: NaN in one is NaN in all."""
        told = value.detach().double().reshape(1)
        self.add_up([told])
        return float(told)

    def of_first(self, value: float, device: object) -> float:
        """The first process's number, in all of them."""
        import torch

        return self.total(torch.tensor(value if self.first else 0.0, device=str(device)))


@cache
def group() -> Group:
    """The processes of this run, as the launcher's environment says."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return Group()
    from accelerate import PartialState

    on_cpu = os.environ.get("DERM_T2IM_DEVICE") == "cpu"
    shared = PartialState(cpu=on_cpu, timeout=PATIENCE)
    return Group(shared.process_index, shared.num_processes)


def launched() -> bool:
    """Whether a launcher started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def start_again(stage: str) -> None:
    """Become `$DERM_T2IM_LAUNCH -m derm_t2im stage NAME`, if that is set and the stage can use it.

    Raises:
        UserError: if the command is not there.
    """
    asked = os.environ.get("DERM_T2IM_LAUNCH", "").strip()
    if not asked or launched() or stage not in STAGES:
        return
    try:
        command = [*shlex.split(asked), "-m", "derm_t2im", "stage", stage]
        sys.stdout.flush()
        os.execvp(command[0], command)  # in this process's place: its exit status and signals are ours
    except (OSError, ValueError) as error:
        raise UserError(
            f"DERM_T2IM_LAUNCH is {asked!r}: {error}; give a command such as `accelerate launch --num_processes 2`."
        ) from None
