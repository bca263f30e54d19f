"""What a picture costs: time, memory and size, on the machine that this runs on."""

from collections.abc import Mapping

import numpy as np

from naruto_add.evaluation.judge import Metrics
from naruto_add.evaluation.subjects import Subject
from naruto_add.evaluation.timing import Job, Times

LARGE_BATCH = 8
"""Pictures at once, for `latency_batch8_ms` and `images_per_second`."""
P95 = 95
TIMED_AS = {"base": "teacher"}
"""Base has the teacher's architecture and sampler: it takes as long, and is not timed by itself."""


def cost_jobs(subjects: Mapping[str, Subject]) -> list[Job]:
    """What has to be timed for `costs`."""
    timed = [subject for name, subject in subjects.items() if name not in TIMED_AS]
    return [Job(subject, num) for subject in timed for num in (1, LARGE_BATCH)]


def costs(subjects: Mapping[str, Subject], times: Times) -> dict[str, Metrics]:
    """Rows by subject, and the row `process`."""
    rows = {
        name: {**_size(subject), **_time(subjects[TIMED_AS.get(name, name)], times)}
        for name, subject in subjects.items()
    }
    for row in rows.values():
        row["speedup"] = rows["teacher"]["latency_ms"] / row["latency_ms"]
    return {**rows, "process": {"num_threads": times.num_threads}}


def _size(subject: Subject) -> Metrics:
    row: Metrics = {"params_m": subject.params_m, "pipeline_params_m": subject.pipeline_params_m}
    return row if subject.size_mib is None else row | {"size_mib": subject.size_mib}


def _time(subject: Subject, times: Times) -> Metrics:
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
    vram = times.peak_vram_mib(large_job)
    return row if vram is None else row | {"peak_vram_mib": vram}
