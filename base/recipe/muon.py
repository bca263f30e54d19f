"""Muon (Jordan et al. 2024): steps of matrices and kernels that are orthogonal matrices, which take fewer of them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that drives singular values towards 1."""
NUM_ITERATIONS = 5
MOMENTUM = 0.95
WEIGHT_DECAY = 0.01
ADAMW_RMS = 0.2
"""The root mean square of AdamW's steps, which these are given, so that one learning rate does for both."""


class Muon(torch.optim.Optimizer):
    """For matrices, and for kernels (outputs, inputs, height, width), each taken as a matrix of `outputs` rows."""

    def __init__(self, parameters: Iterable[nn.Parameter], *, learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "initial_lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step of every kernel: Nesterov's momentum, made orthogonal."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                matrix = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)
                length = ADAMW_RMS * max(matrix.shape) ** 0.5
                parameter.mul_(1 - group["lr"] * WEIGHT_DECAY)
                parameter.add_(orthogonalized(matrix).view(parameter.shape), alpha=-group["lr"] * length)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Near the closest matrix whose singular values are 1, by Newton-Schulz iterations: they end up in [0.7, 1.2]."""
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).bfloat16()  # enough for a direction, and faster
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)
