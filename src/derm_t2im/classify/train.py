"""Training of a classifier: a fixed number of steps, the same for whatever it is trained on."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.classify import data, statistics
from derm_t2im.errors import UserError
from derm_t2im.networks import Network
from derm_t2im.state import write_atomic

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Settings:
    """How to train: AdamW, linear warm-up, cosine to zero."""

    steps: int
    batch: int
    lr: float
    weight_decay: float
    warmup: int = 0
    label_smoothing: float = 0.0
    evaluate_every: int = 50  # also the distance of checkpoints
    augment: data.Augmentation = "standard"
    freeze_norm: bool = False  # keep batch-norm as it was pretrained


@dataclass(frozen=True)
class Images:
    """Images uint8 (n, s, s, 3), their class indices int64 (n,), and how often a pass shows each."""

    pixels: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(pixels: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Images:
        """Each image once, unless ``weights`` says otherwise."""
        return Images(pixels, labels, np.ones(len(labels), np.int64) if weights is None else weights)


@dataclass(frozen=True)
class Result:
    """The evaluation whose weights were kept, and all evaluations on the way.

    Each holds ``step``, ``train_loss`` and, with validation images, ``val_loss``,
    ``val_accuracy`` and ``val_auc``.
    """

    kept: dict[str, float]
    curve: list[dict[str, float]]


def learning_rate(settings: Settings, step: int) -> float:
    """Learning rate of ``step`` (0, 1, ...): linear warm-up, then a cosine to zero."""
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    span = max(1, settings.steps - settings.warmup)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - settings.warmup) / span))


def fit(
    network: Network,
    train: Images,
    settings: Settings,
    seed: int,
    val: Images | None = None,
    work: Path | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> Result:
    """Train ``network`` in place.

    With ``val`` the weights of the evaluation with the best validation AUC (ties: least loss) are
    kept, without it those of the last step. With ``work`` a checkpoint is kept there at each
    evaluation, and a killed run goes on from it to the weights of an uninterrupted one: on the
    CPU bit for bit. ``report`` is called with each evaluation.

    Raises:
        UserError: if the loss is not finite.
    """
    import torch

    if not train.weights.sum():
        raise UserError("there are no images to train on.")
    with torch.random.fork_rng():
        return _Run(network, train, settings, seed, val, work).go(report)


class _Run:
    """One training run: what changes from step to step, and its checkpoint."""

    def __init__(
        self, network: Network, train: Images, settings: Settings, seed: int, val: Images | None, work: Path | None
    ) -> None:
        import timm.optim
        import torch

        self.network, self.settings, self.seed, self.val = network, settings, seed, val
        self.weights = train.weights
        self.pixels = torch.from_numpy(train.pixels).to(network.device)
        self.labels = torch.from_numpy(train.labels).to(network.device)
        groups = timm.optim.param_groups_weight_decay(network.module, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        self.step = 0
        self.losses: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.checkpoint = work / CHECKPOINT if work else None
        self._restore()

    def go(self, report: Callable[[dict[str, float]], None] | None) -> Result:
        settings = self.settings
        while self.step < settings.steps:
            self._train_mode()
            self.losses.append(self._one_step(self.step))
            self.step += 1
            if self.step % settings.evaluate_every == 0 or self.step == settings.steps:
                self._evaluate()
                self._save()
                if report:
                    report(self.curve[-1])
        self.network.module.load_state_dict(self.best)
        self.network.module.eval()
        return Result(min(self.curve, key=_rank) if self.val else self.curve[-1], self.curve)

    def _train_mode(self) -> None:
        import torch

        self.network.module.train()
        if self.settings.freeze_norm:
            for module in self.network.module.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _one_step(self, step: int) -> float:
        import torch
        from torch.nn import functional

        # Dropout and its like draw from the global state: it too belongs to the step.
        torch.manual_seed(seeds.derive(self.seed, "dropout", step))
        draws = torch.Generator().manual_seed(seeds.derive(self.seed, "augment", step))
        rows = torch.from_numpy(data.batch_rows(self.weights, self.settings.batch, step, self.seed))
        rows = rows.to(self.pixels.device)
        images = data.augment(self.pixels, rows, draws, self.settings.augment)
        logits = self.network.module(self.network.prepare(images))
        loss = functional.cross_entropy(logits, self.labels[rows], label_smoothing=self.settings.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"training of {self.network.config['timm']}: the loss is {value} at step {step + 1}; "
                f"lower the learning rate (lr is {self.settings.lr:g}) or lengthen the warm-up."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return value

    def _evaluate(self) -> None:
        point: dict[str, float] = {"step": self.step, "train_loss": float(np.mean(self.losses))}
        self.losses = []
        if self.val:
            probabilities = self.network.predict(self.val.pixels).astype(np.float64)
            truth = self.val.labels
            chosen = np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, None)
            point["val_loss"] = float(-np.log(chosen).mean())
            point["val_accuracy"] = float((probabilities.argmax(1) == truth).mean())
            point["val_auc"] = statistics.macro_auc(probabilities, truth)
        if not self.val or not self.curve or _rank(point) < min(map(_rank, self.curve)):
            self.best = {k: v.detach().cpu().clone() for k, v in self.network.module.state_dict().items()}
        self.curve.append(point)

    def _save(self) -> None:
        import torch

        if self.checkpoint is None:
            return
        buffer = io.BytesIO()
        content: dict[str, Any] = {
            "settings": asdict(self.settings),
            "step": self.step,
            "curve": self.curve,
            "model": self.network.module.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(content, buffer)
        write_atomic(self.checkpoint, buffer.getvalue())

    def _restore(self) -> None:
        import torch

        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        # Our own file, and only tensors and plain values are ever read from it.
        content = torch.load(self.checkpoint, map_location=self.network.device, weights_only=True)
        if content["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} is of a run with other settings")
        self.network.module.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.step, self.curve, self.best = content["step"], content["curve"], content["best"]


def _rank(point: dict[str, float]) -> tuple[float, float]:
    """Least is best: the highest validation AUC, then the least validation loss."""
    auc = point["val_auc"]
    return (-auc if math.isfinite(auc) else 0.0, point["val_loss"])
