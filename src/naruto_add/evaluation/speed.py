"""How long a picture takes, on the machine that this runs on."""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray


def latencies_ms(draw: Callable[[], object], *, repeats: int) -> NDArray[np.float64]:
    """Wall-clock times of `draw`, which is called once more beforehand to warm up."""
    draw()
    return np.array([1000 * seconds_of(draw) for _ in range(repeats)])


def seconds_of(draw: Callable[[], object]) -> float:
    """Wall-clock time of one call, until the GPU is done too."""
    _synchronize()
    start = time.perf_counter()
    draw()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
