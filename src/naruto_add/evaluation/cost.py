"""Cost metrics: latency, memory and size of every subject."""

from collections.abc import Mapping

import numpy as np

from naruto_add.comparison.subjects import FULL_TEACHER, Subject
from naruto_add.evaluation.estimates import Metrics, Rows
from naruto_add.evaluation.timing import Job, Times, peak_rss_mib

LARGE_BATCH = 8
"""Pictures drawn at once for `latency_batch8_ms` and `images_per_second`."""
P95 = 95
TIMED_AS = {"base": "teacher"}
"""The base model has the teacher's architecture and sampler, so it takes the teacher's times."""


def cost_jobs(subjects: Mapping[str, Subject]) -> list[Job]:
    """The jobs that `cost_rows` needs the times of."""
    timed = [subject for name, subject in subjects.items() if name not in TIMED_AS]
    return [Job(subject, num) for subject in timed for num in (1, LARGE_BATCH)]


def cost_rows(subjects: Mapping[str, Subject], times: Times) -> Rows:
    """A row per subject, and the row `process` of the evaluation itself."""
    rows = {
        name: {**_size(subject), **_latency(subjects[TIMED_AS.get(name, name)], times)}
        for name, subject in subjects.items()
    }
    for row in rows.values():
        row["speedup"] = rows[FULL_TEACHER]["latency_ms"] / row["latency_ms"]
    return {**rows, "process": _process(times)}


def _size(subject: Subject) -> Metrics:
    row: Metrics = {"params_m": subject.params_m, "pipeline_params_m": subject.pipeline_params_m}
    return row if subject.size_mib is None else row | {"size_mib": subject.size_mib}


def _latency(subject: Subject, times: Times) -> Metrics:
    large_job = Job(subject, LARGE_BATCH)
    single, large = times.ms(Job(subject, 1)), times.ms(large_job)
    row: Metrics = {
        "num_inference_steps": subject.sampler.num_inference_steps,
        "num_latency_repeats": len(single),
        "latency_ms": float(np.median(single)),
        "latency_p95_ms": float(np.percentile(single, P95)),
        f"latency_batch{LARGE_BATCH}_ms": float(np.median(large)),
        f"latency_batch{LARGE_BATCH}_p95_ms": float(np.percentile(large, P95)),
        "images_per_second": LARGE_BATCH * 1000 / float(np.median(large)),
    }
    peak = times.peak_vram_mib(large_job)
    return row if peak is None else row | {"peak_vram_mib": peak}


def _process(times: Times) -> Metrics:
    peak = peak_rss_mib()
    row: Metrics = {"num_threads": times.num_threads}
    return row if peak is None else row | {"peak_rss_mib": peak}
