"""Copies of a module's weights: those that are trained, their moving average, and the best so far."""

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.compute import Precision, frozen_dtype
from naruto_add.diffusion.bundle import widen_head
from naruto_add.runtime import StageError


class TrainableState:
    """The trainable parameters of a module, for a checkpoint that does not repeat what is frozen."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = {name: item for name, item in module.named_parameters() if item.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies, by parameter name, on the CPU."""
        return {name: item.detach().cpu().clone() for name, item in self._parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Overwrite every trainable parameter. Raises KeyError for one that is missing."""
        for name, item in self._parameters.items():
            item.copy_(state_dict[name])


class Ema:
    """Exponential moving average of a module's trainable parameters, with the usual warm-up of the decay.

    The decay of update k is min(decay, (1 + k) / (10 + k)), so that short runs are not averages of their start.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._live = {name: item for name, item in module.named_parameters() if item.requires_grad}
        self._average = {name: item.detach().clone() for name, item in self._live.items()}
        self._decay = decay
        self._num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present parameters."""
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Put the average into the module for the duration, then the live parameters back."""
        live = {name: item.detach().clone() for name, item in self._live.items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(live)

    def average(self) -> dict[str, Tensor]:
        """Copies of the averaged parameters, by name, on the CPU."""
        return {name: item.cpu().clone() for name, item in self._average.items()}

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"average": self.average(), "num_updates": self._num_updates}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore both."""
        self._num_updates = state_dict["num_updates"]
        for name, item in self._average.items():
            item.copy_(state_dict["average"][name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, item in self._live.items():
            item.copy_(values[name])


@dataclass
class Best:
    """The weights with the lowest score so far."""

    score: float = float("inf")
    step: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, score: float, step: int, weights: dict[str, Tensor]) -> bool:
        """Keep these weights if their score is lower; say whether they were kept."""
        if not score < self.score:
            return False
        self.score, self.step, self.weights = score, step, weights
        return True

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Overwrite the module's parameters of the same names. Raises StageError if nothing was ever kept."""
        if not self.weights:
            raise StageError("no validation gave a finite score, so there is no best model; lower the learning rate")
        parameters = dict(module.named_parameters())
        for name, item in self.weights.items():
            parameters[name].copy_(item)

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore everything."""
        self.score, self.step, self.weights = state_dict["score"], state_dict["step"], state_dict["weights"]


def as_drawn(unet: UNet2DConditionModel, precision: Precision) -> UNet2DConditionModel:
    """The U-Net as it will draw for its users, its weights rounded to `precision` where this device computes in it.

    A student is chosen by pictures like those that it will be judged by.
    """
    dtype = frozen_dtype(precision)
    if dtype == torch.float32:
        return unet
    rounded = torch.nn.Module.to(copy.deepcopy(unet), dtype)  # diffusers' own `to` warns of what does not concern us
    return widen_head(rounded).requires_grad_(False).eval()
