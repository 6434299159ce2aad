"""`python -m derm_t2im.sweeps.exp_run NAME WORD...`: `dvc exp run --temp --name NAME WORD...` with a queue of its own.

DVC 3.67 keeps what is about to run in one stash for all processes, and a process takes from it until it is empty: one
that ends while another starts runs that one's experiment as well, once under its name and once under a made-up one. And
what a killed process left there, the next one runs. Here each experiment has a stash of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dvc.cli import main as dvc
from dvc.repo.experiments import Experiments
from dvc.repo.experiments.queue.tempdir import TempDirQueue

from derm_t2im.sweeps.experiments import QUEUES


def main(words: Sequence[str]) -> int:
    """Run ``words[0]``; returns DVC's exit status."""
    reference = f"{QUEUES}/{words[0]}"
    Experiments.tempdir_queue = property(lambda found: TempDirQueue(found.repo, reference))
    return int(dvc(["exp", "run", "--temp", "--name", *words]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
