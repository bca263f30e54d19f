"""Quality against latency: the teacher and the distilled student at many numbers of steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naruto_add.comparison.subjects import FULL_TEACHER, Subject, at_steps, student_at_steps, with_dpm_solver
from naruto_add.config.schema import Sampling
from naruto_add.evaluation.catalog import INTERVAL_ENDS
from naruto_add.evaluation.estimates import Metrics
from naruto_add.evaluation.timing import Job, Times
from naruto_add.runtime.files import atomic_write_bytes

COLUMNS = ("subject", "steps", "latency_ms", "metric", "distance", "low", "high", "num_images")


@dataclass(frozen=True)
class SweepPoint:
    """A subject at one of its numbers of steps, under the name that it has in the table."""

    name: str
    subject: Subject

    @property
    def job(self) -> Job:
        """The timing job of this point: one picture."""
        return Job(self.subject, 1)


def sweep_points(
    subjects: Mapping[str, Subject],
    sampling: Sampling,
    *,
    teacher_sweep: Sequence[int],
    student_sweep: Sequence[int],
) -> list[SweepPoint]:
    """The teacher with both of its schedulers and the distilled student, at each of these numbers of steps."""
    teacher, distilled = subjects[FULL_TEACHER], subjects["distilled"]
    return [
        *(SweepPoint("teacher_pndm", at_steps(teacher, number)) for number in teacher_sweep),
        *(SweepPoint("teacher_dpm", with_dpm_solver(teacher, number)) for number in teacher_sweep),
        *(SweepPoint("distilled", student_at_steps(distilled, sampling, number)) for number in student_sweep),
    ]


def write_sweep(
    points: Sequence[SweepPoint], metrics: Sequence[Metrics], times: Times, *, distance_name: str, path: Path
) -> None:
    """Write a tab-separated row per point: its latency, and its distance to real pictures with the interval.

    `metrics` has the metrics of each point, `distance_name` is the one that is written.
    """
    rows = []
    for point, values in zip(points, metrics, strict=True):
        latency_ms = float(np.median(times.ms(point.job)))
        distances = [values[f"{distance_name}{end}"] for end in ("", *INTERVAL_ENDS)]
        rows.append(
            [
                *(point.name, str(point.subject.sampler.num_inference_steps), f"{latency_ms:.6g}"),
                *(distance_name, *(f"{value:.6g}" for value in distances), str(values["num_images"])),
            ]
        )
    atomic_write_bytes(path, "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows)).encode())
