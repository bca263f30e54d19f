"""Device, precision and random generators of a stage's computation."""

from typing import TypeVar

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import AutocastKwargs

from naruto_add.config.schema import Precision

Module = TypeVar("Module", bound=torch.nn.Module)

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(autocast: Precision, *, keeps_casts: bool = True) -> Accelerator:
    """An Accelerator on the GPU that computes in this precision, or, without a GPU, on the CPU in fp32.

    Without `keeps_casts`, autocast rounds a weight at every use instead of keeping rounded copies of all weights: the
    same values in less memory, if activations are not kept either.
    """
    on_gpu = torch.cuda.is_available()
    mixed = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[autocast] if on_gpu else "no"
    return Accelerator(
        mixed_precision=mixed, cpu=not on_gpu, kwargs_handlers=[AutocastKwargs(cache_enabled=keeps_casts)]
    )


def default_device() -> torch.device:
    """This process's GPU, or the CPU if the machine has no GPU."""
    device: torch.device = PartialState(cpu=not torch.cuda.is_available()).device
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for matrix products; convolutions have it by default
    return device


def gpu_layout(module: Module) -> Module:
    """The module with its channels last in memory if it is on a GPU, whose convolutions are faster so."""
    return channels_last(module) if next(module.parameters()).is_cuda else module


def channels_last(module: Module) -> Module:
    """The module with the channels of its convolutions' weights last in memory."""
    module.to(memory_format=torch.channels_last)
    return module


def moved(tensor: torch.Tensor, device: torch.device | None) -> torch.Tensor:
    """The tensor on `device`; a copy to a GPU is asynchronous, from pinned memory."""
    if device is None or device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def frozen_dtype(precision: Precision) -> torch.dtype:
    """The dtype of networks that are not trained: that of `precision` on a GPU, fp32 on a CPU."""
    return DTYPES[precision] if torch.cuda.is_available() else torch.float32


def step_generator(seed: int, step: int, *stream: int) -> torch.Generator:
    """A CPU generator seeded by its arguments alone, so that a resumed run draws the same as an uninterrupted one."""
    entropy = np.random.SeedSequence((seed, step, len(stream), *stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(entropy >> np.uint64(1)))


def free_memory(device: torch.device) -> int | None:
    """Bytes of this GPU that a tensor can be put into now; None for a CPU."""
    if device.type != "cuda":
        return None
    unused_by_driver, _ = torch.cuda.mem_get_info(device)
    return unused_by_driver + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
