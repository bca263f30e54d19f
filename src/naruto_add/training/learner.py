"""How a module learns: the one place that turns gradients into new weights, for teacher, student and add alike."""

import importlib
import math
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from naruto_add.params import Add, Student, Teacher
from naruto_add.runtime import StageError
from naruto_add.training.weights import Ema, TrainableState

MAX_SKIPPED_IN_A_ROW = 20
BUCKET_SIZE = 2**24
"""Gradient values that processes exchange at once."""


class Learner:
    """A module with its optimizer: AdamW, a learning rate with a warm-up, clipped gradients, none that are not finite.

    Weight decay is off: small fine-tunes are short, and what is trained starts from weights that are to be kept.
    A skipped step changes nothing, neither the schedule nor the average.

    Processes average their gradients here and not by DistributedDataParallel: its wrapper would have to be called in
    place of the module, whose parts are hooked, called without gradients and several times a step.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        accelerator: Accelerator,
        *,
        params: Teacher | Student | Add,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        ema: Ema | None = None,
        advice: str,
    ) -> None:
        self.trainable = [item for item in module.parameters() if item.requires_grad]
        adamw = _make_adamw(self.trainable, params=params, learning_rate=learning_rate, betas=betas)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(adamw, partial(learning_rate_factor, params=params))
        self.optimizer: Any = accelerator.prepare_optimizer(adamw)
        self.guard = FiniteGuard(advice)
        self._weights = TrainableState(module)
        self._accelerator, self._ema = accelerator, ema
        self._max_grad_norm, self._num_parts = params.max_grad_norm, params.accumulation_steps

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Take in the gradient of one of the parts that a step accumulates, its mean loss."""
        self._accelerator.backward(loss / self._num_parts)

    def step(self) -> float | None:
        """Take one step down the accumulated gradient, and forget it.

        Returns the gradient's norm before clipping, None where it was not finite and the step was skipped.
        """
        _average_over_processes([item.grad for item in self.trainable if item.grad is not None], self._accelerator)
        norm = self._accelerator.clip_grad_norm_(self.trainable, self._max_grad_norm)
        is_allowed = self.guard.allows(norm)
        # The scaler of fp16 skips such a step by itself, and must see it to lower its scale.
        if is_allowed or self._accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not is_allowed:
            return None
        self.schedule.step()
        if self._ema is not None:
            self._ema.update()
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything: weights, average, optimizer, schedule, counts of skipped steps, fp16's scale."""
        return {name: item.state_dict() for name, item in self._parts().items()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore everything."""
        for name, item in self._parts().items():
            item.load_state_dict(state_dict[name])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "weights": self._weights,
            "ema": self._ema,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "guard": self.guard,
            "scaler": self._accelerator.scaler,
        }
        return {name: item for name, item in parts.items() if item is not None}


class FiniteGuard:
    """Counts the optimizer steps skipped for a gradient that is not finite. Raises StageError for too many in a row."""

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._in_a_row = 0
        self.num_skipped = 0

    def allows(self, grad_norm: Tensor | float) -> bool:
        """Whether the optimizer may step with gradients of this total norm."""
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._in_a_row = 0
            return True
        self.num_skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise StageError(f"{self._in_a_row} gradients in a row were not finite; {self._advice}")
        return False

    def state_dict(self) -> dict[str, int]:
        """The counts."""
        return {"in_a_row": self._in_a_row, "num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, int], /) -> None:
        """Restore the counts."""
        self._in_a_row, self.num_skipped = state_dict["in_a_row"], state_dict["num_skipped"]


def learning_rate_factor(step: int, params: Teacher | Student | Add) -> float:
    """A linear increase over `warmup_steps`, from above 0 to 1; then 1, or half a cosine that ends at 0."""
    rising, num_steps = params.warmup_steps, params.num_steps
    if step < rising:
        return (step + 1) / (rising + 1)
    match params.learning_rate_decay:
        case "none":
            return 1.0
        case "cosine":
            return (1 + math.cos(math.pi * min(1.0, (step - rising) / (num_steps - rising)))) / 2


def _make_adamw(
    trainable: list[torch.nn.Parameter],
    *,
    params: Teacher | Student | Add,
    learning_rate: float,
    betas: tuple[float, float],
) -> torch.optim.Optimizer:
    match params.optimizer:
        case "adamw":
            return torch.optim.AdamW(trainable, lr=learning_rate, betas=betas, weight_decay=0.0, fused=True)
        case "adamw_8bit":
            adamw_8bit = _adamw_8bit(type(params).__name__.lower())
            return adamw_8bit(trainable, lr=learning_rate, betas=betas, weight_decay=0.0)


def _adamw_8bit(section: str) -> Any:
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise StageError(
            f"{section}.optimizer: adamw_8bit needs the package bitsandbytes, which cannot be imported ({error}); "
            "install it (`uv pip install bitsandbytes`), or use adamw"
        ) from error
    return bitsandbytes.optim.AdamW8bit


def _average_over_processes(gradients: list[Tensor], accelerator: Accelerator) -> None:
    """In few large messages, each of which needs its own size in memory once more."""
    if accelerator.num_processes == 1:
        return
    for bucket in _buckets(gradients):
        flat = accelerator.reduce(torch.cat([item.flatten() for item in bucket]), reduction="mean")
        for item, mean in zip(bucket, flat.split([item.numel() for item in bucket]), strict=True):
            item.copy_(mean.view_as(item))


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = [[]]
    for item in gradients:
        if sum(other.numel() for other in buckets[-1]) >= BUCKET_SIZE:
            buckets.append([])
        buckets[-1].append(item)
    return buckets
