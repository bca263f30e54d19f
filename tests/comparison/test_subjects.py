"""Subjects: their samplers, sizes, and the keys of their pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_add.comparison.image_sets import draw_set
from naruto_add.comparison.subjects import Models, Subject, at_steps, evaluated_subjects, load_subjects
from naruto_add.config.schema import Base, Sampling
from naruto_add.diffusion.bundle import ModelBundle
from naruto_add.diffusion.sampling import Sampler, student_sampler, teacher_sampler

SAMPLING = Sampling(teacher_steps=4, student_steps=2, pool_steps=8, guidance_scale=3.0, student_scheduler="ddim")


@pytest.fixture
def teacher(tiny_bundle: ModelBundle) -> Subject:
    return Subject(tiny_bundle, teacher_sampler(tiny_bundle, SAMPLING), "teacher")


@pytest.fixture
def models(tiny_pipeline_dir: Path) -> Models:
    base = Base(
        model=str(tiny_pipeline_dir),
        revision="",
        variant="",
        frozen_precision="fp32",
        autocast="fp32",
        resolution_px=32,
        prompt_template="{caption}",
        caption_chunks=1,
    )
    unet_dir = tiny_pipeline_dir / "unet"
    return Models(
        base=base, sampling=SAMPLING, teacher_dir=tiny_pipeline_dir, student_dir=unet_dir, distilled_dir=unet_dir
    )


@pytest.fixture
def subjects(models: Models) -> dict[str, Subject]:
    return load_subjects(models)


def test_the_key_changes_with_weights_steps_scheduler_and_guidance(teacher: Subject) -> None:
    others = [
        at_steps(teacher, 2),
        replace(teacher, weights="other"),
        replace(teacher, sampler=student_sampler(teacher.bundle, SAMPLING, 2)),
        replace(teacher, sampler=Sampler(teacher.sampler.scheduler, 4, 1.0)),
    ]

    assert len({repr(subject.key()) for subject in [teacher, *others]}) == 5
    assert at_steps(teacher, 4).key() == teacher.key()


def test_students_take_few_steps_without_guidance(subjects: dict[str, Subject]) -> None:
    samplers = {name: (s.sampler.num_inference_steps, s.sampler.guidance_scale) for name, s in subjects.items()}

    assert samplers == {"base": (4, 3.0), "teacher": (4, 3.0), "student": (2, 1.0), "distilled": (2, 1.0)}
    assert subjects["student"].bundle.unet is not subjects["distilled"].bundle.unet


def test_the_convolutions_of_every_subject_have_channels_last_weights(subjects: dict[str, Subject]) -> None:
    for subject in subjects.values():
        for layer in (subject.bundle.unet.conv_in, subject.bundle.vae.decoder.conv_in):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_memory_layout_changes_pictures_by_rounding_alone(
    subjects: dict[str, Subject], teacher: Subject, tiny_bundle: ModelBundle
) -> None:
    assert tiny_bundle.unet.conv_in.weight.is_contiguous()

    pictures = [
        draw_set(subject, ["a fox", "a cat"], seed=1, batch_size=2) for subject in (subjects["teacher"], teacher)
    ]

    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1


def test_the_evaluated_teachers_differ_in_scheduler_and_steps_alone(models: Models) -> None:
    subjects = evaluated_subjects(models, dpm_steps=3)

    def sampled(name: str) -> tuple[str, int]:
        sampler = subjects[name].sampler
        return type(sampler.scheduler).__name__, sampler.num_inference_steps

    own = type(subjects["teacher_full"].sampler.scheduler).__name__
    dpm = "DPMSolverMultistepScheduler"
    assert sampled("base") == sampled("teacher") == (dpm, 3)
    assert sampled("teacher_full") == (own, 4)
    assert sampled("teacher_few_steps") == (own, 2) != sampled("teacher_few_steps_dpm") == (dpm, 2)
    teachers = [subjects[name] for name in subjects if "teacher" in name]
    assert len({(each.weights, each.sampler.guidance_scale) for each in teachers}) == 1


def test_sizes_are_those_of_the_weights(subjects: dict[str, Subject], tiny_pipeline_dir: Path) -> None:
    student, bundle = subjects["student"], subjects["student"].bundle
    weights = [p for module in (bundle.unet, bundle.text_encoder, bundle.vae) for p in module.parameters()]

    assert student.params_m == sum(p.numel() for p in bundle.unet.parameters()) / 1e6
    assert student.pipeline_params_m == sum(p.numel() for p in weights) / 1e6
    assert student.weights_mib == 4 * sum(p.numel() for p in weights) / 2**20
    files = list(tiny_pipeline_dir.rglob("*.safetensors"))
    assert student.size_mib == pytest.approx(sum(file.stat().st_size for file in files) / 2**20)
