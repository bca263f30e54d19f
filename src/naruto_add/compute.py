"""Device, precision and seeds: the one place that asks what this machine can compute with."""

from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator, PartialState

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(precision: Precision) -> Accelerator:
    """An Accelerator on the GPU where there is one; half precisions are for GPUs, a CPU computes in fp32."""
    on_gpu = torch.cuda.is_available()
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[precision] if on_gpu else "no"
    return Accelerator(mixed_precision=mixed, cpu=not on_gpu)


def default_device() -> torch.device:
    """The GPU where there is one; of several, this process's own."""
    device: torch.device = PartialState(cpu=not torch.cuda.is_available()).device
    return device


def frozen_dtype(precision: Precision) -> torch.dtype:
    """The dtype of networks that are not trained: the precision asked for on a GPU, fp32 on a CPU."""
    return DTYPES[precision] if torch.cuda.is_available() else torch.float32


def step_generator(seed: int, step: int, *stream: int) -> torch.Generator:
    """A CPU generator that depends on its arguments alone: a resumed run draws what an uninterrupted one does."""
    entropy = np.random.SeedSequence((seed, step, len(stream), *stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> np.uint64(1)))


def batch_indices(num_items: int, batch_size: int, *, seed: int, step: int) -> list[int]:
    """The items of batch `step`: every epoch is a new permutation, and batches run across epochs' ends."""
    first = step * batch_size
    positions = range(first, first + batch_size)
    epochs = {position // num_items for position in positions}
    order = {epoch: np.random.default_rng((seed, epoch)).permutation(num_items) for epoch in epochs}
    return [int(order[position // num_items][position % num_items]) for position in positions]
