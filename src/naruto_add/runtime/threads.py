"""Independent computations side by side on the cores of a CPU."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MAX_AT_ONCE = 4
"""Each computation holds its own activations, so more of them at once would need more memory."""


def num_at_once() -> int:
    """How many computations `compute_in_threads` does at once: 1 on a GPU."""
    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), MAX_AT_ONCE)


def compute_in_threads(compute: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`compute(item)` of each item, in order; on a CPU several at once, which share torch's threads.

    Operations of small networks are too short to be divided among cores: two cores draw 1.2 times as fast if each
    draws its own batch (`python -m benchmarks.cpu_threads`). Gradients are on in `compute` unless it turns them off
    itself, because that is set per thread.
    """
    items, num_threads = list(items), torch.get_num_threads()
    num_workers = min(num_at_once(), len(items))
    if num_workers < 2:
        return [compute(item) for item in items]
    try:
        with ThreadPoolExecutor(num_workers, "compute", torch.set_num_threads, (num_threads // num_workers,)) as pool:
            return list(pool.map(compute, items))
    finally:
        torch.set_num_threads(num_threads)  # what a worker sets is also the number that new threads begin with
