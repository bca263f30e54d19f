"""Latencies of formats and of the models that they were made from, measured in turn in one run."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.placement import on_device

BATCHES = (1, 8)
MAX_ROUNDS = 5
MAX_SECONDS = 20.0
"""After this time no further round of a batch size starts: large models on a CPU are timed once or twice."""

Clock = Callable[[], float]
"""Seconds since any moment."""
Draw = Callable[[int], object]
"""Draws so many pictures, from prompts to pixels."""


@dataclass(frozen=True)
class Job:
    """What is timed. Within a block of `on_device` its networks are where they compute; moving them is not timed."""

    draw: Draw
    on_device: Callable[[], AbstractContextManager[object]] = nullcontext


def time_all(
    bundles: Mapping[str, ModelBundle],
    draw_by: Callable[[ModelBundle], Draw],
    *,
    jobs: Mapping[str, Job],
    cpu_jobs: Mapping[str, Job],
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Latencies of the bundles, one of which is the `student`, of `jobs` on the same device, and of `cpu_jobs`.

    If that device is a GPU, `cpu_jobs` are timed apart, together with the student on the CPU, as `student_cpu`.
    Afterwards every network is where it was before.
    """
    timed = {
        name: Job(draw_by(bundle), partial(on_device, bundle.device, *bundle.networks))
        for name, bundle in bundles.items()
    }
    student = bundles["student"]
    if student.device.type == "cpu" or not cpu_jobs:
        return _latencies_ms({"student": timed.pop("student"), **jobs, **timed, **cpu_jobs}, clock)
    cpu = torch.device("cpu")
    on_cpu = replace(student, device=cpu)
    slow = {"student_cpu": Job(draw_by(on_cpu), partial(on_device, cpu, *on_cpu.networks)), **cpu_jobs}
    return _latencies_ms({**timed, **jobs}, clock) | _latencies_ms(slow, clock)


def _latencies_ms(jobs: Mapping[str, Job], clock: Clock) -> dict[str, dict[str, float]]:
    """Median milliseconds by the names of `jobs`, as `latency_batch_1_ms` and `latency_batch_8_ms`.

    All take turns in every round, after an untimed round, so that other load on the machine slows all alike.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in jobs}
    for batch in BATCHES:
        for name, times in _rounds(jobs, batch, clock).items():
            found[name][f"latency_batch_{batch}_ms"] = 1000 * statistics.median(times)
    return found


def _rounds(jobs: Mapping[str, Job], batch: int, clock: Clock) -> dict[str, list[float]]:
    start = clock()
    for job in jobs.values():
        _seconds(job, batch, clock)
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(MAX_ROUNDS):
        if number and clock() - start > MAX_SECONDS:
            break
        for name, job in jobs.items():
            times[name].append(_seconds(job, batch, clock))
    return times


def _seconds(job: Job, batch: int, clock: Clock) -> float:
    with job.on_device():
        start = clock()
        job.draw(batch)
        return clock() - start
