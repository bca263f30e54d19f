"""What `add` keeps beside its modules: optimizers with their guards, and the validation scores."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from naruto_add.params import Add
from naruto_add.training.loop import FiniteGuard, Scalars, Stateful, TrainableState, warmup_schedule


class Learner:
    """A module with its optimizer: AdamW, a linear warm-up, clipped gradients, none that are not finite."""

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        learning_rate: float,
        betas: tuple[float, float],
        params: Add,
        advice: str,
    ) -> None:
        self.module = module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, betas=betas, weight_decay=0.0)
        self.schedule = warmup_schedule(self.optimizer, params.warmup_steps)
        self.guard = FiniteGuard(advice)
        self._max_grad_norm = params.max_grad_norm

    def update(self, loss: Float[Tensor, ""]) -> float:
        """Take one step; the gradients' norm before clipping, 0 where they were not finite and nothing was done."""
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_grad_norm)
        is_allowed = self.guard.allows(norm)
        if is_allowed:
            self.optimizer.step()
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.item() if is_allowed else 0.0

    def state(self) -> dict[str, Stateful]:
        """For a checkpoint; of the module, buffers as well, since some are trained: a spectral norm's iteration."""
        return {
            "weights": TrainableState(self.module),
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "guard": self.guard,
        }


class Scores:
    """Validation scores at the start and at the best step."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def note(self, scalars: Scalars, *, is_best: bool) -> None:
        if not self.values:
            self.values.update({f"start_{name}": value for name, value in scalars.items()})
        if is_best:
            self.values.update({f"best_{name}": value for name, value in scalars.items()})

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.values = dict(state_dict)


class Patience:
    """Counts the validations in a row that were not the best."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._num_waited = 0

    def note(self, *, is_best: bool, counts: bool) -> None:
        """One more validation, unless it is too early to expect better ones."""
        self._num_waited = 0 if is_best or not counts else self._num_waited + 1

    def is_over(self) -> bool:
        """Whether training should end; never with a patience of 0."""
        return 0 < self._patience <= self._num_waited

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"num_waited": self._num_waited}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the count."""
        self._num_waited = state_dict["num_waited"]
