"""Latencies of formats and of the models that they were made from, measured in turn in one run."""

import statistics
import time
from collections.abc import Callable, Mapping

BATCHES = (1, 8)
MAX_ROUNDS = 5
MAX_SECONDS = 20.0
"""After this time no further round of a batch size starts: large models on a CPU are timed once or twice."""

Draw = Callable[[int], object]
"""Draws so many pictures, from prompts to pixels."""


def latencies_ms(draws: Mapping[str, Draw]) -> dict[str, dict[str, float]]:
    """Median milliseconds by the names of `draws`, as `latency_batch_1_ms` and `latency_batch_8_ms`.

    All take turns in every round, after a round to warm up, so that other load on the machine slows all alike.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in draws}
    for batch in BATCHES:
        for name, times in _rounds(draws, batch).items():
            found[name][f"latency_batch_{batch}_ms"] = 1000 * statistics.median(times)
    return found


def _rounds(draws: Mapping[str, Draw], batch: int) -> dict[str, list[float]]:
    start = time.perf_counter()
    for draw in draws.values():
        draw(batch)
    times: dict[str, list[float]] = {name: [] for name in draws}
    for number in range(MAX_ROUNDS):
        if number and time.perf_counter() - start > MAX_SECONDS:
            break
        for name, draw in draws.items():
            times[name].append(_seconds(draw, batch))
    return times


def _seconds(draw: Draw, batch: int) -> float:
    start = time.perf_counter()
    draw(batch)
    return time.perf_counter() - start
