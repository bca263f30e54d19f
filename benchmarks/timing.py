"""Times of calls in rounds: every call is timed once a round, and ratios of their times are taken within a round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

Round = Mapping[str, float]
"""The seconds of each call in one round, by its name."""


def wall_or_cpu_time() -> float:
    """Seconds: wall-clock time after all queued work of a GPU is done; without a GPU, CPU time of this process.

    Other programs change CPU time little.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def time_rounds(
    calls: Mapping[str, Callable[[], object]], num_rounds: int, *, clock: Callable[[], float] = wall_or_cpu_time
) -> list[Round]:
    """The seconds of every call in each of these rounds, after one round that is not counted."""
    return [{name: seconds_of(call, clock=clock) for name, call in calls.items()} for _ in range(num_rounds + 1)][1:]


def median(rounds: Sequence[Round], figure: Callable[[Round], float]) -> float:
    """The median over the rounds of what `figure` computes from one of them.

    A machine whose speed changes from round to round changes the ratio of two calls of the same round little.
    """
    return statistics.median(map(figure, rounds))


def median_seconds(rounds: Sequence[Round]) -> dict[str, float]:
    """The median seconds of every call."""
    return {name: median(rounds, lambda seconds, name=name: seconds[name]) for name in rounds[0]}


def device_name() -> str:
    """The name of the GPU, or CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (CPU time)"


def seconds_of(call: Callable[[], object], *, clock: Callable[[], float] = wall_or_cpu_time) -> float:
    """The seconds of one call."""
    started = clock()
    call()
    return clock() - started
