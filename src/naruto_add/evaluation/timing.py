"""How long subjects take, all in turn, again and again: whatever else the machine does meanwhile slows all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_add.evaluation import speed
from naruto_add.evaluation.cache import Arrays, cached
from naruto_add.evaluation.generate import draw_set
from naruto_add.evaluation.speed import milliseconds_of, peak_vram_mib
from naruto_add.evaluation.subjects import Subject, at_steps
from naruto_add.files import content_hash
from naruto_add.runtime import progress

ROUND_STEPS = 12
"""Steps that a round times a job for at least, by as many calls as that takes: one picture of few steps is noise."""
WARM_UP_STEPS = 4
"""They call everything that more steps call."""


@dataclass(frozen=True)
class Job:
    """A subject that draws so many pictures at once."""

    subject: Subject
    num_pictures: int

    @property
    def name(self) -> str:
        """The same for all jobs that take equally long, whoever asks for them."""
        return content_hash(self.subject.key(), self.num_pictures)

    @property
    def calls_per_round(self) -> int:
        """Cheap subjects are timed more often."""
        return -(-ROUND_STEPS // self.subject.sampler.num_inference_steps)

    def draw(self, prompts: Sequence[str], seed: int) -> None:
        """From prompts to pixels; the prompts are taken in turn."""
        chosen = [prompts[index % len(prompts)] for index in range(self.num_pictures)]
        draw_set(self.subject, chosen, seed=seed, batch_size=self.num_pictures)

    def brief(self) -> "Job":
        """The same in few steps, to warm up."""
        steps = min(WARM_UP_STEPS, self.subject.sampler.num_inference_steps)
        return Job(at_steps(self.subject, steps), self.num_pictures)


@dataclass(frozen=True)
class Times:
    """What one run measured."""

    arrays: Arrays

    def ms(self, job: Job) -> NDArray[np.float64]:
        """Of each call."""
        return self.arrays[f"{job.name}.ms"]

    def peak_vram_mib(self, job: Job) -> float | None:
        """GPU memory of the subject's own weights, and what drawing took at most beside them; None without a GPU."""
        peaks = self.arrays[f"{job.name}.vram"]
        return float(peaks.max()) + job.subject.weights_mib if len(peaks) else None

    @property
    def num_threads(self) -> int:
        """That torch computed with on the CPU."""
        return int(self.arrays["threads"])


def time_jobs(jobs: Sequence[Job], prompts: Sequence[str], *, seed: int, rounds: int, cache_dir: Path) -> Times:
    """Every job's times, of one run at most once: times are there to be compared with each other."""
    different = {job.name: job for job in jobs}
    code = [Path(__file__), Path(speed.__file__)]
    key = ["times", *code, sorted(different), list(prompts), seed, rounds, torch.get_num_threads()]
    return Times(cached(cache_dir, key, lambda: _measured(different, prompts, seed, rounds)))


def _measured(jobs: dict[str, Job], prompts: Sequence[str], seed: int, rounds: int) -> Arrays:
    """After a warm-up of all, every job in every round."""
    for job in jobs.values():
        job.brief().draw(prompts, seed)
    ms: dict[str, list[float]] = {name: [] for name in jobs}
    vram: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in progress(range(rounds), desc="evaluate: timing"):
        for name, job in jobs.items():
            with peak_vram_mib() as peak:
                ms[name] += [milliseconds_of(partial(job.draw, prompts, seed)) for _ in range(job.calls_per_round)]
            vram[name] += peak
    arrays = {f"{name}.ms": np.array(values) for name, values in ms.items()}
    arrays |= {f"{name}.vram": np.array(values) for name, values in vram.items()}
    arrays["threads"] = np.array(torch.get_num_threads())
    return arrays
