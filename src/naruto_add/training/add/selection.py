"""Which of a distillation's averaged weights are kept: the last ones, unless they are worse than earlier ones."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from naruto_add.losses.kernel import KernelDistance
from naruto_add.runtime.errors import StageError
from naruto_add.training.weights import Best

TOLERATED_LOSS = 0.2
"""The fraction of the improvement since the first validation that the last weights may lose to the best ones."""


class Selection:
    """Remembers the first, the best and the last validation, and the weights of the best one.

    The last averaged weights are kept, unless their validation score is worse than the best one by more than twice the
    error of the difference and by more than a fifth of the improvement since the start. The last ones are the result of
    training, and which ones have the lowest score is partly a matter of luck.

    The best weights are in `best`, which has a state of its own, because it changes at few validations.
    """

    def __init__(self) -> None:
        self.best = Best()
        self._first: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._distance: KernelDistance | None = None
        """The distance that belongs to the weights in `best`."""
        self._last_step = -1
        self._is_last_worse = False

    @property
    def is_last_worse(self) -> bool:
        """Whether the last score is worse than the best one by more than twice the error and by more than tolerated."""
        return self._is_last_worse

    @property
    def best_step(self) -> int:
        """The number of steps after which the distance was lowest; -1 before the first validation."""
        return self.best.step

    @property
    def kept_step(self) -> int:
        """The number of steps after which the kept weights were validated."""
        return self.best.step if self._is_last_worse else self._last_step

    def add(
        self, step: int, distance: KernelDistance, scalars: Mapping[str, float], weights: dict[str, Tensor]
    ) -> None:
        """Count a validation of these weights after `step` steps; `scalars` are reported, `score` the distance."""
        self._first = self._first or dict(scalars)
        self._last, self._last_step = dict(scalars), step
        if self._distance is None or math.isnan(self._distance.value) or distance.value < self._distance.value:
            self._distance = distance
            self.best.load_state_dict({"score": distance.value, "step": step, "weights": weights})
        tolerated = TOLERATED_LOSS * (self._first["score"] - self._distance.value)
        is_within_tolerance = distance.value - self._distance.value <= tolerated
        self._is_last_worse = distance.exceeds(self._distance) and not is_within_tolerance

    def finding(self) -> str:
        """What training has lost since its best validation, in words."""
        assert self._distance is not None, "there was no validation"
        return (
            f"after step {self._last_step} the validation score is {self._last['score']:.3g}, but it was "
            f"{self.best.score:.3g} after step {self.best.step}, whose weights are kept"
        )

    @torch.no_grad()
    def copy_to(self, module: nn.Module, *, last: dict[str, Tensor]) -> None:
        """Overwrite the module's parameters by the kept weights; `last` are those of the last validation, by name.

        Raises StageError if no distance was finite.
        """
        if self._distance is None or not math.isfinite(self._distance.value):
            raise StageError("no validation score was finite, so no weights can be kept; lower the learning rate")
        parameters = dict(module.named_parameters())
        for name, item in (self.best.weights if self._is_last_worse else last).items():
            parameters[name].copy_(item)

    def metrics(self) -> dict[str, float | int]:
        """Every scalar of the first and of the last validation, the best score, and the steps of best and kept.

        Empty before the first validation.
        """
        if self._distance is None:
            return {}
        first = {f"start_{name}": value for name, value in self._first.items()}
        last = {f"end_{name}": value for name, value in self._last.items()}
        best = {"best_score": self.best.score, "best_step": self.best.step, "kept_step": self.kept_step}
        return {**first, **last, **best}

    def state_dict(self) -> dict[str, Any]:
        """The state of this object without that of `best`."""
        distance = None if self._distance is None else vars(self._distance)
        return {
            "first": self._first,
            "last": self._last,
            "distance": distance,
            "last_step": self._last_step,
            "is_last_worse": self._is_last_worse,
        }

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore the state of this object without that of `best`."""
        self._first, self._last = dict(state_dict["first"]), dict(state_dict["last"])
        distance = state_dict["distance"]
        self._distance = None if distance is None else KernelDistance(**distance)
        self._last_step, self._is_last_worse = state_dict["last_step"], state_dict["is_last_worse"]
