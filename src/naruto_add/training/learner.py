"""The optimizer step of every training: gradients in, new weights out."""

import importlib
import math
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from naruto_add.config.schema import Optimizer
from naruto_add.runtime.errors import StageError
from naruto_add.training.muon import Muon
from naruto_add.training.weights import Ema, TrainableState

MAX_GRAD_NORM = 1.0
"""Gradients with a larger norm are scaled down to it."""
MAX_SKIPPED_IN_A_ROW = 20
BUCKET_SIZE = 2**24
"""Minimum number of gradient values in a message between processes; a message is a copy, which takes memory."""


class Learner:
    """AdamW or Muon for the trainable parameters of a module, with a schedule, gradient clipping and a moving average.

    Weight decay is 0, because trainings are short and start from pretrained weights. A step whose gradient is not
    finite is skipped: weights, schedule and average stay as they were.

    Processes average their gradients here. DistributedDataParallel would require calls of its wrapper instead of the
    module, whose blocks have hooks and which is called several times per step, also without gradients.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        accelerator: Accelerator,
        *,
        section: str,
        optimizer: Optimizer,
        learning_rate: float,
        num_steps: int,
        accumulation_steps: int,
        betas: tuple[float, float] = (0.9, 0.999),
        ema: Ema | None = None,
        advice: str,
    ) -> None:
        """`section` is named in errors about `optimizer`, `advice` in the error about gradients that are not finite."""
        trainable = {name: item for name, item in module.named_parameters() if item.requires_grad}
        self.trainable = list(trainable.values())
        optimizer_class = _optimizer_class(optimizer.name, section=section)
        # Muon has to know the names of the weights.
        weights = trainable if optimizer.name == "muon" else self.trainable
        built = optimizer_class(weights, lr=learning_rate, betas=betas, weight_decay=0.0)
        factor = partial(learning_rate_factor, optimizer=optimizer, num_steps=num_steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(built, factor)
        self.optimizer: Any = accelerator.prepare_optimizer(built)
        self.guard = FiniteGuard(advice)
        self._weights = TrainableState(module)
        self._accelerator, self._ema, self._accumulation_steps = accelerator, ema, accumulation_steps

    @property
    def num_weights(self) -> int:
        """The number of trained weights."""
        return sum(item.numel() for item in self.trainable)

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Accumulate the gradient of one of `accumulation_steps` equal parts of a batch, given its mean loss."""
        self._accelerator.backward(loss / self._accumulation_steps)

    def step(self) -> float | None:
        """Update the weights by the accumulated gradient and reset it.

        Returns the gradient's norm before clipping, or None if it was not finite and the step was skipped.
        """
        _average_over_processes([item.grad for item in self.trainable if item.grad is not None], self._accelerator)
        norm = self._accelerator.clip_grad_norm_(self.trainable, MAX_GRAD_NORM)
        is_allowed = self.guard.allows(norm)
        # The gradient scaler of fp16 skips such a step itself, and has to be called to lower its scale.
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
        """Trainable weights, average, optimizer, schedule, counts of skipped steps, and the gradient scaler of fp16."""
        return {name: item.state_dict() for name, item in self._parts().items()}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore what `state_dict` returned."""
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
    """Counts the steps that are skipped because their gradient is not finite, and stops training after too many."""

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._in_a_row = 0
        self.num_skipped = 0

    def allows(self, grad_norm: Tensor | float) -> bool:
        """Whether the gradient with this norm is finite. Raises StageError after MAX_SKIPPED_IN_A_ROW that are not."""
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._in_a_row = 0
            return True
        self.num_skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise StageError(f"{self._in_a_row} gradients in a row were not finite; {self._advice}")
        return False

    def state_dict(self) -> dict[str, int]:
        """The counts of skipped steps in all and in a row."""
        return {"in_a_row": self._in_a_row, "num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, int], /) -> None:
        """Restore both counts."""
        self._in_a_row, self.num_skipped = state_dict["in_a_row"], state_dict["num_skipped"]


def learning_rate_factor(step: int, *, optimizer: Optimizer, num_steps: int) -> float:
    """The fraction of the maximum learning rate at `step`, counted from 0.

    (step + 1) / (warmup_steps + 1) in the first `warmup_steps` steps, then 1, or half a cosine that reaches 0 at
    `num_steps`. `get_scheduler` of diffusers differs: it starts at 0, so that the first step would change nothing.
    """
    warmup_steps = optimizer.warmup_steps
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    match optimizer.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / (num_steps - warmup_steps)))) / 2


def _optimizer_class(name: str, *, section: str) -> Any:
    if name == "adamw":
        return partial(torch.optim.AdamW, fused=True)
    if name == "muon":
        return Muon
    try:
        bitsandbytes = importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise StageError(
            f"{section}.optimizer.name: adamw_8bit requires the package bitsandbytes, which cannot be imported "
            f"({error}); install it (`uv pip install bitsandbytes`), or use adamw"
        ) from error
    return bitsandbytes.optim.AdamW8bit


def _average_over_processes(gradients: list[Tensor], accelerator: Accelerator) -> None:
    if accelerator.num_processes == 1:
        return
    for bucket in _buckets(gradients):
        flat = accelerator.reduce(torch.cat([item.flatten() for item in bucket]), reduction="mean")
        for item, mean in zip(bucket, flat.split([item.numel() for item in bucket]), strict=True):
            item.copy_(mean.view_as(item))


def _buckets(gradients: list[Tensor]) -> list[list[Tensor]]:
    """The gradients in groups; a group is complete when it has at least BUCKET_SIZE values."""
    buckets: list[list[Tensor]] = [[]]
    for item in gradients:
        if sum(other.numel() for other in buckets[-1]) >= BUCKET_SIZE:
            buckets.append([])
        buckets[-1].append(item)
    return buckets
