"""Optimizers, updates and averages of weights, as all trainings of the recipe use them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from naruto_add.training.muon import Muon

ADAMW: dict[str, Any] = {"betas": (0.9, 0.99), "weight_decay": 1e-4}
KERNEL_WEIGHT_DECAY = 0.01


def convolution_optimizer(module: nn.Module, learning_rate: float) -> Muon:
    """Muon for the kernels of an autoencoder's convolutions, AdamW for its other weights."""
    muon = Muon(dict(module.named_parameters()), lr=learning_rate, **ADAMW)
    for group in muon.param_groups:
        if group["is_muon"]:
            group["weight_decay"] = KERNEL_WEIGHT_DECAY
    return muon


def update(module: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, *, learning_rate: float) -> None:
    """One step of the optimizer, which has all weights of the module, with clipped gradients."""
    module.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()


@contextmanager
def averaged_weights(ema: EMAModel, module: nn.Module) -> Iterator[None]:
    """A block within which the module has its averaged weights."""
    ema.store(module.parameters())
    ema.copy_to(module.parameters())
    yield
    ema.restore(module.parameters())
