"""Quality against latency: teacher and distilled student at many numbers of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from naruto_add.evaluation.cache import cached
from naruto_add.evaluation.cost import pipeline_latencies
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.generate import drawn
from naruto_add.evaluation.judge import Judge, frechet_only
from naruto_add.evaluation.subjects import Subject, at_steps, student_at_steps
from naruto_add.files import atomic_write_bytes
from naruto_add.params import Evaluate, Sampling
from naruto_add.runtime import progress

COLUMNS = ("subject", "steps", "latency_ms", "distance")
TIMED_STEPS = 20
"""Steps that a point is timed for at least, by as many pictures as that takes: one picture of few steps is noise."""


@dataclass(frozen=True)
class SweepPoint:
    """`distance` is the judge's Frechet distance of as many pictures at every point."""

    subject: str
    steps: int
    latency_ms: float
    distance: float


def sweep(
    subjects: Mapping[str, Subject],
    prompts: Sequence[str],
    *,
    drawn_sets: Mapping[str, Images],
    real: Images,
    sampling: Sampling,
    params: Evaluate,
    judge: Judge,
) -> list[SweepPoint]:
    """A point per subject and number of steps; a set in `drawn_sets` is not drawn again."""
    few = list(prompts[: params.few_images])
    points = _points(subjects, sampling, params)
    known = {repr(subjects[name].key()): images for name, images in drawn_sets.items()}
    found = []
    for name, subject in progress(points, desc="evaluate: sweep", total=len(points)):
        images = known.get(repr(subject.key()))
        if images is None:
            images = drawn(subject, few, seed=params.seed, batch_size=params.batch_size, cache_dir=judge.cache_dir)
        distance = frechet_only(images[: len(few)], real, judge=judge)
        latency_ms = _latency_ms(subject, few, params=params, cache_dir=judge.cache_dir)
        found.append(SweepPoint(name, subject.sampler.num_inference_steps, latency_ms, distance))
    return found


def write_sweep(points: Sequence[SweepPoint], path: Path) -> None:
    """Tab-separated, with six significant digits."""
    rows = [f"{point.subject}\t{point.steps}\t{point.latency_ms:.6g}\t{point.distance:.6g}" for point in points]
    atomic_write_bytes(path, ("\n".join(["\t".join(COLUMNS), *rows]) + "\n").encode())


def _points(subjects: Mapping[str, Subject], sampling: Sampling, params: Evaluate) -> list[tuple[str, Subject]]:
    teacher, distilled = subjects["teacher"], subjects["distilled"]
    return [
        *(("teacher", at_steps(teacher, num_steps)) for num_steps in params.teacher_sweep),
        *(("distilled", student_at_steps(distilled, sampling, num_steps)) for num_steps in params.student_sweep),
    ]


def _latency_ms(subject: Subject, prompts: list[str], *, params: Evaluate, cache_dir: Path) -> float:
    times = cached(
        cache_dir,
        ["latency", subject.key(), params.seed, torch.get_num_threads()],
        lambda: {"ms": pipeline_latencies(subject, prompts[:1], seed=params.seed, repeats=_repeats(subject))},
    )
    return float(np.median(times["ms"]))


def _repeats(subject: Subject) -> int:
    return -(-TIMED_STEPS // subject.sampler.num_inference_steps)
