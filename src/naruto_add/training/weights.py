"""Copies of a module's weights: the trained ones, their moving average, the best so far, and rounded ones."""

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from naruto_add.diffusion.frozen_unet import frozen_unet
from naruto_add.runtime.errors import StageError


class TrainableState:
    """The trainable parameters of a module, so that a checkpoint does not contain the frozen ones."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = {name: item for name, item in module.named_parameters() if item.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies, by parameter name, on the CPU."""
        return {name: item.detach().cpu().clone() for name, item in self._parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Overwrite all trainable parameters. Raises KeyError if one is missing in `state_dict`."""
        for name, item in self._parameters.items():
            item.copy_(state_dict[name])


class Ema:
    """Exponential moving average of a module's trainable parameters.

    The decay of update k (1, 2, ...) is min(decay, (1 + k) / (10 + k)), so that the initial weights do not dominate the
    average of a short training. `EMAModel` of diffusers counts k from another step, and so gives other averages.
    """

    def __init__(self, module: torch.nn.Module, decay: float, *, on_cpu: bool) -> None:
        """With `on_cpu` the average is in the CPU's memory, whatever the module's device."""
        self._live = {name: item for name, item in module.named_parameters() if item.requires_grad}
        self._on_cpu = on_cpu
        self._average = self._copies()
        self._decay = decay
        self._num_updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current parameters."""
        self._num_updates += 1
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        if self._on_cpu:
            for name, item in self._average.items():  # one by one, so that only one copy is in memory
                item.lerp_(self._live[name].to(item.device), 1 - decay)
        else:
            torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Generator[None]:
        """Within the block, the module has the averaged parameters; afterwards it has its own again."""
        live = self._copies()
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
        """Restore the average and the number of updates."""
        self._num_updates = state_dict["num_updates"]
        for name, item in self._average.items():
            item.copy_(state_dict["average"][name])

    def _copies(self) -> dict[str, Tensor]:
        """Copies of the current parameters on the device of the average."""
        return {
            name: item.detach().to("cpu" if self._on_cpu else item.device, copy=True)
            for name, item in self._live.items()
        }

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, item in self._live.items():
            item.copy_(values[name])


@dataclass
class Best:
    """The weights with the lowest score so far, and the number of steps after which they were offered."""

    score: float = float("inf")
    step: int = -1
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, score: float, step: int, weights: dict[str, Tensor]) -> bool:
        """Keep these weights if their score is lower than the lowest so far; returns whether they are kept."""
        if not score < self.score:
            return False
        self.score, self.step, self.weights = score, step, weights
        return True

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Overwrite the module's parameters of the same names. Raises StageError if no score was finite."""
        if not self.weights:
            raise StageError("no validation score was finite, so there are no best weights; lower the learning rate")
        parameters = dict(module.named_parameters())
        for name, item in self.weights.items():
            parameters[name].copy_(item)

    def state_dict(self) -> dict[str, Any]:
        """Score, step and weights."""
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore score, step and weights."""
        self.score, self.step, self.weights = state_dict["score"], state_dict["step"], state_dict["weights"]


def in_sampling_precision(unet: UNet2DConditionModel, dtype: torch.dtype) -> UNet2DConditionModel:
    """A frozen copy of the U-Net rounded to `dtype`; the U-Net itself if that is fp32.

    Checkpoints are chosen by the pictures that the later stages draw, and those load the U-Net in `frozen_dtype`.
    """
    if dtype == torch.float32:
        return unet
    return frozen_unet(copy.deepcopy(unet), dtype, unet.device)
