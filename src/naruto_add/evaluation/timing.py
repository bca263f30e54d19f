"""Latency and memory of drawing, measured on this machine.

All jobs are timed in turn, in several rounds, so that other load on the machine slows all of them alike.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_add.comparison.image_sets import draw_alone
from naruto_add.comparison.subjects import Subject, at_steps
from naruto_add.evaluation.cache import Arrays, Cache
from naruto_add.runtime.files import content_hash
from naruto_add.runtime.progress import progress
from naruto_add.runtime.units import MIB

ROUND_STEPS = 12
"""Sampling steps per job and round, at least: a job of few steps is timed several times, because one time is noisy."""
UNTIMED_STEPS = 4
"""Enough steps to run all code that a longer sampling runs."""


@dataclass(frozen=True)
class Job:
    """A subject, and how many pictures it draws at once."""

    subject: Subject
    num_pictures: int

    @property
    def name(self) -> str:
        """A hash that is equal for jobs that take equally long."""
        return content_hash(self.subject.key(), self.num_pictures)

    @property
    def calls_per_round(self) -> int:
        """How many times a round draws and times this job."""
        return -(-ROUND_STEPS // self.subject.sampler.num_inference_steps)

    def draw(self, prompts: Sequence[str], seed: int) -> None:
        """Draw from prompts to pixels; prompts are repeated if there are too few."""
        chosen = [prompts[index % len(prompts)] for index in range(self.num_pictures)]
        draw_alone(self.subject, chosen, seed=seed)

    def untimed(self) -> "Job":
        """The job at no more than `UNTIMED_STEPS` steps, which is done once before the first round."""
        steps = min(UNTIMED_STEPS, self.subject.sampler.num_inference_steps)
        return Job(at_steps(self.subject, steps), self.num_pictures)


@dataclass(frozen=True)
class Times:
    """The measurements of one run."""

    arrays: Arrays

    def ms(self, job: Job) -> NDArray[np.float64]:
        """Time of each call of the job."""
        return self.arrays[f"{job.name}.ms"]

    def peak_vram_mib(self, job: Job) -> float | None:
        """GPU memory of the subject's weights plus the most that drawing allocated; None without a GPU."""
        peaks = self.arrays[f"{job.name}.vram"]
        return float(peaks.max()) + job.subject.weights_mib if len(peaks) else None

    @property
    def num_threads(self) -> int:
        """Number of CPU threads that torch used."""
        return int(self.arrays["threads"])


def time_jobs(jobs: Sequence[Job], prompts: Sequence[str], *, seed: int, rounds: int, cache: Cache) -> Times:
    """Times of all jobs, measured in one run or taken from `cache`, if they are of a processor of this kind.

    Times of different runs are never combined.
    """
    distinct = {job.name: job for job in jobs}
    arrays = cache.arrays(
        *("times", Path(__file__), sorted(distinct), list(prompts), seed, rounds),
        *(torch.get_num_threads(), _processor()),
        compute=lambda: _measure(distinct, prompts, seed, rounds),
    )
    return Times(arrays)


def milliseconds_of(call: Callable[[], object]) -> float:
    """Wall-clock time of one call, including the work that it queued on the GPU."""
    _synchronize()
    start = time.perf_counter()
    call()
    _synchronize()
    return 1000 * (time.perf_counter() - start)


@contextmanager
def peak_vram_mib() -> Generator[list[float]]:
    """Yield a list that holds after the block the most GPU memory that the block allocated; empty without a GPU."""
    peak: list[float] = []
    if not torch.cuda.is_available():
        yield peak
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield peak
    peak.append((torch.cuda.max_memory_allocated() - before) / MIB)


def peak_rss_mib() -> float | None:
    """The most memory that this process has used so far; None if the system does not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


def _measure(jobs: dict[str, Job], prompts: Sequence[str], seed: int, rounds: int) -> Arrays:
    """Do every job once without timing it, then time every job in every round."""
    for job in jobs.values():
        with job.subject.on_device():
            job.untimed().draw(prompts, seed)
    ms: dict[str, list[float]] = {name: [] for name in jobs}
    vram: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in progress(range(rounds), desc="evaluate: timing"):
        for name, job in jobs.items():
            with job.subject.on_device(), peak_vram_mib() as peak:
                ms[name] += [milliseconds_of(partial(job.draw, prompts, seed)) for _ in range(job.calls_per_round)]
            vram[name] += peak
    arrays = {f"{name}.ms": np.array(values) for name, values in ms.items()}
    arrays |= {f"{name}.vram": np.array(values) for name, values in vram.items()}
    return arrays | {"threads": np.array(torch.get_num_threads())}


def _processor() -> str:
    """The kind of GPU, or without a GPU the CPU's model and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_cpu_model()}, {os.cpu_count()} cores"


def _cpu_model() -> str:
    """As Linux names it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
