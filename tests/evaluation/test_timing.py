"""Subjects are timed in turn, in one run, and those of few steps more often."""

from pathlib import Path

import pytest

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import teacher_sampler
from naruto_add.evaluation import timing
from naruto_add.evaluation.subjects import Subject, at_steps
from naruto_add.evaluation.timing import Job, time_jobs
from naruto_add.params import Sampling

SAMPLING = Sampling(teacher_steps=20, guidance_scale=3.0, student_scheduler="ddim")
PROMPTS = ["a man", "a girl"]
Call = tuple[int, int]


@pytest.fixture
def slow(tiny_bundle: ModelBundle) -> Subject:
    return Subject(tiny_bundle, teacher_sampler(tiny_bundle, SAMPLING), "teacher")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Steps and number of pictures of every call, in place of drawing."""
    found: list[Call] = []

    def note(subject: Subject, prompts: list[str], *, seed: int, batch_size: int) -> None:
        found.append((subject.sampler.num_inference_steps, len(prompts)))

    monkeypatch.setattr(timing, "draw_set", note)
    return found


def test_every_round_times_all_after_a_warm_up_in_few_steps(slow: Subject, calls: list[Call], tmp_path: Path) -> None:
    jobs = [Job(slow, 1), Job(slow, 8), Job(at_steps(slow, 5), 1)]

    times = time_jobs(jobs, PROMPTS, seed=0, rounds=2, cache_dir=tmp_path)

    warm_up = [(4, 1), (4, 8), (4, 1)]
    one_round = [(20, 1), (20, 8), (5, 1), (5, 1), (5, 1)]
    assert calls == warm_up + 2 * one_round
    assert [len(times.ms(job)) for job in jobs] == [2, 2, 6]


def test_equal_jobs_are_timed_once_and_times_are_kept(slow: Subject, calls: list[Call], tmp_path: Path) -> None:
    first = time_jobs([Job(slow, 1), Job(at_steps(slow, 20), 1)], PROMPTS, seed=0, rounds=3, cache_dir=tmp_path)
    assert len(calls) == 1 + 3

    again = time_jobs([Job(slow, 1)], PROMPTS, seed=0, rounds=3, cache_dir=tmp_path)

    assert len(calls) == 1 + 3
    assert (again.ms(Job(slow, 1)) == first.ms(Job(slow, 1))).all()
