"""The optimiser of models that are trained from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class MuonAndAdamW:
    """Muon (Jordan et al. 2024) for matrices and convolutions, AdamW for all else.

    Within the first minutes the autoencoder comes 6 dB further than with AdamW alone.
    """

    def __init__(self, modules: Sequence[torch.nn.Module], matrix_lr: float, vector_lr: float) -> None:
        """Learn all parameters of ``modules``; rates of matrices and kernels, and of the rest."""
        import torch

        tables = {id(m.weight) for part in modules for m in part.modules() if isinstance(m, torch.nn.Embedding)}
        self.parameters = [p for part in modules for p in part.parameters()]
        self._matrices = [p for p in self.parameters if p.ndim > 1 and id(p) not in tables]
        # torch's Muon takes matrices only; these share the memory of the kernels.
        self._views = [p.detach().view(len(p), -1) for p in self._matrices]
        chosen = {id(p) for p in self._matrices}
        rest = [p for p in self.parameters if id(p) not in chosen]
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Muon(self._views, lr=matrix_lr, weight_decay=0.01), matrix_lr),
            (torch.optim.AdamW(rest, lr=vector_lr, weight_decay=0.01, betas=(0.9, 0.99)), vector_lr),
        ]

    def step(self, share: float) -> None:
        """One step down the gradients at this share of the learning rates."""
        import torch

        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for view, p in zip(self._views, self._matrices, strict=True):
            view.grad = p.grad.view_as(view) if p.grad is not None else None
        for part, lr in self._parts:
            for group in part.param_groups:
                group["lr"] = lr * share
            part.step()

    def state(self) -> list[dict[str, Any]]:
        """What a resumed run needs."""
        return [part.state_dict() for part, _ in self._parts]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from what :meth:`state` gave."""
        for (part, _), saved in zip(self._parts, state, strict=True):
            part.load_state_dict(saved)
