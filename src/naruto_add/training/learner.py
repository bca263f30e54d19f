"""How a module learns: the one place that turns gradients into new weights, for teacher, student and add alike."""

from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from naruto_add.params import Add, Student, Teacher
from naruto_add.runtime import StageError
from naruto_add.training.weights import Ema, TrainableState

MAX_SKIPPED_IN_A_ROW = 20


class Learner:
    """A module with its optimizer: AdamW, a linear warm-up, clipped gradients, none that are not finite.

    Weight decay is off: small fine-tunes are short, and what is trained starts from weights that are to be kept.
    A skipped step changes nothing, neither the schedule nor the average.
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
        adamw = torch.optim.AdamW(self.trainable, lr=learning_rate, betas=betas, weight_decay=0.0)
        self.schedule = _warmup(adamw, params.warmup_steps)
        self.optimizer: Any = accelerator.prepare_optimizer(adamw)
        self.guard = FiniteGuard(advice)
        self._weights = TrainableState(module)
        self._accelerator, self._ema, self._max_grad_norm = accelerator, ema, params.max_grad_norm

    def update(self, loss: Float[Tensor, ""]) -> float | None:
        """Take one step down this loss; the gradients' norm before clipping, None where the step was skipped."""
        self._accelerator.backward(loss)
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


def _warmup(optimizer: torch.optim.Optimizer, warmup_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear increase over `warmup_steps`, then constant."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (warmup_steps + 1)))
