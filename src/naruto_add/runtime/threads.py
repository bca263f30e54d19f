"""Independent computations side by side on the cores of a CPU."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MAX_AT_ONCE = 2
"""Each computation holds its own activations, so this is also how many times as much memory they need."""


def num_at_once() -> int:
    """How many computations `compute_in_threads` does at once: 1 on a machine with a GPU, or with one torch thread."""
    return 1 if torch.cuda.is_available() else min(torch.get_num_threads(), MAX_AT_ONCE)


def compute_in_threads(compute: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`compute(item)` of each item, in order; on a CPU `num_at_once` of them at once, which share torch's threads.

    Operations of small networks are too short to be divided among cores (`python -m benchmarks.cpu_threads` measures
    the difference). An item's share of the threads does not depend on the number of items, because some operations
    round differently with other numbers. Gradient mode, inference mode and autocast are set per thread, so `compute`
    must set them itself. On an error or Ctrl-C the computations that run are finished, and no other one begins. If
    several fail, the error of the first of these items is raised.
    """
    number, num_threads = num_at_once(), torch.get_num_threads()
    if number == 1:
        return [compute(item) for item in items]
    try:
        with ThreadPoolExecutor(
            number,
            thread_name_prefix="compute",
            initializer=torch.set_num_threads,
            initargs=(num_threads // number,),
        ) as pool:
            try:
                futures = [pool.submit(compute, item) for item in items]
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            return [future.result() for future in futures]
    finally:
        torch.set_num_threads(num_threads)  # what a worker sets is also the number that new threads begin with
