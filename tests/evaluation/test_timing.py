"""Timing: all jobs in every round, jobs of few steps more often, each distinct job once."""

import itertools
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_add.comparison.subjects import Subject, at_steps
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import dpm_solver_sampler
from naruto_add.evaluation.cache import Cache
from naruto_add.evaluation.timing import Job, milliseconds_of, peak_rss_mib, time_jobs

PROMPTS = ["a man", "a girl"]


@pytest.fixture
def subject(tiny_bundle: ModelBundle) -> Subject:
    """Without guidance, so that its U-Net is called once per step with as many items as pictures."""
    return Subject(tiny_bundle, dpm_solver_sampler(tiny_bundle, 20, 1.0), "weights")


@pytest.fixture
def batch_sizes(subject: Subject) -> list[int]:
    """The batch size of every call of the U-Net."""
    sizes: list[int] = []
    subject.bundle.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


def test_every_round_times_every_job_after_each_was_done_once_in_few_steps(
    subject: Subject, batch_sizes: list[int], tmp_path: Path
) -> None:
    jobs = [Job(subject, 1), Job(subject, 3), Job(at_steps(subject, 5), 2)]

    times = time_jobs(jobs, PROMPTS, seed=0, rounds=2, cache=Cache(tmp_path))

    calls = [(size, len(list(group))) for size, group in itertools.groupby(batch_sizes)]
    untimed = [(1, 4), (3, 4), (2, 4)]
    one_round = [(1, 20), (3, 20), (2, 3 * 5)]
    assert calls == untimed + 2 * one_round
    assert [len(times.ms(job)) for job in jobs] == [2, 2, 6]
    assert all((times.ms(job) > 0).all() for job in jobs)


def test_equal_jobs_are_timed_once_and_times_are_cached(
    subject: Subject, batch_sizes: list[int], tmp_path: Path
) -> None:
    first = time_jobs(
        [Job(subject, 1), Job(at_steps(subject, 20), 1)], PROMPTS, seed=0, rounds=1, cache=Cache(tmp_path)
    )
    num_calls = len(batch_sizes)

    second = time_jobs([Job(subject, 1)], PROMPTS, seed=0, rounds=1, cache=Cache(tmp_path))

    assert num_calls == 4 + 20
    assert len(batch_sizes) == num_calls
    assert (second.ms(Job(subject, 1)) == first.ms(Job(subject, 1))).all()


def test_times_of_another_processor_are_not_taken_from_the_cache(
    subject: Subject, batch_sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure() -> None:
        time_jobs([Job(subject, 1)], PROMPTS, seed=0, rounds=1, cache=Cache(tmp_path))

    measure()
    num_calls = len(batch_sizes)
    monkeypatch.setattr(os, "cpu_count", lambda: 1024)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another GPU")
    measure()
    assert len(batch_sizes) == 2 * num_calls
    measure()
    assert len(batch_sizes) == 2 * num_calls


def test_milliseconds_are_those_of_the_call() -> None:
    assert milliseconds_of(lambda: time.sleep(0.03)) >= 30


def test_peak_memory_is_more_than_an_array_that_is_in_use() -> None:
    peak = peak_rss_mib()
    array = np.ones(2**20)  # 8 MiB, written and therefore resident
    assert peak is None or peak > array.nbytes / 2**20
