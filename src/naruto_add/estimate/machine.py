"""The GPU and the disk that an estimate is compared with."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from naruto_add.runtime.units import GIB

SUSTAINED_TFLOPS: Mapping[str, float] = {"H100": 157.0, "A100": 94.0, "RTX 4090": 67.0}
"""Assumed, not measured: the speed in half precision that training of these networks reaches."""


@dataclass(frozen=True)
class Machine:
    """The GPU's memory and speed, as found or stated; None for what is unknown. `free_disk_bytes` is of this folder."""

    name: str
    gpu_bytes: float | None
    tflops: float | None
    free_disk_bytes: int


def find_machine(*, gpu_gib: float | None, tflops: float | None) -> Machine:
    """This machine; what is stated replaces what is found."""
    name, gpu_bytes = "the GPU", None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        name, gpu_bytes = str(properties.name), float(properties.total_memory)
        tflops = tflops or next((speed for kind, speed in SUSTAINED_TFLOPS.items() if kind in name), None)
    if gpu_gib:
        gpu_bytes = gpu_gib * GIB
    return Machine(name, gpu_bytes, tflops, shutil.disk_usage(Path.cwd()).free)
