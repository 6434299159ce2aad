"""Training of a classifier: a fixed number of steps, the same for whatever it is trained on."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from derm_t2im import seeds
from derm_t2im.classify import augmentation, data, statistics
from derm_t2im.errors import UserError
from derm_t2im.networks import Network
from derm_t2im.state import seal, whole, write_atomic

if TYPE_CHECKING:
    import torch

CHECKPOINT = "checkpoint.pt"
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Settings:
    """How to train: AdamW, linear warm-up, cosine to zero. The values given here turn each extra off."""

    steps: int
    batch: int
    lr: float
    weight_decay: float
    warmup: int = 0
    label_smoothing: float = 0.0
    evaluate_every: int = 50  # also the distance of checkpoints
    augment: str = "standard"  # one of augmentation.KINDS
    crop: float = 1.0  # least share of the area that a random crop keeps
    freeze_norm: bool = False  # keep batch-norm as it was pretrained
    precision: str = "fp32"  # fp32 | bf16 | fp16: of the forward pass; weights stay fp32, and so does evaluation
    channels_last: bool = False  # how convolutions find their numbers in memory
    layer_decay: float = 1.0  # factor of the learning rate per layer away from the head
    ema: float = 0.0  # decay of the average of the weights that is evaluated and kept
    focal_gamma: float = 0.0  # of the focal loss; 0 is cross-entropy
    balance: bool = False  # each class counts the same in the loss
    patience: int = 0  # evaluations without a better one that end training


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


def class_weights(train: Images, classes: int) -> np.ndarray:
    """What an image of each class counts in a balanced loss, float32 (k,): 1 on the mean over the images of a pass."""
    shown = np.bincount(train.labels, train.weights, minlength=classes)
    return (shown.sum() / ((shown > 0).sum() * np.maximum(shown, 1))).astype(np.float32)


def loss_of(
    logits: torch.Tensor, truth: torch.Tensor, smoothing: float, gamma: float = 0.0, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean loss of a batch: cross-entropy, or with ``gamma`` > 0 the focal loss (Lin et al. 2017, arXiv:1708.02002).

    The focal loss counts an image by (1 - p) ** gamma, p the probability of its class; ``weights`` (k,) by its class.
    """
    from torch.nn import functional

    if not gamma:
        return functional.cross_entropy(logits, truth, weight=weights, label_smoothing=smoothing)
    each = functional.cross_entropy(logits, truth, weight=weights, label_smoothing=smoothing, reduction="none")
    right = logits.softmax(dim=1).gather(1, truth[:, None])[:, 0]
    count = len(truth) if weights is None else weights[truth].sum()
    return ((1 - right) ** gamma * each).sum() / count


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
    kept, and ``patience`` may end the training early; without it those of the last step. With ``work``
    a checkpoint is kept there at each evaluation, and a killed run goes on from it to the weights of
    an uninterrupted one: on the CPU bit for bit. ``report`` is called with each evaluation.

    Raises:
        UserError: if there are no images, or the loss is not finite.
    """
    import torch

    if not train.weights.sum():
        raise UserError("there are no images to train on.")
    if val is not None and not len(val.labels):
        raise UserError("there are no validation images to choose the weights by.")
    if settings.patience and val is None:
        raise ValueError("patience needs validation images")
    with torch.random.fork_rng():
        return _Run(network, train, settings, seed, val, work).go(report)


class _Run:
    """One training run: what changes from step to step, and its checkpoint."""

    def __init__(
        self, network: Network, train: Images, settings: Settings, seed: int, val: Images | None, work: Path | None
    ) -> None:
        import timm.optim
        import timm.utils
        import torch

        self.network, self.settings, self.seed, self.val = network, settings, seed, val
        self.weights = train.weights
        self.pixels = torch.from_numpy(train.pixels).to(network.device)
        self.labels = torch.from_numpy(train.labels).to(network.device)
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        if settings.channels_last:
            network.module.to(memory_format=self.layout)
        if settings.layer_decay < 1:
            groups = timm.optim.param_groups_layer_decay(
                network.module, settings.weight_decay, layer_decay=settings.layer_decay
            )
        else:
            groups = timm.optim.param_groups_weight_decay(network.module, settings.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        self.kind = network.device.type
        self.scaler = torch.amp.GradScaler(self.kind, enabled=settings.precision == "fp16")
        # Its decay grows towards settings.ema, or the first weights would outlive a short training.
        self.average = timm.utils.ModelEmaV3(network.module, settings.ema, use_warmup=True) if settings.ema else None
        self.judged = replace(network, module=self.average.module) if self.average else network
        balance = class_weights(train, len(network.classes)) if settings.balance else None
        self.class_weights = None if balance is None else torch.from_numpy(balance).to(network.device)
        self.step = 0
        self.losses: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.checkpoint = work / CHECKPOINT if work else None
        self._restore()

    def go(self, report: Callable[[dict[str, float]], None] | None) -> Result:
        settings = self.settings
        while self.step < settings.steps and not self._gave_up():
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

    def _gave_up(self) -> bool:
        """Whether the last ``patience`` evaluations brought nothing better."""
        ranks = [_rank(point) for point in self.curve] if self.settings.patience else []
        return bool(ranks) and len(ranks) - 1 - ranks.index(min(ranks)) >= self.settings.patience

    def _train_mode(self) -> None:
        import torch

        self.network.module.train()
        if self.settings.freeze_norm:
            for module in self.network.module.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _one_step(self, step: int) -> float:
        import torch

        # Dropout and its like draw from the global state: it too belongs to the step.
        torch.manual_seed(seeds.derive(self.seed, "dropout", step))
        draws = torch.Generator().manual_seed(seeds.derive(self.seed, "augment", step))
        rows = torch.from_numpy(data.batch_rows(self.weights, self.settings.batch, step, self.seed))
        rows = rows.to(self.pixels.device)
        settings = self.settings
        images = augmentation.augment(self.pixels, rows, draws, settings.augment, settings.crop)
        inputs = self.network.prepare(images).contiguous(memory_format=self.layout)
        lower = None if settings.precision == "fp32" else getattr(torch, _DTYPES[settings.precision])
        with torch.autocast(self.kind, lower, enabled=lower is not None):
            logits = self.network.module(inputs)
        loss = loss_of(
            logits.float(), self.labels[rows], settings.label_smoothing, settings.focal_gamma, self.class_weights
        )
        value = loss.item()
        if not math.isfinite(value):
            raise UserError(
                f"training of {self.network.config['timm']}: the loss is {value} at step {step + 1}; "
                f"lower the learning rate (lr is {settings.lr:g}) or lengthen the warm-up."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(settings, step) * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update(self.network.module, step)
        return value

    def _evaluate(self) -> None:
        point: dict[str, float] = {"step": self.step, "train_loss": float(np.mean(self.losses))}
        self.losses = []
        if self.val:
            probabilities = self.judged.predict(self.val.pixels).astype(np.float64)
            truth = self.val.labels
            chosen = np.clip(probabilities[np.arange(len(truth)), truth], 1e-12, None)
            point["val_loss"] = float(-np.log(chosen).mean())
            point["val_accuracy"] = float((probabilities.argmax(1) == truth).mean())
            point["val_auc"] = statistics.macro_auc(probabilities, truth)
        if not self.val or not self.curve or _rank(point) < min(map(_rank, self.curve)):
            self.best = {k: v.detach().cpu().clone() for k, v in self.judged.module.state_dict().items()}
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
            "scaler": self.scaler.state_dict(),
            "average": self.average.module.state_dict() if self.average else {},
        }
        torch.save(content, buffer)
        partial = self.checkpoint.with_suffix(".partial")
        write_atomic(partial, buffer.getvalue())
        seal(self.checkpoint.parent, self.checkpoint, partial)
        partial.replace(self.checkpoint)

    def _restore(self) -> None:
        import torch

        if self.checkpoint is None or not whole(self.checkpoint.parent, self.checkpoint):
            return
        # Our own file, and only tensors and plain values are ever read from it.
        content = torch.load(self.checkpoint, map_location=self.network.device, weights_only=True)
        if content["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} is of a run with other settings")
        self.network.module.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average:
            self.average.module.load_state_dict(content["average"])
        self.step, self.curve, self.best = content["step"], content["curve"], content["best"]


def _rank(point: dict[str, float]) -> tuple[float, float]:
    """Least is best: the highest validation AUC, then the least validation loss."""
    auc = point["val_auc"]
    return (-auc if math.isfinite(auc) else 0.0, point["val_loss"])
