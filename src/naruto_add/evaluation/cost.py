"""What a picture costs: time, memory and size, on the machine that this runs on."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from naruto_add.evaluation.cache import Arrays, cached
from naruto_add.evaluation.generate import draw_set
from naruto_add.evaluation.judge import Metrics
from naruto_add.evaluation.speed import latencies_ms, peak_rss_mib, peak_vram_mib
from naruto_add.evaluation.subjects import Subject, at_steps
from naruto_add.params import Evaluate

LARGE_BATCH = 8
"""Pictures at once, for `images_per_second`."""
WARM_UP_STEPS = 4
"""They call everything that more steps call."""
P95 = 95


def costs(subjects: dict[str, Subject], prompts: list[str], *, params: Evaluate, cache_dir: Path) -> dict[str, Metrics]:
    """Rows by subject, and the row `process`; all times are of one run, since they are compared with each other."""
    timed = cached(
        cache_dir,
        ["cost", [subject.key() for subject in subjects.values()], params.latency_repeats, torch.get_num_threads()],
        lambda: _timed(subjects, prompts, params),
    )
    rows = {name: _row(name, subject, timed) for name, subject in subjects.items()}
    for row in rows.values():
        row["speedup"] = rows["teacher"]["latency_ms"] / row["latency_ms"]
    return {**rows, **_process_row(timed)}


def pipeline_latencies(subject: Subject, prompts: list[str], *, seed: int, repeats: int) -> NDArray[np.float64]:
    """Milliseconds from prompts to pixels, all in one batch, after a picture of few steps to warm up."""
    brief = at_steps(subject, min(WARM_UP_STEPS, subject.sampler.num_inference_steps))
    return latencies_ms(
        lambda: draw_set(subject, prompts, seed=seed, batch_size=len(prompts)),
        repeats=repeats,
        warm_up=lambda: draw_set(brief, prompts, seed=seed, batch_size=len(prompts)),
    )


def _row(name: str, subject: Subject, timed: Arrays) -> Metrics:
    single = timed[f"{name}.single"]
    row: Metrics = {
        "num_inference_steps": subject.sampler.num_inference_steps,
        "latency_ms": float(np.median(single)),
        "latency_p95_ms": float(np.percentile(single, P95)),
        "images_per_second": LARGE_BATCH * 1000 / float(np.median(timed[f"{name}.large"])),
        "params_m": subject.params_m,
        "pipeline_params_m": subject.pipeline_params_m,
    }
    if subject.size_mib is not None:
        row["size_mib"] = subject.size_mib
    if f"{name}.vram" in timed:
        row["peak_vram_mib"] = float(timed[f"{name}.vram"])
    return row


def _process_row(timed: Arrays) -> dict[str, Metrics]:
    return {"process": {"peak_rss_mib": float(timed["rss"])}} if "rss" in timed else {}


def _timed(subjects: dict[str, Subject], prompts: list[str], params: Evaluate) -> Arrays:
    eight = [prompts[index % len(prompts)] for index in range(LARGE_BATCH)]
    timed: dict[str, NDArray[np.float64]] = {}
    for name, subject in subjects.items():
        timed[f"{name}.single"] = pipeline_latencies(
            subject, prompts[:1], seed=params.seed, repeats=params.latency_repeats
        )
        with peak_vram_mib() as peak:
            # One time is enough, since it is several times as long.
            timed[f"{name}.large"] = pipeline_latencies(subject, eight, seed=params.seed, repeats=1)
        timed |= {f"{name}.vram": np.array(value) for value in peak}
    rss = peak_rss_mib()
    return timed if rss is None else timed | {"rss": np.array(rss)}
