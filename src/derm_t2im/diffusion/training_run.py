"""What changes while a model is fine-tuned: weights, their average, the best ones, optimiser, counts and losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class History:
    """Losses on the way: ``train`` of each step, ``heldout`` at checkpoints; pairs (steps done, loss).

    ``kept`` is the step whose weights were kept.
    """

    train: list[tuple[int, float]] = field(default_factory=list)
    heldout: list[tuple[int, float]] = field(default_factory=list)
    kept: int = 0


class Run:
    """Everything that changes while training, so that a checkpoint is whole or not at all."""

    def __init__(self, weights: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer, ema: float) -> None:
        """``ema`` is the decay of the average, 0 for none."""
        self.weights, self.optimiser, self.decay = weights, optimiser, ema
        self.average = [w.detach().clone() for w in weights] if ema else None
        self.best: list[torch.Tensor] | None = None
        self.step = self.saved = self.stale = 0
        self.history = History()

    def stepped(self) -> None:
        """Count a step; the average follows, faster at the start (1 + n) / (10 + n), as Polyak averages do."""
        import torch

        self.step += 1
        if self.average is not None:
            keep = min(self.decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - keep)

    def averaged(self) -> _Swapped:
        """Within this the weights are the average's, if there is one."""
        return _Swapped(self.weights, self.average)

    def judge(self, loss: float, keep_best: bool) -> None:
        """Note a held-out loss of the weights as they are, and keep them if none was lower."""
        better = loss < min((value for _, value in self.history.heldout), default=math.inf)
        self.history.heldout.append((self.step, loss))
        self.stale = 0 if better else self.stale + 1
        if better or not keep_best:
            self.history.kept = self.step
        if better and keep_best:
            self.best = [w.detach().clone() for w in self.weights]

    def finish(self) -> None:
        """Leave in the weights what is kept: those of the least held-out loss, else the average, else the last."""
        import torch

        kept = self.best if self.best is not None else self.average
        if kept is not None:
            with torch.no_grad():
                torch._foreach_copy_([w.detach() for w in self.weights], kept)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain tensors, lists and numbers."""
        return {
            "step": self.step,
            "saved": self.saved,
            "stale": self.stale,
            "weights": [w.detach() for w in self.weights],
            "average": self.average,
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "train": self.history.train,
            "heldout": self.history.heldout,
            "kept": self.history.kept,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
        import torch

        self.step, self.saved, self.stale = saved["step"], saved["saved"], saved["stale"]
        with torch.no_grad():
            for weight, value in zip(self.weights, saved["weights"], strict=True):
                weight.copy_(value)
        self.average, self.best = saved["average"], saved["best"]
        self.optimiser.load_state_dict(saved["optimiser"])
        self.history = History(saved["train"], saved["heldout"], saved["kept"])


class _Swapped:
    """Other values in weights for a while."""

    def __init__(self, weights: list[torch.nn.Parameter], values: list[torch.Tensor] | None) -> None:
        self.weights, self.values = weights, values

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    def _swap(self) -> None:
        if self.values is not None:
            for weight, value in zip(self.weights, self.values, strict=True):
                weight.data, value.data = value.data, weight.data
