"""Quality against latency: teacher and distilled student at many numbers of steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from naruto_add.catalog import INTERVAL_ENDS
from naruto_add.evaluation.features import Images
from naruto_add.evaluation.judge import Judge, Metrics, compared, image_features
from naruto_add.evaluation.subjects import Subject, at_steps, student_at_steps
from naruto_add.evaluation.timing import Job, Times
from naruto_add.files import atomic_write_bytes
from naruto_add.params import Evaluate, Sampling
from naruto_add.runtime import progress

COLUMNS = ("subject", "steps", "latency_ms", "metric", "distance", "low", "high", "num_images")


@dataclass(frozen=True)
class SweepPoint:
    """`distance` is the judge's Frechet distance (`metric` names it) of as many pictures at every point."""

    name: str
    subject: Subject
    metric: str
    distance: float
    low: float
    high: float
    num_images: int

    @property
    def job(self) -> Job:
        """What has to be timed."""
        return Job(self.subject, 1)


def sweep(
    subjects: Mapping[str, Subject],
    *,
    draw: Callable[[Subject], Images],
    drawn_sets: Mapping[str, Images],
    real: Images,
    sampling: Sampling,
    params: Evaluate,
    judge: Judge,
) -> list[SweepPoint]:
    """A point per subject and number of steps; a set in `drawn_sets` is not drawn again."""
    points = _points(subjects, sampling, params)
    known = {repr(subjects[name].key()): images for name, images in drawn_sets.items()}
    found = []
    for name, subject in progress(points, desc="evaluate: sweep", total=len(points)):
        images = known.get(repr(subject.key()))
        features = image_features(draw(subject) if images is None else images, judge)[: params.few_images]
        found.append(_point(name, subject, compared(features, image_features(real, judge), judge=judge), judge=judge))
    return found


def write_sweep(points: Sequence[SweepPoint], times: Times, path: Path) -> None:
    """Tab-separated, with six significant digits."""
    rows = []
    for point in points:
        steps, ms = point.subject.sampler.num_inference_steps, float(np.median(times.ms(point.job)))
        figures = [f"{value:.6g}" for value in (point.distance, point.low, point.high)]
        rows.append("\t".join([point.name, str(steps), f"{ms:.6g}", point.metric, *figures, str(point.num_images)]))
    atomic_write_bytes(path, ("\n".join(["\t".join(COLUMNS), *rows]) + "\n").encode())


def _points(subjects: Mapping[str, Subject], sampling: Sampling, params: Evaluate) -> list[tuple[str, Subject]]:
    teacher, distilled = subjects["teacher"], subjects["distilled"]
    return [
        *(("teacher", at_steps(teacher, num_steps)) for num_steps in params.teacher_sweep),
        *(("distilled", student_at_steps(distilled, sampling, num_steps)) for num_steps in params.student_sweep),
    ]


def _point(name: str, subject: Subject, figures: Metrics, *, judge: Judge) -> SweepPoint:
    metric = judge.features.frechet_name
    distance, low, high = (figures[f"{metric}{end}"] for end in ("", *INTERVAL_ENDS))
    return SweepPoint(name, subject, metric, distance, low, high, int(figures["num_images"]))
