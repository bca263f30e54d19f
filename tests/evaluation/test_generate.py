"""Drawn sets: seeds, batches, and what is drawn anew."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import Sampler, student_sampler, teacher_sampler
from naruto_add.evaluation.generate import as_images, decoded, draw_set
from naruto_add.evaluation.subjects import Models, Subject, at_steps, load_subjects
from naruto_add.params import Base, Sampling, StudentScheduler

PROMPTS = ["a man with white hair", "a girl at night", "a boy with a sword"]
SAMPLING = Sampling(teacher_steps=4, guidance_scale=3.0, student_scheduler="ddim")


@pytest.fixture
def teacher(tiny_bundle: ModelBundle) -> Subject:
    return Subject(tiny_bundle, teacher_sampler(tiny_bundle, SAMPLING), "teacher")


def _images(subject: Subject, prompts: list[str], *, seed: int = 0, batch_size: int = 2) -> np.ndarray:
    return draw_set(subject, prompts, seed=seed, batch_size=batch_size)


def test_the_same_seeds_give_the_same_pictures(teacher: Subject) -> None:
    images = _images(teacher, PROMPTS)

    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images == _images(teacher, PROMPTS)).all()
    assert (images != _images(teacher, PROMPTS, seed=1)).any()


def test_a_scheduler_that_renoises_repeats_too(teacher: Subject) -> None:
    lcm = SAMPLING.model_copy(update={"student_scheduler": "lcm"})
    student = replace(teacher, sampler=student_sampler(teacher.bundle, lcm, 2))

    assert (_images(student, PROMPTS) == _images(student, PROMPTS)).all()
    assert (_images(student, PROMPTS) != _images(student, PROMPTS, seed=1)).any()


@pytest.mark.parametrize("scheduler", ["ddim", "lcm"])
def test_fault_9_a_picture_depends_on_prompt_and_seed_alone(teacher: Subject, scheduler: StudentScheduler) -> None:
    sampling = SAMPLING.model_copy(update={"student_scheduler": scheduler})
    for subject in (teacher, replace(teacher, sampler=student_sampler(teacher.bundle, sampling, 4))):
        together = _images(subject, PROMPTS, batch_size=3).astype(int)

        assert np.abs(together[:1] - _images(subject, PROMPTS[:1])).max() <= 1
        assert np.abs(together - _images(subject, PROMPTS, batch_size=1)).max() <= 1


def test_what_a_picture_depends_on_is_in_the_key(teacher: Subject) -> None:
    few_steps = student_sampler(teacher.bundle, SAMPLING, 2)
    unguided = Sampler(teacher.sampler.scheduler, 4, 1.0)
    others = [
        at_steps(teacher, 2),
        replace(teacher, weights="other"),
        replace(teacher, sampler=few_steps),
        replace(teacher, sampler=unguided),
    ]

    assert len({repr(subject.key()) for subject in [teacher, *others]}) == 5
    assert at_steps(teacher, 4).key() == teacher.key()


def test_fault_9_subjects_have_the_samplers_that_they_are_judged_with(tiny_pipeline_dir: Path) -> None:
    base = Base(model=str(tiny_pipeline_dir), revision="", variant="", precision="fp32", resolution_px=32)
    unet_dir = tiny_pipeline_dir / "unet"
    subjects = load_subjects(
        Models(base, SAMPLING, 2, teacher_dir=tiny_pipeline_dir, student_dir=unet_dir, distilled_dir=unet_dir)
    )

    samplers = {name: (s.sampler.num_inference_steps, s.sampler.guidance_scale) for name, s in subjects.items()}
    assert samplers == {"base": (4, 3.0), "teacher": (4, 3.0), "student": (2, 1.0), "distilled": (2, 1.0)}
    assert subjects["student"].params_m < subjects["student"].pipeline_params_m
    assert subjects["student"].bundle.unet is not subjects["distilled"].bundle.unet


def test_as_images_rounds_and_clips() -> None:
    pixels = torch.tensor([-1.2, -1.0, 0.0, 1.0, 1.2]).view(1, 1, 1, 5).expand(1, 3, 1, 5)

    assert as_images(pixels)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_decoded_pictures_are_what_the_autoencoder_leaves_of_them(teacher: Subject, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    found = decoded(teacher, images, cache_dir=tmp_path)

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    vae = teacher.bundle.vae
    expected = as_images(vae.decode(vae.encode(pixels).latent_dist.mean).sample.detach())
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (decoded(teacher, images, cache_dir=tmp_path) == found).all()
