"""Image sets: equal for equal seeds, and equal in every batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from naruto_add.comparison.image_sets import draw_set, encode_and_decode
from naruto_add.comparison.subjects import Subject
from naruto_add.config.schema import Sampling, StudentScheduler
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import student_sampler, teacher_sampler
from naruto_add.imaging.pixels import Images, to_uint8

PROMPTS = ["a man with white hair", "a girl at night", "a boy with a sword"]
SAMPLING = Sampling(teacher_steps=4, student_steps=4, pool_steps=8, guidance_scale=3.0, student_scheduler="ddim")


@pytest.fixture
def teacher(tiny_bundle: ModelBundle) -> Subject:
    return Subject(tiny_bundle, teacher_sampler(tiny_bundle, SAMPLING), "teacher")


def _student(teacher: Subject, scheduler: StudentScheduler, num_steps: int) -> Subject:
    sampling = SAMPLING.model_copy(update={"student_scheduler": scheduler})
    return replace(teacher, sampler=student_sampler(teacher.bundle, sampling, num_steps))


def _draw(subject: Subject, prompts: list[str], *, seed: int = 0, batch_size: int = 2) -> Images:
    return draw_set(subject, prompts, seed=seed, batch_size=batch_size)


def test_equal_seeds_give_equal_pictures(teacher: Subject) -> None:
    images = _draw(teacher, PROMPTS)

    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images == _draw(teacher, PROMPTS)).all()
    assert (images != _draw(teacher, PROMPTS, seed=1)).any()


def test_a_scheduler_that_adds_noise_draws_equal_pictures_from_equal_seeds(teacher: Subject) -> None:
    student = _student(teacher, "lcm", 2)

    assert (_draw(student, PROMPTS) == _draw(student, PROMPTS)).all()
    assert (_draw(student, PROMPTS) != _draw(student, PROMPTS, seed=1)).any()


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_a_picture_does_not_depend_on_its_batch(teacher: Subject, scheduler: StudentScheduler) -> None:
    for subject in (teacher, _student(teacher, scheduler, 4)):
        together = _draw(subject, PROMPTS, batch_size=3).astype(int)

        assert np.abs(together[:1] - _draw(subject, PROMPTS[:1])).max() <= 1
        assert np.abs(together - _draw(subject, PROMPTS, batch_size=1)).max() <= 1


def test_encode_and_decode_is_the_autoencoders_reconstruction(tiny_bundle: ModelBundle) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    found = encode_and_decode(tiny_bundle, images)

    pixels, vae = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1, tiny_bundle.vae
    expected = to_uint8(vae.decode(vae.encode(pixels).latent_dist.mean).sample.detach())
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found.astype(int) - images).max() > 1
