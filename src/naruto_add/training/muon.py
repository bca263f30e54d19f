"""Muon (Jordan et al. 2024): momentum updates of weight matrices, orthogonalized by a Newton-Schulz iteration."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration's quintic polynomial, which drives singular values towards 1."""
NUM_ITERATIONS = 5
MOMENTUM = 0.95
ADAMW_RMS = 0.2
"""Root mean square of an update at learning rate 1: AdamW's, so that one learning rate suits both (Liu et al. 2025)."""
OUTER_LAYERS = ("embed", "conv_in", "conv_out", "quant_conv")
"""Parts of the names of the first and last layers, which AdamW trains."""


class Muon(torch.optim.AdamW):
    """Muon for matrices and convolution kernels of hidden layers, AdamW for all other parameters.

    A kernel (outputs, inputs, height, width) is taken as a matrix of `outputs` rows. torch.optim.Muon has no kernels.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], **adamw: Any) -> None:
        """`parameters` by their names in the module; `adamw` are options of torch.optim.AdamW for all of them."""
        hidden: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in parameters.items():
            is_hidden = parameter.dim() >= 2 and not any(part in name for part in OUTER_LAYERS)
            (hidden if is_hidden else others).append(parameter)
        groups = [{"params": hidden, "is_muon": True}, {"params": others, "is_muon": False}]
        super().__init__([group for group in groups if group["params"]], fused=True, **adamw)
        # The gradient scaler of fp16 skips a step whose gradient is not finite, unless the optimizer says it does so.
        self._step_supports_amp_scaling = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient; gradients of Muon's parameters are removed."""
        assert closure is None
        for group in self.param_groups:
            if group["is_muon"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(
                            parameter, parameter.grad, learning_rate=group["lr"], weight_decay=group["weight_decay"]
                        )
                        parameter.grad = None  # AdamW skips parameters without a gradient
        return super().step()

    def _update(self, parameter: nn.Parameter, gradient: Tensor, *, learning_rate: float, weight_decay: float) -> None:
        """Nesterov's momentum, orthogonalized."""
        state = self.state[parameter]
        if not state:
            # AdamW expects the number of steps in a state that it loads.
            state.update(momentum=torch.zeros_like(parameter), step=torch.zeros(()))
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        matrix = gradient.lerp(momentum, MOMENTUM).flatten(1)
        length = ADAMW_RMS * max(matrix.shape) ** 0.5
        parameter.mul_(1 - learning_rate * weight_decay)
        parameter.add_(orthogonalize(matrix).view_as(parameter), alpha=-learning_rate * length)


def orthogonalize(matrix: Tensor) -> Tensor:
    """The matrix with its singular values moved into [0.7, 1.2], by Newton-Schulz iterations x <- p(x x^T) x.

    The iterations compute only x x^T, which is square and small, and the product of their polynomials multiplies x
    once. They are in fp32, because rounding errors grow where a singular value is 0, and because bfloat16 is 25 times
    slower on a CPU that has no instructions for it.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).float()
    x = x / (x.norm() + 1e-7)
    with _full_precision():
        gram = x @ x.T
        identity = torch.eye(len(x), device=x.device)
        polynomial = product = _polynomial(gram, identity)
        for _ in range(NUM_ITERATIONS - 1):
            gram = polynomial @ gram @ polynomial
            polynomial = _polynomial(gram, identity)
            product = polynomial @ product
        x = product @ x
    return (x.T if is_tall else x).to(matrix.dtype)


def _polynomial(gram: Tensor, identity: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    return a * identity + b * gram + c * gram @ gram


@contextmanager
def _full_precision() -> Generator[None]:
    """No TF32 in matrix products."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
